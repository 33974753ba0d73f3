"""The part of the command line that all suites have."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["end_well", "options_for"]


def options_for(
    suite: str, about: str | None, scenarios: Iterable[str], page: Path
) -> argparse.ArgumentParser:
    """A parser with the options of every suite."""
    parser = argparse.ArgumentParser(prog=f"./go bench {suite}", description=about)
    parser.add_argument(
        "--only", action="append", choices=list(scenarios), help="a scenario; may be given several times"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: to try the benchmark itself"
    )
    parser.add_argument("--rounds", type=int, help="rounds, if not those of the effort")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"write docs/{page.name}; only of a whole run"
    )
    return parser


def end_well() -> None:
    """Have SIGTERM and SIGHUP end this process as an exception does, so that it clears away what it has started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
