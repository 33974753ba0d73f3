"""Suites that measure on the Modal emulator: one server a scenario, and clients in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from modal_emulator import Emulator

from . import server
from .bench import BaseBench, Result
from .effort import BaseEffort
from .profile import Profiler

__all__ = ["EmulatorBench", "Result"]

E = TypeVar("E", bound=BaseEffort)


class EmulatorBench(BaseBench[E]):
    """One run of a suite; the server's cache, which begins empty, is in its folder."""

    PROFILED: tuple[str, ...] = ("server",)

    def __init__(self, effort: E, folder: Path, profiler: Profiler | None = None) -> None:
        super().__init__(effort, folder, profiler)
        self._server = Emulator(cache=folder / "cache", start_timeout=self.LIMIT)

    def _surroundings(self) -> AbstractContextManager[object]:
        return self._server

    def _environ(self) -> Mapping[str, str]:
        return self._server.environ

    def _pids(self) -> dict[str, int]:
        return {"server": self._server.pid}

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
