"""joblib.Parallel with its default backend."""

from __future__ import annotations

import joblib

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("joblib",)

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def parallel(self, **options: Any) -> Any:
        return joblib.Parallel(n_jobs=self.workers, **options)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.parallel()([joblib.delayed(fn)(x)])[0]

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        results: list[Any] = self.parallel(batch_size=chunk or "auto")(joblib.delayed(fn)(x) for x in xs)
        return results

    def stream(self, fn: Callable[[Any], Any], xs: Iterator[Any], chunk: int | None = None) -> Iterator[Any]:
        parallel = self.parallel(batch_size=chunk or "auto", return_as="generator")
        results: Iterator[Any] = parallel(joblib.delayed(fn)(x) for x in xs)
        return results

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        results: list[Any] = self.parallel()(joblib.delayed(fn)(x, constant) for x in xs)
        return results

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from self.stream(fn, iter(xs))
        except Exception as exc:
            yield exc

    def close(self) -> None:
        pass  # its workers are meant to be found again by the next Parallel
