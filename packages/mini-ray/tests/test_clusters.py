"""The ways to a cluster that is there, and what else of Ray a program may use beside mini."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from mini_ray import RayApparatus
from ray_clusters import RayCluster, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of one node."""
    with running(RayCluster()) as cluster:
        yield cluster


@pytest.fixture
def use_ray(cluster: RayCluster) -> Iterator[Any]:
    """Ray, which the program itself has connected."""
    import ray

    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def check(app: mini.Apparatus) -> None:
    constant = os.urandom(300_000)
    with app.w(progress=False) as app:
        assert list(app.map(lambda x: x * x, range(500))) == [x * x for x in range(500)]
        assert list(app.map(lambda x: constant[x], range(20))) == [*constant[:20]]
        assert sum(app.stream(lambda: iter(range(100)))) == 4950
        with pytest.raises(ZeroDivisionError):
            app.run(divmod, 1, 0)
        [outcome] = app.map(os._exit, [3], return_exceptions=True)
        assert isinstance(outcome, mini.WorkerLost)


def test_it_is_reached_without_being_joined(
    cluster: RayCluster, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    assert cluster.address in RayApparatus("reach", cluster.address, storage).reach()
    assert "an instance of its own" in RayApparatus("reach", None, storage).reach()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(mini.BackendUnavailable, match=r"nothing answers at [\d.]+:1 "):
        RayApparatus("reach", None, storage).reach()
    assert not ray.is_initialized()


def test_by_host_and_port(cluster: RayCluster, storage: Path) -> None:
    check(RayApparatus("by-address", cluster.address, storage))


def test_by_the_variable(cluster: RayCluster, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    check(RayApparatus("by-variable", storage=storage))


def test_through_rays_client(cluster: RayCluster, storage: Path) -> None:
    check(RayApparatus("by-client", cluster.client_address, storage))


def test_a_client_whose_server_dies_as_it_starts_gets_another(storage: Path, tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        "if '--mode=specific-server' in sys.orig_argv:\n"
        f"    try: pathlib.Path({str(dead)!r}).touch(exist_ok=False)\n"
        "    except FileExistsError: pass\n"
        "    else: os._exit(1)\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "5"}
    with (
        running(RayCluster(env=env)) as cluster,
        RayApparatus("unlucky", cluster.client_address, storage).w(progress=False) as app,
    ):
        assert app.run(divmod, 7, 2) == (3, 1)
    assert dead.exists()


def test_what_was_joined_goes_on(cluster: RayCluster, storage: Path) -> None:
    for _ in range(2):
        check(RayApparatus("again", cluster.address, storage))
    assert cluster.nodes[0].process.poll() is None


def test_closing_in_the_midst_lets_go_of_the_cluster(cluster: RayCluster, storage: Path) -> None:
    for number in range(4):
        address = cluster.address if number % 2 else cluster.client_address
        with RayApparatus("closing", address, storage).w(progress=False, chunk=1) as app:
            results = app.map(abs, range(-10_000, 0))
            assert next(results) == 10_000


def test_a_connection_of_the_programs_own_is_used_and_left(use_ray: Any, storage: Path) -> None:
    check(RayApparatus("beside", storage=storage))
    assert use_ray.get(use_ray.put(1)) == 1


def test_a_task_of_rays_may_use_it(use_ray: Any, storage: Path) -> None:
    def task() -> list[int]:
        with RayApparatus("within-a-task", storage=storage).w(progress=False) as app:
            return list(app.map(abs, [-1, -2, -3]))

    assert use_ray.get(use_ray.remote(task).remote()) == [1, 2, 3]


def test_a_call_may_use_it_and_ray_itself(cluster: RayCluster, storage: Path) -> None:
    def call(app: mini.Apparatus) -> tuple[list[int], int]:
        import ray

        results = list(app.map(abs, [-1, -2]))
        app.close()
        ray.init(os.environ["MINI_RAY_ADDRESS"], log_to_driver=False, configure_logging=False)
        answer: int = ray.get(ray.remote(lambda: 7).remote())
        ray.shutdown()
        return results, answer

    with RayApparatus("within", cluster.address, storage).w(progress=False) as app:
        assert app.run(call, app) == ([1, 2], 7)
