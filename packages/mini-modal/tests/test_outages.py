"""What becomes of calls when containers, tokens, the way to Modal or the caller go away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import mini
import pytest
from fronts import Fronts
from mini_modal import ModalApparatus
from modal_emulator import Emulator
from places import Place
from scripts import PATIENCE, Script, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SQUARES = """
    import time
    import mini
    from mini_modal import ModalApparatus

    def square(x):
        time.sleep(0.05)
        return x * x

    with ModalApparatus("NAME", max_workers=2).w(progress=False, window=64) as app:
        try:
            for number, result in enumerate(app.map(square, range(COUNT))):
                assert result == number * number
                print(result)
        except mini.MiniError as exc:
            print(type(exc).__name__, exc)
    print("end")
"""


@pytest.fixture(scope="module")
def app(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalApparatus]:
    with place.apparatus("test-failures", tmp_path_factory.mktemp("no-project")) as app:
        yield app


def squares(name: str, count: int) -> str:
    return SQUARES.replace("NAME", name).replace("COUNT", str(count))


def modal(place: Place, *arguments: str) -> list[dict[str, str]]:
    """What Modal's own command says, run as a user does."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "modal", *arguments, "--json"],
        env=place.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


# --- memory: what Modal itself makes of a container that has too little, nobody has seen yet ---

LITTLE = {"memory": (300, 300)}


def test_a_call_may_take_more_memory_than_is_reserved_for_it(app: ModalApparatus) -> None:
    assert app.w(memory=300).run(lambda: len(bytes(range(256)) * (700 << 12))) == 700 << 20


def test_a_call_that_takes_more_memory_than_there_is_says_so(app: ModalApparatus, builder: Emulator) -> None:
    def greedy(x: int) -> int:
        taken = [bytearray(16 << 20) for _ in range(1000)] if x == 1 else []
        return len(taken) + x

    outcomes = list(app.w(modal=LITTLE).map(greedy, range(3), return_exceptions=True))
    check_memory(app, outcomes)


def test_a_container_that_runs_out_of_memory_says_so(app: ModalApparatus, builder: Emulator) -> None:
    def greedy(x: int) -> int:
        if x == 1:
            # Now the kernel rather kills the container's own process than the call's.
            Path(f"/proc/{os.getppid()}/oom_score_adj").write_text("1000")
            taken = [bytearray(16 << 20) for _ in range(1000)]
            return len(taken)
        return x

    outcomes = list(app.w(modal=LITTLE, chunk=1).map(greedy, range(3), return_exceptions=True))
    check_memory(app, outcomes)


def check_memory(app: ModalApparatus, outcomes: Sequence[object]) -> None:
    """Of three calls the one in the middle was out of memory, and says so."""
    assert [outcomes[0], outcomes[2]] == [0, 2]
    assert isinstance(outcomes[1], mini.WorkerLost)
    assert "out of memory" in str(outcomes[1])
    failures = [record.failure for record in app.records() if record.failure is not None]
    assert [(failure.index, failure.kind) for failure in failures][-1] == (1, "out-of-memory")


def test_a_timeout_of_modals_own_is_a_timeout(app: ModalApparatus) -> None:
    def sleepy(x: int) -> int:
        if x == 1:
            signal.pause()
        return x

    # It counts what a container does before its first call as well, which takes a while on a busy machine.
    outcomes = list(app.w(modal={"timeout": 10}, chunk=1).map(sleepy, range(3), return_exceptions=True))
    assert [outcomes[0], outcomes[2]] == [0, 2]
    assert isinstance(outcomes[1], mini.JobTimeout)


# --- the token ---


def test_a_token_that_is_revoked_meanwhile_ends_the_map(tmp_path: Path) -> None:
    with Emulator() as emulator, Script(tmp_path, squares("revoked", 100_000), emulator.environ) as script:
        assert script.line() == "0"
        revoke(emulator)
        assert script.finish(30) == 0
    assert script.out[-1] == "end"
    assert script.out[-2].startswith("AuthError Modal says: ")
    assert "mini auth modal" in script.out[-2]
    assert emulator.token[1] not in "".join(script.out + script.err)


def revoke(emulator: Emulator) -> None:
    """As somebody does on Modal's pages."""
    from grpclib.client import Channel
    from modal_proto import api_pb2
    from modal_proto.api_grpc import ModalClientStub

    async def delete() -> None:
        channel = Channel("127.0.0.1", int(emulator.url.rpartition(":")[2]))
        try:
            names = ("x-modal-token-id", "x-modal-token-secret")
            await ModalClientStub(channel).TokenDelete(
                api_pb2.TokenDeleteRequest(token_id=emulator.token[0]),
                metadata=dict(zip(names, emulator.token, strict=True)),
                timeout=PATIENCE,
            )
        finally:
            channel.close()

    asyncio.run(delete())


# --- the way to Modal ---

# The map is to go on for longer than its window, which has arrived meanwhile.
OUTAGES = [(3, 100), pytest.param(20, 400, marks=pytest.mark.soak)]


@pytest.mark.parametrize(("seconds", "count"), OUTAGES)
def test_a_map_goes_on_after_the_control_plane_was_gone(
    seconds: float, count: int, builder: Emulator, fronts: Fronts, tmp_path: Path
) -> None:
    link = fronts.link(builder.url)
    env = {**builder.environ, "MODAL_SERVER_URL": link.url}
    with Script(tmp_path, squares("cut", count), env) as script:
        assert script.line() == "0"
        link.cut()
        fronts.run(asyncio.sleep(seconds))
        link.mend()
        assert script.finish() == 0
    assert script.out == [*(str(x * x) for x in range(count)), "end"]


@pytest.mark.parametrize(("seconds", "count"), OUTAGES)
def test_a_map_goes_on_after_the_control_plane_did_not_answer(
    seconds: float, count: int, builder: Emulator, fronts: Fronts, tmp_path: Path
) -> None:
    with Script(tmp_path, squares("stopped", count), builder.environ) as script:
        assert script.line() == "0"
        os.kill(builder.pid, signal.SIGSTOP)
        try:
            fronts.run(asyncio.sleep(seconds))
        finally:
            os.kill(builder.pid, signal.SIGCONT)
        assert script.finish() == 0
    assert script.out == [*(str(x * x) for x in range(count)), "end"]


@pytest.mark.soak
def test_a_control_plane_that_does_not_come_back_ends_the_map(
    builder: Emulator, fronts: Fronts, tmp_path: Path
) -> None:
    link = fronts.link(builder.url)
    env = {**builder.environ, "MODAL_SERVER_URL": link.url}
    with Script(tmp_path, squares("gone", 100_000), env) as script:
        assert script.line() == "0"
        link.cut()
        assert script.finish(180) == 0
    assert script.out[-1] == "end"
    assert script.out[-2].startswith("BackendUnavailable 127.0.0.1 refuses connections")


TALK = """
    import time
    from mini_modal import ModalApparatus

    def talk(x):
        for number in range(20):
            print(x, number)
            time.sleep(0.1)
        return x

    with ModalApparatus("talk", max_workers=2).w(progress=False) as app:
        for result in app.map(talk, range(6)):
            print(result)
        print(sorted(line.text for line in app.logs()) == sorted(f"{x} {n}" for x in range(6) for n in range(20)))
"""


def test_what_calls_say_while_the_control_plane_is_gone_is_not_lost(
    builder: Emulator, fronts: Fronts, tmp_path: Path
) -> None:
    link = fronts.link(builder.url)
    with Script(tmp_path, TALK, {**builder.environ, "MODAL_SERVER_URL": link.url}) as script:
        assert script.line() == "0"
        for _ in range(3):
            link.cut()
            fronts.run(asyncio.sleep(0.7))
            link.mend()
            fronts.run(asyncio.sleep(0.3))
        assert script.finish() == 0
    assert script.out == ["0", "1", "2", "3", "4", "5", "True"]


def test_a_call_goes_on_though_nobody_was_told_that_it_is_its_containers(tmp_path: Path) -> None:
    with (
        Emulator(lost_answers=["DictUpdate"]) as emulator,
        Script(tmp_path, squares("claimed", 3), emulator.environ) as script,
    ):
        assert script.finish() == 0
    assert script.out == ["0", "1", "4", "end"]


# --- much ---


def test_large_arguments_and_results(app: ModalApparatus) -> None:
    def turned(data: bytes) -> bytes:
        return data[::-1]

    data = bytes(range(256)) * (200_000_000 // 256)
    assert app.run(turned, data) == data[::-1]


def test_large_results_of_calls_that_take_a_while(app: ModalApparatus) -> None:
    import hashlib

    def noise(x: int) -> bytes:
        import random
        import time

        time.sleep(0.4)  # after this long a result is sent before its group has ended
        return random.Random(x).randbytes(1 << 20) * 130

    wanted = [hashlib.sha256(noise(x)).digest() for x in range(2)]
    found = [hashlib.sha256(data).digest() for data in app.w(max_workers=1).map(noise, range(2))]
    assert found == wanted
    assert [hashlib.sha256(data).digest() for data in app.stream(lambda: map(noise, range(2)))] == wanted


# --- the caller ---


def test_ctrl_c_leaves_nothing_running(place: Place, tmp_path: Path) -> None:
    with Script(tmp_path, squares("interrupted", 100_000), place.environ) as script:
        assert script.line() == "0"
        script.interrupt()
        assert script.finish() != 0
    assert "KeyboardInterrupt" in "".join(script.err)
    assert "end" not in script.out
    mine = [row for row in modal(place, "app", "list") if row["description"] == "mini-interrupted"]
    assert {row["state"] for row in mine} == {"stopped"}
    ids = {row["app_id"] for row in mine}
    wait_until(lambda: not [row for row in modal(place, "container", "list") if row["app_id"] in ids])


WITH_A_CONSTANT = """
    import os
    import time
    from mini_modal import ModalApparatus

    data = os.urandom(1_000_000)
    with ModalApparatus("killed", max_workers=1).w(progress=False, window=4) as app:
        results = app.map(lambda i, data: data[i], range(10**9), kwargs={"data": data})
        assert next(results) == data[0]
        print("begin", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.05)
        assert [next(results) for _ in range(9)] == [*data[1:10]]
        results.close()
    print("end", flush=True)
"""


def test_what_a_killed_caller_leaves_in_the_volume_is_removed_by_the_next(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("runs", "killed", "next")}
    for folder in folders.values():
        folder.mkdir()
    with Emulator(heartbeat_limit=2) as emulator:
        environ = {**emulator.environ, "MODAL_HEARTBEAT_INTERVAL": "0.2"}
        there = Place.of(emulator)

        def constants() -> set[str]:
            rows = modal(there, "volume", "ls", "mini-killed", "/.mini-constants")
            return {row["filename"] for row in rows}

        with Script(folders["runs"], WITH_A_CONSTANT, environ) as runs:
            assert runs.line() == "begin"
            needed = constants()
            with Script(folders["killed"], WITH_A_CONSTANT, environ) as killed:
                assert killed.line() == "begin"
            left = constants() - needed
            assert (len(needed), len(left)) == (1, 1)
            wait_until(lambda: [row["state"] for row in modal(there, "app", "list")].count("stopped") == 1)
            with Script(folders["next"], WITH_A_CONSTANT, environ) as after:
                assert after.line() == "begin"
                wait_until(lambda: not left & constants())
                assert needed < constants()
                for script, name in ((after, "next"), (runs, "runs")):
                    (folders[name] / "go").touch()
                    assert script.finish() == 0, script.err
        assert constants() == set()


BUILDING = """
    import modal
    from mini_modal import ModalApparatus

    image = modal.Image.debian_slim(python_version="VERSION").run_commands("sleep SECONDS")
    with ModalApparatus("building").w(progress=False, image=image) as app:
        print("begin")
        app.run(abs, -1)
    print("end")
"""


def test_ctrl_c_while_the_image_is_built(builder: Emulator, tmp_path: Path) -> None:
    """The builder's `sleep` is known by its seconds; what becomes of the build is up to Modal."""
    seconds = f"{600 + os.getpid()}.25"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = BUILDING.replace("VERSION", version).replace("SECONDS", seconds)
    with Script(tmp_path, text, Place.of(builder).environ) as script:
        assert script.line() == "begin"
        wait_until(lambda: ["sleep", seconds] in command_lines())
        script.interrupt()
        assert script.finish(20) != 0
    assert "KeyboardInterrupt" in "".join(script.err)
    assert "end" not in script.out
    mine = [row for row in modal(Place.of(builder), "app", "list") if row["description"] == "mini-building"]
    assert {row["state"] for row in mine} <= {"stopped"}


def command_lines() -> list[list[str]]:
    """Those of all processes here."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace").split("\0")[:-1])
    return lines


# --- more than Modal takes at a time ---

FULL = """
    import logging
    import os
    import sys
    import time
    import mini
    from mini_modal import ModalApparatus

    logging.basicConfig(stream=sys.stdout, format="%(message)s")

    def square(x):
        if x == 0 and HELD:
            time.sleep(600)
        return x * x

    try:
        with ModalApparatus("full", max_workers=WORKERS).w(progress=False, chunk=1) as app:
            for result in app.map(square, range(24), return_exceptions=True):
                print(result)
    finally:
        print("end")
"""


@pytest.fixture(scope="module")
def full() -> Iterator[Emulator]:
    """A control plane where one input of a function may wait for a container."""
    with Emulator(pending_limit=1) as emulator:
        yield emulator


def test_a_map_waits_while_modal_takes_no_more_calls(full: Emulator, tmp_path: Path) -> None:
    text = FULL.replace("HELD", "False").replace("WORKERS", "3")
    with Script(tmp_path, text, full.environ) as script:
        assert script.finish() == 0, script.err
    told = [line for line in script.out if line.startswith("Modal limits how many calls may wait")]
    assert len(told) == 1
    assert [line for line in script.out if line not in told] == [*(str(x * x) for x in range(24)), "end"]


def test_ctrl_c_ends_calls_that_modal_does_not_take(full: Emulator, tmp_path: Path) -> None:
    text = FULL.replace("HELD", "True").replace("WORKERS", "3")
    with Script(tmp_path, text, full.environ) as script:
        assert script.line().startswith("Modal limits how many calls may wait")
        script.interrupt()
        assert script.finish(20) != 0
    assert script.out[-1] == "end"
    assert "KeyboardInterrupt" in "".join(script.err)


ASKED = """
    import logging
    import time
    from concurrent.futures import ThreadPoolExecutor
    import modal
    from mini_modal.asking import ask, this_client

    app = modal.App("asked")
    gate = modal.Queue.from_name("asked", create_if_missing=True)

    @app.function(serialized=True, max_containers=1)
    def held(x):
        import modal
        modal.Queue.from_name("asked").get()
        return x

    class Opener(logging.Handler):
        def emit(self, record):
            print(record.getMessage(), flush=True)
            gate.put_many([True] * 3)

    def wait_for(name):
        while not getattr(held.get_current_stats(), name):
            time.sleep(0.01)

    logging.getLogger("mini").addHandler(Opener())
    with app.run(client=this_client()), ThreadPoolExecutor() as threads:
        gate.put(True)
        held.remote(0)
        first = threads.submit(held.remote, 1)
        wait_for("num_running_inputs")
        second = threads.submit(held.remote, 2)
        wait_for("backlog")
        print([ask(lambda: held.remote(3)), first.result(), second.result()], flush=True)
"""


def test_what_modal_refuses_for_now_is_asked_again(full: Emulator, tmp_path: Path) -> None:
    with Script(tmp_path, ASKED, full.environ) as script:
        assert script.finish() == 0, script.err
    assert script.out == ["Modal limits how fast it is asked; it is asked again", "[3, 1, 2]"]
