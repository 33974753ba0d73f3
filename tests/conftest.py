"""What the tests that span packages share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import uv as uv_package

# The modules that take longest, the longest first, because one that is begun last goes on when all others are done;
# and not all that start clusters of Ray at once.
LONGEST = [
    "test_ray_jobs.py",
    "test_modal_jobs.py",
    "test_docs.py",
    "test_environment.py",
    "test_outages.py",
    "test_adapter.py",
    "test_cluster_failures.py",
    "test_third_party_adapter.py",
    "test_cli_jobs.py",
    "test_apps.py",
    "test_kit_can_fail.py",
    "test_objects.py",
    "test_installs.py",
    "test_endings.py",
    "test_readme.py",
    "test_examples.py",
    "test_image.py",
    "test_clusters.py",
    "test_from_wheels.py",
    "test_storage.py",
    "test_cli.py",
]

# The conformance of Ray has the clusters of its package's own tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "packages" / "mini-ray" / "tests"))


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that the lock pins, whichever is on PATH."""
    return uv_package.find_uv_bin()


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, root: Path, uv: str) -> Path:
    """A folder with the wheel and the sdist of every package: those in MINI_DIST, or else built here."""
    # uv takes an archive in a folder of them for the one that it has seen under that path: no path may come twice.
    out = Path(tempfile.mkdtemp(prefix="dist-", dir=tmp_path_factory.getbasetemp()))
    if built := os.environ.get("MINI_DIST"):
        shutil.copytree(built, out, dirs_exist_ok=True)
    else:
        subprocess.run([uv, "build", "-q", "--all-packages", "--out-dir", out], cwd=root, check=True)
    return out
