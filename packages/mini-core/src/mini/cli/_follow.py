"""Waiting for jobs, with the same bars that a map has."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mini import display
from mini.jobboard import JobBoard, Select
from mini.jobrecord import JobState
from mini.status import FlowStatus, WorkerStatus

if TYPE_CHECKING:
    from rich.progress import Progress

    from mini.jobrecord import GroupRecord

__all__ = ["follow", "waiting"]

MOST_BARS = 12
"""Running jobs that have a bar each."""
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0


def follow(board: JobBoard, groups: Sequence[GroupRecord]) -> Counter[JobState]:
    """Wait until all jobs of these groups have ended, and show how far they are; how many ended how.

    Reads only. KeyboardInterrupt leaves the jobs as they are.
    """
    ids = {group.id for group in groups}
    names = dict.fromkeys(group.function for group in groups)
    began = min(group.origin.launched for group in groups)
    status = FlowStatus("follow", ", ".join(names), None, time.monotonic() - max(0.0, time.time() - began))
    counts = _read(board, ids, status)
    shown = display.enabled(None) and _unfinished(counts) > 0
    if shown:
        display.show(status)
    try:
        pause = FIRST_PAUSE
        while _unfinished(counts):
            time.sleep(pause)
            pause = min(LAST_PAUSE, pause * 1.5)
            counts = _read(board, ids, status)
        status.state = "CANCELLED" if counts[JobState.CANCELLED] else "FAILED" if status.failed else "DONE"
        return counts
    finally:
        if shown:
            display.hide(status)


def _read(board: JobBoard, ids: set[str], status: FlowStatus) -> Counter[JobState]:
    counts: Counter[JobState] = Counter()
    for id, some in board.counts().items():
        if id in ids:
            counts.update(some)
    workers = {}
    if counts[JobState.RUNNING]:
        running = board.store.states(Select(states={JobState.RUNNING}))
        few = [job.id for job in running if job.group in ids][:MOST_BARS]
        for record in board.store.read(Select(few)):
            claimed = record.current.claimed
            since = 0.0 if claimed is None else time.monotonic() - max(0.0, time.time() - claimed.time)
            report = record.current.report
            workers[record.id] = WorkerStatus(record.id, record.index, since, report.progress, report.metrics)
    status.workers = workers
    status.total = sum(counts.values())
    status.done = status.total - _unfinished(counts)
    status.failed = status.done - counts[JobState.DONE]
    return counts


def _unfinished(counts: Counter[JobState]) -> int:
    return counts[JobState.PENDING] + counts[JobState.RUNNING]


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Something that may take a while: on a terminal, a bar is there from its first second on until it is over.

    Yields a function to be told how many of `total` are done. Without a total the bar says that it is not still.
    """
    if not sys.stderr.isatty() or not display.enabled(None):
        yield lambda done: None
        return
    bar = _Bar(what, total)
    timer = threading.Timer(1.0, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.say
    finally:
        timer.cancel()
        bar.hide()


class _Bar:
    """A bar that may be shown by one thread while another tells it how far things are."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._over = False
        self._progress: Progress | None = None

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        text, bar, elapsed = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        columns = (text, bar, elapsed) if self._total is None else (text, bar, MofNCompleteColumn(), elapsed)
        with self._lock:
            if not self._over:
                self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
                self._progress.add_task(self._what, total=self._total, completed=self._done)
                self._progress.start()

    def say(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)

    def hide(self) -> None:
        with self._lock:
            self._over = True
            if self._progress is not None:
                self._progress.stop()
