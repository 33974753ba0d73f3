"""The version of the client before the one that is installed here works as well."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import program
import pytest
import uv
from modal_emulator import Emulator

OTHER = "1.6.3"


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with another version of the client, from the package index."""
    if version("modal") == OTHER:
        pytest.skip(f"modal {OTHER} is what is installed here")
    folder = tmp_path_factory.mktemp("client") / "venv"
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--python", str(folder), f"modal=={OTHER}"],
    ):
        subprocess.run([uv.find_uv_bin(), *command], check=True, timeout=300)
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    ["calls.py", *(pytest.param(name, marks=pytest.mark.soak) for name in ("classes.py", "failures.py"))],
)
def test_the_same_programs_give_the_same_with_another_client(
    server: Emulator, other_python: Path, name: str
) -> None:
    """About a minute in all."""
    ours = program.run(name, server.environ).check()
    theirs = program.run(name, server.environ, python=other_python, timeout=300).check()
    assert [*theirs] == [*ours]
    for each in (
        "map",
        "nested",
        "through blobs",
        "generator",
        "method",
        "concurrent",
        "retried",
        "died once",
    ):
        assert theirs.get(each) == ours.get(each)
