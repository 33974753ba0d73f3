"""`joblib.Parallel` with its default backend."""

from __future__ import annotations

import joblib

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Pool(pools.Pool):
    distributions = ("joblib",)
    lazy = True

    def __init__(self) -> None:
        # Each Parallel finds the workers of the last one again.
        self.parallel = joblib.Parallel(n_jobs=pools.WORKERS)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.parallel([joblib.delayed(fn)(x)])[0]

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        stream = joblib.Parallel(n_jobs=pools.WORKERS, batch_size=chunk or "auto", return_as="generator")
        results: Iterable[Any] = stream(joblib.delayed(fn)(x) for x in xs)
        return results

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        # As an argument: joblib has nothing for it, but recognises arrays and memory-maps them.
        results: list[Any] = self.parallel(joblib.delayed(fn)(x, constant) for x in xs)
        return results

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from self.imap(fn, xs)
        except Exception as exc:
            yield exc

    def close(self) -> None:
        pass
