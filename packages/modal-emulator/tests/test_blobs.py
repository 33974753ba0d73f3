"""Blobs: the HTTP server behind them, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import modal
import pytest
from grpclib import GRPCError, Status
from modal._utils.blob_utils import blob_download, blob_iter, blob_upload
from modal_emulator.rpc import Caller
from modal_emulator.settings import Settings
from modal_proto import api_pb2
from storage_plane import Plane, connected, serving

CLIENT = Caller(None, {})


def http(
    method: str, url: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read(), dict(exc.headers)


def create(plane: Plane, data: bytes, **changed: Any) -> api_pb2.BlobCreateResponse:
    request = api_pb2.BlobCreateRequest(
        content_md5=base64.b64encode(hashlib.md5(data).digest()).decode(),
        content_sha256_base64=base64.b64encode(hashlib.sha256(data).digest()).decode(),
        content_length=len(data),
    )
    for name, value in changed.items():
        setattr(request, name, value)
    return plane.run(plane.blobs.blob_create(request, CLIENT))


def url_of(plane: Plane, blob_id: str) -> str:
    return plane.run(plane.blobs.blob_get(api_pb2.BlobGetRequest(blob_id=blob_id), CLIENT)).download_url


def of_client(client: modal.Client, work: Any) -> Any:
    """Run a function of the client's own, in the client's event loop."""
    from modal._utils.async_utils import synchronizer

    inner = synchronizer._translate_in(client)  # type: ignore[no-untyped-call]

    async def run() -> Any:
        return await work(inner._stub)

    return synchronizer.create_blocking(run)()


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (3 << 20) + 7])
def test_what_is_sent_comes_back(client: modal.Client, plane: Plane, size: int) -> None:
    data = os.urandom(size)

    async def work(stub: Any) -> None:
        blob_id = await blob_upload(data, stub)
        assert await blob_download(blob_id, stub) == data
        assert b"".join([piece async for piece in blob_iter(blob_id, stub)]) == data
        assert plane.blobs.path(blob_id).read_bytes() == data

    of_client(client, work)


@pytest.mark.parametrize("size", [(1 << 20) + 1, 5 << 20, (5 << 20) + 3])
def test_blobs_in_parts(
    client: modal.Client, plane: Plane, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane.blobs, "multipart_above", 1 << 20)
    monkeypatch.setattr(plane.blobs, "part_length", 1 << 20)
    data = os.urandom(size)
    blob_id = of_client(client, lambda stub: blob_upload(data, stub))
    assert plane.blobs.path(blob_id).read_bytes() == data
    assert plane.blobs.sha256(blob_id) == hashlib.sha256(data).digest()


def test_parts_that_did_not_come_are_missed(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane.blobs, "multipart_above", 10)
    monkeypatch.setattr(plane.blobs, "part_length", 10)
    data = os.urandom(25)
    made = create(plane, data)
    multi = made.multiparts.items[0]
    etags = []
    for number in range(2):
        status, _, headers = http("PUT", multi.upload_urls[number], data[number * 10 : number * 10 + 10])
        assert status == 200
        etags.append(headers["ETag"])
    body = "".join(f"<Part><ETag>{etag}</ETag></Part>" for etag in etags).encode()
    assert http("POST", multi.completion_url, body)[0] == 400
    assert http("PUT", multi.upload_urls[2], data[20:] + b"!")[0] == 400
    assert http("PUT", multi.upload_urls[2], data[20:24])[0] == 400
    assert http("PUT", multi.upload_urls[2], b"wrong")[0] == 200  # nothing says what a part has to be
    wrong = hashlib.md5(b"wrong").hexdigest()
    assert http("POST", multi.completion_url, body + f"<Part><ETag>{wrong}</ETag></Part>".encode())[0] == 400
    with pytest.raises(GRPCError):
        plane.blobs.path(made.blob_id)
    assert http("PUT", multi.upload_urls[2], data[20:])[0] == 200
    right = hashlib.md5(data[20:]).hexdigest()
    status, answer, _ = http(
        "POST", multi.completion_url, body + f"<Part><ETag>{right}</ETag></Part>".encode()
    )
    assert status == 200
    assert http("POST", multi.completion_url, body)[1] == answer  # the first answer was lost
    assert plane.blobs.path(made.blob_id).read_bytes() == data


def test_contents_are_checked(plane: Plane) -> None:
    data = b"what was announced"
    (url,) = create(plane, data).upload_urls.items
    for wrong in (b"what was ANNOUNCED", data + b"!", data[:-1], b""):
        assert http("PUT", url, wrong)[0] == 400
    made = create(plane, data, content_sha256_base64=base64.b64encode(bytes(32)).decode())
    assert http("PUT", made.upload_urls.items[0], data)[0] == 400
    with pytest.raises(GRPCError) as caught:
        plane.blobs.path(made.blob_id)
    assert caught.value.status is Status.NOT_FOUND
    status, _, headers = http("PUT", url, data, **{"Content-MD5": "AAAA"})
    assert status == 400
    status, _, headers = http("PUT", url, data)
    assert status == 200
    assert headers["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'


@pytest.mark.parametrize(
    "changed",
    [
        {"content_length": -1},
        {"content_length": 1 << 60},
        {"content_md5": "?"},
        {"content_sha256_base64": "AAAA"},
    ],
)
def test_what_cannot_be_a_blob_is_refused(plane: Plane, changed: dict[str, Any]) -> None:
    with pytest.raises(GRPCError) as caught:
        create(plane, b"x", **changed)
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_ranges(plane: Plane) -> None:
    blob_id = plane.run(plane.blobs.put(bytes(range(100))))
    url = url_of(plane, blob_id)
    assert http("GET", url)[:2] == (200, bytes(range(100)))
    assert http("GET", url, Range="bytes=10-19")[:2] == (206, bytes(range(10, 20)))
    assert http("GET", url, Range="bytes=90-")[:2] == (206, bytes(range(90, 100)))
    assert http("GET", url, Range="bytes=-5")[:2] == (206, bytes(range(95, 100)))
    assert http("GET", url, Range="bytes=200-")[0] == 416
    status, body, headers = http("HEAD", url)
    assert (status, body, headers["Content-Length"]) == (200, b"", "100")


def test_urls_are_signed(plane: Plane) -> None:
    blob_id = plane.run(plane.blobs.put(b"mine"))
    url = url_of(plane, blob_id)
    base, _, query = url.partition("?")
    expires, sig = (part.partition("=")[2] for part in query.split("&"))
    assert http("GET", f"{base}?expires={expires}&sig={sig}")[0] == 200
    for bad in (
        f"{base}?expires={int(expires) + 1}&sig={sig}",
        f"{base}?expires={expires}&sig={sig[:-1]}0"
        if sig[-1] != "0"
        else f"{base}?expires={expires}&sig={sig[:-1]}1",
        f"{base}?expires={expires}&sig=",
        f"{base}?expires={expires}&sig=%ff%00",
        f"{base}?expires=x&sig={sig}",
        f"{base}?sig={sig}",
        f"{base}0-1?expires={expires}&sig={sig}",
        base,
        base.rsplit("/", 2)[0] + "/",
        base.rsplit("/", 2)[0] + f"/..%2f..%2fetc%2fpasswd/?expires={expires}&sig={sig}",
        base.rsplit("/", 2)[0] + "/etc/passwd",
    ):
        assert http("GET", bad)[0] in (403, 404), bad
    assert http("PUT", url, b"theirs")[0] == 403
    assert http("DELETE", url)[0] == 403
    assert plane.blobs.path(blob_id).read_bytes() == b"mine"


def test_urls_expire(tmp_path: Path) -> None:
    now = [1_000_000.0]
    with serving(Settings(work=tmp_path)) as plane:
        plane.blobs.files._clock = lambda: now[0]
        plane.blobs.files.expiry = 60
        blob_id = plane.run(plane.blobs.put(b"x"))
        url, (put,) = url_of(plane, blob_id), create(plane, b"y").upload_urls.items
        half = create(plane, b"whole").upload_urls.items[0]
        assert http("PUT", half, b"whol?")[0] == 400
        now[0] += 59
        plane.call(plane.blobs.files.expire)
        assert http("GET", url)[0] == 200
        now[0] += 3
        assert http("GET", url)[0] == 403
        assert http("PUT", put, b"y")[0] == 403
        plane.call(plane.blobs.files.expire)
        assert [path.name for path in (tmp_path / "data/blobs").iterdir()] == [
            blob_id
        ]  # what was given up is gone
        assert plane.blobs.files._timer is None
        assert plane.blobs.path(blob_id).read_bytes() == b"x"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "bl-",
        "bl-../../../../../etc",
        "../x",
        "/etc/passwd",
        "bl-" + "a" * 21 + "/",
        "bl-" + "a" * 22,
        "\0",
    ],
)
def test_ids_from_the_wire_lead_nowhere_else(plane: Plane, bad: str) -> None:
    with pytest.raises(GRPCError) as caught:
        plane.run(plane.blobs.blob_get(api_pb2.BlobGetRequest(blob_id=bad), CLIENT))
    assert caught.value.status is Status.NOT_FOUND
    plane.blobs.delete(bad)


def test_deleted_blobs_are_gone(plane: Plane) -> None:
    blob_id = plane.run(plane.blobs.put(b"x"))
    url = url_of(plane, blob_id)
    plane.blobs.delete(blob_id)
    assert http("GET", url)[0] == 404
    with pytest.raises(GRPCError):
        plane.blobs.path(blob_id)


def test_an_upload_that_breaks_off_is_no_blob(plane: Plane) -> None:
    async def scenario() -> None:
        made = await plane.blobs.blob_create(api_pb2.BlobCreateRequest(content_length=1000), CLIENT)
        url = made.upload_urls.items[0]
        host, port = url.split("/")[2].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        path = url.split("/", 3)[3]
        writer.write(f"PUT /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + bytes(500))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(GRPCError):
            plane.blobs.path(made.blob_id)

    plane.run(scenario())


def test_blobs_survive_a_restart(tmp_path: Path) -> None:
    blob_id = ""
    for number in range(2):
        with serving(Settings(work=tmp_path / f"work{number}", state=tmp_path / "state")) as plane:
            if number == 0:
                blob_id = plane.run(plane.blobs.put(b"kept"))
                half = create(plane, b"half").upload_urls.items[0]
                assert http("PUT", half, b"hal?")[0] == 400
            else:
                assert http("GET", url_of(plane, blob_id))[1] == b"kept"
    assert [path.name for path in (tmp_path / "state/blobs").iterdir()] == [blob_id]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_a_gigabyte_is_never_in_memory(tmp_path: Path) -> None:
    """Of the server; that of the client is its own affair. Both ways, by blob and by volume of both versions."""
    import subprocess
    import sys

    (tmp_path / "source").touch()
    with (tmp_path / "source").open("wb") as file:
        for _ in range(32):
            file.write(os.urandom(1 << 24))
    program = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from storage_plane import serving, Settings;\n"
        "with serving(Settings(work=Path(sys.argv[2]))) as plane:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print(plane.port, flush=True); sys.stdin.readline()\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "work")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    environ = {
        "MODAL_SERVER_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        "MODAL_TOKEN_ID": "ak-emulator",
        "MODAL_TOKEN_SECRET": "as-emulator",
        "MODAL_CONFIG_PATH": str(tmp_path / "modal.toml"),
    }
    try:
        with connected(environ) as client:
            for version in (1, 2):
                volume = modal.Volume.from_name(
                    f"v{version}", create_if_missing=True, version=version, client=client
                )
                with volume.batch_upload() as batch:
                    batch.put_file(tmp_path / "source", "/f")
                with (tmp_path / "target").open("wb") as file:
                    volume.read_file_into_fileobj("f", file)
                subprocess.run(["cmp", tmp_path / "source", tmp_path / "target"], check=True)
    finally:
        grown, _ = server.communicate("\n")
        server.wait()
    assert int(grown) < 200 * 1024, f"{int(grown) // 1024} MiB"
