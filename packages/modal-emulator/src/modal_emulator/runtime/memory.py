"""A limit on memory where control groups cannot be made: what the processes use is looked at now and then."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["MemoryWatch", "descendants"]

INTERVAL = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Calls `exceeded` once the processes beneath `pid`, itself included, use more than `mib`."""

    def __init__(self, pid: int, mib: int, exceeded: Callable[[], None]) -> None:
        self._pid = pid
        self._limit = mib * 1024 * 1024
        self._exceeded = exceeded
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while resident(self._pid) <= self._limit:  # noqa: ASYNC110  # nothing would set an event
            await asyncio.sleep(INTERVAL)
        self._exceeded()

    def stop(self) -> None:
        self._task.cancel()


def descendants(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    """Bytes that a process and its descendants have in memory, shared pages not counted twice."""
    total = 0
    for each in descendants(pid):
        try:
            fields = Path(f"/proc/{each}/statm").read_text().split()
        except OSError:
            continue
        total += (int(fields[1]) - int(fields[2])) * PAGE
    return total
