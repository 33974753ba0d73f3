"""Fixtures for pytest: a server for the tests of a session, and the environment that makes a client use it.

They are there when modal-emulator is installed. Options of the server come from the ini option `modal_emulator`, as on
the command line of `modal-emulator serve`:

```toml
[tool.pytest.ini_options]
modal_emulator = "--isolation=directories --skip-apt"
```

or from the fixture `modal_emulator_options`, which a conftest.py overrides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

# pytest loads this module in every run of an environment that modal-emulator is installed in: it imports nothing else.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from .emulator import Emulator

__all__ = ["modal_emulator", "modal_emulator_options", "modal_environ"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "modal_emulator",
        "options of the server, as `modal-emulator serve` takes them",
        type="args",
        default=[],
    )


@pytest.fixture(scope="session")
def modal_emulator_options(pytestconfig: pytest.Config) -> Mapping[str, Any]:
    """What the server of the tests is started with: arguments of `Emulator`. Override it for others than the ini's."""
    from .cli import emulator_options

    try:
        return emulator_options(pytestconfig.getini("modal_emulator"))
    except ValueError as exc:
        raise pytest.UsageError(f"modal_emulator in {pytestconfig.inipath}: {exc}") from None


@pytest.fixture(scope="session")
def modal_emulator(modal_emulator_options: Mapping[str, Any]) -> Iterator[Emulator]:
    """A server, from the first test that asks for it to the end of the session."""
    from .emulator import Emulator

    with Emulator(**modal_emulator_options) as emulator:
        yield emulator


@pytest.fixture
def modal_environ(modal_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Has this process, and what it starts, use the server for one test; the environment of it.

    Modal's client reads where its configuration file is when it is imported, and keeps its connection for good: a test
    that has used another server in the same process goes on with that one.
    """
    for name, value in modal_emulator.variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return os.environ
