"""A server for the tests, and an environment without anything of Modal's or of a proxy's in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Modal reads where its file is when it is imported: not the file of whoever runs the tests.
for _name in [*os.environ]:
    if _name.upper().startswith("MODAL_") or _name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        del os.environ[_name]
for _name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CI", "BROWSER", "DISPLAY"):
    os.environ.pop(_name, None)
os.environ["MODAL_CONFIG_PATH"] = str(Path(tempfile.gettempdir(), f"no-such-folder-{os.getpid()}", "modal.toml"))

import pytest  # noqa: E402
from fronts import Fronts  # noqa: E402
from modal_emulator import Emulator  # noqa: E402
from modal_emulator.tls import Authority  # noqa: E402


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """A control plane that speaks no TLS."""
    with Emulator() as emulator:
        yield emulator


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
