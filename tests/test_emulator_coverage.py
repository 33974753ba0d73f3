"""The page that says what the emulator does is what its handlers and tests say today.

Making it also fails for a handler of an RPC that does not exist: a slip of the pen in its name.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import make_emulator_coverage  # noqa: E402


def test_the_page_is_up_to_date() -> None:
    assert make_emulator_coverage.PAGE.read_text() == make_emulator_coverage.page(), (
        "run python docs/make_emulator_coverage.py"
    )
