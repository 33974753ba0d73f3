"""Servers for the tests, and the real client against them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import modal
import pytest
from containers import Lab, new_lab
from modal_emulator import Emulator
from modal_emulator.settings import Settings
from program import LIVE
from storage_plane import Plane, connected, serving


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[Emulator]:
    """A whole server, in a process of its own."""
    if LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    with Emulator() as server:
        yield server


@pytest.fixture(scope="session")
def environ(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The environment of programs that would run on Modal just as well, and with MODAL_EMULATOR_TEST_LIVE=1 do."""
    if LIVE:
        return dict(os.environ)
    server: Emulator = request.getfixturevalue("server")
    return server.environ


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A server that nothing outlives, shared by the tests that leave it usable."""
    work = tmp_path_factory.mktemp("emulator")
    with serving(Settings(work=work, cache=work / "cache")) as plane:
        yield plane


@pytest.fixture(scope="session")
def emulator(plane: Plane) -> dict[str, str]:
    """The environment variables that make a client use the server."""
    return plane.environ


@pytest.fixture(scope="session")
def client(emulator: dict[str, str]) -> Iterator[modal.Client]:
    with connected(emulator) as client:
        yield client


@pytest.fixture(scope="module", params=["namespaces", "directories"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Containers in each of the two ways."""
    yield from new_lab(request.param, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Containers that see nothing of the machine."""
    yield from new_lab("namespaces", tmp_path_factory.mktemp("lab"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for the object of one test."""
    return str(request.node.name).replace("[", "-").replace("]", "").replace("_", "-")[:60]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
