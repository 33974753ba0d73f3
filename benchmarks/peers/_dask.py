"""dask.distributed with a local cluster of single-threaded worker processes."""

from __future__ import annotations

import distributed

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("dask", "distributed")

    def __init__(self, workers: int) -> None:
        self.cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        )
        self.client = distributed.Client(self.cluster)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.client.submit(fn, x, pure=False).result()

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        if chunk is None:
            for future in self.client.map(fn, list(xs), pure=False):
                yield future.result()
        else:
            pieces = list(peers.chunked(xs, chunk))
            for future in self.client.map(peers.call_each, [fn] * len(pieces), pieces, pure=False):
                yield from future.result()

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        scattered = self.client.scatter(constant, broadcast=True)
        for future in self.client.map(fn, list(xs), constant=scattered, pure=False):
            yield future.result()

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        for future in self.client.map(fn, list(xs), pure=False):
            try:
                yield future.result()
            except Exception as exc:
                yield exc

    def close(self) -> None:
        self.client.close()
        self.cluster.close()
