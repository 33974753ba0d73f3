"""concurrent.futures.ProcessPoolExecutor, with the platform's default way to start processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from typing import Any


class Peer(peers.Peer):
    def __init__(self, workers: int) -> None:
        self.executor = self.make(workers)

    def make(self, workers: int) -> Executor:
        return ProcessPoolExecutor(workers)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.executor.submit(fn, x).result()

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        return self.executor.map(fn, xs, chunksize=chunk or 1)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        for future in [self.executor.submit(fn, x) for x in xs]:
            try:
                yield future.result()
            except Exception as exc:
                yield exc

    def close(self) -> None:
        self.executor.shutdown()
