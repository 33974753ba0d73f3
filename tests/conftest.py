"""What the tests that span packages share."""

from __future__ import annotations

from pathlib import Path

import pytest
import uv as uv_package


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that the lock pins, whichever is on PATH."""
    return uv_package.find_uv_bin()
