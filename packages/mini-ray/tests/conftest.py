"""A cluster for the tests, and an environment without anything of Ray's in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mini.conformance.probes import Gate, Tally
from ray_clusters import RayCluster, running


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]


PATIENCE = 180.0
"""Seconds. Clusters take their time, the more so on a machine that has other things to do."""


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    return Tally(str(tmp_path / "tally"))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(str(tmp_path / "gate"), PATIENCE)
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where volumes are, seen by all nodes."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head with two cores, and two nodes more."""
    with running(RayCluster(2)) as cluster:
        yield cluster
