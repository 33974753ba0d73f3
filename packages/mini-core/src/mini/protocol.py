"""`Apparatus`: what users call, and below it the small abstract part that an adapter fills in."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Hashable,
    Iterable,
    Mapping,
)
from functools import partial
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, Self, TypeVar, overload

from . import engine as _engine
from . import wire
from .capability import Capability
from .carrier import Carrier, Task
from .engine import Engine, Flow, Part, Records
from .errors import OptionError, Unsupported
from .failure import Failure
from .inputs import Source
from .options import Options, check_name
from .registry import backend_names
from .status import CallRecord, FlowStatus, LogLine
from .twins import in_thread
from .worker import ProgramHead

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor

    from .jobboard import Job, JobBoard, JobGroup
    from .joblaunch import Launcher
    from .volume import Volume

__all__ = ["Apparatus"]

P = ParamSpec("P")
T = TypeVar("T")

STREAM_AHEAD = 16
"""Items of a stream that may be under way before the consumer takes them, unless `window` says otherwise."""


class Runtime:
    """What an apparatus and those derived from it by `w` share: engines with their workers, and the records."""

    def __init__(self) -> None:
        self.records = Records()
        self.closed = False
        self._lock = threading.Lock()
        self._engines: dict[Hashable, Engine] = {}
        self._finalizer = weakref.finalize(self, _close_engines, self._engines)
        _runtimes.add(self)

    def engine(self, key: Hashable, make: Callable[[], Carrier]) -> Engine:
        engine = self._engines.get(key)
        if engine is None or self.closed:
            with self._lock:
                if self.closed:
                    raise RuntimeError("this apparatus is closed; make a new one")
                engine = self._engines.get(key)
                if engine is None:
                    engine = self._engines[key] = Engine(make(), self.records)
        return engine

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self._finalizer()

    def forked(self) -> None:
        # The engines are unusable copies; calls in this process get new ones.
        self._lock = threading.Lock()
        self._engines.clear()


def _close_engines(engines: dict[Hashable, Engine]) -> None:
    for engine in list(engines.values()):
        engine.close()
    engines.clear()


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_runtimes):
        runtime.forked()


_engine.after_fork(_after_fork)


class Apparatus(ABC):
    """Runs plain Python functions somewhere: here, on a cluster, in a cloud.

    What every method means is written down, clause by clause, in the contract (docs/reference/contract.md); it is the
    same on every backend. Functions, arguments and results travel by value. An exception that a function raises is
    raised here as itself.

    An apparatus may be used from several threads. Leaving its `with` block or calling `close()` ends its workers; so
    does dropping the last reference, and the end of the process.
    """

    backend: ClassVar[str]

    def __init__(self, name: str, max_workers: int | None = None) -> None:
        self.name = check_name(name)
        self._options = Options()
        if max_workers is not None:
            self._options = self._options.merged({"max_workers": max_workers}, tuple)
        self._hooks: tuple[Callable[[], object], ...] = ()
        self._runtime = Runtime()
        self._volume: Volume | None = None
        self._jobs: JobBoard | None = None

    # --- what an adapter fills in ---

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this backend honours; answering starts nothing."""

    @property
    def ignored_options(self) -> tuple[str, ...]:
        """Neutral options that this backend has no use for."""
        return ()

    @abstractmethod
    def _open_carrier(self, options: Options) -> Carrier:
        """A carrier for calls with these options. It starts workers when groups come, not before."""

    @abstractmethod
    def _open_volume(self) -> Volume:
        """The volume of this name. Reaches nothing until it is used."""

    @property
    @abstractmethod
    def worker_data_dir(self) -> str:
        """The volume's directory as a worker sees it."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Constructor arguments that make the same apparatus again, on another machine; its options travel beside."""

    def _lasting_settings(self) -> dict[str, Any]:
        """What somebody who comes back to jobs has to know beside the name: constructor arguments, plain ones.

        They are kept with the name, in a file of the project, and may not hold a secret.
        """
        return {}

    @classmethod
    def _recall(cls, name: str, settings: Mapping[str, Any]) -> Self:
        """An apparatus for somebody who comes back to jobs of a name.

        Args:
            settings: what `_lasting_settings` said at the launch; empty if nothing is known of that.
        """
        return cls(name, **settings)

    @property
    def _without_jobs(self) -> str:
        """Why `detached_jobs` is declined, and what to do about it, if that depends on how the apparatus was made."""
        return ""

    def _open_jobs(self) -> JobBoard:
        """The jobs of this name, for a backend that honours `detached_jobs`. Starts nothing.

        It is asked once for each apparatus, and once more for each that `w` derives from it: the board's host may go
        by the options. What the board has open it closes by itself, or with the process: an apparatus that is closed
        leaves jobs alone, and the `Job` objects that came from it go on working.
        """
        raise NotImplementedError(f"{type(self).__name__} declares detached_jobs and has no _open_jobs")

    def _carrier_key(self, options: Options) -> Hashable:
        """Calls whose keys are equal share workers. By default the options count that a worker is made with."""
        names = ("max_workers", "cpu", "memory", "gpu", "env", "image")
        asked = [(name, getattr(options, name)) for name in names if name not in self.ignored_options]
        return repr([*asked, options.native.get(self.backend)])

    # --- calls ---

    @overload
    def run(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn(*args, **kwargs)` once on a worker and return what it returns; an `async def` function is awaited.

        Raises:
            whatever `fn` raises, as itself, with the worker's frames in its traceback.
            SerializationError: something cannot be pickled. If it is the result, the call has run.
            WorkerLost, JobTimeout, RemoteError: see `mini.errors`.
            BackendUnavailable: no worker can be started.
            RuntimeError: the apparatus is closed.
        """
        flow, engine = self._single(fn, args, kwargs, copy=False)
        cancel = True
        try:
            engine.begin(flow)
            part = engine.next_part(flow)
            cancel = False
            return _outcome(flow, part)
        except KeyboardInterrupt:
            engine.interrupt()
            raise
        finally:
            engine.abandon(flow, cancel=cancel)

    @overload
    async def arun(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def arun(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def arun(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`run` without blocking the event loop. Cancelling the task that awaits it cancels the call."""
        flow, engine = self._single(fn, args, kwargs)
        wait = _notify(flow)
        cancel = True
        try:
            engine.begin(flow)
            part = await _next_part(engine, flow, wait)
            cancel = False
            return _outcome(flow, part)
        finally:
            engine.abandon(flow, cancel=cancel)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> Generator[T, None, None]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> Generator[T, None, None]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> Generator[T | BaseException, None, None]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> Generator[T | BaseException, None, None]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """Call `fn` for each tuple of inputs, in parallel, and yield the results.

        Work starts at once; inputs are pulled as they are needed, so they may come from an endless generator. At most
        `window` of them are in flight or waiting to be consumed. A generator is pulled by the thread that takes the
        results: it takes none while it waits for the next input.

        Args:
            fn: the function; `async def` is awaited on the worker.
            iterables: zipped, stopping at the shortest.
            kwargs: keyword arguments for every call, sent to each worker once.
            ordered: yield in the order of the inputs; else as calls finish.
            return_exceptions: yield the exception of a call that failed in place of its result, and go on.

        Raises, while iterating:
            what the first failing call raised, with a note of its input; calls that have not started are dropped.
            what an input iterator raised, after the results of the inputs before.

        Closing the generator, leaving the loop or dropping it cancels what has not started.
        """
        if not iterables:
            raise OptionError("map needs at least one iterable of inputs; for a single call there is run")
        flow, engine = self._many(fn, iterables, kwargs, ordered, return_exceptions)
        results = _results(engine, flow, self._runtime)
        next(results)  # runs to the first yield: the work has begun, and closing will clean up
        return results

    @overload
    def amap(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> AsyncGenerator[T | BaseException, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool,
    ) -> AsyncGenerator[T | BaseException, None]: ...
    def amap(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """`map` as an async generator. Work starts with the first item that is asked for."""
        if not iterables:
            raise OptionError("amap needs at least one iterable of inputs; for a single call there is arun")
        if any(isinstance(it, AsyncIterable) for it in iterables):
            raise OptionError("amap takes ordinary iterables of inputs; collect the async one first")
        flow, engine = self._many(fn, iterables, kwargs, ordered, return_exceptions)
        return _async_results(engine, flow, self._runtime)

    def stream(
        self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[T, None, None]:
        """Run a generator function on a worker and yield what it yields, as it yields it.

        The function runs a few items ahead and then waits. Closing the generator closes the one on the worker.
        """
        flow, engine = self._single(fn, args, kwargs, mode="stream")
        results = _results(engine, flow, self._runtime)
        next(results)
        return results

    @overload
    def astream(
        self, fn: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def astream(
        self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[T, None]: ...
    def astream(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """`stream` as an async generator."""
        flow, engine = self._single(fn, args, kwargs, mode="stream")
        return _async_results(engine, flow, self._runtime)

    def executor(self) -> Executor:
        """A `concurrent.futures.Executor` over the same workers. Shutting it down leaves the apparatus open."""
        from .executor import ApparatusExecutor

        return ApparatusExecutor(self)

    # --- options ---

    def w(self, **options: Any) -> Self:
        """The same apparatus with other options; see `mini.options.Options`. It shares workers, volume and life.

        Raises:
            OptionError: an option that nobody knows, or a value out of range.
        """
        derived = self._derive()
        derived._options = self._options.merged(options, backend_names)
        derived._options.mention_ignored(self.backend, self.ignored_options)
        return derived

    def before_each(self, hook: Callable[[], object]) -> Self:
        """The same apparatus, whose `hook` runs on the worker before every call, after the hooks added earlier."""
        if not callable(hook):
            raise OptionError(f"before_each takes a function without arguments, not {hook!r}")
        derived = self._derive()
        derived._hooks = (*self._hooks, hook)
        return derived

    def _derive(self) -> Self:
        derived = object.__new__(type(self))
        derived.__dict__.update(self.__dict__)
        derived._jobs = None
        return derived

    # --- what it knows ---

    def supports(self, capability: str | Capability) -> bool:
        """Whether this backend honours a part of the contract that not every backend can. Starts nothing."""
        try:
            return Capability(capability) in self.capabilities
        except ValueError:
            import difflib

            near = difflib.get_close_matches(str(capability), list(Capability), n=1)
            hint = f"did you mean {str(near[0])!r}?" if near else f"there are: {', '.join(Capability)}"
            raise OptionError(f"there is no capability {capability!r}; {hint}") from None

    def reach(self) -> str:
        """Find out whether calls could run, without starting anything; say where they would, for people.

        Raises:
            BackendUnavailable: they could not; says why, and what to do.
        """
        return f"by the {self.backend} backend"

    @property
    def volume(self) -> Volume:
        """The volume of this name; see `mini.Volume`."""
        if self._volume is None:
            self._volume = self._open_volume()
        return self._volume

    def records(self) -> list[CallRecord]:
        """Calls of this apparatus in this process that emitted, printed or failed; the oldest are dropped."""
        return self._runtime.records.all()

    def logs(self, job: str | None = None) -> list[LogLine]:
        """What recent calls printed, or what the call with the id `job` did."""
        records = self._runtime.records.all()
        return [line for record in records if job in (None, record.id) for line in record.log]

    # --- detached jobs ---

    def spawn(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Start a job: `fn(*args, **kwargs)` on a worker, whether or not this process goes on.

        It runs with the options of this apparatus and the source code that is there now. Returns when the job is kept
        and on its way; see `mini.Job` for what then comes of it.

        Raises:
            Unsupported: this backend declines `detached_jobs`.
            SerializationError: something cannot be pickled; nothing was started.
            BackendUnavailable: the job cannot be kept, or nobody can be started to run it.
            RuntimeError: the apparatus is closed.
        """
        board = self._board("spawn")
        _check_function(fn, stream=False)
        return self._launcher(board).launch(fn, [args], kwargs, self._hooks, single=True)[0]

    def spawn_map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        budget: float | None = None,
    ) -> JobGroup:
        """Start a group of jobs, one for each tuple of inputs, as `spawn` starts one.

        All inputs are pulled and kept before the first job starts, so they must come to an end.

        Args:
            budget: seconds that attempts at these jobs may run, all together; then what has not ended is cancelled by
                the workers themselves, within about a second.

        Raises:
            what `spawn` raises, and what an input iterator raises; no job was created then.
        """
        return self._spawn_map(None, fn, *iterables, kwargs=kwargs, budget=budget)

    def _spawn_map(
        self,
        id: str | None,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        budget: float | None = None,
    ) -> JobGroup:
        """`spawn_map`, with the group's id from who has to know it even if this is interrupted (`new_group_id`)."""
        board = self._board("spawn_map")
        _check_function(fn, stream=False)
        if not iterables:
            raise OptionError(
                "spawn_map needs at least one iterable of inputs; for a single job there is spawn"
            )
        try:
            rows = zip(*iterables, strict=False)
        except TypeError as exc:
            raise OptionError(f"spawn_map takes iterables of inputs: {exc}") from exc
        if budget is not None and not budget > 0:
            raise OptionError(f"budget takes a number above 0 (seconds), not {budget!r}")
        return self._launcher(board).launch(fn, rows, kwargs or {}, self._hooks, budget=budget, id=id)

    def jobs(self) -> list[Job]:
        """All jobs of this name, in the order in which they were launched. Starts nothing.

        Raises:
            Unsupported: this backend declines `detached_jobs`.
        """
        return self._board("jobs").jobs()

    def job(self, id: str) -> Job:
        """The job with this id. Starts nothing.

        Raises:
            Unsupported: this backend declines `detached_jobs`.
            LookupError: there is none in this name.
        """
        return self._board("job").job(id)

    def groups(self) -> list[JobGroup]:
        """All groups of jobs of this name, in the order in which they were launched. Starts nothing.

        Raises:
            Unsupported: this backend declines `detached_jobs`.
        """
        return self._board("groups").groups()

    def group(self, id: str) -> JobGroup:
        """The group of jobs with this id. Starts nothing.

        Raises:
            Unsupported: this backend declines `detached_jobs`.
            LookupError: there is none in this name.
        """
        return self._board("group").group(id)

    async def aspawn(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """`spawn` without blocking the event loop."""
        return await in_thread(partial(self.spawn, fn, *args, **kwargs))

    async def aspawn_map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        budget: float | None = None,
    ) -> JobGroup:
        """`spawn_map` without blocking the event loop."""
        return await in_thread(partial(self.spawn_map, fn, *iterables, kwargs=kwargs, budget=budget))

    async def ajobs(self) -> list[Job]:
        """`jobs` without blocking the event loop."""
        return await in_thread(self.jobs)

    async def ajob(self, id: str) -> Job:
        """`job` without blocking the event loop."""
        return await in_thread(self.job, id)

    async def agroups(self) -> list[JobGroup]:
        """`groups` without blocking the event loop."""
        return await in_thread(self.groups)

    async def agroup(self, id: str) -> JobGroup:
        """`group` without blocking the event loop."""
        return await in_thread(self.group, id)

    def _board(self, what: str) -> JobBoard:
        """The jobs of this name, for the method called `what`."""
        if Capability.DETACHED_JOBS not in self.capabilities:
            why = self._without_jobs or f"the {self.backend} backend has no detached jobs"
            raise Unsupported(f"{what}() is not available: {why}; run and map are")
        if self._runtime.closed:
            raise RuntimeError("this apparatus is closed; make a new one")
        if self._jobs is None:
            self._jobs = self._open_jobs()
        return self._jobs

    def _launcher(self, board: JobBoard) -> Launcher:
        from .joblaunch import Launcher

        return Launcher(
            board, self.backend, self.name, self.worker_data_dir, self._options, self._lasting_settings()
        )

    # --- life ---

    def close(self) -> None:
        """End the workers and let go of everything, for this apparatus and those derived from it. Idempotent.

        Calls that still run are ended where the backend can. Afterwards a call raises RuntimeError.
        """
        self._runtime.close()

    def __enter__(self) -> Self:
        if self._runtime.closed:
            raise RuntimeError("this apparatus is closed; make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._settings(), self._options, self._hooks)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} on {self.backend}{', closed' if self._runtime.closed else ''}>"

    # --- flows ---

    def _single(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        mode: str = "call",
        copy: bool = True,
    ) -> tuple[Flow, Engine]:
        _check_function(fn, stream=mode == "stream")
        payload = wire.pack_rows([args], copy=copy) if args else wire.pack_nothing()
        if payload.error is not None:
            raise payload.error
        options = self._options
        flow, engine = self._flow(fn, kwargs, mode=mode, single=True, copy=copy)
        flow.total_is_known(1 if mode == "call" else None)
        flow.backlog.append(_engine.single_group(flow, payload.frames))
        flow.retries = options.retries or 0 if mode == "call" else 0
        return flow, engine

    def _many(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        kwargs: Mapping[str, Any] | None,
        ordered: bool,
        return_exceptions: bool,
    ) -> tuple[Flow, Engine]:
        _check_function(fn, stream=False)
        try:
            source = Source(iterables)
        except TypeError as exc:
            raise OptionError(f"map takes iterables of inputs: {exc}") from exc
        flow, engine = self._flow(fn, kwargs or {})
        flow.source = source
        flow.total_is_known(flow.source.total)
        options = self._options
        flow.ordered, flow.return_exceptions = ordered, return_exceptions
        flow.retries = options.retries or 0
        flow.window = options.window
        flow.chunk = options.chunk or flow.chunk
        return flow, engine

    def _flow(
        self,
        fn: Callable[..., Any],
        kwargs: Mapping[str, Any],
        *,
        mode: str = "call",
        single: bool = False,
        copy: bool = True,
    ) -> tuple[Flow, Engine]:
        if self._runtime.closed:
            raise RuntimeError("this apparatus is closed; make a new one")
        options = self._options
        program = wire.pack_program(fn, kwargs, self._hooks, mode=mode)
        flow_id = _engine.new_flow_id()
        credit = options.window or STREAM_AHEAD
        head = ProgramHead(flow_id, mode, options.timeout, self.name, self.worker_data_dir, credit)
        task = Task(head, program, single)
        status = FlowStatus(flow_id, program.name, None, time.monotonic())
        flow = Flow(task, Source(((),)), status, progress=options.progress, live_logs=options.logs or False)
        engine = self._runtime.engine(self._carrier_key(options), partial(self._open_carrier, options))
        if copy:
            engine.carrier.keep(task)
        return flow, engine


def _rebuild(
    cls: type[Apparatus], settings: dict[str, Any], options: Options, hooks: tuple[Callable[[], object], ...]
) -> Apparatus:
    apparatus = cls(**settings)
    apparatus._options = options
    apparatus._hooks = hooks
    return apparatus


def _check_function(fn: object, *, stream: bool) -> None:
    if not callable(fn):
        raise OptionError(f"the first argument must be a function, not {wire.BRIEF.repr(fn)}")
    inner: Any = fn
    if isinstance(inner, FunctionType) and not inner.__code__.co_flags & _GENERATOR_FLAGS:
        return
    while isinstance(inner, partial):
        inner = inner.func
    if not inspect.isroutine(inner) and not inspect.isclass(inner):
        inner = getattr(inner, "__call__", inner)  # noqa: B004
    generator = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    if generator and not stream:
        raise OptionError(
            f"{wire.function_name(fn)} is a generator function; return a list from it, or use stream() "
            "to get its items as it yields them"
        )


_GENERATOR_FLAGS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


# --- handing results out ---


def _error(flow: Flow, index: int, failure: Failure) -> BaseException:
    """The exception to raise for a failed call, with its record and its notes."""
    error = failure.exception()
    record = flow.failures.get(index)
    with contextlib.suppress(Exception):
        error.__mini_failure__ = record  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):
        if not flow.task.single:
            error.add_note(
                f"in the call of {flow.status.function} for input {index}: {flow.inputs.get(index, '')}"
            )
        if flow.retries and record is not None:
            error.add_note(f"after {record.attempt} attempt{'s' if record.attempt > 1 else ''}")
    return error


def _outcome(flow: Flow, part: Part | None) -> Any:
    if part is None:
        raise RuntimeError("the call ended without an outcome; this is a defect of the backend")
    value = part.unpack()[0]
    flow.status.state = "DONE"
    if type(value) is Failure:
        flow.status.state = "FAILED"
        raise _error(flow, part.start, value)
    return value


def _results(engine: Engine, flow: Flow, runtime: Runtime) -> Generator[Any, None, None]:
    """Yield a flow's results; the first `next` only starts it."""
    cancel = False
    try:
        engine.begin(flow)
        yield None
        while (part := engine.next_part(flow)) is not None:
            values = part.unpack()
            if part.failed:
                for index, value in enumerate(values, part.start):
                    if type(value) is not Failure:
                        yield value
                    elif flow.return_exceptions:
                        yield _error(flow, index, value)
                    else:
                        cancel = True
                        flow.status.state = "FAILED"
                        raise _error(flow, index, value)
            else:
                yield from values
            engine.consumed(flow, part.count)
            part = values = None  # type: ignore[assignment]  # results are the consumer's now
    except KeyboardInterrupt:
        engine.interrupt()
        raise
    finally:
        engine.abandon(flow, cancel=cancel)


async def _async_results(engine: Engine, flow: Flow, runtime: Runtime) -> AsyncGenerator[Any, None]:
    wait = _notify(flow)
    cancel = False
    try:
        engine.begin(flow)
        while (part := await _next_part(engine, flow, wait)) is not None:
            for index, value in enumerate(part.unpack(), part.start):
                if type(value) is not Failure:
                    yield value
                elif flow.return_exceptions:
                    yield _error(flow, index, value)
                else:
                    flow.status.state = "FAILED"
                    raise _error(flow, index, value)
            engine.consumed(flow, part.count)
    except GeneratorExit:
        raise  # the loop was left early: what runs may end
    except BaseException:
        cancel = True  # also when the task that consumes it is cancelled
        raise
    finally:
        engine.abandon(flow, cancel=cancel)


def _notify(flow: Flow) -> asyncio.Event:
    """An event that is set whenever something has changed for `flow`."""
    import asyncio  # not needed, and not quick to import, by those who do not use it

    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def on_change() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(changed.set)

    flow.on_change = on_change
    return changed


async def _next_part(engine: Engine, flow: Flow, changed: asyncio.Event) -> Part | None:
    while True:
        changed.clear()
        part, ended = engine.try_next_part(flow)
        if part is not None or ended:
            return part
        await changed.wait()
