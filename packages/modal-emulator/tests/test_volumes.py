"""Volumes of both versions, through the real client."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from boxes import files_of
from covers import covers
from grpclib import GRPCError, Status
from modal.exception import AlreadyExistsError, ConflictError, InvalidError, NotFoundError
from modal.types import FileEntryType
from modal_emulator.rpc import Caller
from modal_emulator.settings import Settings
from modal_emulator.volumes.tree import Draft
from modal_proto import api_pb2
from storage_plane import Plane, connected, serving

pytestmark = pytest.mark.slow

CLIENT = Caller(None, {})
BLOCK = 8 << 20


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def volume(client: modal.Client, version: int) -> Iterator[modal.Volume]:
    with modal.Volume.ephemeral(version=version, client=client) as volume:
        yield volume


def put(volume: modal.Volume, files: dict[str, bytes], force: bool = False) -> None:
    with volume.batch_upload(force=force) as batch:
        for path, data in files.items():
            batch.put_file(io.BytesIO(data), path)


def read(volume: modal.Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def names(volume: modal.Volume, path: str = "/", recursive: bool = True) -> list[str]:
    return [entry.path for entry in volume.listdir(path, recursive=recursive)]


@covers("VolumeGetOrCreate", "VolumePutFiles", "VolumePutFiles2", "VolumeGetFile", "VolumeGetFile2")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"x", id="small"),
        pytest.param(bytes(5), id="zeros"),
        pytest.param(os.urandom(5 << 20), id="blob"),
        pytest.param(os.urandom(BLOCK), id="block"),
        pytest.param(os.urandom(BLOCK + 1), id="block and more"),
        pytest.param(bytes(BLOCK) + b"x" + bytes(BLOCK + 7), id="holes"),
        pytest.param(b"ab" * BLOCK, id="the same block twice"),
    ],
)
def test_what_is_put_comes_back(volume: modal.Volume, data: bytes) -> None:
    before = int(time.time())
    put(volume, {"/d/f": data, "same": data})
    assert read(volume, "d/f") == data
    assert read(volume, "/same") == data
    target = io.BytesIO()
    assert volume.read_file_into_fileobj("d/f", target) == len(data)
    assert target.getvalue() == data
    (entry,) = volume.listdir("d/f")
    assert (entry.path, entry.type, entry.size) == ("d/f", FileEntryType.FILE, len(data))
    assert entry.mtime <= time.time() + 1
    assert entry.mtime >= before - 3600  # of the same content, sent by another test


def test_folders_are_put(volume: modal.Volume, tmp_path: Path, plane: Plane) -> None:
    for number in range(40):
        path = tmp_path / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
    (tmp_path / "d0/run").write_text("#!")
    (tmp_path / "d0/run").chmod(0o755)
    with volume.batch_upload() as batch:
        batch.put_directory(tmp_path, "/deep/down")
    head = plane.volumes.volume(volume.object_id).head.path
    assert files_of(head / "deep/down") == files_of(tmp_path)
    assert (head / "deep/down/d0/run").stat().st_mode & 0o777 == 0o755
    assert (head / "deep/down/d0/f0").stat().st_mode & 0o777 == 0o644


@covers("VolumeListFiles", "VolumeListFiles2")
def test_listings(volume: modal.Volume) -> None:
    put(volume, {"b/c/d": b"123", "b/a": b"", "z": b"1", "**": b"odd"})
    assert names(volume) == ["**", "b", "b/a", "b/c", "b/c/d", "z"]
    assert names(volume, recursive=False) == ["**", "b", "z"]
    assert names(volume, "") == names(volume)
    assert names(volume, "/b", recursive=False) == ["b/a", "b/c"]
    assert names(volume, "b/", recursive=True) == ["b/a", "b/c", "b/c/d"]
    assert names(volume, "/b/c/d") == ["b/c/d"]
    kinds = {entry.path: (entry.type, entry.size) for entry in volume.listdir("b", recursive=True)}
    assert kinds["b/c"] == (FileEntryType.DIRECTORY, 0)
    assert kinds["b/c/d"] == (FileEntryType.FILE, 3)
    for missing in ("nothing", "b/nothing", "z/below"):
        with pytest.raises(NotFoundError):
            names(volume, missing)


def test_long_listings(volume: modal.Volume, version: int, plane: Plane) -> None:
    def fill(draft: Draft) -> None:
        for number in range(2500):
            draft.place(("d", f"{number:05}"), overwrite=False).touch()

    plane.run(plane.volumes.volume(volume.object_id).change(fill))
    assert names(volume, "d") == [f"d/{number:05}" for number in range(2500)]
    kind = api_pb2.VolumeListFilesRequest if version == 1 else api_pb2.VolumeListFiles2Request
    handler: Any = plane.volumes.volume_list_files if version == 1 else plane.volumes.volume_list_files2

    async def some() -> list[str]:
        request: Any = kind(volume_id=volume.object_id, path="/**", max_entries=1500)
        return [entry.path async for batch in handler(request, CLIENT) for entry in batch.entries]

    assert plane.run(some()) == ["d", *(f"d/{number:05}" for number in range(1499))]


def test_existing_files_are_overwritten_by_force_only(volume: modal.Volume) -> None:
    put(volume, {"d/f": b"1", "g": b"1"})
    with pytest.raises(FileExistsError, match="d/f"):
        put(volume, {"new": b"2", "d/f": b"2"})
    assert names(volume) == ["d", "d/f", "g"]
    put(volume, {"d/f": b"3", "new": b"3"}, force=True)
    assert read(volume, "d/f") + read(volume, "new") + read(volume, "g") == b"331"


def test_folders_are_not_overwritten_by_files(volume: modal.Volume) -> None:
    put(volume, {"d/f": b"1"})
    for force in (False, True):
        with pytest.raises(FileExistsError, match="'d'"):
            put(volume, {"d": b"2"}, force=force)
        with pytest.raises(ConflictError, match="not a directory"):
            put(volume, {"d/f/below": b"2"}, force=force)
    assert names(volume) == ["d", "d/f"]


@covers("VolumeRemoveFile", "VolumeRemoveFile2")
def test_removing(volume: modal.Volume) -> None:
    put(volume, {"d/e/f": b"1", "d/g": b"1", "h": b"1"})
    volume.remove_file("/d/g")
    assert names(volume) == ["d", "d/e", "d/e/f", "h"]
    with pytest.raises(InvalidError, match="recursive"):
        volume.remove_file("d")
    volume.remove_file("d", recursive=True)
    assert names(volume) == ["h"]
    for missing in ("d", "d/e/f", "h/x"):
        with pytest.raises(FileNotFoundError):
            volume.remove_file(missing)
    with pytest.raises(FileNotFoundError):
        read(volume, "d/g")
    volume.remove_file("/", recursive=True)
    assert names(volume) == []


@covers("VolumeCopyFiles", "VolumeCopyFiles2")
def test_copying_as_cp_does(volume: modal.Volume, version: int) -> None:
    put(volume, {"a": b"1", "b": b"2", "d/old": b"3"})
    volume.copy_files(["a"], "c")
    volume.copy_files(["a"], "d")
    volume.copy_files(["a", "/b"], "d/")
    volume.copy_files(["b"], "c")
    volume.copy_files(["d/old"], "/")
    assert names(volume) == ["a", "b", "c", "d", "d/a", "d/b", "d/old", "old"]
    assert read(volume, "c") + read(volume, "d/a") + read(volume, "d/b") == b"212"
    put(volume, {"a": b"changed"}, force=True)
    assert read(volume, "d/a") == b"1"
    for sources, target, error in (
        (["missing"], "x", NotFoundError),
        (["a"], "nowhere/x", NotFoundError),
        (["a", "b"], "c", InvalidError),
        (["a"], "c/", InvalidError),
        (["a"], "a", InvalidError),
        (["d"], "x", InvalidError),
        ([], "x", InvalidError),
    ):
        with pytest.raises(error):
            volume.copy_files(sources, target)
    if version == 2:
        volume.copy_files(["d"], "e", recursive=True)
        volume.copy_files(["d"], "e", recursive=True)
        assert names(volume, "e") == ["e/a", "e/b", "e/d", "e/d/a", "e/d/b", "e/d/old", "e/old"]
        with pytest.raises(InvalidError, match="into itself"):
            volume.copy_files(["d"], "d/x", recursive=True)


@pytest.mark.parametrize("bad", ["../x", "d/../../x", "a\0b", "x" * 256, "x/" * 2100 + "x"])
def test_paths_from_the_wire_are_confined(volume: modal.Volume, version: int, plane: Plane, bad: str) -> None:
    put(volume, {"d/f": b"1"})
    calls: list[Callable[[], Any]] = [
        lambda: list(volume.read_file(bad)),
        lambda: names(volume, bad),
        lambda: volume.remove_file(bad),
        lambda: volume.copy_files([bad], "x"),
        lambda: volume.copy_files(["d/f"], bad),
    ]
    for call in calls:
        with pytest.raises(InvalidError):
            call()
    digest = hashlib.sha256(b"1").digest()
    requests: list[Any] = [
        api_pb2.VolumePutFilesRequest(
            volume_id=volume.object_id, files=[api_pb2.MountFile(filename=bad, sha256_hex=digest.hex())]
        ),
        api_pb2.VolumePutFiles2Request(
            volume_id=volume.object_id,
            files=[
                api_pb2.VolumePutFiles2Request.File(
                    path=bad, size=1, blocks=[api_pb2.VolumePutFiles2Request.Block(contents_sha256=digest)]
                )
            ],
        ),
    ]
    handlers: list[Any] = [plane.volumes.volume_put_files, plane.volumes.volume_put_files2]
    for handler, request in zip(handlers, requests, strict=True):
        with pytest.raises(GRPCError) as caught:
            plane.run(handler(request, CLIENT))
        assert caught.value.status is Status.INVALID_ARGUMENT
    assert names(volume) == ["d", "d/f"]


def test_links_do_not_lead_out(volume: modal.Volume, plane: Plane) -> None:
    put(volume, {"d/f": b"inside", "g": b"top"})

    def link(draft: Draft) -> None:
        for name, target in (
            ("absolute", "/etc/passwd"),
            ("up", "../../../../etc/passwd"),
            ("etc", "/etc"),
            ("d/back", "../g"),
            ("loop", "loop"),
            ("fine", "d"),
        ):
            (draft.root / name).symlink_to(target)

    plane.run(plane.volumes.volume(volume.object_id).change(link))
    assert read(volume, "fine/f") == b"inside"
    assert read(volume, "d/back") == b"top"
    for path in ("absolute", "up", "etc/passwd", "loop"):
        with pytest.raises(FileNotFoundError):
            read(volume, path)
    with pytest.raises(NotFoundError):
        names(volume, "etc")
    with pytest.raises(ConflictError):
        put(volume, {"etc/modal-emulator-was-here": b"x"})
    with pytest.raises(FileNotFoundError):
        volume.remove_file("etc/passwd")
    for sources, target in ((["absolute"], "x"), (["g"], "etc/x"), (["etc/passwd"], "x")):
        with pytest.raises((NotFoundError, ConflictError)):
            volume.copy_files(sources, target)
    kinds = {entry.path: entry.type for entry in volume.listdir("/")}
    assert kinds["etc"] == FileEntryType.SYMLINK
    volume.remove_file("etc")
    assert Path("/etc").is_dir()
    assert not Path("/etc/modal-emulator-was-here").exists()


def test_a_file_stays_what_it_was_while_it_is_read(volume: modal.Volume) -> None:
    old, new = os.urandom(BLOCK * 5), os.urandom(BLOCK * 5)
    put(volume, {"f": old})
    pieces = volume.read_file("f")
    got = [next(pieces)]
    put(volume, {"f": new}, force=True)
    volume.remove_file("f")
    got.extend(pieces)
    assert b"".join(got) == old


def test_parts_of_files(volume: modal.Volume, plane: Plane) -> None:
    data = os.urandom(BLOCK + 1000)
    put(volume, {"f": data})

    def get(start: int, length: int) -> bytes:
        request = api_pb2.VolumeGetFileRequest(volume_id=volume.object_id, path="f", start=start, len=length)
        answer = plane.run(plane.volumes.volume_get_file(request, CLIENT))
        assert (answer.size, answer.start) == (len(data), start)
        if answer.WhichOneof("data_oneof") == "data":
            return answer.data
        return plane.blobs.path(answer.data_blob_id).read_bytes()

    assert get(0, 0) == data
    assert get(10, 20) == data[10:30]
    assert get(BLOCK - 5, 10) == data[BLOCK - 5 : BLOCK + 5]
    assert get(BLOCK, 5000) == data[BLOCK:]
    assert get(len(data), 0) == b""
    request = api_pb2.VolumeGetFile2Request(volume_id=volume.object_id, path="f", start=BLOCK - 5, len=10)
    answer = plane.run(plane.volumes.volume_get_file2(request, CLIENT))
    assert (len(answer.get_urls), answer.start, answer.len) == (2, BLOCK - 5, 10)
    with pytest.raises(GRPCError) as caught:
        get(len(data) + 1, 0)
    assert caught.value.status is Status.OUT_OF_RANGE


def test_blocks_are_checked_and_asked_for_until_they_are_there(client: modal.Client, plane: Plane) -> None:
    import urllib.error
    import urllib.request

    def send(url: str, data: bytes) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, method="PUT")) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code

    data = os.urandom(BLOCK * 2 + 5)
    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
    with modal.Volume.ephemeral(version=2, client=client) as volume:
        request = api_pb2.VolumePutFiles2Request(
            volume_id=volume.object_id,
            files=[
                api_pb2.VolumePutFiles2Request.File(
                    path="f",
                    size=len(data),
                    blocks=[
                        api_pb2.VolumePutFiles2Request.Block(contents_sha256=hashlib.sha256(one).digest())
                        for one in blocks
                    ],
                )
            ],
        )

        def missing() -> dict[int, str]:
            answer = plane.run(plane.volumes.volume_put_files2(request, CLIENT))
            return {block.block_index: block.put_url for block in answer.missing_blocks}

        urls = missing()
        assert sorted(urls) == [0, 1, 2]
        assert send(urls[1], blocks[0]) == 400
        assert send(urls[2], blocks[2] + b"!") == 400
        assert send(urls[1], blocks[1]) == 200
        assert sorted(missing()) == [0, 2]
        assert send(urls[1], blocks[0]) == 400  # what is there is not spoilt
        assert send(urls[1], blocks[1]) == 200
        assert send(urls[0], blocks[0]) == 200
        assert send(urls[2], blocks[2]) == 200
        assert missing() == {}
        assert read(volume, "f") == data
        request.files[0].path = "again"
        assert missing() == {}
        assert read(volume, "again") == data
        for bad in (
            api_pb2.VolumePutFiles2Request.File(path="x", size=len(data)),
            api_pb2.VolumePutFiles2Request.File(path="x", size=1 << 60),
            api_pb2.VolumePutFiles2Request.File(
                path="x", size=1, blocks=[api_pb2.VolumePutFiles2Request.Block(contents_sha256=b"x")]
            ),
        ):
            with pytest.raises(GRPCError) as caught:
                plane.run(
                    plane.volumes.volume_put_files2(
                        api_pb2.VolumePutFiles2Request(volume_id=volume.object_id, files=[bad]), CLIENT
                    )
                )
            assert caught.value.status is Status.INVALID_ARGUMENT


def test_commit_and_reload_are_for_containers(volume: modal.Volume) -> None:
    with pytest.raises(RuntimeError, match="in a container"):
        volume.commit()
    with pytest.raises(RuntimeError, match="in a container"):
        volume.reload()


@covers("VolumeRename", "VolumeGetById", "VolumeList")
def test_names(client: modal.Client, name: str, version: int) -> None:
    volume = modal.Volume.from_name(name, create_if_missing=True, version=version, client=client)
    put(volume, {"f": b"1"})
    assert volume.info().name == name
    assert read(modal.Volume.from_id(volume.object_id, client=client), "f") == b"1"
    with pytest.raises(InvalidError, match="version"):
        modal.Volume.from_name(name, version=3 - version, client=client).hydrate()
    with pytest.raises(AlreadyExistsError):
        modal.Volume.objects.create(name, client=client)
    modal.Volume.objects.create(f"{name}-taken", client=client)
    with pytest.raises(AlreadyExistsError):
        modal.Volume.rename(name, f"{name}-taken", client=client)
    modal.Volume.rename(name, f"{name}-new", client=client)
    with pytest.raises(NotFoundError):
        modal.Volume.from_name(name, client=client).hydrate()
    assert read(modal.Volume.from_name(f"{name}-new", client=client), "f") == b"1"
    assert f"{name}-new" in [one.name for one in modal.Volume.objects.list(client=client)]


@covers("VolumeDelete")
def test_deleted_volumes_leave_nothing(client: modal.Client, plane: Plane, name: str, version: int) -> None:
    volume = modal.Volume.from_name(name, create_if_missing=True, version=version, client=client)
    put(volume, {"f": os.urandom(5 << 20)})
    folder = plane.volumes.volume(volume.object_id).folder
    assert folder.is_dir()
    modal.Volume.objects.delete(name, client=client)
    with pytest.raises(NotFoundError):
        names(volume)

    async def settle() -> None:
        import asyncio

        await asyncio.gather(*plane.volumes._tasks)

    plane.run(settle())
    assert not folder.exists()
    plane.volumes._content.sweep(grace=-1)
    plane.mounts.content.sweep(grace=-1)


# One process for all of them: to import the client takes longer than what they do.
COMMANDS = """
import json, sys
from modal.cli.entry_point import entrypoint_cli
for command in json.loads(sys.argv[1]):
    entrypoint_cli(["volume", *command], standalone_mode=False)
    print("that was", command[0], flush=True)
"""


@pytest.mark.timeout(600)
def test_the_clients_own_commands(emulator: dict[str, str], tmp_path: Path, name: str, version: int) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/f").write_text("1")
    (tmp_path / "in/g").write_text("2")
    (tmp_path / "out").mkdir()
    commands = [
        ["create", name, "--version", str(version)],
        ["put", name, str(tmp_path / "in"), "/x"],
        ["cp", name, "x/g", "x/h"],
        ["ls", name, "x"],
        ["get", name, "x", str(tmp_path / "out")],
        ["rm", name, "x/d", "-r"],
        ["ls", name, "/x"],
        ["delete", name, "--yes"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env=os.environ | emulator | {"COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.split(r"^that was (\w+)\n", done.stdout, flags=re.MULTILINE)
    assert said[1::2] == [command[0] for command in commands]
    before, after = (
        text.split() for text, command in zip(said[0::2], said[1::2], strict=False) if command == "ls"
    )
    assert before == ["x/d", "x/g", "x/h"]
    assert files_of(tmp_path / "out/x") == {"d/f": "1", "g": "2", "h": "2"}
    assert after == ["x/g", "x/h"]


@pytest.mark.parametrize("state", [True, False])
def test_volumes_survive_a_restart_with_a_state(tmp_path: Path, version: int, state: bool) -> None:
    model: dict[str, str] = {}
    for number in range(3):
        settings = Settings(work=tmp_path / f"work{number}", state=tmp_path / "state" if state else None)
        with serving(settings) as plane, connected(plane.environ) as client:
            volume = modal.Volume.from_name("kept", create_if_missing=True, version=version, client=client)
            head = plane.volumes.volume(volume.hydrate().object_id).head.path
            assert files_of(head) == (model if state else {})
            put(volume, {f"d/{number}": str(number).encode(), "both": str(number).encode()}, force=True)
            model |= {f"d/{number}": str(number), "both": str(number)}
            if number == 1:
                # Killed in the middle of something.
                folder = plane.volumes.volume(volume.object_id).folder
                (folder / "99.tmp").mkdir()
                (folder / "99.tmp/half").touch()
                (folder.parent / "vo-unknown").mkdir()
    volumes = settings.data / "volumes"
    (one,) = volumes.iterdir()
    assert len([path for path in one.iterdir() if path.name != "staging"]) == 1


def test_an_ephemeral_volume_ends_without_heartbeats(client: modal.Client, plane: Plane) -> None:
    now = [time.time() + 10_000]
    with modal.Volume.ephemeral(client=client) as volume:
        put(volume, {"f": b"1"})
        registry = plane.volumes._registry
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "_clock", lambda: now[0])
            plane.call(registry.expire)
        with pytest.raises(NotFoundError):
            names(volume)
