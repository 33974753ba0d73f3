"""Progress for a pipe, a file or a terminal that can only print: one plain line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from .meter import Figures, clock, count, describe, one_line, pace, summary, trouble, worth_a_last_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..status import LogLine
    from .meter import Meter

__all__ = ["LinesView", "line"]


class LinesView:
    """A line every three seconds, in long runs every twentieth of the time so far, and a last one."""

    pause = 0.2

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due: dict[Meter, float] = {}

    def update(self, running: Sequence[Meter], ended: Sequence[Meter], logged: Sequence[LogLine]) -> None:
        now = time.monotonic()
        lines = [f"[{entry.index}] {entry.text}" for entry in logged]
        for meter in running:
            figures = meter.read(now)
            if now >= self._due.setdefault(meter, meter.status.started + 3):
                self._due[meter] = now + min(max(3.0, figures.elapsed / 20), 60.0)
                lines.append("mini: " + line(meter, figures))
        for meter in ended:
            figures = meter.read(now)
            was_seen = self._due.pop(meter, now) > meter.status.started + 3
            if was_seen or worth_a_last_word(figures):
                lines.append("mini: " + summary(figures))
        if lines:
            # In one piece, so that what other threads print lands between the lines and not within one.
            self._stream.write("".join(f"{text}\n" for text in lines))
            self._stream.flush()

    def close(self) -> None:
        pass


def line(meter: Meter, figures: Figures) -> str:
    """train: 14/24, 1.9/s, 0:07 elapsed, 0:05 left, 1 failed."""
    words = [count(figures.done, figures.total)]
    if figures.rate is not None:
        words.append(pace(figures.rate))
    words.append(f"{clock(figures.elapsed)} elapsed")
    if figures.left is not None:
        words.append(f"{clock(figures.left)} left")
    words += trouble(figures)
    if figures.total == 1:  # a single long call: what it says of itself is all there is
        words += [
            text
            for worker in list(meter.status.workers.values())
            if (text := describe(worker.progress, worker.metrics))
        ]
    return one_line(f"{figures.name}: {', '.join(words)}")
