"""The inputs of a map: pulled as late as possible, and packed before the next one is pulled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from .wire import ATOMS, PackedRows, RowPacker, pack_column, pack_rows

__all__ = ["PULL_SECONDS", "Source"]

PULL_SECONDS = 0.002
"""How long an iterator may take before the inputs at hand are sent without waiting for a full group."""

_PLAIN = (list, tuple, range, str, bytes, dict, set, frozenset)


class Source:
    """Where a map's inputs come from.

    Attributes:
        total: how many calls there will be, or None if the iterables do not know.
        anywhere: pulling runs no code of the user's, so that any thread may do it.
        exhausted: the iterators have ended.
        error: what one of them raised, if it did.
        seconds: how long the last `take` took.

    Raises:
        TypeError: one of the iterables is none.
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...]) -> None:
        self._single = len(iterables) == 1
        self.anywhere = all(type(iterable) in _PLAIN for iterable in iterables)
        sizes = [_size(iterable) for iterable in iterables]
        known = [size for size in sizes if size is not None]
        self.total = min(known) if len(known) == len(sizes) else None
        self._rows: Iterator[Any] = iter(iterables[0]) if self._single else zip(*iterables, strict=False)
        self._back: list[Any] = []
        self.exhausted = False
        self.error: BaseException | None = None
        self.seconds = 0.0

    def take(self, count: int) -> PackedRows:
        """Pull and pack at most `count` inputs; fewer at the end, when the iterator is slow, or before a bad one."""
        began = time.monotonic()
        packed = self._take_plain(count) if self.anywhere else self._take_each(count, began)
        self.seconds = time.monotonic() - began
        return packed

    def _take_plain(self, count: int) -> PackedRows:
        rows, self._back = self._back[:count], self._back[count:]
        if len(rows) < count:
            wanted = count - len(rows)
            new: list[Any] = []
            try:
                new.extend(islice(self._rows, wanted))
            except Exception as exc:  # a dict or set that has changed meanwhile
                self.error = exc
            self.exhausted = len(new) < wanted
            rows += new
        packed = (pack_column(rows) if self._single else pack_rows(rows)) if rows else PackedRows([], 0)
        if packed.error is not None:
            packed.bad = (rows[packed.count],) if self._single else rows[packed.count]
            self._back = rows[packed.count + 1 :] + self._back
        return packed

    def _take_each(self, count: int, began: float) -> PackedRows:
        """As `_take_plain`, for iterators that may change what they have yielded while they make the next."""
        rows: list[Any] = []
        packer: RowPacker | None = None
        step = 1
        taken = 0
        try:
            while taken < count:
                before = taken
                for row in islice(self._rows, min(step, count - taken)):
                    taken += 1
                    if packer is None:
                        if type(row) in ATOMS or (not self._single and ATOMS.issuperset(map(type, row))):
                            rows.append(row)
                            continue
                        packer = RowPacker(copy=True)
                        for plain in rows:
                            packer.add((plain,) if self._single else plain)
                    if not packer.add((row,) if self._single else row):
                        return packer.pack()
                if taken - before < min(step, count - before):
                    self.exhausted = True
                    break
                if time.monotonic() - began > PULL_SECONDS:
                    break
                step *= 4
        except Exception as exc:
            self.exhausted = True
            self.error = exc
        if packer is not None:
            return packer.pack()
        if not rows:
            return PackedRows([], 0)
        return pack_column(rows) if self._single else pack_rows(rows)

    @property
    def empty(self) -> bool:
        """There will be no more inputs."""
        return self.exhausted and not self._back

    def close(self) -> None:
        """Drop the iterators: a generator that was passed runs its own clean-up."""
        self.exhausted = True
        self._back = []
        self._rows = iter(())


def _size(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except Exception:  # none, or one that it does not know, as tqdm's over a generator
        return None
