"""A bar for what takes longer than a second, on a terminal. What it needs is imported when a second is over."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["waiting"]

SECONDS = 1.0


@contextmanager
def waiting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Something that may take a while: on a terminal, a bar is there from its first second on until it is over.

    Yields a function to be told how many of `total` are done. Without a total the bar says that it is not still.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    bar = _Bar(what, total)
    timer = threading.Timer(SECONDS, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.say
    finally:
        timer.cancel()
        bar.hide()


class _Bar:
    """A bar that may be shown by one thread while another tells it how far things are."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._over = False
        self._progress: Progress | None = None

    def show(self) -> None:
        from mini import display

        if not display.enabled(None):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        text, bar, elapsed = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        columns = (text, bar, elapsed) if self._total is None else (text, bar, MofNCompleteColumn(), elapsed)
        with self._lock:
            if not self._over:
                self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
                self._progress.add_task(self._what, total=self._total, completed=self._done)
                self._progress.start()

    def say(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)

    def hide(self) -> None:
        with self._lock:
            self._over = True
            if self._progress is not None:
                self._progress.stop()
