"""`mpire.WorkerPool`, kept alive between maps."""

from __future__ import annotations

import mpire

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Pool(pools.Pool):
    distributions = ("mpire",)
    lazy = True

    def __init__(self) -> None:
        self.pool = mpire.WorkerPool(pools.WORKERS, keep_alive=True)
        self.single: Any = None

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        # A pool that has done `apply` passes its next `imap` wrong arguments (mpire 2.10.2).
        if self.single is None:
            self.single = mpire.WorkerPool(pools.WORKERS, keep_alive=True)
        return self.single.apply(fn, (x,))

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.imap(fn, xs, chunk_size=chunk)
        return results

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        # What workers share reaches them when they are forked, so it takes new ones.
        with mpire.WorkerPool(pools.WORKERS, shared_objects=constant) as pool:
            yield from pool.imap(ConstantFirst(fn), xs)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from self.pool.imap_unordered(fn, xs, chunk_size=1)
        except Exception as exc:
            yield exc

    def close(self) -> None:
        self.pool.terminate()
        if self.single is not None:
            self.single.terminate()


class ConstantFirst:
    """mpire passes what workers share as the first argument."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, constant: Any, x: Any) -> Any:
        return self.fn(x, constant)
