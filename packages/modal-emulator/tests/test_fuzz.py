"""The wire, fuzzed: whatever comes, the server answers with a status that fits, and goes on."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fuzzing
import program
import pytest
from covers import covers
from grpclib import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modal_emulator import Emulator
from modal_emulator.rpc import SERVICE
from modal_proto import api_pb2
from recorder import recording
from wire import Answer, Wire, ids_in

pytestmark = pytest.mark.slow

# What a server holds for as long as it is asked to, or until something happens.
LONG = {
    "AppGetLogs",
    "ContainerHeartbeat",
    "FunctionCallGetDataOut",
    "FunctionGetOutputs",
    "ImageJoinStreaming",
    "QueueGet",
    "QueueNextItems",
    "TokenFlowWait",
}
# It would take away the token that the test uses.
NOT = {"TokenDelete"}
NAMES = sorted(set(SERVICE.methods_by_name) - NOT)
PATIENCE = 20.0
GROWTH = 250  # MB that a server may have grown by


@dataclass
class Target:
    """A server that has been used, with what was sent to it and the ids of what it has."""

    server: Emulator
    seeds: dict[str, list[bytes]]
    ids: list[str]
    wire: Wire

    def check(self, name: str, request: bytes, seconds: float) -> None:
        answer = self.wire.call(name, request, seconds)
        self.judge(name, request, answer)

    def judge(self, name: str, request: bytes, answer: Answer) -> None:
        said = f"{name} of {request[:500]!r}: {answer.status} {answer.message[:500]}"
        assert self.server.running, said
        if answer.status is None:
            assert name in LONG, f"no answer: {said}"
        assert not answer.is_bug, said
        assert answer.status is not Status.UNAVAILABLE, said


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Emulator() as server:
        with recording(server) as recorder:
            program.run(
                "everything.py", {**server.environ, "MODAL_SERVER_URL": recorder.url}, "test-everything"
            ).check()
        seeds = defaultdict(list)
        for name, request in recorder.requests:
            seeds[name].append(request)
        ids = ids_in([data for _, data in recorder.replies])
        with Wire(server) as wire:
            yield Target(server, seeds, ids, wire)


@pytest.fixture(scope="module")
def resident(target: Target) -> int:
    return memory(target.server.pid)


def memory(pid: int) -> int:
    """The resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 >> 20


def cpu(pid: int) -> int:
    """Ticks that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def structured(target: Target, names: list[str], examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(names).flatmap(
            lambda name: st.tuples(st.just(name), fuzzing.requests(name, target.ids, target.seeds[name]))
        )
    )
    def check(drawn: tuple[str, object]) -> None:
        name, request = drawn
        seconds = 0.05 if name in LONG else PATIENCE
        target.check(name, request.SerializeToString(), seconds)  # type: ignore[attr-defined]

    check()


def raw(target: Target, seed: int, count: int) -> None:
    rng = random.Random(seed)
    all_seeds = [(name, data) for name, seeds in target.seeds.items() for data in seeds]
    others = [data for _, data in all_seeds]

    def calls() -> Iterator[tuple[str, bytes]]:
        for _ in range(count):
            name, data = rng.choice(all_seeds)
            if rng.random() < 0.2:
                name = rng.choice(NAMES)
            yield name, fuzzing.mutated(rng, data, target.ids, others)

    quick: list[tuple[str, bytes]] = []
    slow: list[tuple[str, bytes]] = []
    for name, data in calls():
        (slow if name in LONG else quick).append((name, data))
    for found in (target.wire.all(quick, PATIENCE), target.wire.all(slow, 0.1)):
        for name, data, answer in found:
            target.judge(name, data, answer)


def test_odd_requests_get_answers_that_fit(target: Target, resident: int) -> None:
    structured(target, [name for name in NAMES if done(target, name)], 250)


def test_odd_bytes_get_answers_that_fit(target: Target, resident: int) -> None:
    raw(target, 1, 1200)


@covers("FunctionUpdateSchedulingParams")
def test_a_function_keeps_only_so_many_containers_ready(target: Target) -> None:
    functions = [each for each in target.ids if each.startswith("fu-")]
    for many in (65, 1 << 31):
        override = api_pb2.FunctionUpdateSchedulingParamsRequest(warm_pool_size_override=many)
        settings = api_pb2.AutoscalerSettings(min_containers=many)
        for request in (override, api_pb2.FunctionUpdateSchedulingParamsRequest(settings=settings)):
            request.function_id = functions[-1]
            answer = target.wire.call("FunctionUpdateSchedulingParams", request)
            assert answer.status is Status.INVALID_ARGUMENT, answer


def test_odd_requests_of_a_container_get_answers_that_fit(target: Target) -> None:
    said = program.run("hostile.py", target.server.environ, "400").check()
    assert said["bugs"] == []
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(said["kinds"])


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_odd_requests_get_answers_that_fit(target: Target, resident: int) -> None:
    for name in NAMES:
        structured(target, [name], 30 if done(target, name) else 2)
    raw(target, 2, 8000)


def test_a_fuzzed_server_is_as_good_as_new(target: Target, resident: int) -> None:
    """Runs after the others of this module."""
    assert target.wire.call("ClientHello", b"").status is Status.OK
    program.run("everything.py", target.server.environ, "test-again").check()
    assert memory(target.server.pid) < resident + GROWTH
    for folder in (Path("/"), Path("/tmp"), Path.home(), Path.cwd()):
        assert not list(folder.glob(f"*{fuzzing.CANARY}*"))
    assert "Traceback" not in target.server.log
    # Nothing goes round in circles: there is a while in which it uses little.
    deadline = time.monotonic() + 30
    while True:
        before, began = cpu(target.server.pid), time.monotonic()
        target.wire.call("TokenFlowWait", b"", 0.5)
        time.sleep(0.5)  # what is measured is what it does meanwhile
        if cpu(target.server.pid) - before < 20 * (time.monotonic() - began):
            break
        assert time.monotonic() < deadline, "the server is busy with nothing"


def done(target: Target, name: str) -> bool:
    """Whether the server does this RPC at all."""
    answer = target.wire.call(name, b"", 0.05 if name in LONG else PATIENCE)
    return not (answer.status is Status.UNIMPLEMENTED and f"does not do {name}" in answer.message)
