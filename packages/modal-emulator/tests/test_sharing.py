"""A volume between containers: what is not committed is not seen elsewhere, what is not reloaded is not seen here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator


@pytest.fixture(scope="module", params=["1", "2"])
def said(request: pytest.FixtureRequest, environ: Mapping[str, str]) -> dict[str, Any]:
    return program.run("sharing.py", environ, request.param).check()


@covers("VolumeCommit", "VolumeReload", "VolumeGetOrCreate", "VolumePutFiles", "VolumePutFiles2")
def test_visibility_is_modals(said: dict[str, Any]) -> None:
    assert said == {
        "at first": [],
        "not committed": [],
        "not reloaded": [],
        "reloaded": ["a", "b"],
        "outside": ["a", "b"],
        "read only": "OSError",
        "uploaded": ["a", "b", "from-outside"],
        "before the end": ["a", "b", "from-outside"],
    }


def test_volumes_and_answers_may_be_as_unkind_as_modals() -> None:
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    with Emulator(reload_seconds=0.3, commits_reload=True, lost_answers=["DictUpdate"]) as server:
        said = program.run("reloads.py", server.environ).check()
    assert said == {
        "closed": "committed",
        "open": "there are open files preventing the operation",
        "kept": "1",
        "watched": [True, False, True],
        "added": [False, 1],  # by itself: its client has asked again
    }
