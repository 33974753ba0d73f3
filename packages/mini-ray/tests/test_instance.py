"""`RayApparatus`: what it makes of its arguments, and one instance that it starts itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from mini.conformance.footprint import descendants
from mini_ray import RayApparatus
from mini_ray.resources import feasible, place, ray_options


@pytest.fixture
def app(tmp_path: Path) -> Iterator[mini.Apparatus]:
    with RayApparatus("instance", storage=tmp_path).w(progress=False) as app:
        yield app


# Older Rays leave files of their own to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_instance_of_its_own_runs_calls_on_loopback_and_is_gone_when_it_is_closed(
    app: mini.Apparatus, tmp_path: Path
) -> None:
    before = descendants()
    assert list(app.map(lambda x: x * x, range(1000))) == [x * x for x in range(1000)]
    assert app.run(os.getpid) in descendants()
    assert str(app.run(os.getenv, "MINI_RAY_ADDRESS")).startswith("127.0.0.1:")

    def count(to: int) -> Iterator[int]:
        yield from range(to)

    assert list(app.stream(count, 200)) == [*range(200)]

    def write() -> None:
        (mini.get_data_dir() / "file").write_text("here")

    app.run(write)
    assert app.volume.read_bytes("file") == b"here"
    app.close()
    assert descendants() <= before


def test_importing_and_making_one_loads_no_ray() -> None:
    code = (
        "import sys, mini_ray; app = mini_ray.RayApparatus('x').w(cpu=1, ray={'max_restarts': 0}); "
        "app.supports('timeout'); app.volume; app.close(); sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_found_by_its_name(tmp_path: Path) -> None:
    app = mini.apparatus("ray", "by-name", storage=tmp_path)
    assert isinstance(app, RayApparatus)
    again = pickle.loads(pickle.dumps(app))
    assert (again.name, again.backend) == ("by-name", "ray")


@pytest.mark.parametrize("wrong", [{"address": ""}, {"address": 6379}, {"storage": 1}])
def test_arguments_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(mini.OptionError):
        RayApparatus("wrong", **wrong)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"num_cpus": 0}),
        ({"cpu": 0.5, "memory": 100}, {"num_cpus": 0.5, "memory": 100 << 20}),
        ({"gpu": 2}, {"num_gpus": 2}),
        ({"gpu": "A100"}, {"num_gpus": 1, "accelerator_type": "A100"}),
        ({"gpu": "A100:4"}, {"num_gpus": 4, "accelerator_type": "A100"}),
        (
            {"cpu": 1, "ray": {"num_cpus": 3, "resources": {"tpu": 1}}},
            {"num_cpus": 3, "resources": {"tpu": 1}},
        ),
        ({"image": "some/image:1"}, {"runtime_env": {"image_uri": "some/image:1"}}),
    ],
)
def test_options_become_those_of_an_actor(options: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = ray_options(RayApparatus("options").w(**options)._options)
    assert {name: made[name] for name in wanted} == wanted
    assert made["max_restarts"] == made["max_task_retries"] == 0


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_what_no_node_has_is_refused_with_what_there_is() -> None:
    nodes = [node("a", CPU=2, memory=1 << 30), node("b", CPU=8, GPU=1), node("c", alive=False, CPU=64)]
    assert [each["NodeID"] for each in feasible({"num_cpus": 4}, nodes)] == ["b"]
    with pytest.raises(mini.OptionError, match=r"16 CPU.*nodes has is 8 CPU"):
        feasible({"num_cpus": 16}, nodes)
    with pytest.raises(mini.OptionError, match=r"4096 MiB"):
        feasible({"num_cpus": 1, "memory": 4 << 30}, nodes)
    with pytest.raises(mini.OptionError, match="A100"):
        feasible({"num_gpus": 1, "accelerator_type": "A100"}, nodes)


def test_workers_that_reserve_nothing_go_where_there_are_most_cores_for_each() -> None:
    nodes = [node("small", CPU=2), node("large", CPU=6), node("none", GPU=1)]
    taken: dict[str, int] = {}
    for _ in range(8):
        name = place(nodes, taken)
        assert name is not None
        taken[name] = taken.get(name, 0) + 1
    assert taken == {"small": 2, "large": 6}
