"""pebble.ProcessPool."""

from __future__ import annotations

import pebble

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("pebble",)

    def __init__(self, workers: int) -> None:
        self.pool = pebble.ProcessPool(max_workers=workers)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.pool.submit(fn, None, x).result()

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(fn, xs, chunksize=chunk or 1).result()
        return results

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        results = iter(self.map(fn, xs))
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

    def __exit__(self, *exc_info: object) -> None:
        self.pool.__exit__(*exc_info)
