"""The pools that are compared, a module for each, all with the same few methods.

Imports next to nothing: the time from a fresh process to the first result is one of the things that are measured.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

WORKERS = 2

MODULES = {
    "mini": "mini_local",
    "imap": "mp_imap",
    "executor": "executor",
    "executor-fork": "executor_fork",
    "loky": "loky_executor",
    "joblib": "joblib_parallel",
    "mpire": "mpire_pool",
    "pebble": "pebble_pool",
    "dask": "dask_local",
    "ray": "ray_tasks",
    "socketpair": "socketpair",
}
"""The module of each pool. `socketpair` is none: it is the floor under a single call."""


class Absent(Exception):
    """A pool does not have what is asked for; the text says so in the words of the table."""


class Pool:
    """`WORKERS` processes, used the way that the pool's own documentation shows first."""

    distributions: tuple[str, ...] = ()
    """What is installed for it, and so has a version that belongs into the report."""
    lazy = False
    """Whether `imap` has results before its input has ended."""

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        """The result of one call."""
        raise NotImplementedError

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        """Results in order, as they come; calls are grouped as the pool does by default, or by `chunk`."""
        raise Absent("no map")

    def windowed(self, fn: Callable[[Any], Any], xs: Iterable[Any], window: int) -> Iterable[Any]:
        """`imap` with at most `window` inputs taken whose results have not been handed out."""
        raise Absent("no such option")

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        """`fn(x, constant)` for each x, with what the pool has for objects that all calls share."""
        from functools import partial

        return self.imap(partial(fn, constant=constant), xs)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        """A result or an exception for each call, for as long as the pool goes on."""
        raise Absent("no map")

    def close(self) -> None:
        """What leaving the pool's own `with` block does."""
        raise NotImplementedError


def load(name: str) -> type[Pool]:
    """The class of a pool. Raises ImportError if what it needs is not installed."""
    from importlib import import_module

    found: type[Pool] = import_module(f"{__name__}.{MODULES[name]}").Pool
    return found


def results_of(futures: Iterable[Any]) -> Iterator[Any]:
    """The result or the exception of each future."""
    for future in futures:
        try:
            yield future.result()
        except Exception as exc:
            yield exc


def pieces(xs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items: grouping by hand for pools that have none."""
    from itertools import islice

    it = iter(xs)
    while piece := list(islice(it, size)):
        yield piece


def each(fn: Callable[[Any], Any], xs: list[Any]) -> list[Any]:
    """One group of `pieces`."""
    return [fn(x) for x in xs]
