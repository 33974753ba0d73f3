"""Classes and containers that run several inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import program
import pytest
from covers import covers

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(environ: Mapping[str, str]) -> dict[str, Any]:
    return program.run("classes.py", environ).check()


CLASSES: dict[str, Any] = {
    "method": 22,
    "parameter": 33,
    "map": [33, 36],
    "generator": [0, 2, 4],
    "entered": True,
    "concurrent": [[*range(10)], 1],
    "concurrent is quick": True,
    "threads": 1,
    "single use": 2,
    "with_options": 30,
    "exited": True,
}


@covers("ClassCreate", "FunctionBindParams", "FunctionCreate")
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_does_what_it_says(said: dict[str, Any], name: str) -> None:
    assert said[name] == CLASSES[name]


def test_a_function_has_no_more_containers_than_it_may(said: dict[str, Any]) -> None:
    assert said["max_containers"] <= 2
