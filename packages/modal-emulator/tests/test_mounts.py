"""Mounts: what the client sends of its files, and the trees that become of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import modal
import pytest
from covers import covers
from grpclib import GRPCError, Status
from modal.mount import Mount
from modal_emulator.rpc import Caller
from modal_emulator.settings import Settings
from modal_proto import api_pb2
from storage_plane import Plane, serving

CLIENT = Caller(None, {})
EPHEMERAL = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL


def put(plane: Plane, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    answer = plane.run(
        plane.mounts.mount_put_file(api_pb2.MountPutFileRequest(sha256_hex=digest, data=data), CLIENT)
    )
    assert answer.exists
    return digest


def tree_of(plane: Plane, mount_id: str) -> Path:
    return plane.call(lambda: plane.mounts.tree(mount_id))


def make(plane: Plane, files: dict[str, bytes], mode: int | None = None, **more: Any) -> str:
    request = api_pb2.MountGetOrCreateRequest(
        object_creation_type=EPHEMERAL,
        files=[
            api_pb2.MountFile(filename=name, sha256_hex=put(plane, data), mode=mode)
            for name, data in files.items()
        ],
    )
    for name, value in more.items():
        setattr(request, name, value)
    return plane.run(plane.mounts.mount_get_or_create(request, CLIENT)).mount_id


def test_a_folder_of_the_client_becomes_a_tree(client: modal.Client, plane: Plane, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("a = 1")
    (tmp_path / "inner/run.sh").write_text("echo")
    (tmp_path / "inner/run.sh").chmod(0o755)
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(os.urandom(5 << 20))
    blobs = set((plane.settings.data / "blobs").iterdir())
    mount = Mount._from_local_dir(tmp_path, remote_path="/root/pkg")
    mount._deploy("one", client=client)
    tree = plane.call(lambda: plane.mounts.tree(mount.object_id))
    found = {str(path.relative_to(tree)): path for path in tree.rglob("*") if path.is_file()}
    assert sorted(found) == [f"root/pkg/{name}" for name in ("a.py", "empty", "inner/run.sh", "large")]
    assert found["root/pkg/large"].read_bytes() == (tmp_path / "large").read_bytes()
    assert found["root/pkg/inner/run.sh"].stat().st_mode & 0o777 == 0o755
    assert plane.mounts.digest(mount.object_id) == mount._get_metadata().content_checksum_sha256_hex
    again = Mount._from_local_dir(tmp_path, remote_path="/root/pkg")
    again._deploy("two", client=client)
    assert plane.call(lambda: plane.mounts.tree(again.object_id)) == tree
    assert Mount.from_name("one").hydrate(client).object_id == mount.object_id
    with pytest.raises(modal.exception.AlreadyExistsError):
        Mount._from_local_dir(tmp_path, remote_path="/root")._deploy("one", client=client)
    assert set((plane.settings.data / "blobs").iterdir()) == blobs  # the large one became the file itself


def test_one_content_with_two_modes(plane: Plane) -> None:
    one = make(plane, {"/x/a": b"same"}, mode=0o755)
    two = make(plane, {"/x/a": b"same"}, mode=0o600)
    trees = [tree_of(plane, mount) for mount in (one, two, one)]
    assert [(tree / "x/a").stat().st_mode & 0o777 for tree in trees] == [0o755, 0o600, 0o755]
    assert plane.mounts.digest(one) != plane.mounts.digest(two)


def test_contents_are_checked(plane: Plane) -> None:
    digest = hashlib.sha256(b"announced").hexdigest()
    blob = plane.run(plane.blobs.put(b"other"))
    for bad in (
        api_pb2.MountPutFileRequest(sha256_hex=digest, data=b"other"),
        api_pb2.MountPutFileRequest(sha256_hex=digest, data_blob_id=blob),
        api_pb2.MountPutFileRequest(sha256_hex="../../x", data=b"x"),
        api_pb2.MountPutFileRequest(sha256_hex=digest.upper(), data=b"announced"),
    ):
        with pytest.raises(GRPCError) as caught:
            plane.run(plane.mounts.mount_put_file(bad, CLIENT))
        assert caught.value.status is Status.INVALID_ARGUMENT
    ask = api_pb2.MountPutFileRequest(sha256_hex=digest)
    assert not plane.run(plane.mounts.mount_put_file(ask, CLIENT)).exists
    blob = plane.run(plane.blobs.put(b"announced"))
    sent = api_pb2.MountPutFileRequest(sha256_hex=digest, data_blob_id=blob)
    assert plane.run(plane.mounts.mount_put_file(sent, CLIENT)).exists
    assert plane.run(plane.mounts.mount_put_file(sent, CLIENT)).exists  # asked again: the blob is gone by now
    both = api_pb2.MountBatchedCheckExistenceRequest(sha256_hex_hashes=[digest, "0" * 64])
    answer = plane.run(plane.mounts.mount_batched_check_existence(both, CLIENT))
    assert list(answer.missing_sha256_hex_hashes) == ["0" * 64]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/a/../../x",
        "/a/..",
        "..",
        "",
        "/",
        "/.",
        "a\0b",
        "/" + "x" * 256,
        "/" + "x/" * 2100,
        "/" + "\u00e4" * 128,
    ],
)
def test_names_from_the_wire_are_confined(plane: Plane, name: str) -> None:
    with pytest.raises(GRPCError) as caught:
        make(plane, {name: b"x"})
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert len(caught.value.message or "") < 600


def test_odd_names_are_fine(plane: Plane) -> None:
    mount = make(
        plane, {"//a/./b": b"1", "relative": b"2", "/a/...": b"3", "/a/ \n*": b"4", "/a/\u00e4": b"5"}
    )
    tree = tree_of(plane, mount)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert found == {"a/b", "relative", "a/...", "a/ \n*", "a/\u00e4"}


def test_what_cannot_be_a_tree_is_refused(plane: Plane) -> None:
    with pytest.raises(GRPCError, match="a file and a directory"):
        make(plane, {"/a": b"x", "/a/b": b"y"})
    request = api_pb2.MountGetOrCreateRequest(
        object_creation_type=EPHEMERAL, files=[api_pb2.MountFile(filename="/a", sha256_hex="0" * 64)]
    )
    with pytest.raises(GRPCError) as caught:
        plane.run(plane.mounts.mount_get_or_create(request, CLIENT))
    assert caught.value.status is Status.FAILED_PRECONDITION


def test_mounts_share_folders_and_hide_nothing(plane: Plane) -> None:
    one = make(plane, {"/root/app.py": b"1", "/root/pkg/a.py": b"2", "/usr/local/lib/x.py": b"3"})
    two = make(plane, {"/root/pkg/b.py": b"4", "/root/app.py": b"5", "/srv.txt": b"6"})
    binds = plane.call(lambda: plane.mounts.binds([one, two]))
    assert sorted(bind.target for bind in binds) == [
        "/root/app.py",
        "/root/pkg",
        "/srv.txt",
        "/usr/local/lib/x.py",
    ]
    sources = {bind.target: bind.source for bind in binds}
    assert sources["/root/app.py"].read_bytes() == b"5"
    assert sorted(path.name for path in sources["/root/pkg"].iterdir()) == ["a.py", "b.py"]
    assert all(bind.read_only for bind in binds)
    image = {"/root", "/root/pkg", "/usr", "/usr/local"}
    binds = plane.call(lambda: plane.mounts.binds([one], image.__contains__))
    assert sorted(bind.target for bind in binds) == ["/root/app.py", "/root/pkg/a.py", "/usr/local/lib"]
    assert plane.call(lambda: plane.mounts.binds([])) == []
    clash = make(plane, {"/root/pkg": b"a file"})
    with pytest.raises(GRPCError, match="a file and a directory"):
        plane.call(lambda: plane.mounts.binds([one, clash]))


@covers("MountGetOrCreate")
def test_the_clients_own_mounts(client: modal.Client, plane: Plane) -> None:
    from modal.mount import client_mount_name

    found = Mount.from_name(client_mount_name(), namespace=api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL).hydrate(
        client
    )
    assert plane.call(lambda: plane.mounts.is_client(found.object_id))
    assert plane.call(lambda: plane.mounts.binds([found.object_id])) == []
    for name in ("2025.06-cp312-manylinux_2_17-x86_64", "2025.06-cp313-musllinux_1_2-x86_64"):
        Mount.from_name(name, namespace=api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL).hydrate(client)
    for name, namespace in (
        ("python-build-standalone.20240107.3.12.1-gnu", api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL),
        (client_mount_name(), api_pb2.DEPLOYMENT_NAMESPACE_WORKSPACE),
        ("other", api_pb2.DEPLOYMENT_NAMESPACE_WORKSPACE),
    ):
        with pytest.raises(modal.exception.NotFoundError):
            Mount.from_name(name, namespace=namespace).hydrate(client)


def test_an_apps_mounts_go_with_it(plane: Plane) -> None:
    kind = api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP
    gone = make(plane, {"/x": b"app's"}, object_creation_type=kind, app_id="ap-1")
    stays = make(plane, {"/x": b"other's"}, object_creation_type=kind, app_id="ap-2")
    trees = [tree_of(plane, mount) for mount in (gone, stays)]
    plane.call(lambda: plane.mounts.drop_app("ap-1"))
    plane.call(lambda: plane.mounts.drop_app(""))
    assert [tree.exists() for tree in trees] == [False, True]
    with pytest.raises(GRPCError):
        plane.mounts.mount(gone)
    content = plane.mounts.content
    key = hashlib.sha256(b"app's").hexdigest()
    content.sweep()
    assert content.has(key)  # somebody may be about to use it
    content.sweep(grace=-1)
    assert not content.has(key)
    assert content.has(hashlib.sha256(b"other's").hexdigest())


def test_mounts_survive_a_restart(tmp_path: Path) -> None:
    mount = ""
    for number in range(2):
        with serving(Settings(work=tmp_path / f"work{number}", state=tmp_path / "state")) as plane:
            if number == 0:
                mount = make(plane, {"/x/y": b"kept"}, mode=0o755)
            tree = tree_of(plane, mount)
            assert (tree / "x/y").read_bytes() == b"kept"
