"""What runs on a worker, on every backend: unpack, hooks, context, call, pack.

A worker runs one group of calls at a time and keeps a journal of it; see `mini.journal`.
"""

from __future__ import annotations

import contextvars
import marshal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from types import FunctionType
from typing import Any, Protocol

from . import wire
from .context import RunningGroup, enter_group
from .errors import SerializationError
from .failure import Failure
from .journal import AT, BASE, GROUP, IDLE, STARTED, Column, Journal, Memory, reached
from .output import Outbox
from .wire import Frames

__all__ = ["GroupHead", "Host", "Program", "ProgramHead", "Worker"]


class ProgramHead:
    """What a worker must know of a program before it unpickles it."""

    __slots__ = ("apparatus", "credit", "curves", "data_dir", "flow", "mode", "timeout")

    def __init__(
        self,
        flow: str,
        mode: str,
        timeout: float | None,
        apparatus: str,
        data_dir: str | None,
        credit: int,
        curves: bool = False,
    ) -> None:
        self.flow = flow
        self.mode = mode
        self.timeout = timeout
        self.apparatus = apparatus
        self.data_dir = data_dir
        self.credit = credit
        self.curves = curves
        """The history of its calls' metrics is wanted: see `mini.curves`."""

    def pack(self) -> tuple[Any, ...]:
        return (self.flow, self.mode, self.timeout, self.apparatus, self.data_dir, self.credit, self.curves)


class GroupHead:
    """Which calls a payload holds: `count` of them, from input `start` on."""

    __slots__ = ("attempt", "count", "flow", "group", "start")

    def __init__(self, group: int, flow: str, start: int, count: int, attempt: int) -> None:
        self.group = group
        self.flow = flow
        self.start = start
        self.count = count
        self.attempt = attempt

    def pack(self) -> tuple[Any, ...]:
        return (self.group, self.flow, self.start, self.count, self.attempt)


class Host(Protocol):
    """What carries a worker's words to the caller."""

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        """Carry the outcomes of some calls of `group`; returns when the frames may be reused.

        `elapsed`, nanoseconds, comes with the last part of a group, which may have no frames; else it is None.
        """

    def take_credit(self, flow: str) -> bool:
        """Wait until a stream may send one more item; False when nobody wants more."""


class Program:
    """A program, unpickled when it is first needed: one callable for everything that happens at a call."""

    __slots__ = ("_call", "_frames", "head")

    def __init__(self, head: ProgramHead, frames: Frames) -> None:
        self.head = head
        self._frames = frames
        self._call: Callable[..., Any] | None = None

    @property
    def call(self) -> Callable[..., Any]:
        if self._call is None:
            frames, self._frames = self._frames, []
            try:
                fn, kwargs, hooks = wire.loads(frames[0], buffers=frames[1:])
                self._call = _compose(fn, kwargs, hooks, self.head.mode)
            except BaseException as exc:
                self._call = partial(_refuse, _not_loaded("function", exc))
        return self._call


def _compose(
    fn: Callable[..., Any], kwargs: dict[str, Any], hooks: tuple[Callable[[], object], ...], mode: str
) -> Callable[..., Any]:
    call: Callable[..., Any] = partial(fn, **kwargs) if kwargs else fn
    if mode == "call" and _is_async(fn):
        call = partial(_await_call, call)
    return partial(_with_hooks, hooks, call) if hooks else call


def _is_async(fn: Callable[..., Any]) -> bool:
    if isinstance(fn, FunctionType):
        return bool(fn.__code__.co_flags & _CO_COROUTINE)

    import inspect  # not before it is needed: workers start sooner

    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


_CO_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`: set in the code of `async def` functions."""


def _with_hooks(hooks: tuple[Callable[[], object], ...], call: Callable[..., Any], *args: Any) -> Any:
    for hook in hooks:
        hook()
    return call(*args)


def _await_call(call: Callable[..., Any], *args: Any) -> Any:
    return run_coroutine(call(*args))


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end, in a thread of its own if this one has an event loop that runs."""

    import asyncio

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
            "put it under the project's src/, or add what provides it to the project's dependencies: `uv add`"
        )
    else:
        message = f"the {what} cannot be unpickled on the worker: {type(exc).__name__}: {exc}"
    error = SerializationError(message)
    error.__cause__ = exc
    return Failure.of(error, "serialization")


def _call_with(kind: wire.RowKind, call: Callable[..., Any], row: Any) -> Any:
    try:
        args = wire.arguments(kind, row)
    except BaseException as exc:
        raise _Refused(_not_loaded("argument", exc)) from exc
    return call(*args)


class Worker:
    """Runs groups of calls, one after the other.

    Args:
        host: takes the outcomes.
        outbox: takes what calls print and emit.
        memory: for the journal.
        process_wide: this worker is alone in its process, so its threads' output belongs to its call too.
    """

    def __init__(self, host: Host, outbox: Outbox, memory: Memory, *, process_wide: bool) -> None:
        self.host = host
        self.outbox = outbox
        self.words = memory.words
        self.column = Column(memory.column)
        self.file = memory.file
        self.process_wide = process_wide
        self.rows: Iterator[Any] = iter(())
        """The calls of the current group that have not started; whoever exhausts it has taken them back."""

    def run_group(self, program: Program, head: GroupHead, payload: Frames) -> None:
        """Run the calls of a group and send all their outcomes. Raises nothing that a call raises."""
        p = program.head
        words = self.words
        words[AT] = IDLE
        cells = self.column.cells
        group = RunningGroup(
            head.flow,
            head.start,
            head.attempt,
            p.apparatus,
            p.data_dir,
            lambda: 0 if words[AT] == IDLE else reached(words, cells),
            self.outbox.emitter(head.attempt, head.flow, curves=p.curves),
        )
        before = enter_group(group, process_wide=self.process_wide)
        try:
            with self.outbox.capture(group):
                if p.mode == "stream":
                    self._stream(program, head, payload, group)
                else:
                    self._run_calls(program, head, payload, group)
        finally:
            enter_group(before, process_wide=self.process_wide)
        words[AT] = IDLE  # not if something got out: then a call was running

    def _run_calls(self, program: Program, head: GroupHead, payload: Frames, group: RunningGroup) -> None:
        journal = Journal(self.words, self.column, self.file, head.group, head.count, self.host.send_part)
        words, save = self.words, journal.save
        words[AT] = 0  # whatever happens while the function is loaded happens to the first call
        call = program.call
        try:
            kind_of_rows, rows = wire.unpack_rows(payload)
            if kind_of_rows != "argument":
                call = partial(_call_with, kind_of_rows, call)
        except BaseException as exc:
            call = partial(_refuse, _not_loaded("argument", exc))
            rows = iter([None] * head.count)
        # A generator could not be listed by another thread while this one is in it.
        self.rows = rows
        if program.head.timeout is not None:
            rows = self._note_starts(rows)
        journal.began = time.perf_counter_ns()
        kind: type | None = None
        column: Any = None
        at_is_needed = True
        i = 0
        for row in rows:
            if at_is_needed:
                words[AT] = i
            try:
                outcome = call(row)
            except BaseException as exc:
                outcome = journal.fail(i, _failure(exc))
            if type(outcome) is kind:
                try:
                    column[i] = outcome
                except (ValueError, OverflowError, IndexError):
                    kind, column, at_is_needed = save(i, outcome)
            else:
                kind, column, at_is_needed = save(i, outcome)
            i += 1
        self.outbox.finish(group)
        journal.finish(i)

    def _note_starts(self, rows: Iterator[Any]) -> Iterator[Any]:
        words, now = self.words, time.monotonic_ns
        for row in rows:
            words[STARTED] = now()
            yield row

    def _stream(self, program: Program, head: GroupHead, payload: Frames, group: RunningGroup) -> None:
        """Send what a generator function yields, an item at a time, as fast as the caller takes it."""
        began = time.perf_counter_ns()
        words = self.words
        words[BASE] = 0
        words[STARTED] = time.monotonic_ns()
        words[GROUP] = head.group
        words[AT] = 0
        items: Any = None
        count = 0
        try:
            kind, rows = wire.unpack_rows(payload)
            items = _iterate(program.call(*wire.arguments(kind, next(rows))))
            while self.host.take_credit(head.flow):
                item = next(items, _END)
                if item is _END:
                    break
                self._send_item(head.group, count, item)
                count += 1
            items.close()
        except BaseException as exc:
            self._send_item(head.group, count, _failure(exc))
        self.outbox.finish(group)
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
    import asyncio

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


def _failure(exc: BaseException) -> Failure:
    """The outcome of a call that raised."""
    return exc.failure if isinstance(exc, _Refused) else Failure.of(exc, skip=_own_frames(exc))


def _own_frames(exc: BaseException) -> int:
    """How many frames at the head of the traceback are mini's own."""
    count = 0
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        count += 1
        trace = trace.tb_next
    return count


_OWN_MODULES = frozenset({__name__, wire.__name__, "asyncio.runners", "asyncio.base_events"})
