"""Who may do what: tokens, sockets, files, and requests that ask for too much."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import inspect
import resource
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import program
import pytest
from covers import covers
from grpclib import Status
from modal.exception import AuthError
from modal_emulator import Emulator
from modal_emulator.services.session import SessionService
from modal_proto import api_pb2
from wire import Wire, headers_of

pytestmark = pytest.mark.slow

CREATE = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING


@pytest.fixture(scope="module")
def wire(server: Emulator) -> Iterator[Wire]:
    with Wire(server) as wire:
        yield wire


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def work_folder(server: Emulator) -> Path:
    return Path(server.variables["MODAL_CONFIG_PATH"] or "").parent


# --- tokens ---


def tokens(server: Emulator) -> dict[str, dict[str, str]]:
    name, secret = server.token
    return {
        "none": {},
        "only an id": {"x-modal-token-id": name},
        "only a secret": {"x-modal-token-secret": secret},
        "another secret": headers_of((name, secret[:-1] + ("a" if secret[-1] != "a" else "b"))),
        "a shorter secret": headers_of((name, secret[:-1])),
        "a longer secret": headers_of((name, secret + "a")),
        "another id": headers_of((name + "a", secret)),
        "swapped": headers_of((secret, name)),
        "of another case": headers_of((name, secret.swapcase())),
        "very long": headers_of((name, "a" * 10_000)),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "none",
        "only an id",
        "only a secret",
        "another secret",
        "a shorter secret",
        "a longer secret",
        "another id",
        "swapped",
        "of another case",
        "very long",
    ],
)
def test_without_the_token_nothing_is_answered(server: Emulator, kind: str) -> None:
    with Wire(server, tokens(server)[kind]) as wire:
        for name in (
            "ClientHello",
            "AppList",
            "FunctionMap",
            "SecretUpdate",
            "ContainerHello",
            "SandboxCreate",
        ):
            answer = wire.call(name, b"\xff garbage")
            assert answer.status is Status.UNAUTHENTICATED, name
            assert server.token[1] not in answer.message


@covers("ClientHello")
def test_a_wrong_token_is_the_clients_auth_error(server: Emulator) -> None:
    ran = program.run("says_hello.py", {**server.environ, "MODAL_TOKEN_SECRET": "as-wrong"})
    assert ran.code == 1
    assert ran.said == {"error": AuthError.__name__}


def test_secrets_are_compared_in_constant_time() -> None:
    """How long it takes cannot be measured here: what does the comparing can be seen."""
    source = inspect.getsource(SessionService.accepts)
    tree = ast.parse("if True:\n" + source)
    assert "compare_digest" in source
    compared = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert not [each for each in compared if "secret" in each or "digest" in each]


def test_what_only_containers_call_is_refused_to_clients(wire: Wire) -> None:
    calls: dict[str, Any] = {
        "ContainerHello": api_pb2.TaskResultRequest(),
        "ContainerHeartbeat": api_pb2.ContainerHeartbeatRequest(),
        "FunctionGetInputs": api_pb2.FunctionGetInputsRequest(),
        "FunctionPutOutputs": api_pb2.FunctionPutOutputsRequest(),
        "TaskResult": api_pb2.TaskResultRequest(),
    }
    for name, request in calls.items():
        assert wire.call(name, request).status is Status.PERMISSION_DENIED, name


@covers("FunctionPutOutputs", "FunctionCallPutDataOut", "TokenFlowCreate")
def test_a_container_does_not_answer_for_another(server: Emulator, wire: Wire) -> None:
    flow = wire.ask("TokenFlowCreate", api_pb2.TokenFlowCreateRequest())
    said = program.run("neighbours.py", server.environ, flow.web_url, str(work_folder(server))).check()
    assert said["victim"] == "the victim's own"
    outputs, chunks, *token_calls = said["culprit"]["answers"]
    assert outputs[0] == "OK"  # as if the input had been cancelled meanwhile
    assert chunks[0] == "PERMISSION_DENIED"
    assert {answer[0] for answer in token_calls} == {"PERMISSION_DENIED"}
    assert said["culprit"]["approved"] == 403
    assert said["culprit"]["sockets"] == []


# --- where it listens, and its files ---


def test_it_listens_on_loopback_only(server: Emulator) -> None:
    inodes = set()
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()))
    listening = []
    for table, loopback in (
        ("tcp", "0100007F"),
        ("tcp6", "0" * 24 + "01000000"),
        ("udp", "0100007F"),
        ("udp6", ""),
    ):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and (fields[3] == "0A" or table.startswith("udp")):
                listening.append(fields[1])
                assert fields[1].startswith(loopback), f"{table} {fields[1]}"
    assert f"0100007F:{urlsplit(server.url).port:04X}" in listening


def modes(folder: Path) -> list[str]:
    """What others than the owner may look into, reach, or change."""
    found = []
    for path in [folder, *folder.iterdir()]:
        info = path.lstat()
        if stat.S_IMODE(info.st_mode) & 0o077 and not stat.S_ISLNK(info.st_mode):
            found.append(f"{path} {stat.S_IMODE(info.st_mode):o}")
    return found


@pytest.fixture(scope="module")
def kept_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("careful")


@pytest.fixture(scope="module")
def careful(kept_in: Path) -> Iterator[Emulator]:
    """A server that keeps its state, says all that it can, and whose URLs soon expire."""
    folder = kept_in
    (folder / "state").mkdir()  # somebody may have made it before
    (folder / "state").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODAL_EMULATOR_LOG_LEVEL", "DEBUG")
        with Emulator(state=folder / "state", cache=folder / "cache", url_seconds=4) as server:
            yield server


@covers("SecretGetOrCreate", "SecretList")
def test_what_is_kept_is_for_its_owner(careful: Emulator, kept_in: Path) -> None:
    state, cache = kept_in / "state", kept_in / "cache"
    with Wire(careful) as wire:
        wire.ask(
            "SecretGetOrCreate",
            api_pb2.SecretGetOrCreateRequest(
                deployment_name="kept", object_creation_type=CREATE, env_dict={"KEPT": "the-secret-value"}
            ),
        )
        assert [each.label for each in wire.ask("SecretList", api_pb2.SecretListRequest()).items] == ["kept"]
    assert [each for each in modes(state) if not each.startswith((f"{state} ", f"{state / 'lock'} "))] == []
    for own in (work_folder(careful), cache):
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
    holds = [path for path in state.rglob("*") if path.is_file() and b"the-secret-value" in path.read_bytes()]
    assert holds
    for path in holds:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_secret_is_in_a_log_or_an_error(careful: Emulator) -> None:
    said = ""
    with Wire(careful) as wire:
        for key, value in {"A": "secret-value-1", "B=": "secret-value-2", "C": "secret-value-\0-3"}.items():
            request = api_pb2.SecretGetOrCreateRequest(
                object_creation_type=api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL, env_dict={key: value}
            )
            said += wire.call("SecretGetOrCreate", request).message
    with Wire(careful, headers_of((careful.token[0], "secret-value-4"))) as wrong:
        said += wrong.call("AppList", b"").message
    assert "secret-value" not in said + careful.log
    assert careful.token[1] not in said + careful.log


# --- blobs over HTTP ---


class Http:
    """One request to a URL, which may be tampered with."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)

    def __call__(
        self,
        method: str,
        *,
        path: str | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, dict[str, str]]:
        assert self.parts.hostname is not None
        connection = http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=20)
        try:
            target = f"{self.parts.path}?{self.parts.query}" if path is None else path
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()


def blob(wire: Wire, data: bytes) -> tuple[str, Http]:
    """A blob that has been announced, and where to put it."""
    request = api_pb2.BlobCreateRequest(content_length=len(data))
    answer = wire.ask("BlobCreate", request)
    return answer.blob_id, Http(answer.upload_urls.items[0])


def getter(wire: Wire, blob_id: str) -> Http:
    return Http(wire.ask("BlobGet", api_pb2.BlobGetRequest(blob_id=blob_id)).download_url)


@pytest.fixture
def kept(wire: Wire) -> tuple[str, Http, Http]:
    """A blob, its URL to put it, and one to get it."""
    blob_id, put = blob(wire, b"0123456789")
    status, _, headers = put("PUT", body=b"0123456789")
    assert status == 200
    assert headers["ETag"].strip('"') == hashlib.md5(b"0123456789").hexdigest()
    return blob_id, put, getter(wire, blob_id)


@covers("BlobCreate", "BlobGet")
def test_a_blob_comes_back(kept: tuple[str, Http, Http]) -> None:
    assert kept[2]("GET")[:2] == (200, b"0123456789")


def test_urls_cannot_be_changed(kept: tuple[str, Http, Http]) -> None:
    _, put, get = kept
    query = parse_qs(get.parts.query)
    expires, sig = query["expires"][0], query["sig"][0]
    path = get.parts.path
    for target in (
        path,
        f"{path}?sig={sig}",
        f"{path}?expires={expires}",
        f"{path}?expires={int(expires) + 1}&sig={sig}",
        f"{path}?expires={'9' * 5000}&sig={sig}",
        f"{path}?expires=nan&sig={sig}",
        f"{path}?expires={expires}&sig={sig[:-1]}",
        f"{path}?expires={expires}&sig={sig}0",
        f"{path}?expires={expires}&sig=%ff%fe",
        f"{path}?expires={expires}&sig={'0' * 64}",
        f"{path}0-5?expires={expires}&sig={sig}",
        f"{put.parts.path}?{get.parts.query}",
        f"/..{path}?expires={expires}&sig={sig}0",
        f"/../../../../etc/passwd?expires={expires}&sig={sig}",
        f"/%2e%2e%2f%2e%2e%2fetc/passwd?expires={expires}&sig={sig}",
        f"/etc%2fpasswd/?expires={expires}&sig={sig}",
        "/",
        "//etc/passwd",
        "/%00/",
        "*",
    ):
        status, body, _ = get("GET", path=target)
        assert status in (400, 403, 404), target
        assert b"0123" not in body
        assert b"root:" not in body


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_a_url_is_for_one_method(kept: tuple[str, Http, Http], method: str) -> None:
    _, put, get = kept
    assert get(method, body=b"x")[0] in (403, 405)
    if method != "PUT":
        assert put(method, body=b"x")[0] in (403, 405)
    assert put("GET")[0] == 403
    assert get("GET")[1] == b"0123456789"


def test_a_blob_is_not_put_twice(kept: tuple[str, Http, Http]) -> None:
    """A URL may be used again, for a client that did not get the answer, but not with something else."""
    _, put, get = kept
    put("PUT", body=b"9876543210")
    assert get("GET")[1] == b"0123456789"


@pytest.mark.parametrize(
    "ranged",
    [
        "bytes=2-4",
        "bytes=-3",
        "bytes=5-",
        "bytes=0-99999999999999",
        "bytes=9-2",
        "bytes=-99999",
        "bytes=a-b",
        "bytes=0-0,2-2,4-4",
        "bytes=" + "0-1," * 2000,
        "bytes=99-",
        "bytes=-" + "9" * 5000,
    ],
)
def test_ranges_stay_in_the_file(kept: tuple[str, Http, Http], ranged: str) -> None:
    status, body, _ = kept[2]("GET", headers={"Range": ranged})
    assert status in (200, 206, 400, 416)
    if status in (200, 206):
        assert body in b"0123456789"


@pytest.mark.parametrize("body", [b"", b"012345678", b"01234567890", b"x" * 5_000_000])
def test_a_body_has_the_length_that_was_announced(wire: Wire, body: bytes) -> None:
    blob_id, put = blob(wire, b"0123456789")
    with contextlib.suppress(ConnectionError):  # it hangs up on what is too much
        assert put("PUT", body=body)[0] == 400
    assert wire.call("BlobGet", api_pb2.BlobGetRequest(blob_id=blob_id)).status is Status.NOT_FOUND


def test_a_body_has_the_digest_that_was_announced(wire: Wire) -> None:
    import base64

    right = base64.b64encode(hashlib.md5(b"0123456789").digest()).decode()
    request = api_pb2.BlobCreateRequest(content_length=10, content_md5=right)
    answer = wire.ask("BlobCreate", request)
    put = Http(answer.upload_urls.items[0])
    assert put("PUT", body=b"9876543210")[0] == 400
    assert put("PUT", body=b"9876543210", headers={"Content-MD5": right})[0] == 400
    assert wire.call("BlobGet", api_pb2.BlobGetRequest(blob_id=answer.blob_id)).status is Status.NOT_FOUND
    assert put("PUT", body=b"0123456789")[0] == 200
    assert getter(wire, answer.blob_id)("GET")[1] == b"0123456789"


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 10\r\nContent-Length: 11\r\n",
        "Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: +10\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x0a\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "X: a\nContent-Length: 10\r\n",
        "X: " + "a" * 100_000 + "\r\n",
        "X: a\r\n" * 20_000,
    ],
)
def test_a_request_means_one_thing(wire: Wire, head: str) -> None:
    """A body is not taken for another request, whoever stands between."""
    _, put = blob(wire, b"0123456789")
    target = f"{put.parts.path}?{put.parts.query}"
    smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    said = b""
    with (
        socket.create_connection((put.parts.hostname or "", put.parts.port or 0), 20) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(f"PUT {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n0123456789{smuggled}".encode())
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            said += piece
    assert said.count(b"HTTP/1.1 ") <= 1
    assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")) or not said


def test_urls_expire(careful: Emulator) -> None:
    with Wire(careful) as wire:
        blob_id, put = blob(wire, b"0123456789")
        assert put("PUT", body=b"0123456789")[0] == 200
        get = getter(wire, blob_id)
        _, late = blob(wire, b"0123456789")
        deadline = time.monotonic() + 20
        while get("GET")[0] == 200:
            assert time.monotonic() < deadline
        assert get("GET")[0] == late("PUT", body=b"0123456789")[0] == 403
        assert getter(wire, blob_id)("GET")[1] == b"0123456789"


# --- too much ---


def test_a_blob_takes_room_only_when_it_comes(server: Emulator, wire: Wire) -> None:
    for _ in range(50):
        wire.ask("BlobCreate", api_pb2.BlobCreateRequest(content_length=1 << 30))
    _, put = blob(wire, b"")
    assert put.parts.port
    with socket.create_connection(("127.0.0.1", put.parts.port), 20):  # it says nothing
        answer = wire.ask("BlobCreate", api_pb2.BlobCreateRequest(content_length=1 << 30))
        target = urlsplit(answer.upload_urls.items[0])
        with socket.create_connection(("127.0.0.1", put.parts.port), 20) as half:
            half.sendall(
                f"PUT {target.path}?{target.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
            )
            used = sum(f.stat().st_blocks * 512 for f in work_folder(server).rglob("bl-*") if f.is_file())
            assert used < 50 << 20
    assert wire.call("ClientHello", b"").status is Status.OK


@covers("QueuePut", "QueueLen", "QueueGetOrCreate")
def test_a_queue_has_an_end(wire: Wire) -> None:
    queue = wire.ask(
        "QueueGetOrCreate",
        api_pb2.QueueGetOrCreateRequest(deployment_name="full", object_creation_type=CREATE),
    )
    many = api_pb2.QueuePutRequest(queue_id=queue.queue_id, values=[b""] * 1_000_000)
    assert wire.call("QueuePut", many, 60).status is Status.INVALID_ARGUMENT
    some = api_pb2.QueuePutRequest(queue_id=queue.queue_id, values=[b"x"] * 5000)
    assert wire.call("QueuePut", some).status is Status.OK
    assert wire.call("QueuePut", some).status is Status.RESOURCE_EXHAUSTED
    assert wire.ask("QueueLen", api_pb2.QueueLenRequest(queue_id=queue.queue_id)).len == 5000


def test_a_request_has_an_end(server: Emulator) -> None:
    """It is refused by its length, before it has come."""
    import asyncio

    from grpclib import GRPCError
    from grpclib.client import Channel
    from grpclib.const import Cardinality
    from wire import RawCodec

    address = urlsplit(server.url)

    async def send() -> Status:
        channel = Channel(address.hostname, address.port, codec=RawCodec())
        try:
            async with channel.request(
                "/modal.client.ModalClient/DictUpdate",
                Cardinality.UNARY_UNARY,
                bytes,
                bytes,
                metadata=headers_of(server.token),
            ) as stream:
                await stream.send_request()
                await stream._stream.send_data(b"\0" + (1 << 31).to_bytes(4, "big") + b"x" * 1000)
                await stream.recv_initial_metadata()
                await stream.recv_message()
        except GRPCError as exc:
            return exc.status
        finally:
            channel.close()
        return Status.OK

    assert asyncio.run(asyncio.wait_for(send(), 20)) is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        + bytes([255, 255, 255, 1, 4, 0, 0, 0, 1]),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        + bytes([0, 0, 4, 8, 0, 0, 0, 0, 0, 255, 255, 255, 255]) * 50,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        + bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) * 10
        + b"12345678",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
    ],
)
def test_garbage_ends_its_own_connection_only(server: Emulator, wire: Wire, garbage: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), 20) as connection:
        connection.sendall(garbage)
        assert wire.call("ClientHello", b"").status is Status.OK
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass
    assert "Traceback" not in server.log, server.log[-3000:]


def test_many_idle_connections_are_borne(server: Emulator, wire: Wire) -> None:
    before = memory(server.pid)
    address = urlsplit(server.url)
    count = min(400, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
    with contextlib.ExitStack() as stack:
        for number in range(count):
            connection = stack.enter_context(
                socket.create_connection((address.hostname or "", address.port or 0), 20)
            )
            if number % 2:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert wire.call("ClientHello", b"").status is Status.OK
        assert memory(server.pid) < before + 200
    assert wire.call("ClientHello", b"").status is Status.OK


@pytest.mark.slow
def test_a_flood_of_output_is_borne(server: Emulator) -> None:
    with Emulator() as server:
        program.run("flood.py", server.environ, "1").check()
        before = memory(server.pid)
        ran = program.run("flood.py", server.environ, "200")
        assert ran.said["flooded"] == 200, ran.err[-2000:]
        assert memory(server.pid) < before + 250


@pytest.mark.parametrize("name", ["../a", "a/b", "a\nb", "a\0b", "x" * 65, "é", "ap-" + "x" * 22, " "])
def test_what_cannot_be_a_name_is_refused(wire: Wire, name: str) -> None:
    anonymous = {"object_creation_type": CREATE, "deployment_name": name}
    for kind in ("Dict", "Queue", "Volume", "Secret"):
        request = getattr(api_pb2, f"{kind}GetOrCreateRequest")(**anonymous)
        assert wire.call(f"{kind}GetOrCreate", request).status is Status.INVALID_ARGUMENT, kind
    environment = api_pb2.EnvironmentGetOrCreateRequest(deployment_name=name, object_creation_type=CREATE)
    if not name.startswith("ap-"):
        assert wire.call("EnvironmentGetOrCreate", environment).status in (
            Status.INVALID_ARGUMENT,
            Status.NOT_FOUND,
        )
    app = wire.ask("AppCreate", api_pb2.AppCreateRequest(description=name))
    publish = api_pb2.AppPublishRequest(app_id=app.app_id, name=name, app_state=api_pb2.APP_STATE_DEPLOYED)
    assert wire.call("AppPublish", publish).status is Status.INVALID_ARGUMENT


# --- paths ---

PATHS: dict[str, str] = {
    "..": "..",
    "above": "../../outside",
    "in the middle": "a/../../outside",
    "NUL": "a\0b",
    "long name": "x" * 256,
    "long path": "x/" * 2100 + "x",
    "absolute": "/../outside",
}


@pytest.fixture(
    scope="module", params=[api_pb2.VOLUME_FS_VERSION_V1, api_pb2.VOLUME_FS_VERSION_V2], ids=["v1", "v2"]
)
def volume(request: pytest.FixtureRequest, wire: Wire) -> str:
    made = wire.ask(
        "VolumeGetOrCreate",
        api_pb2.VolumeGetOrCreateRequest(
            object_creation_type=api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL, version=request.param
        ),
    )
    return str(made.volume_id)


def stored(wire: Wire, data: bytes) -> str:
    key = hashlib.sha256(data).hexdigest()
    wire.ask("MountPutFile", api_pb2.MountPutFileRequest(sha256_hex=key, data=data))
    return key


@pytest.mark.parametrize("kind", PATHS)
def test_paths_do_not_leave_a_volume(wire: Wire, volume: str, kind: str) -> None:
    path = PATHS[kind]
    key = stored(wire, b"a file")
    put = api_pb2.VolumePutFilesRequest(
        volume_id=volume, files=[api_pb2.MountFile(filename=path, sha256_hex=key)]
    )
    put2 = api_pb2.VolumePutFiles2Request(
        volume_id=volume, files=[api_pb2.VolumePutFiles2Request.File(path=path)]
    )
    calls: list[tuple[str, Any]] = [
        ("VolumePutFiles", put),
        ("VolumePutFiles2", put2),
        ("VolumeGetFile", api_pb2.VolumeGetFileRequest(volume_id=volume, path=path)),
        ("VolumeGetFile2", api_pb2.VolumeGetFile2Request(volume_id=volume, path=path)),
        ("VolumeListFiles", api_pb2.VolumeListFilesRequest(volume_id=volume, path=path)),
        ("VolumeListFiles2", api_pb2.VolumeListFiles2Request(volume_id=volume, path=path, recursive=True)),
        ("VolumeRemoveFile", api_pb2.VolumeRemoveFileRequest(volume_id=volume, path=path, recursive=True)),
        ("VolumeRemoveFile2", api_pb2.VolumeRemoveFile2Request(volume_id=volume, path=path, recursive=True)),
        ("VolumeCopyFiles", api_pb2.VolumeCopyFilesRequest(volume_id=volume, src_paths=[path], dst_path="b")),
        (
            "VolumeCopyFiles2",
            api_pb2.VolumeCopyFiles2Request(volume_id=volume, src_paths=["b"], dst_path=path),
        ),
        (
            "MountGetOrCreate",
            api_pb2.MountGetOrCreateRequest(
                object_creation_type=api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
                files=[api_pb2.MountFile(filename=path, sha256_hex=key)],
            ),
        ),
    ]
    for name, request in calls:
        answer = wire.call(name, request)
        assert answer.status is Status.INVALID_ARGUMENT, f"{name}: {answer}"


@covers("VolumePutFiles", "VolumeListFiles")
@pytest.mark.parametrize(
    "path", ["a\nb", "é\u202e", " ", "-rf", "$(id)", "*x", "x" * 255, "~", "a\\b", "%2e%2e", "...", "con"]
)
def test_odd_names_are_names(wire: Wire, volume: str, path: str) -> None:
    key = stored(wire, b"a file")
    put = api_pb2.VolumePutFilesRequest(
        volume_id=volume, files=[api_pb2.MountFile(filename=path, sha256_hex=key)]
    )
    assert wire.call("VolumePutFiles", put).status is Status.OK
    listed = wire.call("VolumeListFiles", api_pb2.VolumeListFilesRequest(volume_id=volume, path="/"))
    found = [
        e.path for reply in listed.replies for e in api_pb2.VolumeListFilesResponse.FromString(reply).entries
    ]
    assert path in found


@covers("VolumeListFiles", "VolumeGetFile2")
def test_symbolic_links_lead_nowhere(server: Emulator) -> None:
    said = program.run("links.py", server.environ).check()
    assert said["listed"] == ["dangling", "file", "loop", "outside", "outside-folder", "relative", "within"]
    assert said["read"] == {"file": "a file", "within": "a file"}


@pytest.mark.parametrize("path", ["../outside", "/../../outside", "a/../../../outside", "a\0b", "x" * 256])
def test_paths_do_not_leave_an_images_context(wire: Wire, path: str, server: Emulator) -> None:
    image = api_pb2.Image(
        dockerfile_commands=["FROM python:3.12-slim-bookworm", f"COPY {path} /x"],
        context_files=[api_pb2.ImageContextFile(filename=path, data=b"outside")],
    )
    answer = wire.call(
        "ImageGetOrCreate", api_pb2.ImageGetOrCreateRequest(image=image, builder_version="2025.06")
    )
    if answer.status is Status.OK:
        image_id = api_pb2.ImageGetOrCreateResponse.FromString(answer.replies[0]).image_id
        join = wire.call(
            "ImageJoinStreaming", api_pb2.ImageJoinStreamingRequest(image_id=image_id, timeout=50), 60
        )
        results = [api_pb2.ImageJoinStreamingResponse.FromString(reply).result for reply in join.replies]
        assert results[-1].status == api_pb2.GenericResult.GENERIC_STATUS_FAILURE, join
        assert "has a bug" not in results[-1].exception
    else:
        assert answer.status is Status.INVALID_ARGUMENT, answer
    assert not list(work_folder(server).parent.glob("outside"))
