"""Functions and classes that tests send to workers as they are. Workers import this module: nothing but the
standard library and mini."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import enum
import functools
import os
import signal
import sys
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..context import current_job, get_data_dir
from .probes import Gate, Held, Tally, Unopened

T = TypeVar("T")


class Whose:
    """An object with a method to be sent."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def tripled(cls, x: int) -> int:
        return cls(3).times(x)

    @staticmethod
    def halved(x: int) -> float:
        return x / 2

    def __call__(self, x: int) -> int:
        return self.times(x)


def identity(x: T) -> T:
    return x


def add(x: Any, y: Any = 0) -> Any:
    return x + y


def double(x: Any) -> Any:
    return 2 * x


def append_to(items: list[Any], item: Any) -> list[Any]:
    """Change an argument and return it."""
    items.append(item)
    return items


def raises(error: BaseException) -> None:
    raise error


def count_up(upto: int) -> Iterator[int]:
    yield from range(upto)


KEPT: dict[str, list[Any]] = {}


def keep(item: Any, under: str) -> list[Any]:
    """Add an item to a list that the worker keeps, and return that list."""
    KEPT.setdefault(under, []).append(item)
    return KEPT[under]


@functools.lru_cache
def cached(x: int) -> int:
    return x + x


class Colour(enum.Enum):
    RED = 1


Pair = namedtuple("Pair", "left right")  # noqa: PYI024


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str]


async def plus_one(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


class AsyncAdder:
    async def __call__(self, x: int) -> int:
        return await plus_one(x)


class Generating:
    def method(self) -> Iterator[int]:
        yield 1

    def __call__(self) -> Iterator[int]:
        yield 1


async def agenerate() -> AsyncIterator[int]:
    yield 1


def closure(factor: int) -> Callable[[int], int]:
    def times(x: int) -> int:
        return factor * x

    return times


def everything(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pass_gate(started: Gate, gate: Gate) -> str:
    started.open()
    gate.wait()
    return "through"


def one_then_wait(gate: Gate) -> Iterator[int]:
    yield 1
    gate.wait()
    yield 2


def count_for_ever(held: Held) -> Iterator[int]:
    with held.hold():
        number = 0
        while True:
            yield number
            number += 1


def two_then_fail() -> Iterator[int]:
    yield 1
    yield 2
    raise KeyError("no third")


def overwrite(array: Any) -> tuple[bool, str, tuple[int, ...], Any]:
    """What arrived, and whether it can be written to."""
    seen = array.copy()
    array[...] = array.flat[0] if array.size else 0
    return bool(array.flags.writeable), str(array.dtype), array.shape, seen


# --- for maps ---

MOST_INPUTS = 300_000


def endless(first: int = 0) -> Iterator[int]:
    """Count for longer than any window; whoever wants all of it is stopped before the memory is full."""
    yield from range(first, MOST_INPUTS)
    raise AssertionError(f"{MOST_INPUTS} inputs were pulled of a generator that has no end")


def note_and_wait(number: int, tally: Tally, gate: Gate) -> int:
    """Say that it has started, then wait at the gate."""
    tally.add(number)
    gate.wait()
    return number


def first_waits(number: int, tally: Tally, gate: Gate, seconds: float) -> int:
    """Call 0 ends after the gate has been opened, or after some seconds; each call says when it has ended."""
    if number == 0:
        with contextlib.suppress(Unopened):
            gate.wait(seconds)
    tally.add(number)
    return number


def fail_beside(number: int, failing: int, started: Tally, ended: Tally, held: Held, gate: Gate) -> int:
    """Calls 0 and 1 run at the same time, where that can be; `failing` fails, and the other waits at the gate."""
    with held.hold() if number < 2 and number != failing else contextlib.nullcontext():
        started.add(number)  # not before it holds the lock: `failing` waits for this
        with contextlib.suppress(Unopened):
            started.wait_for(2, 1)
        if number == failing:
            raise LookupError(f"call {number}")
        if number < 2:
            gate.wait()
    ended.add(number)
    return number


def act(items: list[Any], what: str, pause: float) -> Any:
    """One of the things that calls do, quickly or slowly."""
    if pause:
        time.sleep(pause)
    if what == "raise":
        raise LookupError(items)
    items.append(what)
    if what == "array":
        return np_zeros(len(items))
    if what == "number":
        return len(items)
    return items


def np_zeros(count: int) -> Any:
    import numpy as np

    return np.zeros(count)


def die(how: str) -> None:
    """End the worker's process at once."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()
    if how == "abort":
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)
        threading.Event().wait()
    os._exit(3)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def note_and_die(number: int, tally: Tally, deadly: int, how: str = "SIGKILL") -> int:
    tally.add(number)
    if number == deadly:
        die(how)
    return number


def note_and_end_host(number: int, tally: Tally, deadly: int) -> int:
    """As `note_and_die`, but it is the process beside the call that dies, and has the call with it."""
    tally.add(number)
    if number == deadly:
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()
    return number


def note_and_die_later(number: int, tally: Tally, deadly: int) -> int:
    """As `note_and_die`, but the worker dies a moment later, at some other call."""
    tally.add(number)
    if number == deadly:
        threading.Timer(0.0005, die, ["SIGKILL"]).start()
    return number


def use(number: int, heavy: Any) -> int:
    return number + len(heavy.data)


def blob(size: int) -> bytes:
    return b"x" * size


def total(array: Any) -> float:
    return float(array.sum())


# --- errors ---


class TwoArguments(Exception):
    """Its constructor takes other arguments than `args` has."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{why} ({code})")
        self.code = code
        self.why = why


class KeywordsOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, message: str, extra: list[int]) -> None:
        super().__init__(message)
        self.extra = extra


class Derived(TwoArguments, LookupError):
    pass


class HoldsALock(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class CannotBeReduced(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not me")


class CannotBeRestored(Exception):
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _not_me, ()


def _not_me() -> None:
    raise RuntimeError("not me")


def raise_two_arguments(_: object = None) -> None:
    raise TwoArguments(7, "because")


def raise_with_attributes(_: object = None) -> None:
    error = ValueError("plain", 1)
    error.detail = {"a": [1]}  # type: ignore[attr-defined]
    raise error


def raise_unpicklable(kind: str) -> None:
    classes: dict[str, type[Exception]] = {
        "holds a lock": HoldsALock,
        "cannot be reduced": CannotBeReduced,
        "cannot be restored": CannotBeRestored,
    }
    raise classes[kind](f"it {kind}")  # the line that failed


def raise_from_unpicklable(link: str) -> None:
    try:
        raise_unpicklable("holds a lock")
    except Exception as exc:
        if link == "cause":
            raise ValueError("above it") from exc
        if link == "context":
            raise ValueError("above it")  # noqa: B904
        others = [LookupError("beside it"), exc]
    raise ExceptionGroup("several", others)


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise LookupError("down here")  # the line that failed


def chain(_: object = None) -> None:
    try:
        try:
            deep(1)
        except LookupError as exc:
            exc.add_note("a note on the cause")
            raise TypeError("in between") from exc
    except TypeError:
        error = ValueError("on top")
        error.add_note("first note")
        error.add_note("second note")
        raise error  # noqa: B904


def hide_the_context(_: object = None) -> None:
    try:
        deep(0)
    except LookupError:
        raise ValueError("on top") from None


def raise_group(_: object = None) -> None:
    errors: list[Exception] = []
    for make in (chain, raise_two_arguments):
        try:
            make()
        except Exception as exc:
            errors.append(exc)
    inner = ExceptionGroup("inner", [LookupError(1)])
    group = ExceptionGroup("several", [*errors, inner])
    group.add_note("a note on the group")
    raise group


def note_then_sleep(tally: Tally, seconds: float) -> None:
    """Hold a lock of its own, say which, and take a long time."""
    path = f"{tally.path}-{uuid.uuid4().hex}"
    with Held(path).hold():
        tally.add(path)
        time.sleep(seconds)


def misbehave(number: int, at: int, error: BaseException) -> int:
    """Raise `error` itself, also where a generator or a loop would take it for its own."""
    if number == at:
        raise error
    return number


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def fail_with(_: Any) -> None:
    raise LookupError("failed")


def exit_at_three(number: int) -> int:
    if number == 3:
        sys.exit("at three")
    return number


# --- options ---


def note_and_fail(tally: Tally) -> None:
    tally.add("called")
    raise LookupError("always")


def alone(path: str) -> bool:
    """Whether no other call is in here at the same time."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    try:
        time.sleep(0.002)
    finally:
        os.close(fd)
        Path(path).unlink()
    return True


def hang(held: Held, what: str, seconds: float, tally: Tally) -> None:
    """Take longer than anybody waits, but not for ever."""
    tally.add("started")
    with held.hold():
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if what == "sleeps":
                time.sleep(seconds)
    tally.add("ended")


def sleep_then(seconds: float, value: T) -> T:
    time.sleep(seconds)
    return value


def fail_at_first(tally: Tally, failures: int) -> int:
    """Fail that many times; then return the number of the attempt."""
    tally.add("called")
    attempt = len(tally.read())
    if attempt <= failures:
        raise LookupError(f"attempt {attempt}")
    return attempt


def die_at_first(tally: Tally, deaths: int) -> int:
    tally.add("called")
    attempt = len(tally.read())
    if attempt <= deaths:
        die("SIGKILL")
    return attempt


def raise_at_seven() -> None:
    job = current_job()
    if job is not None and job.index == 7:
        raise LookupError("hook at 7")


def nothing() -> None:
    pass


# --- context ---


def in_a_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread of its own, as libraries do."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(contextvars.copy_context().run, function, *args).result()


HERE: dict[str, Any] = {}
"""Apparatuses of this process, for calls that run in it."""


def nested(x: int, name: str, otherwise: Any) -> int:
    """Use an apparatus of this process, if it is here, or else the one that was sent along."""
    apparatus = HERE.get(name, otherwise)
    return int(apparatus.run(double, x) + sum(apparatus.map(double, range(x))))


async def nested_async(x: int, name: str, otherwise: Any) -> int:
    """As `nested`, without blocking."""
    apparatus = HERE.get(name, otherwise)
    return int(await apparatus.arun(double, x) + sum([y async for y in apparatus.amap(double, range(x))]))


def nested_futures(x: int, name: str, otherwise: Any) -> int:
    """As `nested`, by futures."""
    apparatus = HERE.get(name, otherwise)
    with apparatus.executor() as executor:
        futures = [executor.submit(double, y) for y in range(x)]
        return int(executor.submit(double, x).result() + sum(future.result() for future in futures))


# --- the volume ---


def save(name: str, data: bytes) -> int:
    path = get_data_dir() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(data)


def load(name: str) -> bytes:
    return (get_data_dir() / name).read_bytes()


def names(directory: str) -> list[str]:
    return [path.name for path in (get_data_dir() / directory).iterdir()]
