"""`concurrent.futures.ProcessPoolExecutor` with the platform's default way to start processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from typing import Any


class Pool(pools.Pool):
    def __init__(self) -> None:
        self.executor = self.make()

    def make(self) -> Executor:
        return ProcessPoolExecutor(pools.WORKERS)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.executor.submit(fn, x).result()

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        return self.executor.map(fn, xs, chunksize=chunk or 1)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        return pools.results_of([self.executor.submit(fn, x) for x in xs])

    def close(self) -> None:
        self.executor.shutdown()
