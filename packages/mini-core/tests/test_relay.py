"""`mini.adapter.Relay`: calls that die, time out or are cancelled cost themselves, and the relay goes on."""

from __future__ import annotations

import marshal
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import mini
import pytest
from mini import wire
from mini.adapter import Relay
from mini.carrier import Task
from mini.conformance.footprint import alive
from mini.local.pool import ProcessPool
from mini.station import PART, RETURNED
from mini.wire import Frames
from mini.worker import GroupHead, ProgramHead
from relay_adapter import RelayApparatus


@pytest.fixture
def app(tmp_path: Path) -> Iterator[mini.Apparatus]:
    with RelayApparatus("relayed", max_workers=2, data_dir=str(tmp_path)).w(progress=False) as app:
        yield app


def test_calls_run_in_processes_of_their_own(app: mini.Apparatus) -> None:
    assert app.run(os.getpid) != os.getpid()


def test_tiny_calls_are_grouped_and_keep_their_order(app: mini.Apparatus) -> None:
    assert list(app.map(lambda x: x * x, range(20_000))) == [x * x for x in range(20_000)]


def test_a_call_that_dies_costs_itself_and_no_other_runs_twice(app: mini.Apparatus, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def fragile(x: int) -> int:
        with ran.open("a") as file:
            file.write(f"{x}\n")
        if x == 57:
            os._exit(3)
        return x

    outcomes = list(app.map(fragile, range(100), return_exceptions=True))
    assert [x for x in outcomes if not isinstance(x, BaseException)] == [x for x in range(100) if x != 57]
    assert isinstance(outcomes[57], mini.WorkerLost)
    assert sorted(map(int, ran.read_text().split())) == [*range(100)]


def test_a_timeout_ends_the_call(app: mini.Apparatus) -> None:
    with pytest.raises(mini.JobTimeout):
        app.w(timeout=0.2).run(time.sleep, 60)
    assert app.run(abs, -1) == 1


def test_a_stream_comes_as_it_is_yielded_and_ends_when_nobody_wants_more(
    app: mini.Apparatus, tmp_path: Path
) -> None:
    yielded = tmp_path / "yielded"

    def count() -> Iterator[int]:
        for i in range(10**9):
            yielded.write_text(str(i))
            yield i

    stream = app.w(window=4).stream(count)
    assert [next(stream) for _ in range(10)] == [*range(10)]
    stream.close()
    assert app.run(abs, -1) == 1  # the worker is free again
    assert int(yielded.read_text()) < 100


def test_what_has_not_started_of_a_map_that_is_left_is_not_run(app: mini.Apparatus, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ran.touch()

    def note(x: int) -> int:
        with ran.open("a") as file:
            file.write(f"{x}\n")
        return x

    for x in app.w(window=1000).map(note, range(10**9)):
        if x == 100:
            break
    assert app.run(abs, -1) == 1
    assert len(ran.read_text().split()) < 10_000


def test_errors_and_reports_come_through(app: mini.Apparatus) -> None:
    def failing(x: int) -> None:
        print(f"input {x}")
        raise ValueError(x)

    with pytest.raises(ValueError, match="3"):
        app.run(failing, 3)
    assert [line.text for line in app.logs()] == ["input 3"]


def test_a_large_constant_goes_to_each_process_whole(app: mini.Apparatus) -> None:
    data = os.urandom(3_000_000)
    assert list(app.map(lambda i, data: data[i], range(20), kwargs={"data": data})) == [*data[:20]]


def test_nothing_is_left_when_it_is_closed(tmp_path: Path) -> None:
    with RelayApparatus("relayed", max_workers=2, data_dir=str(tmp_path)) as app:
        pids = set(app.w(progress=False, chunk=1).map(lambda _: os.getpid(), range(4)))
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def two_groups() -> tuple[Frames, Frames]:
    """Of one flow; only the first one brings the program."""
    program = wire.pack_program(abs, {}, (), mode="call")
    task = Task(ProgramHead("flow", "call", None, "app", None, 1), program)
    payload = wire.pack_rows([(-1,)]).frames
    first, second = (
        [marshal.dumps((GroupHead(n, "flow", n, 1, 1).pack(), head, len(frames), True)), *frames, *payload]
        for n, head, frames in ((1, task.head.pack(), program.frames), (2, None, []))
    )
    return first, second


@pytest.fixture
def said() -> Queue[Frames]:
    return Queue()


@pytest.fixture
def relay(said: Queue[Frames]) -> Iterator[Relay]:
    relay = Relay(ProcessPool(1, {}), lambda group, message: said.put(message))
    yield relay
    relay.close()


def heads(said: Queue[Frames]) -> list[tuple[int, int]]:
    """Kind and group of what was said."""
    return [marshal.loads(said.get()[0])[:2] for _ in range(said.qsize())]


def test_a_group_may_overtake_the_one_that_brings_its_program(relay: Relay, said: Queue[Frames]) -> None:
    first, second = two_groups()
    with ThreadPoolExecutor(2) as threads:
        late = threads.submit(relay.run, second)
        relay.run(first)
        late.result(20)
    assert sorted(heads(said)) == [(PART, 1), (PART, 2)]


def test_several_groups_may_come_at_once(relay: Relay, said: Queue[Frames]) -> None:
    assert relay.run_all(two_groups()) == [None, None]
    assert heads(said) == [(PART, 1), (PART, 2)]


def test_what_is_given_back_before_it_comes_needs_no_program(relay: Relay, said: Queue[Frames]) -> None:
    first, second = two_groups()
    relay.give_back(2)
    relay.run(second)
    assert relay.run_all([first]) == [None]
    assert heads(said) == [(RETURNED, 2), (PART, 1)]
