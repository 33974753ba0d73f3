"""What is measured, and the order in which it is: round by round, never two at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Missing", "Samples", "say", "take_rounds"]


class Missing(Exception):
    """A measurement that there is not; the text takes its place in the table."""


@dataclass
class Samples:
    """What has been measured: by measure and subject, a value for each round, or why there is none."""

    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, measure: str, subject: str, turn: int, value: float) -> None:
        self.values.setdefault(measure, {}).setdefault(subject, {})[turn] = value

    def miss(self, measure: str, subject: str, why: str) -> None:
        """Say why there is no value; `subject` is "*" for all."""
        self.missing.setdefault(measure, {})[subject] = why

    def of(self, measure: str, subject: str) -> dict[int, float]:
        return self.values.get(measure, {}).get(subject, {})

    def why(self, measure: str, subject: str) -> str:
        """Why there is no value; empty if nobody knows."""
        reasons = self.missing.get(measure, {})
        return reasons.get(subject) or reasons.get("*", "")


def take_rounds(
    samples: Samples,
    measure: str,
    subjects: Sequence[str],
    sample: Callable[[str], Mapping[str, float]],
    rounds: int,
) -> None:
    """Take a sample of each subject in each round, which begins with another one each time.

    So whatever else the machine does, and however its clock drifts, hits all alike. One that has no figures is left
    out from then on.
    """
    for turn in range(rounds):
        shift = turn % len(subjects)
        for subject in [*subjects[shift:], *subjects[:shift]]:
            if samples.why(measure, subject):
                continue
            say(f"{measure} {turn + 1}/{rounds} {subject}")
            try:
                result = sample(subject)
            except Missing as exc:
                samples.miss(measure, subject, str(exc))
                continue
            for key, value in result.items():
                samples.add(f"{measure}.{key}", subject, turn, value)
    say("")


def say(what: str) -> None:
    """Show what is going on, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
