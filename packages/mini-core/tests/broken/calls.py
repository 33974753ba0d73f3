"""RUN: one call."""

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from mini import LocalApparatus

from .registry import breaks


class Wrapping(LocalApparatus):
    """Has something around each function on the worker."""

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def _flow(self, fn: Callable[..., Any], *args: Any, **how: Any) -> Any:
        plain = inspect.isfunction(fn) and not inspect.iscoroutinefunction(fn)
        return super()._flow(self.around(fn) if plain and how.get("mode") != "stream" else fn, *args, **how)


@breaks("test_run_01_calls_once_and_returns", says=r"\['called', 'called'\] == \['called'\]")
class Hedging(LocalApparatus):
    """Makes a call twice, to take the answer that comes first."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        super().run(fn, *args, **kwargs)
        return super().run(fn, *args, **kwargs)


@breaks("test_run_02_arguments_arrive_unchanged[tuple]", says=r"\[\] != \(\)")
class LikeJson(LocalApparatus):
    """Its arguments arrive as JSON would bring them."""

    def _single(self, fn: Any, args: tuple[Any, ...], kwargs: Any, **how: Any) -> Any:
        return super()._single(fn, tuple(list(a) if type(a) is tuple else a for a in args), kwargs, **how)


@breaks("test_run_03_other_tasks_keep_running", says="Unopened", patience=0.5)
class BlockingArun(LocalApparatus):
    """Waits for a result on the event loop."""

    async def arun(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.run(fn, *args, **kwargs)


@breaks("test_run_04_within_a_running_loop", says="cannot be called from a running event loop")
class LoopOfItsOwn(LocalApparatus):
    """Has an asynchronous client beneath, and runs an event loop for it in the calling thread."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = super().arun

        async def main() -> Any:
            return await call(fn, *args, **kwargs)

        return asyncio.run(main())


def _by_hand(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    coroutine = fn(*args, **kwargs)
    try:
        while True:
            coroutine.send(None)
    except StopIteration as exc:
        return exc.value


@breaks("test_run_05_async_functions_are_awaited", says="no running event loop")
class NoLoop(LocalApparatus):
    """Runs coroutines without an event loop."""

    def _flow(self, fn: Callable[..., Any], *args: Any, **how: Any) -> Any:
        return super()._flow(partial(_by_hand, fn) if inspect.iscoroutinefunction(fn) else fn, *args, **how)


@breaks("test_run_06_from_several_threads", says="results ==")
class OfOneThread(LocalApparatus):
    """Has a client that belongs to the thread which made it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = threading.current_thread()

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not self.owner:
            raise RuntimeError("the client was made in another thread")
        return super().run(fn, *args, **kwargs)


@breaks("test_run_07_never_in_the_calling_process", says="not in", workers="process")
class ShortCut(LocalApparatus):
    """Runs generators where they are wanted instead of sending their items."""

    def stream(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self._runtime.closed:
            raise RuntimeError("the apparatus is closed")
        return (item for item in fn(*args, **kwargs))


_HERE: dict[int, object] = {}
_keys = itertools.count()


class _Here:
    """Stands for an object of this process; what unpickles it gets that object."""

    def __init__(self, value: object) -> None:
        self.key = next(_keys)
        _HERE[self.key] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _take, (self.key,)


def _take(key: int) -> object:
    return _HERE[key]


@breaks("test_run_08_arguments_are_passed_by_value", says=r"repr\(values\) == repr\(before\)")
class ByReference(LocalApparatus):
    """Hands arguments to its threads as they are."""

    def _single(self, fn: Any, args: tuple[Any, ...], kwargs: Any, **how: Any) -> Any:
        return super()._single(fn, tuple(map(_Here, args)), kwargs, **how)


@breaks("test_run_09_generator_functions_are_refused[partial]", says="DID NOT RAISE")
class TakesGenerators(LocalApparatus):
    """Makes a list of what a generator function yields, for `run` only."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not inspect.isgeneratorfunction(fn):
            return super().run(fn, *args, **kwargs)
        return super().run(lambda: list(fn(*args, **kwargs)))


@breaks("test_run_10_as_it_yields_it", says="Unopened", patience=0.5)
class StreamInOnePiece(LocalApparatus):
    """Sends the items of a stream when there are no more to come."""

    def stream(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        items = super().stream(fn, *args, **kwargs)
        return (item for item in list(items))


@breaks("test_run_11_one_class_identity", says=r"type\(app.run\(lambda: Point\(1, 2\)\)\) is Point")
class ClassOfItsOwn(LocalApparatus):
    """Brings a result of a class of `__main__` back as one of a class that was sent along."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = super().run(fn, *args, **kwargs)
        cls = type(result)
        if cls.__module__ != "__main__" or not hasattr(result, "__dict__"):
            return result
        inside = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        result = copy.copy(result)
        result.__class__ = type(cls.__name__, cls.__bases__, inside)
        return result
