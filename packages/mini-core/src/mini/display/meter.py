"""What there is to say about a flow, in numbers and words; where it is said is the views' business."""

from __future__ import annotations

import math
import re
import reprlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..status import CallState, FlowStatus, LogLine, Progress

__all__ = ["Figures", "Meter", "clock", "describe", "one_line", "pace", "span", "summary"]

# The pace is that of the last half minute, or of the last third of a longer run.
_RECENT = 30.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Figures:
    """A flow at one moment. Times in seconds, `rate` in calls per second; None where it cannot be known yet."""

    name: str
    done: int
    total: int | None
    failed: int
    retried: int
    elapsed: float
    rate: float | None
    left: float | None
    state: CallState


class Meter:
    """One shown flow: its status, which the engine goes on changing, and what the display needs beside it."""

    def __init__(self, status: FlowStatus, bars: bool, thread: threading.Thread) -> None:
        self.status = status
        self.bars = bars
        self.thread = thread
        self.ended = False
        self.gone = threading.Event()
        self._samples = deque([(status.started, 0)])

    def read(self, now: float) -> Figures:
        """The flow's figures at `now` (`time.monotonic()`)."""
        status = self.status
        done, total = status.done, status.total
        elapsed = max(now - status.started, 1e-9)
        samples = self._samples
        samples.append((now, done))
        recent = now - max(_RECENT, elapsed / 3)
        # One sample older than that is kept to measure from. A flow of days does not hoard samples.
        while len(samples) > 2 and (samples[1][0] < recent or len(samples) > 2000):
            samples.popleft()
        then, before = samples[0]
        if done > before and now > then and not self.ended:
            rate: float | None = (done - before) / (now - then)
        else:
            rate = done / elapsed if done else None
        left = (total - done) / rate if rate and total is not None else None
        return Figures(
            one_line(status.function),
            done,
            total,
            status.failed,
            status.retried,
            elapsed,
            rate,
            left,
            status.state,
        )

    def take_log(self) -> list[LogLine]:
        """The lines printed by calls since the last time."""
        log, lines = self.status.log, []
        while log:
            lines.append(log.popleft())
        return lines


def one_line(text: object) -> str:
    """`text` on one line and without control characters: it comes from the user's code and goes to a terminal."""
    return _CONTROL.sub(" ", str(text)).strip()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:07, 1:02:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def span(seconds: float) -> str:
    """A duration that may be short: 48 ms, 3.2 s, 1:05."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def pace(rate: float) -> str:
    """Calls per second, or for slow ones the time of each: 12k/s, 3.4/s, 8.1 s each."""
    if rate < 1:
        return f"{span(1 / rate)} each"
    for limit, scale, unit in (
        (10, 1, ""),
        (10_000, 1, ""),
        (10_000_000, 1e3, "k"),
        (float("inf"), 1e6, "M"),
    ):
        if rate < limit:
            return f"{rate / scale:.1f}{unit}/s" if limit == 10 else f"{rate / scale:.0f}{unit}/s"
    raise AssertionError("unreachable")


def count(done: object, total: object) -> str:
    """3/24, or 3 where the end is not known. A step may be a fraction."""
    return _value(done, ".6g") if total is None else f"{_value(done, '.6g')}/{_value(total, '.6g')}"


def describe(progress: Progress | None, metrics: dict[str, Any]) -> str:
    """What a call last emitted: 12/30 epoch  loss 0.123  acc 0.97."""
    words = []
    if progress is not None:
        words.append(count(progress.step, progress.total) + f" {one_line(progress.message)}".rstrip())
    words += [f"{one_line(name)} {_value(value)}" for name, value in list(metrics.items())]
    return "  ".join(words)


def fraction(progress: Progress | None) -> float | None:
    """How far a call is, from 0 to 1; None where it does not say, or says what cannot be."""
    try:
        part = float(progress.step / progress.total) if progress is not None and progress.total else math.nan
    except (TypeError, ValueError, ArithmeticError):
        return None
    return None if math.isnan(part) else min(max(part, 0.0), 1.0)


def _value(value: object, form: str = ".4g") -> str:
    """A number, a word or anything else that came from the user's code, in short."""
    if isinstance(value, str | int):
        return one_line(value)
    try:  # numpy's scalars format like Python's; an array or a dict is cut short
        return format(value, form)
    except (TypeError, ValueError):
        return one_line(reprlib.repr(value))


def trouble(figures: Figures) -> list[str]:
    """What went wrong so far, in words; empty if nothing did."""
    words = []
    if figures.failed:
        words.append(f"{figures.failed} failed")
    if figures.retried:
        words.append(f"{figures.retried} retried")
    return words


def summary(figures: Figures) -> str:
    """The last word on a flow: train: 24/24 in 12.3 s, 2.0/s, 1 failed."""
    words = [f"{count(figures.done, figures.total)} in {span(figures.elapsed)}"]
    if figures.done > 1 and figures.rate is not None:
        words.append(pace(figures.rate))
    words += trouble(figures)
    if figures.state in ("CANCELLED", "RUNNING"):
        words.append("stopped early")
    return f"{figures.name}: {', '.join(words)}"


def worth_a_last_word(figures: Figures) -> bool:
    """A single call that went well says enough by returning; a loop of them should not fill the screen."""
    return figures.total != 1 or figures.failed > 0 or figures.retried > 0
