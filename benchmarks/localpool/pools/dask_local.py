"""`dask.distributed` with a local cluster of worker processes of one thread."""

from __future__ import annotations

import dask
import distributed

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Pool(pools.Pool):
    distributions = ("dask", "distributed")

    def __init__(self) -> None:
        # While others are measured it is stopped, and then its workers have not been heard of for minutes.
        dask.config.set({"distributed.scheduler.worker-ttl": None})
        self.cluster = distributed.LocalCluster(
            n_workers=pools.WORKERS, threads_per_worker=1, dashboard_address=None
        )
        self.client = distributed.Client(self.cluster)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.client.submit(fn, x, pure=False).result()

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        if chunk is None:
            for future in self.client.map(fn, list(xs), pure=False):
                yield future.result()
        else:
            groups = list(pools.pieces(xs, chunk))
            for future in self.client.map(pools.each, [fn] * len(groups), groups, pure=False):
                yield from future.result()

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        scattered = self.client.scatter(constant, broadcast=True)
        for future in self.client.map(fn, list(xs), constant=scattered, pure=False):
            yield future.result()

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        return pools.results_of(self.client.map(fn, list(xs), pure=False))

    def close(self) -> None:
        self.client.close()
        self.cluster.close()
