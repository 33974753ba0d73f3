"""Running `mini` as a user does: by itself, and in a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest.mock import patch

from mini.cli import main

__all__ = ["MINI", "Terminal", "mini", "mini_here"]

MINI = [sys.executable, "-P", "-m", "mini"]
PATIENCE = 60.0


def mini(
    *arguments: str,
    env: Mapping[str, str],
    stdin: str | None = None,
    umask: int = -1,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal. `env` is added to an environment with nothing of Modal in it."""
    return subprocess.run(
        [*MINI, *arguments],
        env={**os.environ, **env},
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        umask=umask,
        cwd=cwd,
    )


def mini_here(*arguments: str, env: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The same in this process: for what depends on no terminal and no import, which take long."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, env),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = 0
        try:
            main([*arguments])
        except SystemExit as exc:
            status = int(exc.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


class Terminal:
    """A program in a terminal of its own; a context manager that leaves nothing of it behind.

    Attributes:
        shown: all that it has written.
    """

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], umask: int = -1) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [*MINI, *arguments],
            env={**os.environ, "TERM": "xterm", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            umask=umask,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def until(self, word: str) -> str:
        """Read until a word has come."""
        deadline = time.monotonic() + PATIENCE
        while word not in self.shown:
            assert self._read(), f"it ended without {word!r}:\n{self.shown}"
            assert time.monotonic() < deadline, f"{word!r} does not come:\n{self.shown}"
        return self.shown

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def finish(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.shown}"
        return self._process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way of saying that all ends are closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
