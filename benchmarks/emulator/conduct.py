"""What is measured, and in which order: round by round, never two things at a time."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modal_emulator import Emulator

from ..common.child import Driver, now, seconds_of
from ..common.effort import BaseEffort, by_name
from ..common.samples import Missing, Samples, say, take_rounds
from . import server

Result = dict[str, Any]

MIB = 1 << 20
SMALL, LARGE = "1 000", "10 000"
"""Maps, by their number of inputs."""
VERSIONS = (1, 2)
LIMIT = 300.0


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


class Bench:
    """One run of the benchmark, in a folder of its own: the server's cache, which begins empty, is there as well.

    Args:
        watch: wraps what is done to the server for a sample, given its pid and the sample's name.
    """

    def __init__(self, effort: Effort, folder: Path, watch: Callable[[int, str], Any] | None = None) -> None:
        self.effort = effort
        self.samples = Samples()
        self._folder = folder
        self._watch = watch
        self._server = Emulator(cache=folder / "cache", start_timeout=LIMIT)

    def run(self, scenarios: list[str]) -> Samples:
        for name in scenarios:
            say(name)
            # A new one for each, so that none has to do with what another has left.
            with self._server:
                try:
                    SCENARIOS[name](self)
                except Missing as exc:
                    self.samples.miss(name, "*", str(exc))
        return self.samples

    # --- scenarios ---

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

    # --- how ---

    def _per(self, sample: Callable[[], Result], count: str) -> Result:
        """A sample, with the processor time that each of its calls or inputs took, and where."""

        def used() -> dict[str, float]:
            server_pid = self._server.pid
            return {
                "server": server.processor_seconds_of(server_pid),
                "containers": server.processor_seconds_of(server_pid, children=True),
                "client": server.processor_seconds_of(self._client_pid),
            }

        before = used()
        result = sample()
        after = used()
        return {**result, **{where: (after[where] - before[where]) / result[count] for where in before}}

    @contextmanager
    def _client(self, session: str) -> Iterator[Callable[..., Result]]:
        """A client's process. What is yielded has it measure something."""
        code = f"from benchmarks.emulator.driver import main; main({session!r}, {{replies}})"
        with Driver(code, self._server.environ) as driver:
            self._client_pid = driver.process.pid
            driver.ask("ready", LIMIT)

            def ask(order: str, **parameters: Any) -> Result:
                if self._watch is None:
                    return driver.ask(order, LIMIT, **parameters)
                with self._watch(self._server.pid, f"{session}-{order}"):
                    return driver.ask(order, LIMIT, **parameters)

            yield ask


SCENARIOS = by_name(Bench.idle, Bench.cold, Bench.warm, Bench.map, Bench.volume, Bench.apps)


@contextmanager
def new_bench(effort: Effort, watch: Callable[[int, str], Any] | None = None) -> Iterator[Bench]:
    """A benchmark whose server and clients have all of their files, temporary ones too, in a folder that goes."""
    with tempfile.TemporaryDirectory(prefix="mini-bench-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        before = os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
        try:
            yield Bench(effort, folder, watch)
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
