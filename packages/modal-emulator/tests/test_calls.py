"""Functions are called in every way that the client has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def said(environ: Mapping[str, str]) -> dict[str, Any]:
    return program.run("calls.py", environ).check()


CALLS: dict[str, Any] = {
    "remote": 49,
    "local": 49,
    "map": [x * x for x in range(20)],
    "unordered": [x * x for x in range(20)],
    "map of none": [],
    "starmap": [3, 7],
    "two iterables": [11, 22],
    "kwargs": [6, 7],
    "for_each": None,
    "error": ["Unusual", [3, "a multiple of three"], "a multiple of three"],
    "error in map": ["Unusual", [3, "a multiple of three"], "a multiple of three"],
    "return_exceptions": ["1", "2", "(3, 'a multiple of three')", "4"],
    "generator": [*range(50)],
    "async generator": [*range(5)],
    "async": 2,
    "nested": [0, 1, 4, 9],
    "through blobs": True,
    "spawn": 81,
    "from_id": 81,
    "gather": [0, 1, 4],
    "call graph": ["nested", ["square", "square"]],
    "aio": [0, 1, 4, 9, 16],
}


@covers(
    "FunctionMap",
    "FunctionPutInputs",
    "FunctionGetOutputs",
    "FunctionGetInputs",
    "FunctionPutOutputs",
    "FunctionCallPutDataOut",
    "FunctionCallGetDataOut",
    "FunctionCallFromId",
    "FunctionGetCallGraph",
    "BlobCreate",
    "BlobGet",
    "ClientHello",
    "EnvironmentGetOrCreate",
    "MountBatchedCheckExistence",
)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_the_function_gives(said: dict[str, Any], name: str) -> None:
    assert said[name] == CALLS[name]


@covers("ImageGetOrCreate", "ContainerHello", "MountGetOrCreate", "MountPutFile")
def test_a_function_runs_in_a_container_of_its_image(said: dict[str, Any]) -> None:
    there = said["surroundings"]
    assert there["python"] == [*sys.version_info[:2]]
    assert there["remote"] == "1"
    assert there["task"] == "ta-"
    assert not there["local"]


def test_a_container_has_no_token(said: dict[str, Any]) -> None:
    assert said["surroundings"]["tokens"] == []


def test_programs_leave_nothing_undone(said: dict[str, Any]) -> None:
    assert set(CALLS) | {"surroundings"} == set(said)


@covers("FunctionMap", "FunctionPutInputs")
def test_no_more_inputs_wait_for_a_container_than_may() -> None:
    if program.LIVE:
        pytest.skip("Modal's limit is larger")
    with Emulator(pending_limit=2) as emulator:
        said = program.run("backlog.py", emulator.environ).check()
    assert "2 inputs of held wait for a container, of 2 that may" in said.pop("refused")
    assert said == {"taken": [0, 1, 2], "spawned": 4, "map": [*range(20)]}
