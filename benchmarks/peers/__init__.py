"""The pools that are compared: a module for each, all with the same few methods.

Imports nothing, because the time from a fresh process to a first result is one of the things that are measured.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` for it would be measured too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self


class Peer:
    """A pool of `workers` processes, used the way that its own documentation shows first.

    Leaving its `with` block ends the pool as leaving the pool's own would.
    """

    versions: tuple[str, ...] = ()
    """The distributions whose versions matter to the result."""
    chunks: tuple[int, ...] = (128, 512, 2048, 8192)
    """Chunk sizes to try; none where calls cannot be grouped."""

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        """One call, and its result."""
        raise NotImplementedError

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        """Results in order, with the pool's default of how to group calls or with `chunk` calls to a group."""
        raise NotImplementedError

    def stream(self, fn: Callable[[Any], Any], xs: Iterator[Any], chunk: int | None = None) -> Iterator[Any]:
        """`map` of a generator's items, in whatever way of the pool's is the laziest."""
        return iter(self.map(fn, xs, chunk))

    def windowed(self, fn: Callable[[Any], Any], xs: Iterator[Any], window: int) -> Iterator[Any]:
        """`stream` with at most `window` inputs in flight or waiting, where the pool can be told so."""
        raise Absent("has no such option")

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        """`fn(x, constant)` for every x, with whatever the pool has for objects that all calls share."""
        from functools import partial

        return self.map(partial(fn, constant=constant), xs)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        """The result of each call, or the exception in its place, for as long as the pool goes on."""
        raise NotImplementedError

    def close(self) -> None:
        """What the end of the pool's `with` block does."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Absent(Exception):
    """A pool does not have what a scenario asks for."""


NAMES = (
    "mini",
    "imap",
    "executor",
    "executor-fork",
    "loky",
    "joblib",
    "mpire",
    "pebble",
    "dask",
    "ray",
)


def load(name: str) -> type[Peer]:
    """The class of the peer called `name`. Raises ImportError if it is not installed."""
    from importlib import import_module

    found: type[Peer] = import_module("peers._" + name.replace("-", "_")).Peer
    return found


def chunked(xs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items: how calls are grouped by hand for pools that do not do it."""
    from itertools import islice

    it = iter(xs)
    while piece := list(islice(it, size)):
        yield piece


def call_each(fn: Callable[[Any], Any], xs: list[Any]) -> list[Any]:
    """A group made by `chunked`."""
    return [fn(x) for x in xs]
