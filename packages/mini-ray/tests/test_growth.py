"""Clusters that have an autoscaler, and nothing else to begin with but a head without cores."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini_ray import RayApparatus
from ray_clusters import RayCluster, running

pytestmark = pytest.mark.slow

SECONDS = 120.0


@pytest.fixture(scope="module", params=["v1", "v2"])
def growing(request: pytest.FixtureRequest) -> Iterator[RayCluster]:
    kinds = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 1}
        for name, resources in {
            "small": {"CPU": 2, "object_store_memory": 100_000_000},
            "special": {"thing": 1, "object_store_memory": 100_000_000},
        }.items()
    }
    with running(RayCluster(cpus=0, grows=kinds, autoscaler=request.param)) as cluster:
        yield cluster


def node_of(_: int) -> str:
    return os.environ["RAY_RAYLET_PID"]


def test_what_no_node_could_have_is_refused(growing: RayCluster, storage: Path) -> None:
    with RayApparatus("refused", growing.address, storage).w(progress=False, cpu=3) as app:
        began = time.monotonic()
        with pytest.raises(mini.OptionError, match=r"no node of the Ray cluster has 3 CPU"):
            app.run(abs, -1)
        assert time.monotonic() - began < SECONDS
        with pytest.raises(mini.OptionError, match=r"no node of the Ray cluster has 3 CPU"):
            app.spawn(abs, -1)


def test_a_call_gets_the_node_that_it_wants(growing: RayCluster, storage: Path) -> None:
    with RayApparatus("grows", growing.address, storage).w(progress=False) as app:
        # On the head there is nothing to reserve, but no core either.
        (first,) = set(app.map(node_of, range(20)))
        (small,) = set(app.w(cpu=2).map(node_of, range(3)))
        (special,) = set(app.w(ray={"resources": {"thing": 1}}).map(node_of, range(3)))
    assert first == small != special


def test_a_job_gets_it_too(growing: RayCluster, storage: Path) -> None:
    with RayApparatus("job", growing.address, storage).w(progress=False) as app:
        assert app.w(cpu=2).spawn(abs, -1).result(SECONDS) == 1
