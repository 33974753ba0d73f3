"""What the tests that span packages share."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import uv as uv_package

# The conformance of Ray has the clusters of its package's own tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "packages" / "mini-ray" / "tests"))


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that the lock pins, whichever is on PATH."""
    return uv_package.find_uv_bin()
