"""What the tests of this package share: running programs, and waiting for what they do."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["EMULATOR", "MODAL", "PYTHON", "gone", "outside", "run", "started", "wait_until_gone"]

PYTHON = [sys.executable, "-P"]
EMULATOR = [*PYTHON, "-m", "modal_emulator"]
MODAL = [*PYTHON, "-m", "modal"]


def outside(**more: str) -> dict[str, str]:
    """An environment with nothing of Modal in it, and with this Python's programs first in PATH."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return {
        **env,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "COLUMNS": "200",
        **more,
    }


def run(
    *command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command,
        env=outside() if env is None else env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@contextmanager
def started(*command: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside the test; it is killed at the end, if it is still there."""
    process = subprocess.Popen(
        command,
        env=outside() if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(stream: IO[str] | None, enough: Callable[[str], bool]) -> str:
    """Read lines up to and with the first that is enough."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if enough(line):
            break
    return "".join(lines)


def wait_until_gone(pid: int, seconds: float = 30.0) -> None:
    """Wait for the end of a process that need not be a child of this one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], seconds)[0], f"process {pid} is still there"
    finally:
        os.close(process)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
