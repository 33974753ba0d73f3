"""The journal of a worker: each outcome is saved as soon as there is one, before the next call starts.

A worker's journal is memory that may outlive it. Where that memory is shared with the caller, a worker that dies costs
the call it was running and nothing else (ERR-06, MAP-13), and what a slow group has finished can be handed out before
the group ends. It also makes results snapshots: what a later call does to an object that an earlier one returned does
not show, however calls are grouped (MAP-11).

The memory has three parts. The *words* say how far the group is. The *column* holds outcomes of one numeric type, a
store each, which is all that tiny calls can afford. The *file* takes every other outcome as a pickle of its own. The
outcomes of a segment, from `BASE` on, are in the column up to `SPLIT` and in the file from there; a segment ends when
it is sent.
"""

from __future__ import annotations

import inspect
import io
import marshal
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from . import wire
from .wire import Failure, Frames

__all__ = [
    "AT",
    "BASE",
    "COLUMN_BYTES",
    "FILE_BYTES",
    "GROUP",
    "IDLE",
    "READY",
    "STARTED",
    "WORDS",
    "Journal",
    "Peek",
    "saved_parts",
]

GROUP, AT, BASE, SPLIT, KIND, STARTED, READY = range(7)
"""The words, unsigned 64-bit integers.

GROUP: id of the group. AT: position in the group of the call that runs; all before it are saved; IDLE before the
first. BASE, SPLIT: see above. KIND: type of the column. STARTED: `time.monotonic_ns()` at the start of the call, where
calls are timed. READY: not 0 once the worker can take groups.
"""
WORDS = 8
IDLE = 2**64 - 1

COLUMN_BYTES = 512 << 10
FILE_BYTES = 2 << 20
FLUSH_BYTES = 1 << 20
"""A file that is fuller than this is sent before the group ends."""

_KINDS: dict[type, tuple[int, str]] = {int: (1, "q"), float: (2, "d"), bool: (3, "q"), type(None): (4, "")}
_SEND = Callable[[int, Frames, int | None], None]


class JournalFile(Protocol):
    """What the file has to be: a `mmap.mmap`, or `io.BytesIO` with slices."""

    def write(self, data: bytes, /) -> int: ...
    def seek(self, offset: int, /) -> Any: ...
    def tell(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


Columns = Mapping[type, Any]


def make_columns(memory: memoryview[int]) -> Columns:
    """The column's memory as a sequence for each type that it can hold."""
    nothing = [None] * (COLUMN_BYTES // 8)
    return {kind: memory.cast(code) if code else nothing for kind, (_, code) in _KINDS.items()}  # type: ignore[call-overload]


class _NoType:
    """The type of no outcome."""


class Journal:
    """The journal of one group, as the worker writes it.

    `results` has the outcome of every call so far, or None for one that need not be kept. When all outcomes of a
    segment are plain values they are sent as one pickled list, which is read many times faster than one pickle each.

    Args:
        words, columns, file: the memory; `make_columns` makes the columns.
        group: id of the group.
        send: takes the group's id, a part, and nanoseconds since the start with the last part.
    """

    def __init__(
        self,
        words: memoryview[int],
        columns: Columns,
        file: JournalFile,
        group: int,
        send: _SEND,
    ) -> None:
        self._words = words
        self._columns = columns
        self._file = file
        self._group = group
        self._send = send
        self._base = 0
        self._plain = True
        self._failed: list[int] = []
        self._buffers: list[pickle.PickleBuffer] = []
        self._began = time.perf_counter_ns()
        self._pickler: wire.Pickler | None = None
        self.results: list[Any] = []
        words[AT] = IDLE
        words[BASE] = words[SPLIT] = words[KIND] = words[STARTED] = 0
        words[GROUP] = self._group
        file.seek(0)

    def save(self, i: int, outcome: Any) -> tuple[type, Any]:
        """Save the outcome of call `i`.

        Returns a type and a column: outcomes of exactly that type that follow may be stored in the column and
        appended to `results` instead of coming here.
        """
        if i == self._base and (column := self._columns.get(type(outcome))) is not None:
            try:
                column[i] = outcome
            except (ValueError, OverflowError, IndexError):  # a long integer, a long group
                pass
            else:
                self._words[KIND] = _KINDS[type(outcome)][0]
                self._words[SPLIT] = IDLE
                self.results.append(outcome)
                return type(outcome), column
        if self._words[SPLIT] > i:
            self._words[SPLIT] = i
        self._save_pickled(i, outcome)
        return _NoType, None

    def fail(self, i: int, failure: Failure) -> Failure:
        """Note that the outcome of call `i` is a failure; it still has to be saved."""
        self._failed.append(i)
        return failure

    def finish(self, count: int) -> None:
        """Send what has not been sent: the group has ended after `count` calls."""
        elapsed = time.perf_counter_ns() - self._began
        self._words[AT] = count
        self._send(self._group, self._part(count), elapsed)

    def _save_pickled(self, i: int, outcome: Any) -> None:
        pickler = self._pickler
        if pickler is None:
            pickler = self._pickler = wire.Pickler(self._file, wire.keep_large(self._buffers), returning=True)
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
        if type(outcome) in wire.ATOMS:
            self.results.append(outcome)
        else:
            self._plain = False
            self.results.append(None)
        if self._file.tell() > FLUSH_BYTES:
            self._flush(i + 1)

    def _save_alone(self, i: int, outcome: Any, exc: BaseException) -> None:
        """Send an outcome that the file could not take: too large, a coroutine, or not picklable."""
        if inspect.iscoroutine(outcome):
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
        count = upto - self._base
        if not count:
            return []
        failed = [k for k in self._failed if k >= self._base]
        if self._plain:
            head, body = ("list", self._base, count, failed), pickle.dumps(self.results[self._base : upto], 5)
            return [marshal.dumps(head), body]
        plain = self.results[self._base : max(self._base, min(self._words[SPLIT], upto))]
        return _journal_part(self._base, count, failed, plain, self._file[0 : self._file.tell()])

    def _flush(self, upto: int) -> None:
        if upto > self._base:
            self._send(self._group, self._part(upto), None)
            self._restart(upto)

    def _send_alone(self, i: int, data: bytes, memory: Frames) -> None:
        self._flush(i)
        self.results.append(None)
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


def saved_parts(words: memoryview[int], column: memoryview[int], file: JournalFile) -> Frames:
    """What a worker has saved of its group and perhaps not sent: a part, or no frames if there is nothing.

    The worker must be dead, or everything up to AT must have been there for a while.
    """
    base, at, split = words[BASE], words[AT], words[SPLIT]
    if at == IDLE or at <= base:
        return []
    kind, code = next(
        ((t, code) for t, (number, code) in _KINDS.items() if number == words[KIND]), (None, "")
    )
    until = min(split, at)
    stored: list[Any] = []
    if until > base and kind is not None:
        cells = column.cast(code)[base:until].tolist() if code else [None] * (until - base)  # type: ignore[call-overload]
        stored = [bool(cell) for cell in cells] if kind is bool else cells
    data = file[0:FILE_BYTES] if at > until else b""
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

    def __init__(self, words: memoryview[int], column: memoryview[int], file: JournalFile) -> None:
        self._words = words
        self._column = column
        self._file = file
        self._seen = (0, 0)

    def read(self, group: int, received: int) -> Frames:
        """A part with outcomes of `group` beyond the first `received`, if there were some at the last call already."""
        words = self._words
        base, at = words[BASE], words[AT]
        if words[GROUP] != group or at == IDLE or at <= max(base, received):
            return []
        if self._seen != (group, at):
            # Only what was there the last time is read, so that no write to it can still be under way.
            self._seen = (group, at)
            return []
        part = saved_parts(words, self._column, self._file)
        return part if words[GROUP] == group and words[BASE] == base else []

    def left(self, group: int, count: int) -> int:
        """How many of the `count` calls of `group` have not started, as far as the words tell."""
        words = self._words
        if words[GROUP] != group or words[AT] == IDLE:
            return 0
        return count - words[AT] - 1
