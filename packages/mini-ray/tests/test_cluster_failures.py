"""What happens when something of a cluster dies, cannot be reached, or has no room."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mini
import pytest
from mini.conformance.probes import Gate, Tally, in_background
from mini_ray import RayApparatus
from ray_clusters import RayCluster, RayNode, running

# Each starts nodes, or waits for what Ray makes of their end.
pytestmark = pytest.mark.slow

PATIENCE = 60.0


@pytest.fixture
def app(cluster: RayCluster, storage: Path) -> Iterator[mini.Apparatus]:
    with RayApparatus("failures", cluster.address, storage).w(progress=False) as app:
        yield app


@pytest.fixture
def find_victim(cluster: RayCluster) -> Iterator[Callable[[Tally], tuple[RayNode, list[int]]]]:
    """Finds a node to kill, not the head, and those of the processes in a tally that it has. There is another one
    afterwards. Where workers come to be is up to Ray in the end."""

    def find(tally: Tally) -> tuple[RayNode, list[int]]:
        running = set(map(int, tally.read()))
        found = [(node, sorted(running & node.pids)) for node in cluster.nodes[1:]]
        return max(found, key=lambda each: len(each[1]))

    yield find
    cluster.add_node()


def test_workers_are_spread_over_the_nodes(app: mini.Apparatus, tmp_path: Path) -> None:
    tally, gate = Tally(str(tmp_path / "tally")), Gate(str(tmp_path / "gate"), PATIENCE)

    def where(_: int) -> str:
        import ray

        tally.add("started")
        gate.wait()
        ray.init(os.environ["MINI_RAY_ADDRESS"], log_to_driver=False, configure_logging=False)
        try:
            return str(len([node for node in ray.nodes() if node["Alive"]]))
        finally:
            ray.shutdown()

    nodes = in_background(lambda: list(app.w(chunk=1).map(where, range(6))))
    tally.wait_for(6, PATIENCE)  # at the same time: two on each node
    gate.open()
    assert nodes.result(PATIENCE) == ["3"] * 6


def test_a_node_that_is_killed_costs_what_ran_there(
    find_victim: Callable[[Tally], tuple[RayNode, list[int]]], app: mini.Apparatus, tmp_path: Path
) -> None:
    tally, gate = Tally(str(tmp_path / "tally")), Gate(str(tmp_path / "gate"), PATIENCE)

    def wait(number: int) -> int:
        tally.add(os.getpid())
        gate.wait()
        return number

    outcomes = in_background(lambda: list(app.w(chunk=1).map(wait, range(12), return_exceptions=True)))
    tally.wait_for(6, PATIENCE)
    victim, there = find_victim(tally)
    assert there
    victim.kill()
    gate.open()
    lost = [outcome for outcome in outcomes.result(PATIENCE) if isinstance(outcome, BaseException)]
    assert [type(error) for error in lost] == [mini.WorkerLost] * len(there), lost
    assert sorted(x for x in outcomes.result() if isinstance(x, int)) == sorted(
        set(range(12)) - {error.__mini_failure__.index for error in lost}  # type: ignore[attr-defined]
    )


def test_with_retries_nothing_is_lost_with_a_node(
    find_victim: Callable[[Tally], tuple[RayNode, list[int]]], app: mini.Apparatus, tmp_path: Path
) -> None:
    tally, gate = Tally(str(tmp_path / "tally")), Gate(str(tmp_path / "gate"), PATIENCE)

    def wait(number: int) -> int:
        tally.add(os.getpid())
        gate.wait()
        return number

    results = in_background(lambda: list(app.w(chunk=1, retries=2).map(wait, range(12))))
    tally.wait_for(6, PATIENCE)
    victim, there = find_victim(tally)
    victim.kill()
    gate.open()
    assert results.result(PATIENCE) == [*range(12)]
    assert len(tally.read()) >= 12 + len(there)


def test_an_actor_that_is_killed_costs_the_call_that_ran(app: mini.Apparatus) -> None:
    def end_actor(number: int) -> int:
        if number == 3:
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return number

    outcomes = list(app.w(chunk=1).map(end_actor, range(8), return_exceptions=True))
    assert isinstance(outcomes.pop(3), mini.WorkerLost)
    assert outcomes == [0, 1, 2, 4, 5, 6, 7]


def test_the_head_may_be_killed_and_started_again(tmp_path: Path) -> None:
    with running(RayCluster(cpus=1)) as cluster:
        tally = Tally(str(tmp_path / "tally"))

        def wait() -> None:
            tally.add("started")
            signal.pause()

        with RayApparatus("head", cluster.address, tmp_path).w(progress=False) as app:
            constant = bytes(1_000_000)
            assert list(app.map(lambda x: x + len(constant), range(3))) == [1_000_000, 1_000_001, 1_000_002]
            call = in_background(app.run, wait)
            tally.wait_for(1, PATIENCE)
            cluster.nodes[0].kill()
            with pytest.raises(mini.WorkerLost):
                call.result(PATIENCE)
            # Of the other worker it may not be known yet that it is dead.
            with pytest.raises((mini.BackendUnavailable, mini.WorkerLost)):
                app.run(abs, -1)
            with pytest.raises(mini.BackendUnavailable, match="ray start --head"):
                app.run(abs, -1)
            cluster.start_head()
            assert app.run(abs, -1) == 1
            assert list(app.map(lambda x: x + len(constant), range(3))) == [1_000_000, 1_000_001, 1_000_002]


def test_a_call_for_which_its_node_has_not_the_memory_says_so(tmp_path: Path) -> None:
    """Ray ends workers when too much of the machine's memory is in use: here, 2 GiB more than now."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    def greedy() -> None:
        taken = [b"x" * (64 << 20) for _ in range(100)]
        signal.pause()
        assert taken

    threshold = (get_used_memory() + (2 << 30)) / get_system_memory()
    env = {"RAY_memory_usage_threshold": str(threshold), "RAY_memory_monitor_refresh_ms": "50"}
    with (
        running(RayCluster(cpus=1, env=env)) as cluster,
        RayApparatus("greedy", cluster.address, tmp_path).w(progress=False) as app,
    ):
        with pytest.raises(mini.WorkerLost, match="its node ran out of memory"):
            app.run(greedy)
        (failure,) = [record.failure for record in app.records()]
    assert failure is not None
    assert failure.kind == "out-of-memory"


def test_more_than_any_node_has_is_refused_at_once(app: mini.Apparatus) -> None:
    for options in ({"cpu": 3}, {"gpu": 1}, {"gpu": "A100"}, {"memory": 10**9}):
        with pytest.raises(mini.OptionError, match="no node of the Ray cluster has"):
            app.w(**options).run(abs, -1)


def test_workers_that_hold_cores_make_room_for_others(app: mini.Apparatus) -> None:
    for cores in (2, 1.5, 2):
        with_cores = app.w(cpu=cores, max_workers=3)
        assert list(with_cores.map(abs, range(-9, 0))) == [*range(9, 0, -1)]


def test_calls_do_not_wait_for_a_worker_that_does_not_come_up(
    app: mini.Apparatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers would make room for the ones that wait, if only after a while; other drivers' need not.
    monkeypatch.setattr("mini_ray.carrier.IDLE_SECONDS", 1e9)
    crowded = app.w(cpu=2, max_workers=5, chunk=1)
    assert list(crowded.map(abs, range(-40, 0))) == [*range(40, 0, -1)]


def test_an_address_where_nothing_listens_is_named(cluster: RayCluster, storage: Path) -> None:
    begin = time.monotonic()
    with (
        RayApparatus("nowhere", "127.0.0.1:9", storage).w(progress=False) as app,
        pytest.raises(mini.BackendUnavailable, match=r"ray start --head --port=9"),
    ):
        app.run(abs, -1)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("token", [None, "f" * 64])
def test_a_token_that_is_missing_or_wrong_is_an_error_of_its_own(
    cluster: RayCluster, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    else:
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
        monkeypatch.delenv("RAY_AUTH_MODE")
    begin = time.monotonic()
    with (
        RayApparatus("stranger", cluster.address, storage).w(progress=False) as app,
        pytest.raises(mini.AuthError, match="ray get-auth-token") as caught,
    ):
        app.run(abs, -1)
    assert time.monotonic() - begin < 10
    assert token is None or token not in str(caught.value)


def test_a_process_has_one_cluster(app: mini.Apparatus, storage: Path) -> None:
    assert app.run(abs, -1) == 1
    with (
        RayApparatus("second", None, storage).w(progress=False) as second,
        pytest.raises(mini.BackendUnavailable, match="one connection in a process"),
    ):
        second.run(abs, -1)


def test_results_that_the_object_store_has_no_room_for(app: mini.Apparatus) -> None:
    """The store of a node has 200 MB; what does not fit is spilled."""
    total = 0
    for result in app.w(window=12).map(lambda x: bytes([x]) * 60_000_000, range(12)):
        total += len(result)
    assert total == 12 * 60_000_000
