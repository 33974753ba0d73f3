"""An apparatus as a `concurrent.futures.Executor`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .engine import Engine, Flow

if TYPE_CHECKING:
    from .protocol import Apparatus

__all__ = ["ApparatusExecutor"]

T = TypeVar("T")


class ApparatusExecutor(Executor):
    """`submit`, `map` and `shutdown` over the workers of an apparatus.

    Futures of calls that have not started can be cancelled. Callbacks of futures run in a helper thread, as they do
    for the executors of the standard library. Code written for an executor that pickles finds the same here.
    """

    def __init__(self, apparatus: Apparatus) -> None:
        self._apparatus = apparatus.w(progress=False)
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._shut = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start a call and return its future.

        Raises:
            RuntimeError: after `shutdown`, or when the apparatus is closed.
            SerializationError: function or arguments cannot be pickled.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[T] = Future()
            flow, engine = self._apparatus._single(fn, args, kwargs)
            flow.on_start = partial(_started, future)
            flow.on_change = partial(engine.later, partial(self._resolve, engine, flow, future))
            self._pending.add(future)
            future.add_done_callback(self._forget)
        try:
            engine.begin(flow)
        except BaseException:
            self._forget(future)
            raise
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """As `Executor.map`. Calls are grouped by how long they take; `chunksize` is not needed and not used."""
        if timeout is not None:
            return super().map(fn, *iterables, timeout=timeout)
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._apparatus.map(fn, *iterables) if iterables else iter(())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those there are. The apparatus stays open."""
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            _wait(pending)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def _resolve(self, engine: Engine, flow: Flow, future: Future[Any]) -> None:
        from .protocol import _outcome

        if future.done():
            if future.cancelled() and not future.running():
                future.set_running_or_notify_cancel()
            engine.abandon(flow, cancel=False)
            return
        try:
            part, ended = engine.try_next_part(flow)
            if part is None and not ended:
                return
            value = _outcome(flow, part)
        except BaseException as exc:
            future.set_running_or_notify_cancel() if not future.running() else None
            if not future.cancelled():
                future.set_exception(exc)
        else:
            future.set_result(value)
        engine.abandon(flow, cancel=False)


def _wait(futures: list[Future[Any]]) -> None:
    wait(futures)


def _started(future: Future[Any]) -> bool:
    return future.running() or future.set_running_or_notify_cancel()
