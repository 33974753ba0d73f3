"""Ray tasks on a Ray of this machine's own."""

from __future__ import annotations

import logging
import os

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else it builds every worker an environment with uv
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"

import ray

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("ray",)

    def __init__(self, workers: int) -> None:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self.remote: dict[Any, Any] = {}

    def task(self, fn: Callable[..., Any]) -> Any:
        found = self.remote.get(fn)
        if found is None:
            found = self.remote[fn] = ray.remote(fn)
        return found

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return ray.get(self.task(fn).remote(x))

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        if chunk is None:
            task = self.task(fn)
            references = [task.remote(x) for x in xs]
        else:
            task = self.task(peers.call_each)
            references = [task.remote(fn, piece) for piece in peers.chunked(xs, chunk)]
        references.reverse()
        while references:  # a reference that is dropped lets go of its result's memory
            result = ray.get(references.pop())
            if chunk is None:
                yield result
            else:
                yield from result

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        task, stored = self.task(fn), ray.put(constant)
        for reference in [task.remote(x, stored) for x in xs]:
            yield ray.get(reference)

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        task = self.task(fn)
        for reference in [task.remote(x) for x in xs]:
            try:
                yield ray.get(reference)
            except Exception as exc:
                yield exc

    def close(self) -> None:
        ray.shutdown()
