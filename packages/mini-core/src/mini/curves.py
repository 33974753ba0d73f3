"""The history of a call's metrics, small however much it emits: of each metric some points, evenly spread.

The process that runs a call notes points as they come and says, a few times per second, what is new: `Recorder`. Who
keeps the job's record follows what it says: `follow`. Both keep the same points, because which ones those are depends
only on how many there have been. Stores keep what `pack` makes of them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "MOST_CURVES",
    "MOST_POINTS",
    "Curve",
    "Curves",
    "Point",
    "Recorder",
    "follow",
    "pack",
    "thin",
    "unpack",
]

MOST_POINTS = 256
"""Of one metric."""
MOST_CURVES = 64
"""Metrics of one call of which there is a history; of those that come later there is only the last value."""
MOST_DEPTH = 8
"""Dicts in dicts."""
_EXACT = 2**53
"""What a float holds exactly."""


class Point(NamedTuple):
    """A value of a metric.

    Attributes:
        step: that of the call's latest `emit_progress`; if there was none, how often the metric was emitted by then.
        seconds: since the call began.
        value: what was emitted.
    """

    step: float
    seconds: float
    value: float


class Curve:
    """Some points of one metric: the first, every `stride`-th one after it, and the last.

    When they get too many every other one goes, and from then on half as many are added.

    Args:
        most: how many there may be, at least 2.

    Attributes:
        count: how many points there have been.
        kept: those whose number, from 0, is a multiple of `stride`.
        last: the latest one, if it is not among those.
    """

    __slots__ = ("count", "kept", "last", "most", "stride")

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.most = most
        self.stride = 1
        self.count = 0
        self.kept: list[Point] = []
        self.last: Point | None = None

    @property
    def points(self) -> list[Point]:
        return self.kept if self.last is None else [*self.kept, self.last]

    def keeps_next(self) -> bool:
        """Whether the next point is one that stays; may halve those that are there."""
        if self.count % self.stride:
            return False
        if len(self.kept) == self.most - 1:
            self._thin()
        return not self.count % self.stride

    def add(self, point: Point) -> None:
        if self.keeps_next():
            self.kept.append(point)
            self.last = None
        else:
            self.last = point
        self.count += 1

    def extend(self, stride: int, count: int, new: Sequence[Point], last: Point | None) -> None:
        """Become as a curve that has all of this one's points, has gone on, and says what it has kept since."""
        while self.stride < stride:
            self._thin()
        self.kept += new
        self.count, self.last = count, last

    def _thin(self) -> None:
        # The last one needs no place of its own: who adds a point puts that there.
        self.kept = self.kept[::2]
        self.stride *= 2


Curves = dict[str, Curve]
"""By the metric's name; a part of a dict is called "outer.inner"."""

News = dict[str, tuple[int, int, list[tuple[float, float, float]], tuple[float, float, float] | None]]
"""By the metric's name: its stride, its count, what was kept since it was last told of, and the last point."""


class Recorder:
    """Notes what one call emits, in its own process. Not thread-safe.

    Args:
        began: when the call did, on `clock`.
    """

    def __init__(self, began: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._began = began
        self._clock = clock
        self._step: float | None = None
        self._curves: dict[str, Curve] = {}
        self._told: dict[str, tuple[int, int]] = {}
        """The stride of a curve, and how many it had kept, when it was last told of."""
        self._changed: dict[str, None] = {}

    def progress(self, step: Any) -> None:
        self._step = _number(step)

    def emit(self, values: Mapping[str, Any]) -> None:
        """Note values. What is no number is passed over."""
        seconds = self._clock() - self._began
        for name, value in _flat("", values):
            curve = self._curves.get(name)
            if curve is None:
                if len(self._curves) == MOST_CURVES:
                    continue
                curve = Curve()
            # To turn a number on a GPU into one of Python's is to wait for it: only where it stays.
            if curve.keeps_next() and (value := _number(value)) is None:
                continue
            self._curves[name] = curve
            step = curve.count + 1 if self._step is None else self._step
            curve.add(Point(step, seconds, value))
            self._changed[name] = None

    def news(self) -> News:
        """What is new since this was last asked; then the caller's copy is as far as this one."""
        changed, self._changed = self._changed, {}
        return {name: self._tell(name, self._curves[name]) for name in changed}

    def _tell(self, name: str, curve: Curve) -> Any:
        if curve.last is not None:
            step, seconds, raw = curve.last
            value = _number(raw)
            curve.last = None if value is None else Point(step, seconds, value)
        stride, told = self._told.get(name, (1, 0))
        while stride < curve.stride:
            stride, told = stride * 2, (told + 1) // 2
        self._told[name] = (curve.stride, len(curve.kept))
        last = None if curve.last is None else tuple(curve.last)
        return curve.stride, curve.count, [tuple(point) for point in curve.kept[told:]], last


def follow(curves: Curves, news: News) -> None:
    """Take what a recorder says into what it has said before."""
    for name, (stride, count, new, last) in news.items():
        curve = curves.setdefault(name, Curve())
        curve.extend(stride, count, [Point(*point) for point in new], None if last is None else Point(*last))


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of some points, at least 2, evenly spread; the first and the last are among them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[at * last // (most - 1)] for at in range(most)]


def pack(curves: Curves) -> bytes:
    """Curves as strict JSON: by name, the steps, the seconds and the values."""
    columns = {
        name: [
            [_plain(point.step) for point in points],
            [round(point.seconds, 3) for point in points],
            [_plain(point.value) for point in points],
        ]
        for name, points in ((name, curve.points) for name, curve in curves.items())
    }
    return json.dumps(columns, allow_nan=False, separators=(",", ":")).encode()


def unpack(data: bytes | None) -> dict[str, list[Point]]:
    """The points of each metric; none where nothing was kept."""
    if data is None:
        return {}
    columns = json.loads(data, object_hook=_from_json)
    return {name: list(map(Point, *column)) for name, column in columns.items()}


def _flat(prefix: str, values: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The values that may be numbers, those in dicts too."""
    for name, value in values.items():
        if isinstance(value, dict):
            if depth < MOST_DEPTH:  # it may have itself in it
                yield from _flat(f"{prefix}{name}.", value, depth + 1)
        elif _may_be_number(value):
            yield f"{prefix}{name}", value


def _may_be_number(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    try:
        return bool(getattr(value, "shape", None) == () and hasattr(value, "item"))
    except Exception:  # of somebody else's class: what is emitted makes no call fail
        return False


def _number(value: Any) -> float | None:
    """A number of anybody's as one of Python's; None if it is none."""
    try:
        if not isinstance(value, int | float):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return int(value) if isinstance(value, int) and abs(value) <= _EXACT else float(value)
    except Exception:  # likewise
        return None


def _plain(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _from_json(pairs: dict[str, Any]) -> Any:
    return float(pairs["$float"]) if pairs.keys() == {"$float"} else pairs
