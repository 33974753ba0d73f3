"""What must be reached, and whether it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .samples import Samples

__all__ = ["Target", "Values", "Verdict", "number", "per_round", "plain", "ratio"]

Values = Callable[[Samples], list[float]]


@dataclass(frozen=True)
class Target:
    """A figure with its bound. Ratios are taken within each round, so that drift between rounds does not count."""

    scenario: str
    what: str
    sign: Literal["≥", "≤", "<", "="]
    bound: float
    values: Values
    unit: str = "×"
    needs: tuple[tuple[str, str], ...] = ()
    """Measures and subjects without which there is no figure."""

    def judge(self, samples: Samples) -> Verdict:
        values = self.values(samples)
        if not values:
            reasons = [
                f"{subject}: {why}"
                for measure, subject in self.needs
                if (why := samples.why(measure, subject))
            ]
            return Verdict(self, (), "; ".join(reasons) or "not measured")
        return Verdict(self, tuple(values), "")


@dataclass(frozen=True)
class Verdict:
    """A target with the values that it had, one a round; or with why there are none."""

    target: Target
    values: tuple[float, ...]
    why: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        bound = self.target.bound
        match self.target.sign:
            case "≥":
                return bool(self.values) and self.median >= bound
            case "≤":
                return bool(self.values) and self.median <= bound
            case "<":
                return bool(self.values) and self.median < bound
            case "=":
                return bool(self.values) and all(value == bound for value in self.values)

    @property
    def word(self) -> str:
        if not self.values:
            return f"no figure ({self.why})"
        return "met" if self.met else "**MISSED**"


def per_round(
    combine: Callable[..., float], *sources: tuple[str, str]
) -> tuple[Values, tuple[tuple[str, str], ...]]:
    """The combination of the values that each of `sources` (measure and subject) has in the same round."""

    def values(samples: Samples) -> list[float]:
        columns = [samples.of(measure, subject) for measure, subject in sources]
        turns = sorted(set.intersection(*(set(column) for column in columns)))
        return [combine(*(column[turn] for column in columns)) for turn in turns]

    return values, tuple((measure.split(".")[0], subject) for measure, subject in sources)


def ratio(
    scenario: str,
    measure: str,
    ours: str,
    theirs: str,
    bound: float,
    what: str,
    sign: Literal["≥", "≤"] = "≤",
) -> Target:
    values, needs = per_round(lambda x, y: x / y, (measure, ours), (measure, theirs))
    return Target(scenario, what, sign, bound, values, needs=needs)


def plain(
    measure: str,
    subject: str,
    bound: float,
    what: str,
    unit: str = "",
    sign: Literal["<", "≤"] = "≤",
    scale: Callable[[float], float] = float,
) -> Target:
    values, needs = per_round(scale, (measure, subject))
    return Target(measure.split(".")[0], what, sign, bound, values, unit, needs)


def number(value: float) -> str:
    """Three significant digits, more for what is large."""
    if math.isinf(value):
        return "never"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
