"""Programs of users, each in a process of its own, whose lines are read as they come."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["PATIENCE", "Script", "wait_until"]

PATIENCE = 90.0
"""Seconds that anything may take: a machine may have much else to do."""


class Script:
    """A script that runs in a folder; a context manager that ends it.

    Attributes:
        out, err: the lines that it has written so far, as far as they were read.
    """

    def __init__(self, folder: Path, text: str, env: Mapping[str, str]) -> None:
        path = folder / "script.py"
        path.write_text(textwrap.dedent(text))
        self.out: list[str] = []
        self.err: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-u", path],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._lines.put)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._take_error)),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()

    def line(self, patience: float = PATIENCE) -> str:
        """The next line that it prints."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"nothing comes after {self.out}:\n{''.join(self.err)}") from None
        assert line is not None, f"it ended after {self.out}:\n{''.join(self.err)}"
        self.out.append(line)
        return line

    def finish(self, patience: float = PATIENCE) -> int:
        """Wait for its end; the exit status."""
        try:
            status = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end after {self.out}:\n{''.join(self.err)}") from None
        for reader in self._readers:
            reader.join(patience)
        while (line := self._lines.get()) is not None:
            self.out.append(line)
        return status

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.kill(self._process.pid, signal.SIGINT)

    def _read(self, stream: IO[str], take: Callable[[str | None], None]) -> None:
        with stream:
            for line in stream:
                take(line.rstrip("\n"))
        take(None)

    def _take_error(self, line: str | None) -> None:
        if line is not None:
            self.err.append(line + "\n")


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Look again and again, until something is so that nobody can tell us of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.05)
