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


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Wait:
    """Waits for something, at first by looking for it again and again if the last time it came soon.

    Putting a process to sleep and waking it again costs more than a small call: on virtual machines 50 µs and more.
    """

    def __init__(self) -> None:
        self._cores = usable_cores()
        self._short = False

    def until(self, look: Callable[[], T], sleep: Callable[[], T], *, busy: int) -> T:
        """What `look`, which is quick, or else `sleep` finds.

        Args:
            busy: how many other processes need a processor meanwhile. If that leaves none for looking, it sleeps.
        """
        began = now = time.monotonic()
        found = look()
        if self._short and busy < self._cores:
            while not found and now - began < SPIN_SECONDS:
                found = look()
                now = time.monotonic()
        if not found:
            found = sleep()
            now = time.monotonic()
        self._short = now - began < SHORT_WAIT
        return found
