"""Runs the programs in programs/ as a user would: the unmodified client, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS", "Ran", "run"]

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
        lines = [line for line in self.out.splitlines() if line.startswith("[")]
        return dict(json.loads(line) for line in lines)

    def check(self) -> dict[str, Any]:
        """What it reported, if it ended well."""
        assert self.code == 0, f"{self.out}\n{self.err}"
        return self.said


def run(name: str, environ: Mapping[str, str], *arguments: str, timeout: float = 100.0) -> Ran:
    """Run a program to its end."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / name), *arguments],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
