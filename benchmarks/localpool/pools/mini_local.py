"""mini's local backend."""

from __future__ import annotations

import os

import mini

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Pool(pools.Pool):
    distributions = ("mini-core",)
    lazy = True

    def __init__(self) -> None:
        # No call here asks for the volume, so the folder is never made.
        folder = os.environ.get("TMPDIR", "/tmp") + "/mini-bench"
        self.app = mini.LocalApparatus("bench", max_workers=pools.WORKERS, data_dir=folder).w(progress=False)

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        return self.app.run(fn, x)

    def imap(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk: int | None = None) -> Iterable[Any]:
        app = self.app if chunk is None else self.app.w(chunk=chunk)
        return app.map(fn, xs)

    def windowed(self, fn: Callable[[Any], Any], xs: Iterable[Any], window: int) -> Iterable[Any]:
        return self.app.w(window=window).map(fn, xs)

    def constant(self, fn: Callable[..., Any], xs: Iterable[Any], constant: Any) -> Iterable[Any]:
        return self.app.map(fn, xs, kwargs={"constant": constant})

    def outcomes(self, fn: Callable[[Any], Any], xs: Iterable[Any]) -> Iterator[Any]:
        return self.app.map(fn, xs, return_exceptions=True)

    def close(self) -> None:
        self.app.close()
