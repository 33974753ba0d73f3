"""The journal of a worker: each outcome is saved as soon as there is one, before the next call starts.

A worker's journal is memory that may outlive it. Where that memory is shared with the caller, a worker that dies costs
the call it was running and nothing else (ERR-06, MAP-13), and what a slow group has finished can be handed out before
the group ends. It also makes results snapshots: what a later call does to an object that an earlier one returned does
not show, however calls are grouped (MAP-11).

The memory has three parts. The *words* say how far the group is. The *column* holds outcomes of one type, a single
store for each number, which is all that tiny calls can afford. The *file* takes every other outcome as a pickle of its
own. The outcomes of a segment, from `BASE` on, are in the column up to `SPLIT` and in the file from there; a segment
ends when it is sent.

While numbers go into the column, nothing else is noted of them: cells that have not been written yet hold the `BLANK`,
a random number, and where they begin is how far the group is (`reached`).
"""

from __future__ import annotations

import io
import marshal
import os
import pickle
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from . import wire
from .failure import Failure
from .wire import Frames

if TYPE_CHECKING:
    from .pickling import Pickler

__all__ = [
    "AT",
    "BASE",
    "BLANK",
    "COLUMN_BYTES",
    "FILE_BYTES",
    "GROUP",
    "IDLE",
    "READY",
    "STARTED",
    "WORDS",
    "Journal",
    "Memory",
    "OwnMemory",
    "Peek",
    "reached",
    "saved_parts",
]

GROUP, COUNT, AT, BASE, SPLIT, KIND, STARTED, READY, BLANK = range(9)
"""The words, unsigned 64-bit integers.

GROUP, COUNT: id of the group, and how many calls it has. AT: position in the group of the call that runs, all before it
are saved; but IDLE before the first, and any earlier one where the column tells (`reached`). BASE: see above. SPLIT:
see above; IDLE as long as outcomes go into the column. KIND: type of the column, see `wire.CELLS`. STARTED:
`time.monotonic_ns()` at the start of the call, where calls are timed. READY: not 0 once the worker can take groups.
BLANK: what a blank cell holds.
"""
WORDS = 9
IDLE = 2**64 - 1

COLUMN_BYTES = 512 << 10
FILE_BYTES = 2 << 20
FLUSH_BYTES = 1 << 20
"""A file that is fuller than this is sent before the group ends."""

CELL = 8
_KINDS: dict[type, int] = {kind: number for number, (kind, _) in wire.CELLS.items()}
_SEND = Callable[[int, Frames, int | None], None]


class JournalFile(Protocol):
    """What the file has to be: a `mmap.mmap`, or `io.BytesIO` with slices."""

    def write(self, data: bytes, /) -> int: ...
    def seek(self, offset: int, /) -> Any: ...
    def tell(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class Memory:
    """Memory for a journal.

    Args:
        words: at least `WORDS` unsigned 64-bit words.
        column: `COLUMN_BYTES` bytes.
        file: `FILE_BYTES` bytes, or as many as there will be.
    """

    def __init__(self, words: memoryview[int], column: memoryview[int], file: JournalFile) -> None:
        self.words = words
        self.column = column
        self.cells = column.cast("Q")
        self.file = file


class OwnMemory(Memory):
    """Memory for a journal that shares nothing with other processes, and ends with its worker."""

    def __init__(self) -> None:
        words = memoryview(bytearray(8 * WORDS)).cast("Q")
        super().__init__(words, memoryview(bytearray(COLUMN_BYTES)), _OwnFile())


class _OwnFile(io.BytesIO):
    def __getitem__(self, part: slice) -> bytes:
        with self.getbuffer() as view:
            return bytes(view[part])


class Column:
    """The column's memory, as a worker uses it.

    Attributes:
        cells: as unsigned integers.
        by_type: as a sequence for each type that it can hold; where a type needs no cell, of the worker's own memory.
    """

    def __init__(self, memory: memoryview[int]) -> None:
        self.blank = os.urandom(CELL)
        self.cells = memory.cast("Q")
        self._memory = memory
        self._blanks = self.blank * (len(memory) // CELL)
        nothing = [None] * len(self.cells)
        self.by_type: Mapping[type, Any] = {
            kind: memory.cast(code) if code else nothing  # type: ignore[call-overload]
            for kind, code in wire.CELLS.values()
        }

    def clear(self, count: int) -> None:
        """Blank the cells of `count` calls."""
        size = min(CELL * count, len(self._blanks))
        self._memory[:size] = self._blanks[:size]

    def release(self) -> None:
        """Let go of the memory; a store after that raises ValueError."""
        for view in (self.cells, self._memory, *self.by_type.values()):
            if isinstance(view, memoryview):
                view.release()


def reached(words: memoryview[int], cells: memoryview[int]) -> int:
    """Position in the group of the call that runs; all before it are saved. IDLE before the first, and in between."""
    at = words[AT]
    if at == IDLE or words[SPLIT] != IDLE or not wire.CELLS[words[KIND]][1]:
        return at
    blank = words[BLANK]
    return bisect_left(cells, True, at, min(words[COUNT], len(cells)), key=lambda cell: cell == blank)


class _NoType:
    """The type of no outcome."""


class Journal:
    """The journal of one group, as the worker writes it.

    When all outcomes of a segment are plain values they are sent as a copy of the column or as one pickled list, which
    are read many times faster than one pickle each.

    Args:
        words, column, file: the memory.
        group: id of the group.
        count: how many calls it has.
        send: takes the group's id, a part, and nanoseconds since the start with the last part.

    Attributes:
        began: `time.perf_counter_ns()` at the start.
    """

    def __init__(
        self,
        words: memoryview[int],
        column: Column,
        file: JournalFile,
        group: int,
        count: int,
        send: _SEND,
    ) -> None:
        self._words = words
        self._column = column
        self._file = file
        self._group = group
        self._send = send
        self._base = 0
        self._plain = True
        self._failed: list[int] = []
        self._buffers: list[pickle.PickleBuffer] = []
        self.began = time.perf_counter_ns()
        self._pickler: Pickler | None = None
        self._pickled: list[Any] = []
        """The outcomes of the segment that are in the file, as long as all of them are plain."""
        words[AT] = IDLE
        words[BASE] = words[SPLIT] = words[KIND] = words[STARTED] = 0
        words[BLANK] = int.from_bytes(column.blank, sys.byteorder)
        column.clear(count)
        words[COUNT] = count
        words[GROUP] = self._group
        file.seek(0)

    def save(self, i: int, outcome: Any) -> tuple[type, Any, bool]:
        """Save the outcome of call `i`.

        Returns a type, a column, and whether AT is needed. Outcomes of exactly that type that follow may be stored in
        the column instead of coming here. If AT is needed, the worker has to set it before each call.
        """
        words = self._words
        if i == self._base and (cells := self._column.by_type.get(type(outcome))) is not None:
            try:
                cells[i] = outcome
            except (ValueError, OverflowError, IndexError):  # a long integer, a long group
                pass
            else:
                words[AT] = i
                words[KIND] = kind = _KINDS[type(outcome)]
                words[SPLIT] = IDLE
                return type(outcome), cells, not wire.CELLS[kind][1]
        if words[SPLIT] > i:
            words[AT] = i
            words[SPLIT] = i
        self._save_pickled(i, outcome)
        return _NoType, None, True

    def fail(self, i: int, failure: Failure) -> Failure:
        """Note that the outcome of call `i` is a failure; it still has to be saved."""
        self._failed.append(i)
        return failure

    def finish(self, count: int) -> None:
        """Send what has not been sent: the group has ended after `count` calls."""
        elapsed = time.perf_counter_ns() - self.began
        self._words[AT] = count
        self._send(self._group, self._part(count), elapsed)

    def _save_pickled(self, i: int, outcome: Any) -> None:
        pickler = self._pickler
        if pickler is None:
            pickler = self._pickler = wire.make_pickler(self._file, self._buffers, returning=True)
        try:
            pickler.dump(outcome)
        except BaseException as exc:
            pickler.clear_memo()
            self._rewind(i)
            self._buffers.clear()
            self._save_alone(i, outcome, exc)
            return
        pickler.clear_memo()
        if self._buffers:
            end = self._file.tell()
            begin = self._rewind(i)
            data = self._file[begin:end]
            memory = wire.raw(self._buffers, copy=False)
            self._buffers.clear()
            self._send_alone(i, data, memory)
            return
        if type(outcome) not in wire.ATOMS:
            self._plain = False
        elif self._plain:
            self._pickled.append(outcome)
        if self._file.tell() > FLUSH_BYTES:
            self._flush(i + 1)

    def _save_alone(self, i: int, outcome: Any, exc: BaseException) -> None:
        """Send an outcome that the file could not take: too large, a coroutine, or not picklable."""
        if isinstance(outcome, CoroutineType):
            from .worker import run_coroutine

            try:
                outcome = run_coroutine(outcome)
            except BaseException as raised:
                outcome = self.fail(i, Failure.of(raised))
        try:
            data, buffers = wire.dumps(outcome, returning=True)
            memory = wire.raw(buffers, copy=False)
        except BaseException as reason:
            error = wire.serialization_error("result", outcome, "result", reason)
            failure = self.fail(i, Failure.of(error, "serialization"))
            data, memory = wire.dumps(failure)[0], []
        self._send_alone(i, data, memory)

    def _part(self, upto: int) -> Frames:
        base, count = self._base, upto - self._base
        if not count:
            return []
        words = self._words
        failed = [k for k in self._failed if k >= base]
        split = max(base, min(words[SPLIT], upto))
        if split == upto:
            return _column_part(base, count, words[KIND], self._column.cells)
        stored = _stored(base, split, words[KIND], self._column.cells)
        if self._plain:
            head = ("list", base, count, failed)
            return [marshal.dumps(head), pickle.dumps(stored + self._pickled, wire.PROTOCOL)]
        return _journal_part(base, count, failed, stored, self._file[0 : self._file.tell()])

    def _flush(self, upto: int) -> None:
        if upto > self._base:
            self._send(self._group, self._part(upto), None)
            self._restart(upto)

    def _send_alone(self, i: int, data: bytes, memory: Frames) -> None:
        self._flush(i)
        head = marshal.dumps(("one", i, 1, [i] if i in self._failed[-1:] else []))
        self._send(self._group, [head, data, *memory], None)
        self._restart(i + 1)

    def _restart(self, base: int) -> None:
        # In this order: whoever reads the words must never see outcomes that are not there.
        self._words[BASE] = base
        self._words[SPLIT] = base
        self._words[KIND] = 0
        self._base = base
        self._plain = True
        self._pickled.clear()
        self._file.seek(0)

    def _rewind(self, i: int) -> int:
        """Put the file back to where outcome `i` began, and return that offset."""
        file = io.BytesIO(self._file[0 : self._file.tell()])
        for _ in range(i - max(self._base, min(self._words[SPLIT], i))):
            wire.skip_pickle(file)
        self._file.seek(file.tell())
        return file.tell()


def _journal_part(base: int, count: int, failed: list[int], plain: list[Any], pickles: bytes) -> Frames:
    """A part of `count` outcomes: first those of `plain`, then those that are pickled already."""
    head = marshal.dumps(("journal", base, count, failed))
    return [head, b"".join([*(pickle.dumps(value, 5) for value in plain), pickles])]


def _column_part(base: int, count: int, kind: int, cells: memoryview[int]) -> Frames:
    body = bytes(cells[base : base + count]) if wire.CELLS[kind][1] else b""
    return [marshal.dumps((kind, base, count, [])), body]


def _stored(base: int, split: int, kind: int, cells: memoryview[int]) -> list[Any]:
    """The outcomes in the column."""
    return wire.unpack_part(_column_part(base, split - base, kind, cells))[0] if split > base else []


def saved_parts(memory: Memory) -> Frames:
    """What a worker has saved of its group and perhaps not sent: a part, or no frames if there is nothing.

    The worker must be dead, or everything before `reached` must have been there for a while.
    """
    words, cells = memory.words, memory.cells
    base, at, split = words[BASE], reached(words, cells), words[SPLIT]
    if at == IDLE or at <= base:
        return []
    until = max(base, min(split, at))
    if until == at:
        return _column_part(base, at - base, words[KIND], cells)
    stored = _stored(base, until, words[KIND], cells)
    data = memory.file[0:FILE_BYTES]
    outcomes = io.BytesIO(data)
    failed = []
    for position in range(until, at):
        begin = outcomes.tell()
        try:
            failure = type(pickle.Unpickler(outcomes).load()) is Failure
        except Exception:  # the class is not here; that is for whoever unpacks the part to say
            outcomes.seek(begin)
            outcomes.seek(wire.skip_pickle(outcomes))
            failure = False
        if failure:
            failed.append(position)
    return _journal_part(base, at - base, failed, stored, data[: outcomes.tell()])


class Peek:
    """Reads what a worker that still runs has saved of a slow group."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._seen = (0, 0)

    def read(self, group: int, received: int) -> Frames:
        """A part with outcomes of `group` beyond the first `received`, if there were some at the last call already."""
        words = self._memory.words
        base, at = words[BASE], reached(words, self._memory.cells)
        if words[GROUP] != group or at == IDLE or at <= max(base, received):
            return []
        if self._seen != (group, at):
            # Only what was there the last time is read, so that no write to it can still be under way.
            self._seen = (group, at)
            return []
        part = saved_parts(self._memory)
        return part if words[GROUP] == group and words[BASE] == base else []

    def left(self, group: int, count: int) -> int:
        """How many of the `count` calls of `group` have not started, as far as the words tell."""
        words = self._memory.words
        at = reached(words, self._memory.cells)
        return count - at - 1 if words[GROUP] == group and at != IDLE else 0
