"""What runs on a worker, on every backend: unpack, hooks, context, call, pack.

A worker runs one group of calls at a time and keeps a *journal* of it: the outcome of each call is pickled as soon as
there is one, into memory that may outlive the worker, and the `words` beside it say how far it is. Where that memory is
shared with the caller, a worker that dies loses the call it was running and nothing else (ERR-06, MAP-13). It is also
what makes results snapshots: what a later call does to an object that an earlier one returned does not show.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import io
import marshal
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from . import wire
from .context import RunningGroup, enter_group
from .errors import SerializationError
from .output import Outbox, capture_output
from .wire import Failure, Frames

__all__ = ["GROUP", "IDLE", "JOURNAL_SIZE", "WORDS", "GroupHead", "Host", "ProgramHead", "Worker"]

# The words of a worker, unsigned 64-bit integers. `RUNNING` and `DONE` count from the start of the group.
GROUP, RUNNING, DONE, BASE, STARTED = range(5)
WORDS = 8
IDLE = 2**64 - 1
"""The value of RUNNING before the first call of a group."""

JOURNAL_SIZE = 2 << 20
"""Bytes of journal that a worker needs; what does not fit is sent at once."""
JOURNAL_FLUSH = 1 << 20
"""Bytes after which the journal is sent before the group ends."""


@dataclass(slots=True)
class ProgramHead:
    """What a worker must know of a program before it unpickles it."""

    flow: str
    mode: str
    timed: bool
    apparatus: str
    data_dir: str | None
    credit: int

    def pack(self) -> tuple[Any, ...]:
        return (self.flow, self.mode, self.timed, self.apparatus, self.data_dir, self.credit)


@dataclass(slots=True)
class GroupHead:
    """Which calls a payload holds: `count` of them, from input `start` on."""

    group: int
    flow: str
    start: int
    count: int
    attempt: int

    def pack(self) -> tuple[Any, ...]:
        return (self.group, self.flow, self.start, self.count, self.attempt)


class JournalFile(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def seek(self, offset: int, /) -> Any: ...
    def tell(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class Host(Protocol):
    """What carries a worker's words to the caller."""

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        """Carry the outcomes of some calls of `group`; returns when the frames may be reused.

        `elapsed`, nanoseconds, comes with the last part of a group, which may have no frames; else it is None.
        """

    def take_credit(self, flow: str) -> bool:
        """Wait until a stream may send one more item; False when nobody wants more."""


class Program:
    """A program, unpickled: one callable for everything that happens at a call."""

    __slots__ = ("call", "head")

    def __init__(self, head: ProgramHead, frames: Frames) -> None:
        self.head = head
        try:
            fn, kwargs, hooks = wire.loads(frames[0], buffers=frames[1:])
            self.call = _compose(fn, kwargs, hooks, head.mode)
        except BaseException as exc:
            self.call = partial(_refuse, _not_loaded("function", exc))


def _compose(
    fn: Callable[..., Any], kwargs: dict[str, Any], hooks: tuple[Callable[[], object], ...], mode: str
) -> Callable[..., Any]:
    call: Callable[..., Any] = partial(fn, **kwargs) if kwargs else fn
    if mode == "call" and _is_async(fn):
        call = partial(_await_call, call)
    return partial(_with_hooks, hooks, call) if hooks else call


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _with_hooks(hooks: tuple[Callable[[], object], ...], call: Callable[..., Any], *args: Any) -> Any:
    for hook in hooks:
        hook()
    return call(*args)


def _await_call(call: Callable[..., Any], *args: Any) -> Any:
    return run_coroutine(call(*args))


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end, in a thread of its own if this one has an event loop that runs."""

    async def await_it() -> Any:
        return await coroutine

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(await_it())
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.extend((True, context.run(asyncio.run, await_it())))
        except BaseException as exc:
            outcome.extend((False, exc))

    thread = threading.Thread(target=run, name="mini-coroutine")
    thread.start()
    thread.join()
    if not outcome[0]:
        raise outcome[1]
    return outcome[1]


class _Refused(BaseException):
    """Carries a ready-made failure through the place where calls raise."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _refuse(failure: Failure, *args: Any) -> Any:
    raise _Refused(failure)


def _not_loaded(what: str, exc: BaseException) -> Failure:
    if isinstance(exc, ModuleNotFoundError):
        message = (
            f"the {what} needs the module {exc.name!r}, which cannot be imported on the worker; "
            "put it under the project's src/ or add its distribution to the project's dependencies"
        )
    else:
        message = f"the {what} cannot be unpickled on the worker: {type(exc).__name__}: {exc}"
    error = SerializationError(message)
    error.__cause__ = exc
    return Failure.of(error, "serialization")


def _call_packed(call: Callable[..., Any], data: wire.Frame, buffers: Frames) -> Any:
    try:
        args = wire.load_row(data, buffers)
    except BaseException as exc:
        raise _Refused(_not_loaded("argument", exc)) from exc
    return call(*args)


class Worker:
    """Runs groups of calls, one after the other.

    Args:
        host: takes the outcomes.
        outbox: takes what calls print and emit.
        journal: at least `JOURNAL_SIZE` bytes to write outcomes into, with a file's methods.
        words: at least `WORDS` unsigned 64-bit words that say how far the group is.
        process_wide: this worker is alone in its process, so its threads' output belongs to its call too.
    """

    def __init__(
        self,
        host: Host,
        outbox: Outbox,
        journal: JournalFile,
        words: memoryview[int] | Any,
        *,
        process_wide: bool,
    ) -> None:
        self.host = host
        self.outbox = outbox
        self.journal = journal
        self.words = words
        self.process_wide = process_wide
        self.rows: Iterator[Any] = iter(())
        """The calls of the current group that have not started; whoever exhausts it has taken them back."""

    def run_group(self, program: Program, head: GroupHead, payload: Frames) -> None:
        """Run the calls of a group and send all their outcomes. Raises nothing that a call raises."""
        p = program.head
        words = self.words
        words[RUNNING] = IDLE
        words[DONE] = words[BASE] = 0
        words[STARTED] = 0
        words[GROUP] = head.group
        group = RunningGroup(
            head.flow,
            head.start,
            head.attempt,
            p.apparatus,
            p.data_dir,
            lambda: 0 if words[RUNNING] == IDLE else words[RUNNING],
            self.outbox.emitter(head.attempt, head.flow),
        )
        before = enter_group(group, process_wide=self.process_wide)
        try:
            with capture_output(group, self.outbox, tee=not self.process_wide):
                if p.mode == "stream":
                    self._stream(program, head, payload)
                else:
                    self._run_calls(program, head, payload)
        finally:
            enter_group(before, process_wide=self.process_wide)
            words[RUNNING] = IDLE

    def _run_calls(self, program: Program, head: GroupHead, payload: Frames) -> None:
        call = program.call
        try:
            packed, rows = wire.unpack_rows(payload)
        except BaseException as exc:
            call, packed = partial(_refuse, _not_loaded("argument", exc)), False
            rows = iter([()] * head.count)
        if packed:
            call = partial(_call_packed, call)
        if program.head.timed:
            rows = self._note_starts(rows)
        self.rows = rows

        journal = _Journal(self, head.group)
        words, keep, settle = self.words, journal.results.append, journal.settle
        # The bound method of the C pickler: cloudpickle's own `dump` adds a Python frame to every call.
        dump = pickle.Pickler.dump.__get__(journal.pickler)
        i = 0
        for row in rows:
            words[RUNNING] = i
            try:
                result = call(*row)
            except BaseException as exc:
                result = journal.failure(i, exc)
            try:
                dump(result)
            except BaseException as exc:
                result = journal.not_dumped(i, result, exc)
            keep(result)
            if type(result) not in _TINY:
                settle(i, result)
            i += 1
            words[DONE] = i
        self.outbox.flush()
        journal.finish(i)

    def _note_starts(self, rows: Iterator[Any]) -> Iterator[Any]:
        words, now = self.words, time.monotonic_ns
        for row in rows:
            words[STARTED] = now()
            yield row

    def _stream(self, program: Program, head: GroupHead, payload: Frames) -> None:
        """Send what a generator function yields, an item at a time, as fast as the caller takes it."""
        began = time.perf_counter_ns()
        self.words[STARTED] = time.monotonic_ns()
        self.words[RUNNING] = 0
        items: Any = None
        count = 0
        try:
            packed, rows = wire.unpack_rows(payload)
            row = next(rows)
            items = _iterate(program.call(*(wire.load_row(*row) if packed else row)))
            while self.host.take_credit(head.flow):
                item = next(items, _END)
                if item is _END:
                    break
                self._send_item(head.group, count, item)
                count += 1
            items.close()
        except BaseException as exc:
            failure = exc.failure if isinstance(exc, _Refused) else Failure.of(exc, skip=_own_frames(exc))
            self._send_item(head.group, count, failure)
        self.outbox.flush()
        self.host.send_part(head.group, [], time.perf_counter_ns() - began)

    def _send_item(self, group: int, position: int, item: Any) -> None:
        try:
            data, buffers = wire.dumps(item, returning=True)
        except Exception as exc:
            error = wire.serialization_error("item", item, "item", exc)
            raise _Refused(Failure.of(error, "serialization")) from exc
        failed = [position] if type(item) is Failure else []
        self.outbox.flush()
        head = marshal.dumps(("one", position, 1, failed))
        self.host.send_part(group, [head, data, *wire.raw(buffers, copy=False)], None)


_END = object()


def _iterate(items: Any) -> Generator[Any, None, None]:
    if hasattr(items, "__aiter__"):
        yield from _iterate_async(items)
    else:
        yield from items


def _iterate_async(items: Any) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        iterator = aiter(items)
        try:
            while True:
                try:
                    yield runner.run(_next(iterator))
                except StopAsyncIteration:
                    return
        finally:
            if hasattr(iterator, "aclose"):
                runner.run(iterator.aclose())


async def _next(iterator: Any) -> Any:
    return await anext(iterator)


def _own_frames(exc: BaseException) -> int:
    """How many frames at the head of the traceback are mini's own."""
    count = 0
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        count += 1
        trace = trace.tb_next
    return count


_OWN_MODULES = frozenset({__name__, wire.__name__, "asyncio.runners", "asyncio.base_events"})


_TINY = frozenset({int, float, bool, type(None)})
"""Types whose pickles leave nothing behind in the pickler and take a few bytes."""

_SENT = object()


class _Journal:
    """The journal of one group; what happens at a call whose outcome is not tiny.

    `results` has the outcome of every call so far, or None for one that need not be kept. Outcomes from `base` on are
    in the journal's memory and not yet sent. When all of them are plain values they are sent as one pickled list,
    which is read many times faster than a pickle each; otherwise the journal is sent as it is.
    """

    def __init__(self, worker: Worker, group: int) -> None:
        self._worker = worker
        self._file = worker.journal
        self._group = group
        self._base = 0
        self._plain = True
        self._failed: list[int] = []
        self._buffers: list[pickle.PickleBuffer] = []
        self._began = time.perf_counter_ns()
        self.results: list[Any] = []
        self.pickler = wire.Pickler(self._file, wire.keep_large(self._buffers), returning=True)
        self._file.seek(0)

    def failure(self, i: int, exc: BaseException) -> Failure:
        """The outcome of call `i`, which raised."""
        self._failed.append(i)
        if isinstance(exc, _Refused):
            return exc.failure
        return Failure.of(exc, skip=_own_frames(exc))

    def settle(self, i: int, result: Any) -> None:
        """Tidy up after an outcome that is not tiny; send it now if it is large."""
        self.pickler.clear_memo()
        if result is _SENT:
            self.results[i] = None
        elif self._buffers:
            end = self._file.tell()
            begin = self._rewind(i)
            data = self._file[begin:end]
            memory = wire.raw(self._buffers, copy=False)
            self._buffers.clear()
            self.results[i] = None
            self._send_one(i, data, memory)
        else:
            if type(result) not in wire.ATOMS:
                self._plain = False
                self.results[i] = None
            if self._file.tell() > JOURNAL_FLUSH:
                self._flush(i + 1)

    def not_dumped(self, i: int, result: Any, exc: BaseException) -> Any:
        """Send an outcome that the journal could not take: too large, a coroutine, or not picklable."""
        self._rewind(i)
        self._buffers.clear()
        self.pickler.clear_memo()
        if inspect.iscoroutine(result):
            try:
                result = run_coroutine(result)
            except BaseException as raised:
                result = self.failure(i, raised)
        try:
            data, buffers = wire.dumps(result, returning=True)
            memory = wire.raw(buffers, copy=False)
        except BaseException as reason:
            error = wire.serialization_error("result", result, "result", reason)
            self._failed.append(i)
            data, memory = wire.dumps(Failure.of(error, "serialization"))[0], []
        self._send_one(i, data, memory)
        return _SENT

    def finish(self, count: int) -> None:
        """Send what is left; the group has ended."""
        elapsed = time.perf_counter_ns() - self._began
        self._worker.host.send_part(self._group, self._part(count), elapsed)

    def _part(self, upto: int) -> Frames:
        count = upto - self._base
        if not count:
            return []
        failed = [k for k in self._failed if k >= self._base]
        if self._plain:
            head, body = ("list", self._base, count, failed), pickle.dumps(self.results[self._base : upto], 5)
        else:
            head, body = ("journal", self._base, count, failed), self._file[0 : self._file.tell()]
        return [marshal.dumps(head), body]

    def _flush(self, upto: int) -> None:
        if upto > self._base:
            self._worker.host.send_part(self._group, self._part(upto), None)
            self._restart(upto)

    def _send_one(self, i: int, data: bytes, memory: Frames) -> None:
        self._flush(i)
        failed = [i] if i in self._failed[-1:] else []
        head = marshal.dumps(("one", i, 1, failed))
        self._worker.host.send_part(self._group, [head, data, *memory], None)
        self._restart(i + 1)

    def _restart(self, base: int) -> None:
        # In this order: whoever reads the words of a dead worker must never see more outcomes than the journal has.
        self._worker.words[DONE] = base
        self._worker.words[BASE] = base
        self._base = base
        self._plain = True
        self._file.seek(0)

    def _rewind(self, i: int) -> int:
        """Put the journal back to where outcome `i` began, and return that offset."""
        file = io.BytesIO(self._file[0 : self._file.tell()])
        for _ in range(i - self._base):
            wire.skip_pickle(file)
        self._file.seek(file.tell())
        return file.tell()
