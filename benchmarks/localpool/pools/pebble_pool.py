"""`pebble.ProcessPool`."""

from __future__ import annotations

from importlib import import_module

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

pebble: Any = import_module("pebble")  # for mypy, which runs where it is not installed


class Pool(pools.Pool):
    distributions = ("pebble",)

    def __init__(self) -> None:
        self.pool = pebble.ProcessPool(max_workers=pools.WORKERS)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.pool.submit(fn, None, x).result()

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(fn, xs, chunksize=chunk or 1).result()
        return results

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        results = iter(self.imap(fn, xs))
        while True:
            try:
                yield next(results)
            except StopIteration:
                return
            except Exception as exc:
                yield exc

    def close(self) -> None:
        self.pool.close()
        self.pool.join()
