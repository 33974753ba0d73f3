"""multiprocessing.Pool.imap."""

from __future__ import annotations

import multiprocessing

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    def __init__(self, workers: int) -> None:
        self.pool = multiprocessing.Pool(workers)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return next(self.pool.imap(fn, (x,)))

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        return self.pool.imap(fn, xs, chunk or 1)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        results = self.pool.imap_unordered(fn, xs)
        while True:
            try:
                yield results.next(timeout=5)  # the call whose worker died never has an outcome
            except StopIteration:
                return
            except multiprocessing.TimeoutError as exc:
                yield exc
                return

    def close(self) -> None:
        self.pool.terminate()
