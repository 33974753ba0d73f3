"""A cluster for the tests, and an environment without anything of Ray's in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_clusters import RayCluster


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where volumes are, seen by all nodes."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head with two cores, and two nodes more."""
    with RayCluster(2) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.variables.items():
            patch.setenv(name, value)
        yield cluster
