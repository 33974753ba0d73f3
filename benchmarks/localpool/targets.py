"""What mini's local pool must reach, and whether it does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .conduct import FLOOR, POOLS, Samples
from .scenarios import CONSUMED, KILL_CALLS

Values = Callable[[Samples], list[float]]

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """A figure with its bound. Ratios are taken within each round, so that drift between rounds does not count."""

    scenario: str
    what: str
    sign: Literal["≥", "≤", "="]
    bound: float
    values: Values
    unit: str = "×"
    needs: tuple[tuple[str, str], ...] = ()
    """Measures and pools without which there is no figure."""

    def judge(self, samples: Samples) -> Verdict:
        values = self.values(samples)
        if not values:
            reasons = [
                f"{pool}: {why}" for measure, pool in self.needs if (why := samples.why(measure, pool))
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
    """The combination of the values that each of `sources` (measure and pool) has in the same round."""

    def values(samples: Samples) -> list[float]:
        columns = [samples.of(measure, pool) for measure, pool in sources]
        turns = sorted(set.intersection(*(set(column) for column in columns)))
        return [combine(*(column[turn] for column in columns)) for turn in turns]

    return values, tuple((measure.split(".")[0], pool) for measure, pool in sources)


def ratio(scenario: str, measure: str, peer: str, sign: Literal["≥", "≤"], bound: float, what: str) -> Target:
    values, needs = per_round(lambda ours, theirs: ours / theirs, (measure, "mini"), (measure, peer))
    return Target(scenario, what, sign, bound, values, needs=needs)


def plain(
    scenario: str,
    measure: str,
    sign: Literal["≥", "≤", "="],
    bound: float,
    what: str,
    unit: str,
    scale: Callable[[float], float] = float,
) -> Target:
    values, needs = per_round(scale, (measure, "mini"))
    return Target(scenario, what, sign, bound, values, unit, needs)


def _against_the_fastest(samples: Samples) -> list[float]:
    """Tiny calls at default settings against the best that any peer had in the round with its best chunk size."""
    found = []
    for turn, ours in samples.of("tiny.rate", "mini").items():
        theirs = [samples.of("chunked.rate", name).get(turn, 0.0) for name in POOLS if name != "mini"]
        if best := max(theirs, default=0.0):
            found.append(ours / best)
    return found


def _net_import(mini: float, stdlib: float, bare: float) -> float:
    return (mini - bare) / (stdlib - bare)


def _milliseconds(seconds: float) -> float:
    return seconds * 1000


STDLIB = "concurrent.futures.process"
_imports, _imports_need = per_round(
    _net_import, ("import.seconds", "mini"), ("import.seconds", STDLIB), ("import.seconds", "interpreter")
)
_import_more, _import_more_needs = per_round(
    lambda mini, bare: (mini - bare) * 1000, ("import.seconds", "mini"), ("import.seconds", "interpreter")
)

TARGETS = [
    ratio("tiny", "tiny.rate", "joblib", "≥", 4, "tiny calls, default settings: calls/s, against joblib"),
    ratio("tiny", "tiny.rate", "imap", "≥", 20, "… against imap"),
    ratio("tiny", "tiny.rate", "executor", "≥", 50, "… against ProcessPoolExecutor"),
    Target(
        "chunked",
        "… against the fastest peer with its best chunk size",
        "≥",
        0.8,
        _against_the_fastest,
        needs=(("tiny", "mini"),),
    ),
    ratio("latency", "latency.median", "imap", "≤", 0.5, "warm single call: time, against imap"),
    ratio("latency", "latency.median", "pebble", "≤", 0.5, "… against pebble"),
    ratio("latency", "latency.median", FLOOR, "≤", 2, "… against a bare socketpair round trip"),
    ratio("cold", "cold.seconds", "pebble", "≤", 1.2, "fresh process to first result: time, against pebble"),
    Target(
        "imports", f"`import mini`: time, against `import {STDLIB}`", "≤", 1.5, _imports, needs=_imports_need
    ),
    Target(
        "imports",
        "… more than a bare interpreter",
        "≤",
        30,
        _import_more,
        unit="ms",
        needs=_import_more_needs,
    ),
    plain("efficiency", "efficiency.efficiency", "≥", 0.96, "200 calls of 10 ms CPU: efficiency", ""),
    ratio("results", "results.seconds", "ray", "≤", 0.6, "50 results of 10 MB: time, against Ray"),
    plain("constant", "constant.pickles", "=", 1, "a constant of 100 MB over 50 calls: pickled", "times"),
    ratio("constant", "constant.seconds", "mpire", "≤", 0.7, "… time, against mpire"),
    plain("stream", "stream.first", "≤", 5, "a generator of a million: first result", "ms", _milliseconds),
    plain("stream", "stream.grown", "≤", 20, "… the caller grows by", "MB", lambda mib: mib * MIB / 1e6),
    ratio("stream", "stream.rate", "joblib", "≥", 3, "… results/s, against joblib"),
    plain("stop", "stop.pulled", "≤", 5000, "a consumer that stops after 100 results: inputs taken", ""),
    plain("stop", "window.pulled", "≤", 50, "… beyond the 100, with `window=50`", "", lambda n: n - CONSUMED),
    plain(
        "kill", "kill.ok", "=", KILL_CALLS - 1, "one SIGKILLed worker in 100 calls: calls that succeed", ""
    ),
    plain("kill", "kill.once", "=", KILL_CALLS - 1, "… other calls that have run exactly once", ""),
    ratio("kill", "kill.seconds", "pebble", "≤", 1.2, "… time, against pebble"),
    plain("interrupt", "interrupt.parent", "≤", 0.3, "Ctrl-C: until the caller has ended", "s"),
    plain("interrupt", "interrupt.all", "≤", 0.3, "… and all of its children", "s"),
    plain("leak", "leak.memory", "≤", 5, "long use: the caller and its workers grow by", "MB"),
    plain("leak", "leak.descriptors", "≤", 0, "… descriptors", ""),
    plain("leak", "leak.threads", "≤", 0, "… threads", ""),
    plain("leak", "leak.shm", "≤", 0, "… files in `/dev/shm`", ""),
]


def number(value: float) -> str:
    """Three significant digits, more for what is large."""
    if math.isinf(value):
        return "never"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
