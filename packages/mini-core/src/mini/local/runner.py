"""The runner: a process of its own that runs the pending jobs of an apparatus name, some at a time.

There is at most one for a name; see `mini.local.jobs` for how that is known and who starts it. It outlives the process
and the terminal that it was started from, and writes what it has to say to `runner.log`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from ..jobboard import JobBoard
from ..jobrecord import Ended, JobState, JobStatus, Key
from ..jobwork import JobWorker, this_worker
from .apparatus import thread_limits
from .jobs import FOLDER, RUNNERS, SOURCES, LocalHost, is_held, lock
from .jobstore import SqliteStore
from .wait import usable_cores

__all__ = ["Runner", "main"]

LOOK_EVERY = 0.05
"""Seconds between two looks at whether anybody has changed the store."""
LINGER = 2.0
"""Seconds for which a runner waits for more to do."""
WATCH_EVERY = 0.5


def main(root: str, name: str, runner_fd: int) -> None:
    """Run the pending jobs of `name`; `runner_fd` holds `runner.lock`."""
    os.umask(0o077)
    Runner(Path(root), name, runner_fd).run()
    # Threads that wait for a call are of no use to anybody any more.
    os._exit(0)


class _Slot:
    """A thread that runs one attempt at a time."""

    def __init__(self, runner: Runner, number: int) -> None:
        self.orders: SimpleQueue[JobStatus | None] = SimpleQueue()
        self.worker = runner.make_worker()
        self._runner = runner
        self.thread = threading.Thread(target=self._serve, name=f"mini-slot-{number}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (job := self.orders.get()) is not None:
            try:
                self.worker.run(job.key)
            except BaseException:
                traceback.print_exc()
                self._runner.finished(self, job, broken=True)
            else:
                self._runner.finished(self, job)
        self.worker.close()


class Runner:
    """Runs the pending jobs of a name.

    Args:
        root: where the data of all names are.
        name: of the apparatus.
        fd: holds `runner.lock`.
    """

    def __init__(self, root: Path, name: str, fd: int) -> None:
        self._root = root
        self._folder = root / FOLDER / name
        self._fd = fd
        self._store = SqliteStore(self._folder, root / SOURCES, stay=True)
        self._board = JobBoard(self._store, LocalHost(root, name))
        self.id = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._changed = threading.Condition()
        self._slots: list[_Slot] = []
        self._free: list[_Slot] = []
        self._at: dict[Key, _Slot] = {}
        self._busy: Counter[str] = Counter()
        """How many jobs of each group are being run."""
        self._limits: dict[str, int] = {}
        self._broken = False

    def make_worker(self) -> JobWorker:
        return JobWorker(
            self._board,
            this_worker(self.id),
            scratch=self._root / SOURCES,
            here=True,
            env=thread_limits(usable_cores()),
            watch_every=WATCH_EVERY,
        )

    def run(self) -> None:
        """Run jobs until there are none left and none have come for a while."""
        folder = self._folder / RUNNERS
        folder.mkdir(exist_ok=True)
        with lock(folder / self.id, fcntl.LOCK_EX):
            try:
                self._note_lost(folder)
                self._serve()
            finally:
                self._end()
                (folder / self.id).unlink(missing_ok=True)

    def _note_lost(self, folder: Path) -> None:
        """What runners before this one had begun is lost."""
        begun = self._store.unfinished(claimed=True, most=-1)
        gone = self._board.host.lost(begun)
        self._store.put_once(
            [(job.key, Ended(time.time(), JobState.LOST)) for job in begun if job.id in gone]
        )
        for file in folder.iterdir():
            if file.name != self.id and not is_held(file):
                file.unlink(missing_ok=True)

    def _serve(self) -> None:
        version = -1
        idle_since = time.monotonic()
        while True:
            now = self._store.version()
            if now != version or self._free:
                version = now
                self._fill()
            with self._changed:
                if self._at:
                    idle_since = time.monotonic()
                elif self._broken:
                    return
                elif time.monotonic() - idle_since > LINGER:
                    if self._may_end():
                        return
                    version = -1
                    continue
                self._changed.wait(LOOK_EVERY)

    def _fill(self) -> None:
        """Start pending jobs while there is room."""
        while not self._broken:
            with self._changed:
                busy = dict(self._busy)
                running = len(self._at)
            full = [group for group, count in busy.items() if count >= self._limit(group)]
            pending = self._store.unfinished(claimed=False, most=running + 16, busy=full)
            started = False
            for job in pending:
                started = self._start(job) or started
            if not started:
                return

    def _start(self, job: JobStatus) -> bool:
        """Start a job if there is room for one of its group."""
        limit = self._limit(job.group)
        with self._changed:
            if job.key in self._at or self._busy[job.group] >= limit or len(self._at) >= self._width():
                return False
            if not self._free:
                self._free.append(_Slot(self, len(self._slots) + 1))
                self._slots.append(self._free[-1])
            slot = self._at[job.key] = self._free.pop()
            self._busy[job.group] += 1
        slot.orders.put(job)
        return True

    def _limit(self, group: str) -> int:
        """How many jobs of a group may run at the same time."""
        if group not in self._limits:
            for record in self._store.groups():
                self._limits[record.id] = record.origin.options.get("max_workers") or usable_cores()
        return self._limits.get(group, 1)

    def _width(self) -> int:
        """How many jobs may run at the same time: as many as the most generous of the groups that run allows."""
        return max((self._limits.get(group, 1) for group in self._busy), default=1)

    def finished(self, slot: _Slot, job: JobStatus, *, broken: bool = False) -> None:
        """A slot is done with a job."""
        with self._changed:
            self._broken = self._broken or broken
            del self._at[job.key]
            self._busy[job.group] -= 1
            if not self._busy[job.group]:
                del self._busy[job.group]
            self._free.append(slot)
            self._changed.notify_all()

    def _may_end(self) -> bool:
        """Let go of the runner's lock unless there is something to do after all."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        if not self._store.unfinished(claimed=False, most=1):
            return True  # who creates more from now on finds the lock free
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True  # there is another by now
        return False

    def _end(self) -> None:
        for slot in self._slots:
            slot.worker.stop()
            slot.orders.put(None)
        for slot in self._slots:
            slot.thread.join(5)
        with suppress(Exception):
            self._store.close()
