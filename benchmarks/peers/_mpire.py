"""mpire.WorkerPool, kept alive between maps."""

from __future__ import annotations

import mpire

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("mpire",)

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = mpire.WorkerPool(workers, keep_alive=True)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.pool.apply(fn, (x,))

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.imap(fn, xs, chunk_size=chunk)
        return results

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        # Shared objects reach workers when they are forked, so these are new ones.
        with mpire.WorkerPool(self.workers, shared_objects=constant) as pool:
            yield from pool.imap(_Swapped(fn), xs)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from self.pool.imap_unordered(fn, xs, chunk_size=1)
        except Exception as exc:
            yield exc

    def close(self) -> None:
        self.pool.terminate()


class _Swapped:
    """mpire gives shared objects first."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, constant: Any, x: Any) -> Any:
        return self.fn(x, constant)
