"""A real inspecting proxy between Modal's client and the emulator.

mitmproxy's pins clash with ours: it has an environment of its own, which is made once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from modal_emulator import Emulator
from programs import mini
from surroundings import OUTSIDE
from uv import find_uv_bin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASSWORD = "pa55-w0rd"

# For all that a client asks of Modal's own hosts the emulator answers, and every host that was asked for is noted.
ADDON = """
import os

def server_connect(data):
    host, port = data.server.address[:2]
    if host.endswith((".modal.com", ".modal2.com")):
        data.server.address = ("127.0.0.1", int(os.environ["EMULATOR_PORT"]))
    with open(os.environ["ASKED_FOR"], "a") as file:
        print(host, port, file=file, flush=True)
"""

# The client's own way to Modal is blocked: nothing but loopback can be looked up.
CLIENT = """
import socket, sys
real = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host not in ("127.0.0.1", "localhost", b"127.0.0.1"):
        raise socket.gaierror(socket.EAI_NONAME, "DNS is blocked")
    return real(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
import mini_modal
if "bare" not in sys.argv:
    mini_modal.ensure_grpc_trusts_system_ca()
import modal, modal._utils.async_utils
modal._utils.async_utils.RETRY_N_ATTEMPTS_OVERRIDE = 1
client = modal.Client.from_env()
client.hello()
print("connected")
"""


@pytest.fixture(scope="session")
def tls_emulator() -> Iterator[Emulator]:
    with Emulator(tls=True) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def mitmdump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    venv = tmp_path_factory.mktemp("mitmproxy") / "venv"
    uv = find_uv_bin()
    outside = {name: value for name, value in OUTSIDE.items() if name not in ("UV_PYTHON", "VIRTUAL_ENV")}
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, venv], check=True, env=outside)
    install = [uv, "pip", "install", "-q", f"--python={venv}/bin/python", "mitmproxy>=11"]
    subprocess.run(install, check=True, env=outside)
    return venv / "bin" / "mitmdump"


class Proxy:
    """mitmproxy, as it runs.

    Attributes:
        port: where.
        ca: the certificate of its CA.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.ca = folder / "mitmproxy-ca-cert.pem"
        self._asked = folder / "asked"

    @property
    def asked_for(self) -> list[str]:
        """The hosts and ports that it has connected to."""
        return self._asked.read_text().splitlines() if self._asked.exists() else []


@pytest.fixture
def proxy(
    mitmdump: Path, tls_emulator: Emulator, tmp_path: Path
) -> Callable[..., AbstractContextManager[Proxy]]:
    @contextlib.contextmanager
    def start(*options: str) -> Iterator[Proxy]:
        folder = tmp_path / "mitmproxy"
        folder.mkdir()
        (folder / "addon.py").write_text(ADDON)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        settings = [
            "listen_host=127.0.0.1",
            f"listen_port={port}",
            f"confdir={folder}",
            "ssl_insecure=true",
            *options,
        ]
        command = [
            str(mitmdump),
            "-q",
            "-s",
            str(folder / "addon.py"),
            *(f"--set={setting}" for setting in settings),
        ]
        env = {
            **os.environ,
            "EMULATOR_PORT": tls_emulator.url.rpartition(":")[2],
            "ASKED_FOR": str(folder / "asked"),
        }
        log = (tmp_path / "log").open("w+")
        with log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as process:
            try:
                deadline = time.monotonic() + 90
                while True:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    time.sleep(0.1)
                yield Proxy(folder, port)
            finally:
                process.terminate()

    return start


@pytest.fixture
def env(tls_emulator: Emulator) -> dict[str, str]:
    """The token only: Modal's default addresses."""
    return {"MODAL_TOKEN_ID": tls_emulator.token[0], "MODAL_TOKEN_SECRET": tls_emulator.token[1]}


def client(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CLIENT, *arguments]
    return subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=90
    )


def check(env: dict[str, str]) -> tuple[int, str]:
    done = mini("auth", "modal", "--check", env=env)
    assert PASSWORD not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_default_addresses_with_dns_blocked(
    proxy: Callable[..., AbstractContextManager[Proxy]], env: dict[str, str]
) -> None:
    """And without the patch it does not work, by the same proxy."""
    with proxy() as mitm:
        env |= {"HTTPS_PROXY": f"http://127.0.0.1:{mitm.port}", "REQUESTS_CA_BUNDLE": str(mitm.ca)}
        bare = client(env, "bare")
        assert "CERTIFICATE_VERIFY_FAILED" in bare.stderr
        done = client(env)
        assert done.stdout == "connected\n", done.stderr
        assert "api.modal.com 443" in mitm.asked_for
        status, said = check(env)
        assert status == 0
        assert "workspace emulator" in said
        info = mini("modal", "token", "info", env=env)
        assert info.returncode == 0, info.stderr
        del env["REQUESTS_CA_BUNDLE"]
        status, said = check(env)
        assert status == 6
        assert "signed by mitmproxy" in said


def test_in_the_place_of_the_server(
    proxy: Callable[..., AbstractContextManager[Proxy]], env: dict[str, str], tls_emulator: Emulator
) -> None:
    """Nothing tells the client of a proxy; who answers signs for the server."""
    with proxy(f"mode=reverse:{tls_emulator.url}") as mitm:
        env |= {"MODAL_SERVER_URL": f"https://127.0.0.1:{mitm.port}", "SSL_CERT_FILE": str(mitm.ca)}
        done = client(env)
        assert done.stdout == "connected\n", done.stderr
        assert check(env)[0] == 0


def test_a_proxy_with_a_password(
    proxy: Callable[..., AbstractContextManager[Proxy]], env: dict[str, str]
) -> None:
    with proxy(f"proxyauth=me:{PASSWORD}") as mitm:
        env |= {"SSL_CERT_FILE": str(mitm.ca)}
        env["HTTPS_PROXY"] = f"http://me:{PASSWORD}@127.0.0.1:{mitm.port}"
        done = client(env)
        assert done.stdout == "connected\n", done.stderr
        assert check(env)[0] == 0
        env["HTTPS_PROXY"] = f"http://127.0.0.1:{mitm.port}"
        status, said = check(env)
        assert status == 7
        assert "407" in said
        assert "USER:PASSWORD@" in said


def test_a_proxy_without_http_2(
    proxy: Callable[..., AbstractContextManager[Proxy]], env: dict[str, str]
) -> None:
    # Without the second setting it passes on what it does not know as it is, and all goes well.
    with proxy("http2=false", "rawtcp=false") as mitm:
        env |= {"SSL_CERT_FILE": str(mitm.ca), "HTTPS_PROXY": f"http://127.0.0.1:{mitm.port}"}
        status, said = check(env)
        assert status == 7
        assert "HTTP/2" in said


def test_no_proxy_is_heeded(
    proxy: Callable[..., AbstractContextManager[Proxy]], env: dict[str, str], tls_emulator: Emulator
) -> None:
    with proxy() as mitm:
        env |= {
            "MODAL_SERVER_URL": tls_emulator.url,
            "HTTPS_PROXY": f"http://127.0.0.1:{mitm.port}",
            "NO_PROXY": "127.0.0.1",
            "SSL_CERT_FILE": str(tls_emulator.ca_file),
        }
        done = client(env)
        assert done.stdout == "connected\n", done.stderr
        assert mitm.asked_for == []
