"""Calls that fail, time out, are cancelled or lose their container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import program
import pytest
from covers import covers
from modal_proto import api_pb2

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(environ: Mapping[str, str]) -> dict[str, Any]:
    return program.run("failures.py", environ).check()


def test_a_call_is_retried_until_it_succeeds(said: dict[str, Any]) -> None:
    assert said["retried"] == 3


def test_the_last_error_of_a_retried_call_is_raised(said: dict[str, Any]) -> None:
    assert said["retried in vain"] == ["ValueError", "attempt 2"]


def test_a_timeout_is_raised_as_such(said: dict[str, Any]) -> None:
    kind, message = said["timeout"]
    assert kind == "FunctionTimeoutError"
    assert "2 s" in message


def test_a_get_that_times_out_leaves_the_call_alone(said: dict[str, Any]) -> None:
    assert said["get with timeout"][0] == "TimeoutError"


@covers("FunctionCallCancel", "ContainerHeartbeat")
def test_a_cancelled_call_raises(said: dict[str, Any]) -> None:
    kind, message = said["cancelled"]
    assert kind == "RemoteError"
    assert "cancelled" in message


def test_a_call_whose_container_is_killed_is_tried_again_and_then_fails(said: dict[str, Any]) -> None:
    kind, message = said["killed"]
    assert kind == "InternalFailure"
    assert "signal 9" in message
    assert said["killed so often"] == 3


def test_a_call_survives_the_end_of_its_container(said: dict[str, Any]) -> None:
    assert said["died once"] == 3


def test_an_input_whose_container_is_gone_goes_to_one_that_waits(said: dict[str, Any]) -> None:
    assert said["greedy"] == "elsewhere"
    assert said["greedy's seconds"] < 30  # a container that nobody calls ends after twice as long


@covers("TaskGetInfo")
def test_a_container_that_was_out_of_memory_says_so(said: dict[str, Any]) -> None:
    status, message = said["greedy's end"]
    assert status == api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL
    assert "out of memory" in message


@covers("TaskResult")
def test_a_function_that_cannot_be_imported_fails_its_calls(environ: Mapping[str, str]) -> None:
    ran = program.run("broken_import.py", environ)
    assert ran.code != 0
    assert "ImportError: only at home" in ran.err
