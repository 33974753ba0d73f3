"""Certificates, and a server that speaks TLS with them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import EMULATOR, PYTHON, run
from modal_emulator import Emulator
from modal_emulator.tls import LOOPBACK, PERMITTED, Authority, Certificate, self_signed

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


async def talk(server: Certificate, trusted: bytes, host: str, strict: bool) -> str | None:
    """Connect to a server with a certificate; returns the protocol that both chose."""
    context = ssl.create_default_context(cadata=trusted.decode())
    context.set_alpn_protocols(["h2"])
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    listening = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server.context()
    )
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
        chosen: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        return chosen


def connect(
    server: Certificate, trusted: bytes, host: str = "127.0.0.1", *, strict: bool = True
) -> str | None:
    return asyncio.run(talk(server, trusted, host, strict))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


@pytest.mark.parametrize("host", LOOPBACK)
def test_what_it_issues_is_valid_for_this_machine(authority: Authority, host: str) -> None:
    assert connect(authority.issue(), authority.pem, host) == "h2"
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate is not valid for"):
        connect(authority.issue(["example.com"]), authority.pem, host)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda a: a.issue(not_before=NOW - 2 * DAY, not_after=NOW - DAY), "certificate has expired"),
        (lambda a: a.issue(not_before=NOW + DAY), "certificate is not yet valid"),
        (lambda a: a.issue(["127.0.0.2"]), "not valid for '127.0.0.1'"),
        (lambda _: self_signed(), "self-signed certificate"),
        (lambda _: Authority.create().issue(), "certificate signature failure|self-signed certificate in"),
        (lambda _: Authority.create("other").issue(), "self-signed certificate in certificate chain"),
    ],
    ids=["expired", "early", "wrong-host", "self-signed", "namesake", "other-ca"],
)
def test_what_is_wrong_is_rejected(
    authority: Authority, make: Callable[[Authority], Certificate], complaint: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
        connect(make(authority), authority.pem)


@pytest.mark.parametrize("options", [{"aki": False}, {"critical": False}], ids=lambda each: next(iter(each)))
def test_an_authority_can_be_sloppy(options: dict[str, bool]) -> None:
    authority = Authority.create(**options)  # type: ignore[arg-type]
    assert connect(authority.issue(), authority.pem, strict=False) == "h2"
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(authority.issue(), authority.pem, strict=True)


def test_a_limited_authority_can_vouch_for_nothing_else() -> None:
    authority = Authority.create(permitted=PERMITTED)
    for host in (*LOOPBACK, "127.1.2.3"):
        assert connect(authority.issue([host]), authority.pem, host) == "h2"
    for host in ("example.com", "10.0.0.1", "localhost.example.com"):
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            connect(authority.issue([host]), authority.pem, host)


def test_it_is_kept_and_renewed_in_time(tmp_path: Path) -> None:
    old_umask = os.umask(0)
    try:
        first = Authority.kept(tmp_path)
    finally:
        os.umask(old_umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600}
    again = Authority.kept(tmp_path)
    assert again.pem == first.pem == (tmp_path / "ca.pem").read_bytes()
    assert connect(again.issue(), first.pem) == "h2"
    old = Authority.create(not_before=NOW - DAY, not_after=NOW + DAY)
    (tmp_path / "ca.pem").write_bytes(old.pem)
    assert Authority.kept(tmp_path).not_after > NOW + 1000 * DAY


@pytest.fixture(scope="module")
def secure() -> Iterator[Emulator]:
    with Emulator(tls=True) as emulator:
        yield emulator


HELLO = """if True:
    import asyncio, os, ssl, sys
    from urllib.parse import urlsplit
    from google.protobuf.empty_pb2 import Empty
    from grpclib.client import Channel
    from modal_proto.api_grpc import ModalClientStub

    async def hello():
        url = urlsplit(os.environ["MODAL_SERVER_URL"])
        context = ssl.create_default_context(cadata=sys.argv[1] or None)
        context.set_alpn_protocols(["h2"])
        headers = {f"x-modal-token-{each}": os.environ[f"MODAL_TOKEN_{each.upper()}"] for each in ("id", "secret")}
        async with Channel(url.hostname, url.port, ssl=context) as channel:
            answer = await ModalClientStub(channel).ClientHello(Empty(), metadata=headers, timeout=30)
            print(url.scheme, answer.image_builder_version)

    try:
        asyncio.run(hello())
    except ssl.SSLCertVerificationError as exc:
        print(exc.verify_message)
"""


def hello(emulator: Emulator, trusted: str) -> str:
    done = run(*PYTHON, "-c", HELLO, trusted, env=emulator.environ)
    assert done.returncode == 0, done
    return done.stdout


def test_a_client_that_trusts_the_authority_is_served(secure: Emulator) -> None:
    assert secure.ca_file is not None
    assert hello(secure, secure.ca_file.read_text()).startswith("https 20")
    assert secure.environ["MODAL_EMULATOR_CA_FILE"] == str(secure.ca_file)


def test_a_client_that_does_not_is_not(secure: Emulator) -> None:
    assert hello(secure, "") == "self-signed certificate in certificate chain\n"


def test_modals_client_is_served_when_its_list_of_authorities_has_ours(secure: Emulator) -> None:
    """It trusts certifi's list alone: here that list is another one, and nothing else is changed."""
    program = """if True:
        import os, sys, certifi
        certifi.where = lambda: os.environ["MODAL_EMULATOR_CA_FILE"]
        sys.argv[:] = ["modal", "token", "info"]
        import modal.__main__
        modal.__main__.main()
    """
    done = run(*PYTHON, "-c", program, env=secure.environ)
    assert done.returncode == 0, done
    assert "Workspace: emulator" in done.stdout


def test_our_own_command_trusts_it(secure: Emulator) -> None:
    done = run(*EMULATOR, "logs", env=secure.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_authority_is_kept_with_the_state(tmp_path: Path) -> None:
    with Emulator(state=tmp_path, tls=True) as emulator:
        assert emulator.ca_file == tmp_path / "ca.pem"
        first = emulator.ca_file.read_text()
        emulator.restart()
        assert hello(emulator, first).startswith("https 20")


def test_without_tls_there_is_no_authority(modal_emulator: Emulator) -> None:
    assert modal_emulator.ca_file is None
    assert "MODAL_EMULATOR_CA_FILE" not in modal_emulator.environ
