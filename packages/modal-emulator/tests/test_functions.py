"""Functions do what they were told: scaling, limits, concurrency, generators, calls of many inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator.runtime.cgroups import Cgroups

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(environ: Mapping[str, str]) -> dict[str, Any]:
    with ThreadPoolExecutor(2) as pool:
        parts = [["generators", "cancelling"], ["calls"], ["scaling"], ["limits"]]
        ran = pool.map(lambda names: program.run("functions.py", environ, *names), parts)
        return {name: value for each in ran for name, value in each.check().items()}


FUNCTIONS: dict[str, Any] = {
    "big items": [3_000_000] * 3,
    "fails in the middle": [0, 1, "in the middle"],
    "left early": [3, [0, 1, 2]],
    "num_inputs": 60,
    "get(index)": [49, 59 * 59],
    "iter": [True, [4, 9]],
    "from_id": [60, 9],
    "spawn_map": ["a", "b"],
    "map left early": [0, 9],
    "deep": [3, 2, 1, 0],
    "running": ["one started", "two started"],
    "told": "one cancelled",
    "the other": "well",
    "the cancelled": "RemoteError",
    "goes on elsewhere": "again",
    "concurrent timeout": ["FunctionTimeoutError", 1, 2],
    "warm before the first call": True,
    "settings": [1, None, 0, 2],
    "updated": [2, 3, 0, 2],
    "two are warm": True,
    "without limits": [0, None, 0, 2],
    "scaled down": True,
    "buffer": True,
    "lambda": 101,
    "closure": 42,
    "class": 8,
    "frames": [["/root/functions.py", "fails"], ["/root/functions.py", "in_a_helper"]],
}


@covers(
    "FunctionMap",
    "FunctionFinishInputs",
    "FunctionCallCancel",
    "FunctionGetCurrentStats",
    "FunctionUpdateSchedulingParams",
    "FunctionGetSchedulingParams",
    "ContainerHeartbeat",
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_does_what_it_was_told(said: dict[str, Any], name: str) -> None:
    assert said[name] == FUNCTIONS[name]


def test_a_generator_has_a_timeout(said: dict[str, Any]) -> None:
    kind, message = said["generator timeout"]
    assert kind == "FunctionTimeoutError"
    assert "2 s" in message


def test_a_function_has_its_words_and_gpu(said: dict[str, Any]) -> None:
    assert said["limits"]["words"] == ["open", "sesame"]
    assert said["limits"]["gpu"] == ["T4", "2"]


def test_a_function_that_takes_too_much_memory_is_told_so(said: dict[str, Any]) -> None:
    kind, message = said["out of memory"]
    assert kind == "RemoteError"
    assert "out of memory" in message
    assert "512 MiB" in message


def test_a_function_gets_no_more_of_a_processor_than_it_may(said: dict[str, Any]) -> None:
    if not program.LIVE:
        with contextlib.closing(Cgroups()) as cgroups:
            if not cgroups.cpu:
                pytest.skip(
                    "no control groups that limit processors can be made here: whole ones are, by affinity"
                )
    # Of 0.25; a period that has begun may be used up at once.
    assert said["throttled"] < 0.32


def test_a_function_may_use_more_than_it_has_asked_for(said: dict[str, Any]) -> None:
    # Of 128 MiB, and 0.25 of a processor: of those there are at most three in any 0.2 s.
    assert said["unlimited"] > 0.5


def test_what_was_reported_is_looked_at(said: dict[str, Any]) -> None:
    assert set(said) == {*FUNCTIONS, "generator timeout", "limits", "throttled", "unlimited", "out of memory"}


@pytest.mark.soak
@pytest.mark.slow
def test_a_map_may_have_many_inputs(environ: Mapping[str, str]) -> None:
    """Half a minute."""
    said = program.run("functions.py", environ, "many").check()
    assert said == {"map of 5000": True, "unordered": sum(x * x for x in range(5000))}


@covers("FunctionCreate")
def test_a_function_serialized_by_another_python_is_refused(environ: Mapping[str, str]) -> None:
    ran = program.run("other_python.py", environ)
    kind, message = ran.check()["refused"]
    assert kind == "InvalidError"
    assert "was serialized by Python" in message
    assert "python_version=" in message
