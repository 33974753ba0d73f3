"""Waiting for the other side of a connection: by looking for a moment, then asleep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Wait", "usable_cores"]

T = TypeVar("T")

SPIN_SECONDS = 1e-4
"""How long to look for what is expected soon."""
SHORT_WAIT = 4e-4
"""A wait up to here lets the next be expected to end soon."""
PATIENCE = 50
"""So often it may look in vain, which gives the scheduler time to move the other side to a processor of its own."""
PAUSE = 1000
"""Waits without looking, after that."""


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Wait:
    """Waits for something, at first by looking for it again and again if the last time it came soon.

    Putting a process to sleep and waking it again costs more than a small call: on virtual machines 50 µs and more. But
    where no processor is free, whoever looks keeps the other side from doing what is waited for. So it gives up looking
    for a while when that is in vain again and again.
    """

    def __init__(self) -> None:
        self._cores = usable_cores()
        self._short = False
        self._failures = 0

    def until(self, look: Callable[[], T], sleep: Callable[[], T], *, busy: int) -> T:
        """What `look`, which is quick, or else `sleep` finds.

        Args:
            busy: how many other processes are known to need a processor meanwhile.
        """
        began = now = time.monotonic()
        found = look()
        if not found and self._short and busy < self._cores:
            if self._failures < PATIENCE:
                while not found and now - began < SPIN_SECONDS:
                    found = look()
                    now = time.monotonic()
            self._failures = 0 if found or self._failures > PATIENCE + PAUSE else self._failures + 1
        if not found:
            found = sleep()
            now = time.monotonic()
        self._short = now - began < SHORT_WAIT
        return found
