"""Runs the programs in programs/ as a user would: the unmodified client, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modal_emulator import Emulator

__all__ = [
    "LIVE",
    "PROGRAMS",
    "Ran",
    "descendants",
    "left_of",
    "modal",
    "run",
    "run_module",
    "start",
    "wait_until",
]

LIVE = bool(os.environ.get("MODAL_EMULATOR_TEST_LIVE"))
"""Whether the programs are to run on Modal itself, with this environment's token."""
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Ran:
    """What came of a program.

    Attributes:
        said: what it reported: its lines of the form `["name", value]`, as a dict.
    """

    code: int
    out: str
    err: str

    @property
    def said(self) -> dict[str, Any]:
        lines = [line for line in self.out.splitlines() if line.startswith('["')]
        return dict(json.loads(line) for line in lines)

    def check(self) -> dict[str, Any]:
        """What it reported, if it ended well."""
        assert self.code == 0, f"{self.out}\n{self.err}"
        return self.said


def run(
    name: str,
    environ: Mapping[str, str],
    *arguments: str,
    python: str | Path = sys.executable,
    timeout: float = 590.0,
) -> Ran:
    """Run a program to its end."""
    return _run([str(python), str(PROGRAMS / name), *arguments], environ, PROGRAMS, timeout)


def modal(environ: Mapping[str, str], *arguments: str, cwd: Path = PROGRAMS, timeout: float = 590.0) -> Ran:
    """Run the client's own command."""
    environ = {**environ, "COLUMNS": "300", "NO_COLOR": "1"}
    return _run([sys.executable, "-P", "-m", "modal", *arguments], environ, cwd, timeout)


def start(name: str, environ: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start a program; it has to be waited for."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / name), *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(command: list[str], environ: Mapping[str, str], cwd: Path, timeout: float) -> Ran:
    done = subprocess.run(
        command,
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def run_module(name: str, environ: Mapping[str, str], *arguments: str) -> Ran:
    """Run a package among the programs, as `python -m` does."""
    return _run([sys.executable, "-m", name, *arguments], environ, PROGRAMS, 300.0)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again, until something is so that nobody can tell us of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, those that they have started, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def left_of(server: Emulator) -> dict[str, int]:
    """How much there is of a server: what may grow while it works, and has to shrink again."""
    pid, work = server.pid, Path(server.environ["MODAL_CONFIG_PATH"]).parent
    processes = {pid, *descendants(pid)}
    counts = {
        "processes": len(processes),
        # What is deleted meanwhile is passed over.
        "files": sum(len(folders) + len(files) for _, folders, files in os.walk(work)),
        "descriptors": 0,
        "mounts": 0,
    }
    for each in processes:
        folder = Path(f"/proc/{each}")
        with contextlib.suppress(OSError):  # it may just have ended
            counts["descriptors"] += len([*(folder / "fd").iterdir()])
            counts["mounts"] += len((folder / "mountinfo").read_text().splitlines())
    return counts
