"""The order in which things are measured: round by round, in each round every pool once, never two at a time.

So whatever else the machine does, and however its clock drifts, hits all pools alike. The pools whose turn it is not
are stopped (SIGSTOP): Ray's and dask's dozen processes take some per cent of two cores when they have nothing to do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.child import seconds_of
from ..common.effort import BaseEffort, by_name
from ..common.samples import Missing, Samples, say, take_rounds
from .child import Driver, seconds_to_first_result
from .pools import MODULES, WORKERS

Result = dict[str, Any]

FLOOR = "socketpair"
CHUNKS = (512, 2048, 8192)
"""Sizes of which each pool's best is looked for."""
POOLS = [name for name in MODULES if name != FLOOR]


@dataclass
class Effort(BaseEffort):
    """
    Attributes:
        closures, maps: that are made to see whether anything is left of them.
    """

    closures: int
    maps: int


FULL = Effort(rounds=7, seconds=1.0, closures=10_000, maps=200)
QUICK = Effort(rounds=2, seconds=0.3, closures=1_000, maps=50)


class Bench:
    """One run of the benchmark over the pools called `names`."""

    def __init__(self, names: Sequence[str], effort: Effort) -> None:
        self.names = list(names)
        self.effort = effort
        self.samples = Samples()
        self._drivers: dict[str, Driver] = {}

    def run(self, scenarios: Sequence[str]) -> Samples:
        """Measure, first what needs fresh processes, so that no idle pool is there meanwhile."""
        try:
            for name in scenarios:
                say(name)
                SCENARIOS[name](self)
        finally:
            for driver in self._drivers.values():
                driver.end()
            self._drivers.clear()
        return self.samples

    # --- with a new process for each sample ---

    def imports(self) -> None:
        codes = {
            "interpreter": "pass",
            "concurrent.futures.process": "import concurrent.futures.process",
            "mini": "import mini",
        }
        seconds_of(codes["mini"])  # fills the file cache
        rounds = 3 * self.effort.rounds
        self._rounds("import", list(codes), lambda name: {"seconds": seconds_of(codes[name])}, rounds)

    def cold(self) -> None:
        self._rounds("cold", self.names, lambda name: {"seconds": seconds_to_first_result(name)})

    def kill(self) -> None:
        def sample(name: str) -> Result:
            with Driver(name) as driver:
                driver.ask("warm", 120)
                return driver.ask("kill", 60)

        self._rounds("kill", self.names, sample, self.effort.few)

    def interrupt(self) -> None:
        def sample(name: str) -> Result:
            with tempfile.TemporaryDirectory() as folder, Driver(name) as driver:
                driver.ask("warm", 120)
                path = Path(folder, "begun")
                driver.order("long", path=str(path))
                end = time.monotonic() + 60
                while not path.exists() or path.read_text().count("\n") < WORKERS:
                    if time.monotonic() > end:
                        raise Missing("never begins")
                    time.sleep(0.01)
                parent, every = driver.interrupt(limit=20)
            return {"parent": parent, "all": every}

        self._rounds("interrupt", self.names, sample, self.effort.few)

    def leak(self) -> None:
        def sample(name: str) -> Result:
            with Driver(name) as driver:
                return driver.ask("leak", 900, closures=self.effort.closures, maps=self.effort.maps)

        self._rounds("leak", ["mini"], sample, 1)

    # --- with pools that are warm ---

    def tiny(self) -> None:
        calls: dict[str, int] = {}

        def sample(name: str) -> Result:
            if name not in calls:
                calls[name] = self._sized(name, None)
            return self._ask(name, "tiny", calls=calls[name], chunk=None)

        self._rounds("tiny", self.names, sample)

    def chunked(self) -> None:
        best: dict[str, tuple[float, int, int]] = {}

        def sample(name: str) -> Result:
            if name not in best:
                tries = []
                for chunk in CHUNKS:
                    calls = self._sized(name, chunk)
                    tries.append((self._ask(name, "tiny", calls=calls, chunk=chunk)["rate"], chunk, calls))
                best[name] = max(tries)
            _, chunk, calls = best[name]
            return {**self._ask(name, "tiny", calls=calls, chunk=chunk), "chunk": chunk}

        self._rounds("chunked", self.names, sample)

    def latency(self) -> None:
        seconds = self.effort.seconds / 2
        names = [FLOOR, *self.names]
        self._rounds("latency", names, lambda name: self._ask(name, "latency", calls=2000, seconds=seconds))

    def efficiency(self) -> None:
        self._rounds("efficiency", [FLOOR, *self.names], lambda name: self._ask(name, "efficiency"))

    def results(self) -> None:
        self._rounds("results", self.names, lambda name: self._ask(name, "results"), self.effort.few)

    def constant(self) -> None:
        self._rounds("constant", self.names, lambda name: self._ask(name, "constant"), self.effort.few)

    def stream(self) -> None:
        seconds = 4 * self.effort.seconds
        self._rounds(
            "stream", self.names, lambda name: self._ask(name, "stream", seconds=seconds), self.effort.few
        )

    def stop(self) -> None:
        """The last, because what pulls inputs in a thread of its own may go on with the whole million."""
        self._rounds("stop", self.names, lambda name: self._ask(name, "stop", window=None), 3)
        self._rounds("window", self.names, lambda name: self._ask(name, "stop", window=50), 3)

    # --- how ---

    def _rounds(
        self, measure: str, names: Sequence[str], sample: Callable[[str], Result], rounds: int | None = None
    ) -> None:
        take_rounds(self.samples, measure, names, sample, rounds or self.effort.rounds)

    def _ask(self, name: str, scenario: str, **parameters: Any) -> dict[str, Any]:
        driver = self._driver(name)
        driver.thaw()
        try:
            return driver.ask(scenario, 60, **parameters)
        finally:
            driver.freeze()

    def _driver(self, name: str) -> Driver:
        driver = self._drivers.get(name)
        if driver is None:
            driver = self._drivers[name] = Driver(name)
            if name != FLOOR:
                driver.ask("warm", 120)
        return driver

    def _sized(self, name: str, chunk: int | None) -> int:
        """As many tiny calls as take about `Effort.seconds`."""
        trial = 1000 if chunk is None else 10 * chunk
        for _ in range(2):
            rate = self._ask(name, "tiny", calls=trial, chunk=chunk)["rate"]
            trial = int(min(500_000, max(trial, rate * self.effort.seconds)))
        return trial


SCENARIOS = by_name(
    Bench.imports,
    Bench.cold,
    Bench.kill,
    Bench.interrupt,
    Bench.leak,
    Bench.tiny,
    Bench.chunked,
    Bench.latency,
    Bench.efficiency,
    Bench.results,
    Bench.constant,
    Bench.stream,
    Bench.stop,
)
