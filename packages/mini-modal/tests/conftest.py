"""A server for the tests, and an environment without anything of Modal's or of a proxy's in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import surroundings  # first of all

# isort: split

import pytest
from fronts import Fronts
from modal_emulator import Emulator
from modal_emulator.tls import Authority
from places import Place, live


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if surroundings.LIVE:
        skip = pytest.mark.skip(reason="about the emulator or this machine, and MINI_MODAL_LIVE is set")
        for item in items:
            names = getattr(item, "fixturenames", ())
            if "place" not in names or "builder" in names:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    """Where calls run."""
    return live() if surroundings.LIVE else Place.of(request.getfixturevalue("builder"))


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """A control plane that speaks no TLS."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def builder() -> Iterator[Emulator]:
    """One that builds images: it reaches the package index as this machine does.

    Volumes are empty for a while when containers reload them, as at Modal, and are reloaded after each commit.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings.OUTSIDE.items():
            if not name.startswith("MODAL_"):
                patch.setenv(name, value)
        builder = Emulator(reload_seconds=0.05, commits_reload=True).start()
    with builder:
        yield builder


@pytest.fixture(scope="session")
def fronts() -> Iterator[Fronts]:
    with Fronts() as fronts:
        yield fronts


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The CA of a company."""
    return Authority.create("inspector")


@pytest.fixture(scope="session")
def ca(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate, as a file."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture(scope="session")
def tls_url(emulator: Emulator, fronts: Fronts, authority: Authority) -> str:
    """The emulator's address behind TLS, with a certificate that the company's CA has signed."""
    return fronts.open(authority.issue(), emulator.url)
