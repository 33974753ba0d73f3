"""Ray tasks, on a Ray of this process's own."""

from __future__ import annotations

import os

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run` it would build an environment for workers
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import ray

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Pool(pools.Pool):
    distributions = ("ray",)

    def __init__(self) -> None:
        ray.init(num_cpus=pools.WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
        self.tasks: dict[Any, Any] = {}

    def task(self, fn: Callable[..., Any]) -> Any:
        if fn not in self.tasks:
            self.tasks[fn] = ray.remote(fn if hasattr(fn, "__name__") else lambda x: fn(x)).options(
                max_retries=0
            )
        return self.tasks[fn]

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return ray.get(self.task(fn).remote(x))

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        if chunk is None:
            task = self.task(fn)
            references = [task.remote(x) for x in xs]
        else:
            task = self.task(pools.each)
            references = [task.remote(fn, piece) for piece in pools.pieces(xs, chunk)]
        references.reverse()
        while references:  # popped, because a result's memory is free when its reference is gone
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
