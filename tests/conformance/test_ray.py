"""The contract on Ray: an instance that the apparatus starts, a cluster that it joins, and one of several nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mini.conformance import ApparatusConformance, MakeApparatus, footprint, overridden, subjects
from mini.conformance.err import Unreachable
from mini.conformance.life import WORK
from mini.conformance.scripts import Scripts
from mini_ray import RayApparatus
from ray_clusters import RayCluster

# Ray takes seconds to start, and each script starts its own: `nox -s conformance` has the time.
pytestmark = pytest.mark.soak


class Ray(ApparatusConformance):
    @pytest.fixture
    def unreachable(self, storage: Path) -> Unreachable:
        prelude = f"from mini_ray import RayApparatus\napp = RayApparatus('nowhere', '127.0.0.1:9', {str(storage)!r})\n"
        return Unreachable(prelude)

    @pytest.fixture
    def deadly(self) -> Callable[..., int]:
        return subjects.note_and_end_host

    @overridden(reason="Ray's own driver leaves its log and a socket open when it disconnects")
    def test_life_03_nothing_is_left_after_close(self, scripts: Scripts) -> None:
        script = scripts.run(
            WORK
            + """
with app as warm:
    work(warm)
before = Footprint.now(unowned=True)
with pickle.loads(pickle.dumps(app)) as app:
    work(app)
deadline = time.monotonic() + 5
def left():
    return [what for what in Footprint.now(unowned=True).new_since(before) if not what.startswith("descriptors: ")]
while left() and time.monotonic() < deadline:
    time.sleep(0.01)
print(left())
"""
        )
        assert script.out == "[]\n", script.words()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "mini"


@contextmanager
def connected(app: RayApparatus) -> Iterator[None]:
    """Stay connected for all tests of a class; what Ray has started then is no test's."""
    with app, pytest.MonkeyPatch.context() as patch:
        app.run(abs, -1)
        patch.setattr(footprint, "bystanders", footprint.bystanders | footprint.descendants())
        yield


@pytest.fixture(scope="class")
def instance(storage: Path) -> Iterator[None]:
    """One of this process's own."""
    with connected(RayApparatus("instance", storage=storage)):
        yield


@contextmanager
def cluster(nodes: int, storage: Path) -> Iterator[MakeApparatus]:
    """A cluster that somebody else has started, with some nodes beside the head."""
    with RayCluster(nodes) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.variables.items():
            patch.setenv(name, value)
        with connected(RayApparatus("cluster", cluster.address, storage)):
            yield lambda name: RayApparatus(name, cluster.address, storage)


@pytest.fixture(scope="class")
def head(storage: Path) -> Iterator[MakeApparatus]:
    with cluster(0, storage) as make:
        yield make


@pytest.fixture(scope="class")
def three_nodes(storage: Path) -> Iterator[MakeApparatus]:
    with cluster(2, storage) as make:
        yield make


class TestLocal(Ray):
    variant = "local"

    @pytest.fixture
    def make_apparatus(self, storage: Path, instance: None) -> MakeApparatus:
        return lambda name: RayApparatus(name, storage=storage)


class TestJoined(Ray):
    variant = "joined"

    @pytest.fixture
    def make_apparatus(self, head: MakeApparatus) -> MakeApparatus:
        return head


class TestNodes(Ray):
    variant = "nodes"

    @pytest.fixture
    def make_apparatus(self, three_nodes: MakeApparatus) -> MakeApparatus:
        return three_nodes
