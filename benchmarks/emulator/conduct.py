"""What is measured, and in which order: round by round, never two things at a time."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from ..common import server
from ..common.child import now, seconds_of
from ..common.effort import BaseEffort, by_name
from ..common.emulated import EmulatorBench, Result
from ..common.samples import take_rounds

MIB = 1 << 20
SMALL, LARGE = "1 000", "10 000"
"""Maps, by their number of inputs."""
VERSIONS = (1, 2)


@dataclass
class Effort(BaseEffort):
    """
    Attributes:
        small, large: inputs of the two maps.
        file_mib: of the file that goes through a Volume.
        idle_seconds: that the idle server is watched.
        apps: ephemeral apps, one after the other.
    """

    small: int
    large: int
    file_mib: int
    idle_seconds: float
    apps: int


FULL = Effort(rounds=7, seconds=2.0, small=1000, large=10_000, file_mib=1024, idle_seconds=10.0, apps=200)
QUICK = Effort(rounds=2, seconds=0.5, small=200, large=1000, file_mib=64, idle_seconds=3.0, apps=10)


class Bench(EmulatorBench[Effort]):
    DRIVER = "benchmarks.emulator.driver"

    def idle(self) -> None:
        with self._client("idle") as ask:
            ask("deploy")
        seconds = self.effort.idle_seconds

        def sample(_: str) -> Result:
            return {"load": server.load(self._server, seconds), "memory": server.memory(self._server)}

        take_rounds(self.samples, "idle", ["server"], sample, self.effort.few)

    def cold(self) -> None:
        seconds_of("import modal")  # fills the file cache, and compiles
        with self._client("cold") as ask:
            ask("remote")  # builds the image

            def sample(name: str) -> Result:
                return ask("remote") if name == "remote" else {"seconds": seconds_of("import modal")}

            take_rounds(self.samples, "cold", ["import modal", "remote"], sample, 3 * self.effort.rounds)

    def warm(self) -> None:
        with self._client("warm") as ask:
            seconds = self.effort.seconds
            take_rounds(
                self.samples,
                "warm",
                ["hello", "remote"],
                lambda name: self._per(lambda: ask(name, seconds=seconds), "calls"),
                self.effort.rounds,
            )

    def map(self) -> None:
        counts = {SMALL: self.effort.small, LARGE: self.effort.large}
        with self._client("map") as ask:
            take_rounds(
                self.samples,
                "map",
                list(counts),
                lambda name: self._per(lambda: ask("map", count=counts[name]), "inputs"),
                self.effort.rounds,
            )

    def volume(self) -> None:
        """A file is put into a Volume and read back into another file, and copied, all on one file system."""
        source, target = self._folder / "source", self._folder / "target"
        with source.open("wb") as file:
            for _ in range(self.effort.file_mib):
                file.write(os.urandom(MIB))
        with self._client("volumes") as ask:

            def sample(name: str) -> Result:
                os.sync()  # what was written before is not for this one to wait for
                server.reset_peak(self._server)
                before = server.peak(self._server)
                kind, _, version = name.partition(" ")
                if kind == "cp":
                    begin = now()
                    subprocess.run(["cp", source, target], check=True)
                    result = {"seconds": now() - begin}
                else:
                    path = source if kind == "put" else target
                    result = ask(kind, version=int(version.removeprefix("v")), path=str(path))
                if target.exists():
                    assert target.stat().st_size == source.stat().st_size
                    target.unlink()
                return {**result, "grown": max(0.0, server.peak(self._server) - before)}

            # Each round puts the file before it gets it; the order of the rest makes no difference.
            subjects = ["cp", *(f"{kind} v{version}" for version in VERSIONS for kind in ("put", "get"))]
            for version in VERSIONS:
                ask("put", version=version, path=str(source))
            take_rounds(self.samples, "volume", subjects, sample, self.effort.few)
        source.unlink()

    def apps(self) -> None:
        with self._client("apps") as ask:
            ask("run", count=max(2, self.effort.apps // 10))
            before = server.steady(self._server, self._folder)
            memory = server.memory(self._server)

            def sample(_: str) -> Result:
                result = ask("run", count=self.effort.apps)
                after = server.settled(self._server, self._folder, before)
                grown = server.memory(self._server) - memory
                return {**result, "memory": grown, **{kind: after[kind] - before[kind] for kind in before}}

            take_rounds(self.samples, "apps", ["server"], sample, 1)


SCENARIOS = by_name(Bench.idle, Bench.cold, Bench.warm, Bench.map, Bench.volume, Bench.apps)
