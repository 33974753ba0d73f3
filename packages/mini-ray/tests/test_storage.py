"""Where volumes are kept: what nodes that do not see the directory say, and what is left in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini.conformance.probes import Gate
from mini_ray import RayApparatus
from ray_calls import save
from ray_clusters import RayCluster, can_hide, running

PATIENCE = 60.0


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of one node."""
    with running(RayCluster()) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_node_that_does_not_see_the_directory_says_so(cluster: RayCluster, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    if not can_hide(storage):
        pytest.skip("mount namespaces are not allowed here")
    blind = cluster.add_node(hidden=storage)
    try:
        with RayApparatus("blind", cluster.address, storage).w(progress=False) as app:
            gate = Gate(str(tmp_path / "gate"), PATIENCE)
            # As many as there are cores, and none comes to an end: each node gets some.
            with pytest.raises(mini.BackendUnavailable) as caught:
                list(app.w(chunk=1, max_workers=8).map(lambda _: gate.wait(), range(8)))
    finally:
        blind.kill()
        cluster.nodes.remove(blind)
    message = str(caught.value)
    assert f"does not see the storage directory {storage}" in message
    assert "the node " in message
    assert names(storage) == []


@pytest.mark.slow
def test_what_nodes_look_for_is_not_in_the_volume_and_does_not_stay(
    cluster: RayCluster, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    with RayApparatus("seen", cluster.address, storage).w(progress=False) as app:
        assert app.volume.list() == []
        assert not storage.exists()
        app.run(save, "a.txt")
        assert [entry.path for entry in app.volume.list(recursive=True)] == ["a.txt"]
        assert names(storage / "volumes" / "seen") == ["a.txt"]
        assert len(names(storage)) == 2
    assert names(storage) == ["volumes"]


@pytest.mark.slow
def test_a_directory_that_cannot_be_made_is_named(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        RayApparatus("unmade", cluster.address, tmp_path / "file" / "storage").w(progress=False) as app,
        pytest.raises(mini.BackendUnavailable, match=r"file/storage cannot be written"),
    ):
        app.run(abs, -1)


@pytest.mark.slow
def test_an_instance_of_our_own_makes_only_what_calls_write(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    with RayApparatus("own", storage=storage).w(progress=False) as app:
        assert app.run(abs, -1) == 1
        assert not storage.exists()
