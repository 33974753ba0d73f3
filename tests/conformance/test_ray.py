"""The contract on Ray: an instance that the apparatus starts, a cluster that it joins, and one of several nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mini import Apparatus
from mini.conformance import ApparatusConformance, MakeApparatus, VolSuite, footprint, overridden, subjects
from mini.conformance.err import Unreachable
from mini.conformance.life import WORK
from mini.conformance.scripts import Scripts
from mini.context import get_data_dir
from mini_ray import RayApparatus
from ray_clusters import RayCluster, running
from s3_server import S3Server

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
    with running(RayCluster(nodes)) as cluster, connected(RayApparatus("cluster", cluster.address, storage)):
        yield lambda name: RayApparatus(name, cluster.address, storage)


@pytest.fixture(scope="class")
def head(storage: Path) -> Iterator[MakeApparatus]:
    with cluster(0, storage) as make:
        yield make


@pytest.fixture(scope="class")
def three_nodes(storage: Path) -> Iterator[MakeApparatus]:
    with cluster(2, storage) as make:
        yield make


@pytest.fixture(scope="class")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeApparatus]:
    """An instance of this process's own, with volumes in a bucket."""
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # where workers have copies
        storage = f"{server.bucket}/mini"
        with connected(RayApparatus("bucket", storage=storage)):
            yield lambda name: RayApparatus(name, storage=storage)


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


class TestObjectStorage(VolSuite):
    variant = "s3"

    @pytest.fixture
    def make_apparatus(self, bucket: MakeApparatus) -> MakeApparatus:
        return bucket

    @overridden(
        reason="a store has no links: one that leads out of the directory is left where the call made it"
    )
    def test_vol_05_links_that_leave_are_refused(self, apparatus: Apparatus, shared_dir: Path) -> None:
        outside = shared_dir / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_bytes(b"not yours")

        def link(target: str) -> None:
            directory = get_data_dir() / "vol-05"
            directory.mkdir()
            (directory / "file").symlink_to(Path(target) / "secret.txt")
            (directory / "directory").symlink_to(target)
            (directory / "fine").write_text("inside")
            (directory / "link to fine").symlink_to("fine")

        apparatus.run(link, str(outside))
        volume = apparatus.volume
        assert [entry.path for entry in volume.list("vol-05", recursive=True)] == [
            "vol-05/fine",
            "vol-05/link to fine",
        ]
        assert volume.read_bytes("vol-05/link to fine") == b"inside"
        volume.write_bytes("vol-05/directory/new", b"x")
        assert apparatus.run(abs, -1) == 1
        volume.remove("vol-05")
        assert [path.name for path in outside.iterdir()] == ["secret.txt"]
