"""Volumes in object storage: an S3 server of our own, and fsspec's local files as a store that has directories."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from mini.conformance.probes import Gate, Tally, in_background
from mini.context import DATA_DIR_GATE, DATA_DIR_PLACE, ask_at_gate
from mini.objects import Doorkeeper, Mirror, ObjectVolume, Store
from mini_ray import RayApparatus
from mini_ray.storage import store as open_store
from ray_calls import load, save
from ray_clusters import RayCluster, running
from s3_server import S3Server

SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # where workers have copies
        yield server


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('server').bucket}/{tmp_path.name}/volumes/x")
    return open_store(f"file://{tmp_path}/remote/volumes/x")


@pytest.fixture
def volume(store: Store) -> ObjectVolume:
    return ObjectVolume(store)


@pytest.fixture
def mirrors(store: Store, tmp_path: Path) -> tuple[Mirror, Mirror]:
    """Those of two nodes."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    return Mirror(store, one), Mirror(store, two)


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def paths(volume: ObjectVolume, under: str = "") -> list[str]:
    return [entry.path for entry in volume.list(under, recursive=True)]


def identities(mirror: Mirror) -> dict[str, int]:
    return {str(p.relative_to(mirror.files)): p.stat().st_ino for p in mirror.files.rglob("*")}


# --- the caller's side ---


def test_files_and_directories(volume: ObjectVolume, tmp_path: Path) -> None:
    assert volume.list() == []
    volume.write_bytes("a.txt", b"a")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "none" / "here").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "b*[x]?.txt").write_bytes(b"bb")
    (tmp_path / "tree" / "deep" / "b.txt").write_bytes(b"bbb")
    volume.upload(tmp_path / "tree", "t")
    assert [(e.path, e.is_dir, e.size) for e in volume.list()] == [("a.txt", False, 1), ("t", True, 0)]
    everything = ["a.txt", "t", "t/deep", "t/deep/b*[x]?.txt", "t/deep/b.txt", "t/none", "t/none/here"]
    assert paths(volume) == everything
    assert volume.list("t/none/here") == []
    assert volume.exists("t/none")
    volume.download("t", tmp_path / "again")
    assert tree(tmp_path / "again") == {"deep/b*[x]?.txt": "bb", "deep/b.txt": "bbb"}
    assert (tmp_path / "again" / "none" / "here").is_dir()
    volume.remove("t/deep/b*[x]?.txt")
    assert volume.read_bytes("t/deep/b.txt") == b"bbb"
    volume.remove("t")
    assert paths(volume) == ["a.txt"]
    for use in (volume.remove, volume.read_bytes, volume.list):
        with pytest.raises(FileNotFoundError, match=r" in the volume .*volumes/x: 'missing'"):
            use("missing")
    assert volume.list()[0].mtime > 1e9


def test_a_name_is_a_file_or_a_directory(volume: ObjectVolume, tmp_path: Path) -> None:
    volume.write_bytes("a/file", b"1")
    with pytest.raises(NotADirectoryError):
        volume.write_bytes("a/file/below", b"2")
    with pytest.raises(IsADirectoryError):
        volume.write_bytes("a", b"2")
    (tmp_path / "tree" / "file").mkdir(parents=True)
    (tmp_path / "tree" / "file" / "x").touch()
    with pytest.raises(NotADirectoryError):
        volume.upload(tmp_path / "tree", "a")
    assert paths(volume) == ["a", "a/file"]


def test_nothing_is_reached_by_making_one_and_it_can_be_pickled(tmp_path: Path) -> None:
    code = (
        "import sys, pickle, mini_ray; app = mini_ray.RayApparatus('x', storage='s3://nowhere/at/all'); "
        "pickle.loads(pickle.dumps(app)).volume.list; pickle.dumps(app.volume); "
        "sys.exit(bool({'fsspec', 's3fs', 'ray'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_can_be_pickled_when_it_was_used(volume: ObjectVolume) -> None:
    volume.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(volume)).read_bytes("a") == b"1"


def test_a_twin_that_is_cancelled_is_over(volume: ObjectVolume, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(300_000_000)

    async def main() -> None:
        upload = asyncio.create_task(volume.aupload(tmp_path / "large", "large"))
        await asyncio.sleep(0)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload

    asyncio.run(main())
    whole = [entry.size for entry in volume.list()]
    assert whole in ([], [300_000_000])


def test_a_url_may_not_have_a_password() -> None:
    with pytest.raises(mini.OptionError, match="without a password") as caught:
        RayApparatus("x", storage="sftp://me:hunter2@host/volumes")
    assert "hunter2" not in str(caught.value)


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules[{!r}] = None; import mini_ray; "
        "mini_ray.RayApparatus('x', storage={!r}).volume.list()"
    )
    for module, url, extra in [
        ("s3fs", "s3://bucket", "mini-ray[s3]"),
        ("fsspec", "file:///nowhere", "mini-ray[storage]"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(module, url)], capture_output=True, text=True, check=False
        )
        assert "BackendUnavailable" in done.stderr
        assert f"uv add '{extra}'" in done.stderr


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(mini.OptionError, match="fsspec knows"):
        RayApparatus("x", storage="nonsense://bucket").volume.list()


# --- the worker's side ---


def test_what_one_node_writes_another_reads(
    volume: ObjectVolume, mirrors: tuple[Mirror, Mirror], tmp_path: Path
) -> None:
    one, two = mirrors
    (one.files / "deep").mkdir()
    (one.files / "deep" / "a.txt").write_text("a")
    (one.files / "empty").mkdir()
    (two.files / "b.txt").write_text("b")
    one.upload()
    two.upload()  # different files at once: both land
    for mirror in mirrors:
        mirror.download()
        assert tree(mirror.files) == {"deep/a.txt": "a", "b.txt": "b"}
        assert (mirror.files / "empty").is_dir()
    assert paths(volume) == ["b.txt", "deep", "deep/a.txt", "empty"]
    (two.files / "deep" / "a.txt").unlink()
    shutil.rmtree(two.files / "empty")
    (two.files / "b.txt").write_text("B")
    two.upload()
    one.download()
    assert tree(one.files) == {"b.txt": "B"}
    volume.write_bytes("c/d", b"by the caller")
    one.download()
    assert tree(one.files) == {"b.txt": "B", "c/d": "by the caller"}
    volume.remove("c")
    one.download()
    # Empty as the other node has left it; nothing is left of what was removed from the store.
    assert sorted(path.name for path in one.files.iterdir()) == ["b.txt", "deep"]


def test_only_what_has_changed_is_brought_over(mirrors: tuple[Mirror, Mirror], store: Store) -> None:
    one, two = mirrors
    for name in "abc":
        (one.files / name).write_text(name)
    one.upload()
    two.download()
    before, there = identities(two), store.find()
    (one.files / "b").write_text("new")
    one.upload()
    one.download()
    two.download()
    after = identities(two)
    assert [name for name in "abc" if before[name] != after[name]] == ["b"]
    now = store.find()
    assert [name for name in "ac" if there[name] != now[name]] == []
    two.upload()
    assert store.find() == now


def test_of_two_who_write_one_file_the_last_wins(mirrors: tuple[Mirror, Mirror]) -> None:
    one, two = mirrors
    (one.files / "same").write_text("one")
    (two.files / "same").write_text("two")
    one.upload()
    two.download()  # its own is newer
    two.upload()
    for mirror in mirrors:
        mirror.download()
        assert tree(mirror.files) == {"same": "two"}


def test_what_a_call_that_was_killed_has_left_counts_as_never_written(
    mirrors: tuple[Mirror, Mirror], store: Store
) -> None:
    one, _ = mirrors
    for name in "abc":
        (one.files / name).write_text(name)
    one.upload()
    kept = identities(one)["c"]
    (one.files / "a").write_text("half")
    (one.files / "b").unlink()
    (one.files / "new").write_text("half")
    again = Mirror(store, one.files.parent)
    again.download()
    assert tree(again.files) == {"a": "a", "b": "b", "c": "c"}
    assert identities(again)["c"] == kept
    again.upload()
    assert sorted(store.find()) == ["a", "b", "c"]


def test_a_copy_that_somebody_removes_does_not_empty_the_volume(
    mirrors: tuple[Mirror, Mirror], store: Store
) -> None:
    one, _ = mirrors
    (one.files / "a").write_text("a")
    one.upload()
    one.files.rename(one.files.with_name("old"))  # another directory will have another number
    one.files.mkdir()
    one.upload()
    assert list(store.find()) == ["a"]
    one.download()
    assert tree(one.files) == {"a": "a"}


def test_links_and_foreign_names(
    mirrors: tuple[Mirror, Mirror], volume: ObjectVolume, tmp_path: Path
) -> None:
    one, two = mirrors
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("not yours")
    (one.files / "real").write_text("inside")
    (one.files / "latest").symlink_to("real")
    (one.files / "file").symlink_to(tmp_path / "outside" / "secret")
    (one.files / "directory").symlink_to(tmp_path / "outside")
    os.mkfifo(one.files / "pipe")
    one.upload()
    assert paths(volume) == ["latest", "real"]
    volume.write_bytes("directory/written", b"x")
    one.download()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    two.download()
    assert tree(two.files) == {"latest": "inside", "real": "inside", "directory/written": "x"}


def test_names_that_lead_out_of_the_copy_are_left_alone(server: S3Server, tmp_path: Path) -> None:
    store = open_store(f"{server.bucket}/names/x")
    for name in ("../out", "a/../../out", "a//b", "a\\b", "C:/x"):
        store.files.pipe_file(f"volumes/names/x/{name}", b"x")
    store.put("fine", b"fine")
    mirror = Mirror(store, tmp_path)
    mirror.download()
    assert tree(tmp_path / "files") == {"fine": "fine"}
    assert paths(ObjectVolume(store)) == ["fine"]


def ask(keeper: Doorkeeper) -> str:
    """What a call does for its data directory."""
    return ask_at_gate(keeper.env[DATA_DIR_GATE], SECONDS)


def test_nothing_is_brought_over_before_a_call_asks(store: Store, tmp_path: Path) -> None:
    keeper = Doorkeeper(store, tmp_path / "cache")
    url, _, place = keeper.env[DATA_DIR_PLACE].partition("\n")
    files = Path(place)
    assert url == store.url
    store.put("a", b"1")
    with keeper.around():
        assert not files.exists()
    with keeper.around():
        assert ask(keeper) == ""
        assert tree(files) == {"a": "1"}
        (files / "b").write_text("2")
    assert sorted(store.find()) == ["a", "b"]
    store.put("a", b"new")
    with keeper.around():
        assert tree(files) == {"a": "new", "b": "2"}
    other = Doorkeeper(store, tmp_path / "cache")
    assert other.env[DATA_DIR_PLACE] != keeper.env[DATA_DIR_PLACE]


def test_a_store_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    def fail(url: str) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    keeper = Doorkeeper(Store("s3://nowhere", fail), tmp_path)
    with keeper.around():
        assert "s3://nowhere cannot be read: " in ask(keeper)


# --- on Ray ---


@pytest.fixture(scope="module")
def cluster(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes, each of which has its own place for copies."""
    with running(RayCluster(cpus=1)) as cluster:
        cluster.add_node({"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("other-cache"))})
        yield cluster


@pytest.mark.slow
def test_calls_on_ray_share_a_bucket(server: S3Server, cluster: RayCluster) -> None:
    storage = f"{server.bucket}/ray"
    with RayApparatus("shared", cluster.address, storage, max_workers=2).w(progress=False) as app:
        assert app.worker_data_dir == f"{storage}/volumes/shared"
        assert app.run(abs, -1) == 1
        assert app.volume.list() == []
        assert list(app.map(save, [f"{n}.txt" for n in range(20)])) == [None] * 20
        assert len(app.volume.list()) == 20
        app.volume.write_bytes("0.txt", b"by the caller")
        assert list(app.w(chunk=1).map(load, ["0.txt"] * 6)) == ["by the caller"] * 6
        app.volume.remove("0.txt")
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                app.run(load, "0.txt")
    with RayApparatus("shared", cluster.address, storage).w(progress=False) as app:
        assert app.run(load, "1.txt") == "x"


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_named(cluster: RayCluster) -> None:
    with RayApparatus("none", cluster.address, "s3://no-such-bucket/x").w(progress=False) as app:
        assert app.run(abs, -1) == 1
        with pytest.raises(
            mini.BackendUnavailable, match=r"s3://no-such-bucket/x/volumes/none cannot be kept"
        ):
            app.run(save, "a.txt")


@pytest.mark.slow
def test_what_two_workers_of_a_cluster_write_at_once_both_arrives(
    server: S3Server, cluster: RayCluster, tmp_path: Path
) -> None:
    tally, gate = Tally(str(tmp_path / "tally")), Gate(str(tmp_path / "gate"), SECONDS)

    def write(number: int) -> str:
        save(f"{number}.txt", str(number))
        tally.add(number)
        gate.wait()
        return os.environ[DATA_DIR_PLACE]

    app = RayApparatus("nodes", cluster.address, f"{server.bucket}/nodes", max_workers=2)
    with app.w(progress=False, chunk=1) as app:
        places = in_background(lambda: list(app.map(write, range(2))))
        tally.wait_for(2, SECONDS)
        gate.open()
        assert len(set(places.result(SECONDS))) == 2  # of a node each, or beside each other on one
        assert {entry.path for entry in app.volume.list()} == {"0.txt", "1.txt"}
        assert list(app.map(load, ["0.txt", "1.txt"] * 3)) == ["0", "1"] * 3
