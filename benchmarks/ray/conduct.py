"""What is measured, and in which order: round by round, never two things at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common.bench import BaseBench, Result
from ..common.effort import BaseEffort, by_name
from ..common.samples import take_rounds

SIDES = ("raw", "mini")
CONSTANT_CALLS = 100


@dataclass
class Effort(BaseEffort):
    """
    Attributes:
        tasks: tiny calls of which each is a task or a group of its own.
        calls: tiny calls that travel together.
        items: of the stream whose memory counts.
        few_items: of those of which the rate alone does.
    """

    tasks: int
    calls: int
    items: int
    few_items: int


FULL = Effort(rounds=7, seconds=2.0, tasks=10_000, calls=300_000, items=1_000_000, few_items=50_000)
QUICK = Effort(rounds=2, seconds=0.5, tasks=1000, calls=30_000, items=10_000, few_items=5000)


class Bench(BaseBench[Effort]):
    DRIVER = "benchmarks.ray.driver"
    LIMIT = 900.0

    def tiny(self) -> None:
        effort = self.effort
        counts = {
            "raw": effort.tasks,
            "unchunked": effort.tasks,
            "chunks": effort.calls,
            "mini": effort.calls,
        }
        with self._client("tiny", folder=str(self._folder)) as ask:
            take_rounds(
                self.samples,
                "tiny",
                list(counts),
                lambda side: ask(side, count=counts[side]),
                effort.rounds,
            )

    def single(self) -> None:
        with self._client("single", folder=str(self._folder)) as ask:
            take_rounds(
                self.samples,
                "single",
                SIDES,
                lambda side: ask(side, seconds=self.effort.seconds),
                self.effort.rounds,
            )

    def constant(self) -> None:
        with self._client("constant", folder=str(self._folder)) as ask:
            take_rounds(
                self.samples,
                "constant",
                SIDES,
                lambda side: ask(side, count=CONSTANT_CALLS),
                3 * self.effort.rounds,
            )

    def stream(self) -> None:
        few = self.effort.few_items
        counts = {"raw": few, "wide": few, "mini": self.effort.items}

        def sample(side: str) -> Result:
            # A process for each, because memory that one has left free would hide what another takes.
            with self._client("stream", folder=str(self._folder)) as ask:
                return ask(side, count=counts[side])

        take_rounds(self.samples, "stream", list(counts), sample, 1)


SCENARIOS: dict[str, Callable[[Any], None]] = by_name(Bench.tiny, Bench.single, Bench.constant, Bench.stream)
