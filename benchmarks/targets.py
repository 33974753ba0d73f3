"""What mini's local pool has to reach, as the project has set it, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from measure import Outcome
from peers import NAMES

FEW_THOUSAND = 7_000
"""How many inputs "at most a few thousand" are: the default window and the results already taken, not much more."""
NO_GROWTH = 8e6
"""Bytes of resident memory that long use may leave before it counts as growth; allocators keep some."""


@dataclass
class Measurements:
    """All outcomes: per scenario and case, one for each round in which it took part."""

    outcomes: dict[str, dict[str, list[Outcome | None]]] = field(default_factory=dict)

    def note(self, scenario: str, case: str, outcome: Outcome | None) -> None:
        self.outcomes.setdefault(scenario, {}).setdefault(case, []).append(outcome)

    def rounds(self, scenario: str, case: str, key: str) -> list[float | None]:
        """A value for each round, None where there is none."""
        return [
            None if outcome is None else number(outcome.values, key)
            for outcome in self.outcomes.get(scenario, {}).get(case, [])
        ]

    def values(self, scenario: str, case: str, key: str) -> list[float]:
        return [value for value in self.rounds(scenario, case, key) if value is not None]

    def ratios(self, scenario: str, case: str, others: Iterable[str], key: str) -> list[float]:
        """The ratio in each round, against the largest of `others`."""
        columns = [self.rounds(scenario, other, key) for other in others]
        ratios = []
        for turn, mine in enumerate(self.rounds(scenario, case, key)):
            theirs = [
                value for column in columns if turn < len(column) and (value := column[turn]) is not None
            ]
            if mine is not None and theirs:
                ratios.append(mine / max(theirs))
        return ratios


def number(values: dict[str, Any], key: str) -> float | None:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return float(found) if isinstance(found, int | float) else None


@dataclass
class Target:
    """A bound, and what was measured in each round; the median is what counts."""

    scenario: str
    text: str
    bound: float
    at_least: bool
    unit: str
    found: list[float]

    @property
    def value(self) -> float | None:
        return median(self.found) if self.found else None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


def targets(m: Measurements) -> list[Target]:
    """Every target, in the order in which the project lists them."""
    made: list[Target] = []

    def least(scenario: str, text: str, bound: float, found: list[float], unit: str = "×") -> None:
        made.append(Target(scenario, text, bound, True, unit, found))

    def most(scenario: str, text: str, bound: float, found: list[float], unit: str = "×") -> None:
        made.append(Target(scenario, text, bound, False, unit, found))

    default = "rates.default"
    executors = ("executor", "executor-fork")
    others = [name for name in NAMES if name != "mini"]
    least("tiny", "calls per second, against joblib", 4, m.ratios("tiny", "mini", ["joblib"], default))
    least("tiny", "calls per second, against imap", 20, m.ratios("tiny", "mini", ["imap"], default))
    least(
        "tiny",
        "calls per second, against ProcessPoolExecutor",
        50,
        m.ratios("tiny", "mini", executors, default),
    )
    least(
        "tiny",
        "calls per second at the default, against the fastest peer with its best chunk size",
        0.8,
        against_best(m, others),
    )
    for peer in ("imap", "pebble"):
        most("warm", f"single call, against {peer}", 0.5, m.ratios("warm", "mini", [peer], "median"))
    most(
        "warm",
        "single call, against a bare socketpair",
        2,
        m.ratios("warm", "mini", ["socketpair"], "median"),
    )
    most(
        "cold",
        "fresh process to first result, against pebble",
        1.2,
        m.ratios("cold", "mini", ["pebble"], "wall"),
    )
    extra = excess(m, "import mini")
    standard = excess(m, "import concurrent.futures.process")
    most(
        "import",
        "`import mini` against `import concurrent.futures.process`, both beyond a bare interpreter",
        1.5,
        [a / b for a, b in zip(extra, standard, strict=False) if b > 0],
    )
    most("import", "`import mini` beyond a bare interpreter", 0.030, extra, "s")
    least(
        "efficiency",
        "efficiency of 200 calls of 10 ms",
        0.96,
        m.values("efficiency", "mini", "efficiency"),
        "",
    )
    most("results", "50 results of 10 MB, against Ray", 0.6, m.ratios("results", "mini", ["ray"], "wall"))
    most(
        "constant",
        "how often a constant of 100 MB is pickled",
        1,
        m.values("constant", "mini", "pickled"),
        "",
    )
    most(
        "constant",
        "50 calls that share it, against mpire",
        0.7,
        m.ratios("constant", "mini", ["mpire"], "wall"),
    )
    most("generator", "first result of a million", 0.005, m.values("generator", "mini", "first"), "s")
    most("generator", "growth of the parent", 20e6, m.values("generator", "mini", "growth"), "B")
    least("generator", "throughput, against joblib", 3, m.ratios("generator", "mini", ["joblib"], "rate"))
    most(
        "early",
        'inputs pulled ("a few thousand") when 100 results were taken',
        FEW_THOUSAND,
        worst(m.values("early", "mini", "pulled")),
        "",
    )
    for window in (64, 1000):
        most(
            "early",
            f"most inputs pulled ahead with window={window}",
            window,
            worst(m.values("early", f"mini, window {window}", "ahead")),
            "",
        )
    least("kill", "results of the 99 other calls", 99, worst(m.values("kill", "mini", "ok"), min), "")
    least("kill", "of these, begun exactly once", 99, worst(m.values("kill", "mini", "once"), min), "")
    most("kill", "time, against pebble", 1.2, m.ratios("kill", "mini", ["pebble"], "wall"))
    most("interrupt", "Ctrl-C until the parent has ended", 0.3, m.values("interrupt", "mini", "parent"), "s")
    most("interrupt", "Ctrl-C until all processes have ended", 0.3, m.values("interrupt", "mini", "all"), "s")
    for kind, text in [
        ("closures", "10 000 closures over 1 MB"),
        ("maps", "200 maps, one after the other"),
        ("threads", "8 maps at once from 8 threads"),
    ]:
        for key, bound, unit in [
            ("memory", NO_GROWTH, "B"),
            ("worker memory", NO_GROWTH, "B"),
            ("descriptors", 0, ""),
            ("threads", 0, ""),
            ("/dev/shm", 0, ""),
        ]:
            most(
                "growth", f"{text}: growth of {key}", bound, m.values("growth", "mini", f"{kind}.{key}"), unit
            )
    return made


def against_best(m: Measurements, others: list[str]) -> list[float]:
    """The ratio in each round against whichever of `others` was the fastest then, at any chunk size."""
    mine = m.rounds("tiny", "mini", "rates.default")
    best = [m.rounds("tiny", other, "rate") for other in others]
    ratios = []
    for turn, rate in enumerate(mine):
        theirs = [value for column in best if turn < len(column) and (value := column[turn]) is not None]
        if rate is not None and theirs:
            ratios.append(rate / max(theirs))
    return ratios


def excess(m: Measurements, case: str) -> list[float]:
    """Seconds beyond a bare interpreter, in each round."""
    bare = m.rounds("import", "bare interpreter", "wall")
    mine = m.rounds("import", case, "wall")
    return [a - b for a, b in zip(mine, bare, strict=False) if a is not None and b is not None]


def worst(found: list[float], pick: Callable[[list[float]], float] = max) -> list[float]:
    """What must hold every time is judged by the worst time."""
    return [pick(found)] if found else []
