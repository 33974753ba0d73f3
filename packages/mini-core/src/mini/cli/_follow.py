"""Waiting for jobs, with the same bars that a map has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mini import display
from mini.jobboard import JobBoard, Select
from mini.jobrecord import JobState
from mini.status import FlowStatus, WorkerStatus

from ._errors import Wrong

if TYPE_CHECKING:
    from mini.jobrecord import GroupRecord

__all__ = ["follow"]

MOST_BARS = 12
"""Running jobs that have a bar each."""
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0


def follow(board: JobBoard, groups: Sequence[GroupRecord]) -> Counter[JobState]:
    """Wait until all jobs of these groups have ended, and show how far they are; how many ended how.

    Reads only. KeyboardInterrupt leaves the jobs as they are.

    Raises:
        Wrong: somebody has removed a group meanwhile.
    """
    names = dict.fromkeys(group.function for group in groups)
    began = min(group.origin.launched for group in groups)
    status = FlowStatus("follow", ", ".join(names), None, time.monotonic() - max(0.0, time.time() - began))
    counts = _read(board, groups, status)
    shown = display.enabled(None) and _unfinished(counts) > 0
    if shown:
        display.show(status)
    try:
        pause = FIRST_PAUSE
        while _unfinished(counts):
            time.sleep(pause)
            pause = min(LAST_PAUSE, pause * 1.5)
            counts = _read(board, groups, status)
        status.state = "CANCELLED" if counts[JobState.CANCELLED] else "FAILED" if status.failed else "DONE"
        return counts
    finally:
        if shown:
            display.hide(status)


def _read(board: JobBoard, groups: Sequence[GroupRecord], status: FlowStatus) -> Counter[JobState]:
    counts: Counter[JobState] = Counter()
    by_group = board.counts()
    for group in groups:
        if group.size and group.id not in by_group:
            name = group.origin.apparatus or group.function
            raise Wrong(f"the jobs of {name} were removed meanwhile (launch {group.id})")
        counts.update(by_group.get(group.id, ()))
    ids = {group.id for group in groups}
    workers = {}
    if counts[JobState.RUNNING]:
        running = board.store.states(Select(states={JobState.RUNNING}))
        few = [job.id for job in running if job.group in ids][:MOST_BARS]
        for record in board.store.read(Select(few)):
            claimed, report = record.current.claimed, record.current.report
            if claimed is not None:
                since = time.monotonic() - max(0.0, time.time() - claimed.time)
                where = claimed.worker.host
                workers[record.id] = WorkerStatus(where, record.index, since, report.progress, report.metrics)
    status.workers = workers
    status.total = sum(counts.values())
    status.done = status.total - _unfinished(counts)
    status.failed = status.done - counts[JobState.DONE]
    return counts


def _unfinished(counts: Counter[JobState]) -> int:
    return counts[JobState.PENDING] + counts[JobState.RUNNING]
