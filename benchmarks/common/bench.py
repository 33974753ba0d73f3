"""What a suite does that measures in processes of its own, and the folder that all of it is in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from .child import Driver
from .effort import BaseEffort
from .profile import Profiler
from .samples import Missing, Samples, say

__all__ = ["BaseBench", "Result", "own_folder"]

E = TypeVar("E", bound=BaseEffort)

Result = dict[str, Any]


class BaseBench(Generic[E]):
    """One run of a suite, in a folder of its own.

    Args:
        profiler: looks at the processes named in `PROFILED` while something is measured.
    """

    DRIVER: str
    """The module whose `main` is the client: called with a session's name and the descriptor for its replies."""
    PROFILED: tuple[str, ...] = ("client",)
    LIMIT = 300.0
    """Seconds that one order to a client may take."""

    def __init__(self, effort: E, folder: Path, profiler: Profiler | None = None) -> None:
        self.effort = effort
        self.samples = Samples()
        self._folder = folder
        self._profiler = profiler

    def run(self, scenarios: Mapping[str, Callable[[Self], None]]) -> Samples:
        for name, scenario in scenarios.items():
            say(name)
            with self._surroundings():
                try:
                    scenario(self)
                except Missing as exc:
                    self.samples.miss(name, "*", str(exc))
        return self.samples

    def _surroundings(self) -> AbstractContextManager[object]:
        """What each scenario has anew, so that none has to do with what another has left."""
        return nullcontext()

    def _environ(self) -> Mapping[str, str] | None:
        """Of clients; None for this process's own."""
        return None

    def _pids(self) -> dict[str, int]:
        """The processes that may be profiled, besides the client."""
        return {}

    @contextmanager
    def _client(self, session: str, **settings: Any) -> Iterator[Callable[..., Result]]:
        """A client's process. What is yielded has it measure something."""
        given = "".join(f", {name}={value!r}" for name, value in settings.items())
        code = f"from {self.DRIVER} import main; main({session!r}, {{replies}}{given})"
        with Driver(code, self._environ()) as driver:
            self._client_pid = driver.process.pid
            driver.ask("ready", self.LIMIT)

            def ask(order: str, **parameters: Any) -> Result:
                with ExitStack() as stack:
                    if self._profiler is not None:
                        pids = {**self._pids(), "client": driver.process.pid}
                        for where in self.PROFILED:
                            stack.enter_context(self._profiler(pids[where], f"{session}-{order}, {where}"))
                    return driver.ask(order, self.LIMIT, **parameters)

            yield ask


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that goes, in which clients and their server have all of their files, temporary ones too."""
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
