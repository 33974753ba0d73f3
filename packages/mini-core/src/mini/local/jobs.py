"""Detached jobs of the local backend: who runs them, and whether anybody still will.

A *runner* (`mini.local.runner`) is a process of its own that takes the pending jobs of one apparatus name. Who is alive
is never guessed: each party holds locks on files, which the system lets go of when the process ends, however it does.

- `runner.lock` is held by the one runner of a name.
- `alive.lock` is held (shared) by the runner, and by whoever is about to create attempts and see to it that there is
  one. If nobody holds it, nobody will take up a pending job.
- `runners/<id>` is held by the runner of that id, which is the id of the worker that claims. If nobody holds it, what
  that runner has claimed is lost.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import BackendUnavailable
from ..jobboard import JobBoard, JobHost
from ..jobrecord import JobState, JobStatus
from .jobstore import SqliteStore, keeping, make_private

__all__ = ["LocalHost", "is_held", "open_board"]

FOLDER = "jobs"
SOURCES = "source"
RUNNERS = "runners"
LOG = "runner.log"
LOG_BYTES = 1 << 20
"""A log that is larger is begun anew by the next runner."""


def open_board(root: Path, name: str, *, stay: bool = False) -> JobBoard:
    """The jobs of an apparatus name whose data are under `root`. Makes and starts nothing."""
    folder = root / FOLDER / name
    return JobBoard(SqliteStore(folder, root / SOURCES, stay=stay), LocalHost(root, name))


class LocalHost(JobHost):
    """Sees to it that there is a runner when there are jobs."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name
        self.folder = root / FOLDER / name

    @contextmanager
    def launching(self) -> Iterator[None]:
        make_private(self.folder)
        with lock(self.folder / "alive.lock", fcntl.LOCK_SH):
            yield

    def start(self, jobs: Sequence[JobStatus]) -> None:
        # With `alive.lock` held, see `launching`. A runner that is about to end looks for pending jobs again after it
        # has let go of its lock; so either it finds these, or the lock is free.
        try:
            with lock(self.folder / "runner.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as fd:
                self._start_runner(fd)
        except BlockingIOError:
            return  # there is one

    def _start_runner(self, fd: int) -> None:
        # The lock goes over to the runner with the descriptor: at no time is there none to be seen, or two.
        path = [entry or str(Path.cwd()) for entry in sys.path]
        arguments = (str(self._root), self._name, fd)
        # The first process ends at once, so that the runner is nobody's child who would have to wait for it.
        code = (
            "import os, sys; os.fork() and os._exit(0); "
            f"sys.path[:] = {path!r}; from mini.local.runner import main; main{arguments!r}"
        )
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        with (
            lock(self.folder / "alive.lock", fcntl.LOCK_SH) as alive,
            self._open_log() as log,
        ):
            try:
                subprocess.run(
                    [sys.executable, *flags, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[fd, alive],
                    cwd=self._root,
                    start_new_session=True,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise BackendUnavailable(
                    f"the runner of {self._name}'s jobs cannot be started with {sys.executable!r}: {exc}"
                ) from exc

    def _open_log(self) -> BinaryIO:
        log = self.folder / LOG
        too_large = log.is_file() and log.stat().st_size > LOG_BYTES
        with keeping(self.folder):
            return log.open("wb" if too_large else "ab")

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        pass  # the runner looks whenever the store has changed

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        if not os.access(self.folder, os.W_OK):  # a copy, most likely: nobody could write down what is lost
            return set()
        pending = {job.id for job in jobs if job.state is JobState.PENDING}
        lost = pending if pending and not anybody_alive(self.folder) else set()
        workers = {job.worker.id for job in jobs if job.worker is not None}
        gone = {id for id in workers if not is_held(self.folder / RUNNERS / id)}
        return lost | {job.id for job in jobs if job.worker is not None and job.worker.id in gone}


@contextmanager
def lock(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock on a file; its descriptor, to which the lock belongs.

    Raises:
        BlockingIOError: `kind` says not to wait, and somebody else holds it.
        BackendUnavailable: the file system has no locks, or does not let us write.
    """
    with keeping(path.parent):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, kind)
        except BlockingIOError:
            raise
        except OSError as exc:
            raise _no_lock(path, exc) from exc
        yield fd
    finally:
        os.close(fd)


def _no_lock(path: Path, exc: OSError) -> BackendUnavailable:
    return BackendUnavailable(f"{path} cannot be locked: {exc}; choose a data_dir on a disk of this machine")


def is_held(path: Path, kind: int = fcntl.LOCK_SH) -> bool:
    """Whether a process holds a lock on `path` that keeps one of this kind from being taken. Makes no file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def anybody_alive(folder: Path) -> bool:
    """Whether a process holds `alive.lock`."""
    if not folder.is_dir():
        return False
    # What keeps a shared lock from being seen by another who looks: one at a time.
    with lock(folder / "look.lock", fcntl.LOCK_EX):
        return is_held(folder / "alive.lock", fcntl.LOCK_EX)
