"""mini's local backend."""

from __future__ import annotations

import tempfile

import mini

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Peer(peers.Peer):
    versions = ("mini-core",)

    def __init__(self, workers: int) -> None:
        # The directory is only a path until a call asks for its volume, which none does here.
        data_dir = tempfile.gettempdir() + "/mini-bench"
        self.app = mini.LocalApparatus("bench", max_workers=workers, data_dir=data_dir).w(progress=False)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.app.run(fn, x)

    def map(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        app = self.app if chunk is None else self.app.w(chunk=chunk, window=6 * chunk)
        return app.map(fn, xs)

    def windowed(self, fn: Callable[[Any], Any], xs: Iterator[Any], window: int) -> Iterator[Any]:
        return self.app.w(window=window).map(fn, xs)

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        return self.app.map(fn, xs, kwargs={"constant": constant})

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        return self.app.map(fn, xs, return_exceptions=True)

    def close(self) -> None:
        self.app.close()
