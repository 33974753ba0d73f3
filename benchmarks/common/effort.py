"""How long to measure, and what."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["BaseEffort", "by_name", "chosen_effort"]

E = TypeVar("E", bound="BaseEffort")
F = TypeVar("F", bound=Callable[..., None])


@dataclass
class BaseEffort:
    """How long to measure.

    Attributes:
        seconds: that a sample of a rate or of latencies takes about.
    """

    rounds: int
    seconds: float

    @property
    def few(self) -> int:
        """Rounds for what takes long."""
        return -(-self.rounds // 2)


def chosen_effort(options: argparse.Namespace, quick: E, full: E) -> E:
    """The one that the command line asks for."""
    effort = quick if options.quick else full
    return dataclasses.replace(effort, rounds=options.rounds) if options.rounds else effort


def by_name(*scenarios: F) -> dict[str, F]:
    """Scenarios, in the order in which they are run."""
    return {scenario.__name__: scenario for scenario in scenarios}
