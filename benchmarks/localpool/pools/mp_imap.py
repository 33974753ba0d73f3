"""`multiprocessing.Pool.imap`."""

from __future__ import annotations

import multiprocessing

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

LOST_SECONDS = 5.0
"""After so long without a result its call is taken for lost: `Pool` never says so."""


class Pool(pools.Pool):
    lazy = True

    def __init__(self) -> None:
        self.pool = multiprocessing.Pool(pools.WORKERS)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return next(self.pool.imap(fn, (x,)))

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        return self.pool.imap(fn, xs, chunk or 1)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        results = self.pool.imap_unordered(fn, xs)
        while True:
            try:
                yield results.next(timeout=LOST_SECONDS)
            except StopIteration:
                return
            except multiprocessing.TimeoutError as exc:
                yield exc
                return

    def close(self) -> None:
        self.pool.terminate()
