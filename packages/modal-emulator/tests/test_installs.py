"""The image methods that install what a project's files list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator

# Poetry has some fifty packages of its own.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

INSTALLED = {
    "requirements": {"six": "1.16.0", "toolz": "0.12.1"},
    "pyproject": {"six": "1.16.0", "toolz": "0.12.1"},
    "uv without a lock": {"six": "1.16.0", "toolz": "0.12.1", "pluggy": "1.4.0"},
    "uv with a lock": {"six": "1.16.0", "iniconfig": "2.0.0"},
    "poetry without a lock": {"verse": "1.0"},
    "poetry with a lock": {"verse": "1.0", "rhyme": "1.0", "metre": "1.0"},
}


# What builds in either way has tests of its own, test_images_build.py.
@pytest.fixture(scope="module", params=["auto", pytest.param("directories", marks=pytest.mark.soak)])
def said(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    with Emulator(isolation=request.param) as server:
        yield program.run("installs.py", server.environ).check()


@covers("ImageGetOrCreate", "ImageJoinStreaming")
@pytest.mark.parametrize("name", INSTALLED)
def test_what_a_projects_files_list_can_be_imported(said: dict[str, Any], name: str) -> None:
    assert said[name] == INSTALLED[name]
