"""Suites that measure on the Modal emulator: one server a scenario, and clients in processes of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from modal_emulator import Emulator

from . import server
from .child import Driver
from .effort import BaseEffort
from .profile import Profiler
from .samples import Missing, Samples, say

__all__ = ["EmulatorBench", "Result", "own_folder"]

E = TypeVar("E", bound=BaseEffort)

Result = dict[str, Any]

LIMIT = 300.0
"""Seconds that one order to a client may take."""


class EmulatorBench(Generic[E]):
    """One run of a suite, in a folder of its own: the server's cache, which begins empty, is there as well.

    Args:
        profiler: looks at the processes named in `PROFILED` while something is measured.
    """

    DRIVER: str
    """The module whose `main` is the client: called with a session's name and the descriptor for its replies."""
    PROFILED: tuple[str, ...] = ("server",)

    def __init__(self, effort: E, folder: Path, profiler: Profiler | None = None) -> None:
        self.effort = effort
        self.samples = Samples()
        self._folder = folder
        self._profiler = profiler
        self._server = Emulator(cache=folder / "cache", start_timeout=LIMIT)

    def run(self, scenarios: Mapping[str, Callable[[Self], None]]) -> Samples:
        for name, scenario in scenarios.items():
            say(name)
            # A new one for each, so that none has to do with what another has left.
            with self._server:
                try:
                    scenario(self)
                except Missing as exc:
                    self.samples.miss(name, "*", str(exc))
        return self.samples

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
    def _client(self, session: str, **settings: Any) -> Iterator[Callable[..., Result]]:
        """A client's process. What is yielded has it measure something."""
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        code = f"from {self.DRIVER} import main; main({session!r}, {{replies}}{given})"
        with Driver(code, self._server.environ) as driver:
            self._client_pid = driver.process.pid
            driver.ask("ready", LIMIT)

            def ask(order: str, **parameters: Any) -> Result:
                with ExitStack() as stack:
                    if self._profiler is not None:
                        pids = {"server": self._server.pid, "client": driver.process.pid}
                        for where in self.PROFILED:
                            stack.enter_context(self._profiler(pids[where], f"{session}-{order}, {where}"))
                    return driver.ask(order, LIMIT, **parameters)

            yield ask


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that goes, in which a server and its clients have all of their files, temporary ones too."""
    with tempfile.TemporaryDirectory(prefix="mini-bench-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        before = os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
