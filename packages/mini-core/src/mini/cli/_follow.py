"""Waiting for jobs, with the same bars that a map has."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mini import display
from mini.jobboard import JobBoard, Select
from mini.jobrecord import JobState, JobStatus
from mini.status import FlowStatus, WorkerStatus

if TYPE_CHECKING:
    from mini.jobrecord import GroupRecord

__all__ = ["follow", "waiting"]

MOST_BARS = 12
"""Running jobs that have a bar each."""
FIRST_PAUSE, LAST_PAUSE = 0.05, 0.5


def follow(
    board: JobBoard, groups: list[GroupRecord], jobs: Callable[[], list[JobStatus]]
) -> Counter[JobState]:
    """Wait until all jobs have ended, and show how far they are; how many ended how.

    Reads only. KeyboardInterrupt leaves the jobs as they are.
    """
    names = dict.fromkeys(group.function for group in groups)
    began = min((group.origin.launched for group in groups), default=time.time())
    status = FlowStatus("follow", ", ".join(names), None, time.monotonic() - max(0.0, time.time() - began))
    now = jobs()
    status.total = len(now)
    _read(board, now, status)
    shown = display.enabled(None) and not all(job.state.is_final for job in now)
    if shown:
        display.show(status)
    try:
        pause = FIRST_PAUSE
        while not all(job.state.is_final for job in now):
            time.sleep(pause)
            pause = min(LAST_PAUSE, pause * 1.5)
            now = jobs()
            _read(board, now, status)
        counts = Counter(job.state for job in now)
        status.state = "CANCELLED" if counts[JobState.CANCELLED] else "FAILED" if status.failed else "DONE"
        return counts
    finally:
        if shown:
            display.hide(status)


def _read(board: JobBoard, jobs: list[JobStatus], status: FlowStatus) -> None:
    running = [job for job in jobs if job.state is JobState.RUNNING]
    few = board.store.read(Select([job.id for job in running[:MOST_BARS]]))
    workers = {}
    for record in few:
        claimed = record.current.claimed
        since = 0.0 if claimed is None else time.monotonic() - max(0.0, time.time() - claimed.time)
        report = record.current.report
        workers[record.id] = WorkerStatus(record.id, record.index, since, report.progress, report.metrics)
    status.workers = workers
    status.done = sum(job.state.is_final for job in jobs)
    status.failed = sum(job.state.is_final and job.state is not JobState.DONE for job in jobs)
    status.retried = sum(job.attempt - 1 for job in jobs)


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Something that may take a while: on a terminal, after a second, a bar says how far it is.

    Yields a function to be told how many of `total` are done.
    """
    if not sys.stderr.isatty() or not display.enabled(None):
        yield lambda done: None
        return
    began = time.monotonic()
    shown = False

    def say(done: int) -> None:
        nonlocal shown
        if time.monotonic() - began > 1:
            part = "" if total is None else f" {done:,} of {total:,}"
            bar = ""
            if total:
                full = min(30, 30 * done // total)
                bar = f" [{'#' * full}{'.' * (30 - full)}]"
            click.echo(f"\r{what}{bar}{part}\x1b[K", nl=False, err=True)
            shown = True

    try:
        yield say
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)
