"""Records of groups that have ended, in the volume of their apparatus, for when Modal has forgotten them.

Modal forgets an entry of a Dict that nobody has used for a week, and a Dict can be deleted. Results are in the volume
and stay; so a copy of the entries that tell of them is put beside them. It is made by the first reader that finds all
jobs of a group ended, and by containers when they end: then it may be that nobody ever looks in time.

A copy is `ended/GROUP.N`, where N is how many attempts had ended. Facts are never changed, so of two copies the one
with the larger number says all that the other does.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from .asking import Missing
from .jobfiles import JobFiles

__all__ = ["Copies", "Copy"]

FOLDER = "ended"
FRESH_SECONDS = 1.0
"""For so long it is not asked again which copies there are: reading many groups is one question."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What was known of a group at a time, in seconds since the epoch: its entries, by key without the group."""

    time: float
    entries: dict[str, str]


class Copies:
    """The copies of an apparatus's groups."""

    def __init__(self, files: JobFiles) -> None:
        self._files = files
        self._numbers: dict[str, int] = {}
        """The largest number of a group's copies, of those that are known here."""
        self._listed = -math.inf
        """When they were listed, on the monotonic clock."""
        self._read: dict[str, tuple[int, Copy]] = {}

    def groups(self) -> list[str]:
        """The groups that there are copies of now."""
        self._listed = time.monotonic()
        numbers: dict[str, int] = {}
        for name in self._files.names(FOLDER):
            group, _, number = name.rpartition(".")
            if group and number.isdecimal():
                numbers[group] = max(int(number), numbers.get(group, 0))
        self._numbers = numbers
        return sorted(numbers)

    def read(self, group: str) -> Copy | None:
        """The copy that says most of a group; None if there is none (any more)."""
        if time.monotonic() - self._listed > FRESH_SECONDS:
            self.groups()
        number = self._numbers.get(group)
        if number is None:
            self._read.pop(group, None)
            return None
        known = self._read.get(group)
        if known is None or known[0] != number:
            try:
                data = json.loads(zlib.decompress(self._files.read(f"{FOLDER}/{group}.{number}")))
            except Missing:  # it was removed meanwhile
                return None
            known = self._read[group] = (number, Copy(data["time"], data["entries"]))
        return known[1]

    def keep(self, group: str, ended: int, entries: Mapping[str, str]) -> None:
        """Make a copy of a group of which so many attempts have ended, unless there is one that says as much."""
        if self._numbers.get(group, 0) >= ended or (self.groups() and self._numbers.get(group, 0) >= ended):
            return
        text = json.dumps({"time": time.time(), "entries": dict(entries)}, separators=(",", ":"))
        self._files.write({f"{FOLDER}/{group}.{ended}": zlib.compress(text.encode())})
        self._numbers[group] = ended

    def remove(self, group: str) -> None:
        for name in self._files.names(FOLDER):
            if name.rpartition(".")[0] == group:
                self._files.remove(f"{FOLDER}/{name}")
        self._numbers.pop(group, None)
        self._read.pop(group, None)
