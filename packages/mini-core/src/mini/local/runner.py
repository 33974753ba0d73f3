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
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

from ..jobboard import JobBoard
from ..jobrecord import Ended, JobState, JobStatus, Key
from ..jobwork import JobWorker, this_worker
from .apparatus import thread_limits
from .jobs import FOLDER, RUNNERS, SOURCES, LocalHost, is_held, lock
from .jobstore import SqliteStore, prune_sources
from .wait import usable_cores

__all__ = ["Runner", "main"]

LOOK_EVERY = 0.05
"""Seconds between two looks at whether anybody has changed the store."""
LINGER = 2.0
"""Seconds for which a runner waits for more to do."""
WATCH_EVERY = 0.5
LOW, HIGH = 64, 256
"""Pending jobs to have at hand: below the first number more are looked for, up to the second."""
END_SECONDS = 5.0


def main(root: str, name: str, runner_fd: int) -> None:
    """Run the pending jobs of `name`; `runner_fd` holds `runner.lock`."""
    Runner(Path(root), name, runner_fd).run()
    # Threads that wait for a call are of no use to anybody any more.
    os._exit(0)


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
        # What follows is guarded by the condition.
        self._changed = threading.Condition()
        self._workers: list[JobWorker] = []
        self._threads: list[threading.Thread] = []
        self._ready: deque[JobStatus] = deque()
        """Pending jobs, the oldest first; perhaps not all, and some may have been cancelled since."""
        self._more = False
        """There may be more than those in `_ready`."""
        self._at: set[Key] = set()
        """What is being run."""
        self._busy: Counter[str] = Counter()
        """How many jobs of each group are being run."""
        self._limits: dict[str, int] = {}
        """How many may be, at the same time."""
        self._ending = False

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
        """Keep threads at work until there is nothing left to do."""
        version = -1
        idle_since = time.monotonic()
        while not self._ending:
            now = self._store.version()
            with self._changed:
                look = now != version or self._is_short()
            if look:
                version = now
                self._look()
            with self._changed:
                if self._at or self._ready:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > LINGER:
                    if self._may_end():
                        return
                    version = -1
                    continue
                self._changed.wait_for(self._is_short, LOOK_EVERY)

    def _is_short(self) -> bool:
        return self._ending or (self._more and len(self._ready) < LOW)

    def _look(self) -> None:
        """Find out what is pending, and have enough threads for it."""
        with self._changed:
            full = [group for group, count in self._busy.items() if count >= self._limits[group]]
        pending = self._store.unfinished(claimed=False, most=HIGH)
        if len(pending) == HIGH and all(job.group in full for job in pending):
            # Younger groups need not wait for what these have queued.
            pending += self._store.unfinished(claimed=False, most=HIGH, busy=full)
        if any(job.group not in self._limits for job in pending):
            for group in self._store.groups():
                self._limits[group.id] = group.origin.options.get("max_workers") or usable_cores()
        with self._changed:
            self._ready = deque(job for job in pending if job.key not in self._at)
            self._more = len(pending) >= HIGH
            for _ in range(min(self._width(), len(self._at) + len(self._ready)) - len(self._threads)):
                self._hire()
            self._changed.notify_all()

    def _width(self) -> int:
        """How many jobs may run at the same time: as many as the most generous of their groups allows."""
        groups = {*self._busy, *(job.group for job in self._ready)}
        return max((self._limits.get(group, 1) for group in groups), default=0)

    def _hire(self) -> None:
        worker = JobWorker(
            self._board,
            this_worker(self.id),
            scratch=self._root / SOURCES,
            here=True,
            env=thread_limits(usable_cores()),
            watch_every=WATCH_EVERY,
        )
        name = f"mini-slot-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
        self._workers.append(worker)
        self._threads.append(thread)
        thread.start()

    def _work(self, worker: JobWorker) -> None:
        """Run one job after the other."""
        while (job := self._take()) is not None:
            try:
                worker.run(job.key)
            except BaseException:
                # The store cannot be written, for instance. When this process ends, readers see what is lost.
                traceback.print_exc()
                with self._changed:
                    self._ending = True
            with self._changed:
                self._at.remove(job.key)
                self._busy[job.group] -= 1
                if not self._busy[job.group]:
                    del self._busy[job.group]
                self._changed.notify_all()
        worker.close()

    def _take(self) -> JobStatus | None:
        """The next job to run, as soon as there is one; None: no more."""
        with self._changed:
            while not self._ending:
                if len(self._at) < self._width():
                    for job in self._ready:
                        if self._busy[job.group] < self._limits.get(job.group, 1):
                            self._ready.remove(job)
                            self._at.add(job.key)
                            self._busy[job.group] += 1
                            if self._is_short():
                                self._changed.notify_all()
                            return job
                self._busy += Counter()  # looking has left zeros
                self._changed.wait()
            return None

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
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join(END_SECONDS)
        with suppress(Exception):
            self._store.close()
            prune_sources(self._root / SOURCES, self._folder.parent)
