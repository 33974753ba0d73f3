"""Clients, containers and servers that end, or are ended, at a bad moment."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator
from program import descendants

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@covers("TaskResult")
def test_a_container_that_crashes_early_is_not_started_for_ever(environ: Mapping[str, str]) -> None:
    said = program.run("crashes_early.py", environ).check()
    kind, message = said["error"]
    assert kind == "RemoteError"
    assert "exit status 7" in message
    assert 3 <= said["starts"] <= 6
    assert said["map"] == ["RemoteError"]
    assert said["starts for a map"] <= said["starts"] + 8


# --- clients ---


@pytest.fixture(scope="module")
def impatient() -> Iterator[Emulator]:
    """A server that takes a client for gone when it has been silent for a second."""
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    with Emulator(heartbeat_limit=1) as server:
        yield server


@covers("AppHeartbeat")
def test_an_app_ends_when_its_client_is_killed(impatient: Emulator) -> None:
    environ = {**impatient.environ, "MODAL_HEARTBEAT_INTERVAL": "0.2"}
    started = program.run("detached.py", environ, "start", "killed", "killed")
    assert started.code == -signal.SIGKILL, started.err
    read = program.run("detached.py", environ, "read", "killed", started.said["call"], "").check()
    assert "has been stopped" in read["error"][1]

    def apps() -> set[str]:
        return {
            row["app_id"] for row in json.loads(program.modal(environ, "container", "list", "--json").out)
        }

    # An app has stopped before its containers have ended: they are given time to put away what they wrote.
    program.wait_until(lambda: started.said["app"] not in apps())


def test_a_detached_app_goes_on_when_its_client_is_killed(impatient: Emulator) -> None:
    environ = {**impatient.environ, "MODAL_HEARTBEAT_INTERVAL": "0.2"}
    started = program.run("detached.py", environ, "start", "left", "detached", "killed")
    assert started.code == -signal.SIGKILL, started.err

    def state() -> str:
        rows = json.loads(program.modal(environ, "app", "list", "--json").out)
        (found,) = [row["state"] for row in rows if row["app_id"] == started.said["app"]]
        return str(found)

    assert state() == "ephemeral (detached)"  # by now its client has been silent for longer than the limit
    read = program.run("detached.py", environ, "read", "left", started.said["call"], "go").check()
    assert read == {"result": "left: go"}
    program.wait_until(lambda: state() == "stopped")


# --- servers ---


@pytest.mark.parametrize(("how", "waits_in"), [("stop", "remote"), ("kill", "map"), ("kill", "get")])
def test_a_client_hears_that_its_server_is_gone(how: str, waits_in: str) -> None:
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    with Emulator() as server:
        work = Path(server.environ["MODAL_CONFIG_PATH"]).parent
        client = program.start("waits.py", server.environ, waits_in)
        try:
            assert client.stdout is not None
            assert "started" in client.stdout.readline()
            processes = [os.pidfd_open(pid) for pid in descendants(server.pid)]
            assert len(processes) >= 2  # what starts containers, and a container
            began = time.monotonic()
            if how == "stop":
                server.stop()
            else:
                os.kill(server.pid, signal.SIGKILL)
            for process in processes:
                assert select.select([process], [], [], 30)[0], "a process has outlived its server"
                os.close(process)
            _, err = client.communicate(timeout=100)
            assert client.returncode != 0
            assert any(
                word in err for word in ("ConnectionError", "ServiceError", "RemoteError", "InternalFailure")
            ), err
            assert time.monotonic() - began < 60
        finally:
            client.kill()
            client.communicate()
    assert not work.exists()


def test_what_a_server_keeps_is_there_for_the_next(tmp_path: Path) -> None:
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    server = Emulator(state=tmp_path / "state")
    with server:
        calls = program.run("state.py", server.environ, "write").check()["calls"]
        server.stop()
        server.start()
        check_state(program.run("state.py", server.environ, "read", *calls).check())
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        check_state(program.run("state.py", server.environ, "read", *calls).check())


def check_state(said: dict[str, Any]) -> None:
    assert said["finished"] == ["in the volume", "in the secret", "kept", "in the dict", ""]
    assert said["through a blob"] == 3_000_000
    assert said["several"] == [2, [1, 2]]
    kind, message = said["unfinished"]
    assert kind == "InternalFailure"
    assert "stopped before this input had finished" in message
    assert said["called again"] == said["finished"]
    assert said["dict"] == "in the dict"
    assert said["queue"] == [1, 2, 3]
    assert said["volume"] == "in the volume"
