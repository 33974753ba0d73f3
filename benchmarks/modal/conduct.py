"""What is measured, and in which order: round by round, never two things at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..common.child import seconds_of
from ..common.effort import BaseEffort, by_name
from ..common.emulated import EmulatorBench, Result
from ..common.samples import take_rounds
from .project import make_project

SIDES = ("raw", "mini")
CALL_SECONDS = 0.1
"""What a call that is not tiny takes."""
CONSTANT_CALLS = 50
CONSTANT_CONTAINERS = 2
IMPORTS = {
    "mini": "import mini",
    "mini_modal": "import mini; import mini_modal",
    "apparatus": "import mini; mini.apparatus('modal', 'benchmark')",
    "modal": "import modal",
}


@dataclass
class Effort(BaseEffort):
    """
    Attributes:
        tiny: calls that return their input, in one map.
        slow: seconds that a map of calls takes which sleep.
    """

    tiny: int
    slow: float


FULL = Effort(rounds=5, seconds=2.0, tiny=10_000, slow=4.0)
QUICK = Effort(rounds=2, seconds=0.5, tiny=1000, slow=1.0)


class Bench(EmulatorBench[Effort]):
    DRIVER = "benchmarks.modal.driver"
    PROFILED = ("server", "client")

    def imports(self) -> None:
        for code in IMPORTS.values():
            seconds_of(code)  # fills the file cache, and compiles
        take_rounds(
            self.samples,
            "imports",
            list(IMPORTS),
            lambda name: {"seconds": seconds_of(IMPORTS[name])},
            3 * self.effort.rounds,
        )

    def image(self) -> None:
        with self._calls("image", 1) as ask:
            take_rounds(
                self.samples,
                "image",
                ["make_image", "ask", "start"],
                lambda name: ask(name),
                self.effort.rounds,
            )

    def tiny(self) -> None:
        with self._calls("tiny", 8) as ask:
            take_rounds(
                self.samples,
                "tiny",
                SIDES,
                lambda side: self._per(lambda: ask(side, count=self.effort.tiny), "calls"),
                self.effort.rounds,
            )

    def slow_8(self) -> None:
        self._slow("slow_8", 8)

    def slow_2(self) -> None:
        self._slow("slow_2", 2)

    def _slow(self, scenario: str, containers: int) -> None:
        count = round(self.effort.slow / CALL_SECONDS) * containers
        with self._calls("slow", containers) as ask:
            take_rounds(
                self.samples,
                scenario,
                SIDES,
                lambda side: ask(side, seconds=CALL_SECONDS, count=count),
                self.effort.rounds,
            )

    def single(self) -> None:
        with self._calls("single", 1) as ask:
            take_rounds(
                self.samples,
                "single",
                SIDES,
                lambda side: self._per(lambda: ask(side, seconds=self.effort.seconds), "calls"),
                self.effort.rounds,
            )

    def constant(self) -> None:
        with self._calls("constant", CONSTANT_CONTAINERS) as ask:
            take_rounds(
                self.samples,
                "constant",
                SIDES,
                lambda side: ask(side, count=CONSTANT_CALLS),
                self.effort.few,
            )

    @contextmanager
    def _calls(self, session: str, containers: int) -> Iterator[Callable[..., Result]]:
        """A client in the project's folder; see `_client`."""
        project = self._folder / "project"
        if not project.exists():
            make_project(project)
        with self._client(session, folder=str(project), containers=containers) as ask:
            yield ask


SCENARIOS: dict[str, Callable[[Any], None]] = by_name(
    Bench.imports, Bench.image, Bench.tiny, Bench.slow_8, Bench.slow_2, Bench.single, Bench.constant
)
