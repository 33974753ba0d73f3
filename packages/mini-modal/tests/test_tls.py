"""Whom Modal's client trusts, with and without what mini-modal does about it."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import mini_modal._tls as tls
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fronts import Fronts
from mini_modal import ensure_grpc_trusts_system_ca
from modal._utils import grpc_utils, http_utils
from modal.sandbox import _task_command_router_client as router
from modal_emulator import Emulator
from modal_emulator.tls import Authority, Certificate, self_signed
from surfaces import SURFACES, contexts, refused, visit

VARIABLES = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
ALL_SURFACES = pytest.mark.parametrize("surface", list(SURFACES))


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Before each test as well: other modules' tests make apparatuses, which have Modal's client trust more."""
    _restore()
    yield
    _restore()


def _restore() -> None:
    tls._restore()
    tls._warned.clear()
    router._shared_verifying_ssl_context_instance = None


@pytest.fixture
def pages(
    fronts: Fronts, emulator: Emulator, authority: Authority
) -> Callable[[str, Certificate | None], str]:
    """The address of what answers a surface, by default with a certificate of the company's CA."""

    def serve(surface: str, certificate: Certificate | None = None) -> str:
        certificate = certificate or authority.issue()
        if surface == "blob":
            return fronts.http(
                certificate, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
            )
        return fronts.open(certificate, emulator.url)

    return serve


def trust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, pem: bytes, *, hashed: bool = True
) -> None:
    """Have a variable name a CA."""
    file = tmp_path / "ca.pem"
    file.write_bytes(pem)
    if variable == "SSL_CERT_DIR":
        folder = tmp_path / "certificates"
        folder.mkdir()
        file.rename(folder / (f"{subject_hash(pem)}.0" if hashed else "ca.pem"))
        file = folder
    monkeypatch.setenv(variable, str(file))


def subject_hash(pem: bytes) -> str:
    """What OpenSSL calls a CA's file in a folder."""
    certificate = x509.load_pem_x509_certificate(pem)
    with_openssl = subprocess.run(
        ["openssl", "x509", "-noout", "-subject_hash"],
        input=certificate.public_bytes(serialization.Encoding.PEM),
        capture_output=True,
        check=True,
    )
    return with_openssl.stdout.decode().strip()


# --- what is trusted ------------------------------------------------------------------------------------------------


@ALL_SURFACES
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_ca_that_a_variable_names_is_trusted(
    variable: str,
    surface: str,
    pages: Callable[[str], str],
    authority: Authority,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trust(monkeypatch, tmp_path, variable, authority.pem)
    url = pages(surface)
    # The router reads the system's store by itself, which to OpenSSL is what these two name.
    if surface != "router" or variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert refused(surface, url, emulator.token)
    ensure_grpc_trusts_system_ca()
    visit(surface, url, emulator.token)


@ALL_SURFACES
def test_a_folder_of_files_without_hashes_for_names_is_trusted(
    surface: str, pages: Callable[[str], str], authority: Authority, emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    trust(monkeypatch, tmp_path, "SSL_CERT_DIR", authority.pem, hashed=False)
    ensure_grpc_trusts_system_ca()
    visit(surface, pages(surface), emulator.token)


@ALL_SURFACES
def test_the_bundle_of_a_distribution_is_trusted(
    surface: str, pages: Callable[[str], str], ca: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "DISTRIBUTIONS", ("/does/not/exist.crt", str(ca)))
    ensure_grpc_trusts_system_ca()
    visit(surface, pages(surface), emulator.token)


@ALL_SURFACES
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "CURL_CA_BUNDLE"])
def test_a_ca_without_key_identifier_and_critical_constraints_is_trusted(
    variable: str, surface: str, pages: Callable[[str, Certificate], str], emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Since 3.13 Python rejects such a one by default, and many a company's CA is such a one."""
    old = Authority.create("old", aki=False, critical=False)
    trust(monkeypatch, tmp_path, variable, old.pem)
    ensure_grpc_trusts_system_ca()
    visit(surface, pages(surface, old.issue()), emulator.token)


@ALL_SURFACES
def test_where_the_system_decides_it_is_asked(
    surface: str, pages: Callable[[str], str], ca: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows; here truststore asks OpenSSL."""
    import truststore

    monkeypatch.setattr(tls, "_asks_system", lambda: True)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(ca))
    ensure_grpc_trusts_system_ca()
    assert {type(context) for context in contexts().values()} == {truststore.SSLContext}
    visit(surface, pages(surface), emulator.token)


# --- what is not ----------------------------------------------------------------------------------------------------


def bad_certificates() -> dict[str, Callable[[Authority], Certificate]]:
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    return {
        "expired": lambda authority: authority.issue(not_before=now - 3 * day, not_after=now - day),
        "not yet valid": lambda authority: authority.issue(not_before=now + day),
        "wrong host": lambda authority: authority.issue(["modal.example"]),
        "self-signed": lambda _: self_signed(),
        "other CA": lambda _: Authority.create("stranger").issue(),
    }


@ALL_SURFACES
@pytest.mark.parametrize(
    "system", [pytest.param(False, id="files"), pytest.param(True, id="system", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("sort", list(bad_certificates()))
def test_a_certificate_that_is_no_good_is_refused(
    sort: str, system: bool, surface: str, pages: Callable[[str, Certificate], str], authority: Authority, ca: Path,
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(ca))
    monkeypatch.setattr(tls, "_asks_system", lambda: system)
    ensure_grpc_trusts_system_ca()
    assert refused(surface, pages(surface, bad_certificates()[sort](authority)), emulator.token)


@pytest.mark.parametrize("system", [False, True], ids=["files", "system"])
def test_every_context_verifies_certificate_and_host(system: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contexts()
    monkeypatch.setattr(tls, "_asks_system", lambda: system)
    ensure_grpc_trusts_system_ca()
    for surface, context in contexts().items():
        assert context.verify_mode is ssl.CERT_REQUIRED, surface
        assert context.check_hostname is True, surface
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2, surface
        if not system:
            assert context.verify_flags == before[surface].verify_flags & ~ssl.VERIFY_X509_STRICT, surface


def test_what_modal_trusts_is_trusted_still() -> None:
    before = {name: context.get_ca_certs(binary_form=True) for name, context in contexts().items()}
    ensure_grpc_trusts_system_ca()
    for name, context in contexts().items():
        assert set(before[name]) <= set(context.get_ca_certs(binary_form=True))


# --- bundles that are no good ---------------------------------------------------------------------------------------


def bad_bundles(folder: Path, authority: Authority) -> dict[str, tuple[Path, str]]:
    """By what is wrong: a path, and a word that says so."""
    der = authority.certificate.public_bytes(serialization.Encoding.DER)
    files = {"empty": b"", "garbage": b"to whom it may concern\n", "DER": der}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    unreadable = Path("/proc/self/mem")  # a file that can be opened and not be read
    if os.geteuid() != 0:
        unreadable = folder / "unreadable"
        unreadable.touch(mode=0)
    return {
        "missing": (folder / "missing", "not there"),
        "empty": (folder / "empty", "empty"),
        "garbage": (folder / "garbage", "no certificate in PEM form"),
        "DER": (folder / "DER", "openssl x509 -inform der"),
        "unreadable": (unreadable, "cannot be"),
        "folder": (folder / "folder", "no file in it has certificates"),
    }


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("sort", ["missing", "empty", "garbage", "DER", "unreadable", "folder"])
def test_a_bad_bundle_is_warned_of_once_and_the_others_work(
    sort: str, variable: str, tls_url: str, authority: Authority, ca: Path, emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    path, word = bad_bundles(tmp_path, authority)[sort]
    good = "CURL_CA_BUNDLE" if variable != "CURL_CA_BUNDLE" else "REQUESTS_CA_BUNDLE"
    monkeypatch.setenv(variable, str(path))
    monkeypatch.setenv(good, str(ca))
    with pytest.warns(RuntimeWarning) as warned:
        ensure_grpc_trusts_system_ca()
    (warning,) = warned
    assert str(warning.message).startswith(f"{variable} names {path}, ")
    assert word in str(warning.message)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure_grpc_trusts_system_ca()
        visit("hello", tls_url, emulator.token)


# --- what it touches ------------------------------------------------------------------------------------------------


def names() -> list[object]:
    """What of Modal's is replaced."""
    return [
        grpc_utils.ModalChannel._get_default_ssl_context,
        http_utils._http_client_with_tls,
        router._shared_verifying_ssl_context,
    ]


def test_the_names_that_are_replaced_are_there() -> None:
    """If a version of Modal's client moves them, this fails before any user notices."""
    from grpclib.client import Channel

    assert issubclass(grpc_utils.ModalChannel, Channel)
    assert "_get_default_ssl_context" in vars(Channel)
    assert "_get_default_ssl_context" not in vars(grpc_utils.ModalChannel)
    assert "_http_client_with_tls" in http_utils.ClientSessionRegistry.get_session.__code__.co_names
    connect = router.TaskCommandRouterClient._connect.__func__  # type: ignore[attr-defined]
    assert "_shared_verifying_ssl_context" in connect.__code__.co_names
    assert set(contexts()) == {"channel", "blob", "router"}


def test_twice_is_as_good_as_once_and_it_can_be_taken_back(
    tls_url: str, ca: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names()
    ensure_grpc_trusts_system_ca()
    once = names()
    assert not any(old is new for old, new in zip(before, once, strict=True))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(ca))
    undo = ensure_grpc_trusts_system_ca()
    assert names() == once
    visit("hello", tls_url, emulator.token)  # what the variable names now counts
    undo()
    assert names() == before
    undo()
    assert names() == before
    assert refused("hello", tls_url, emulator.token)


def test_what_somebody_else_replaced_since_is_left_alone() -> None:
    original = http_utils._http_client_with_tls
    undo = ensure_grpc_trusts_system_ca()
    theirs: Any = len
    http_utils._http_client_with_tls = theirs
    try:
        undo()
        assert names()[1] is theirs
    finally:
        http_utils._http_client_with_tls = original


def test_nothing_else_in_the_process_changes() -> None:
    kept = ssl.SSLContext, ssl.create_default_context, certifi.where, certifi.where(), dict(os.environ)
    ensure_grpc_trusts_system_ca()
    contexts()
    assert (
        ssl.SSLContext,
        ssl.create_default_context,
        certifi.where,
        certifi.where(),
        dict(os.environ),
    ) == kept
    assert type(ssl.create_default_context()) is ssl.SSLContext
    if sys.version_info >= (3, 13):
        assert ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT


def test_in_a_container_of_modals_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
    ensure_grpc_trusts_system_ca()()
    assert names() == before


@pytest.mark.parametrize("order", ["before", "after"])
def test_it_may_come_before_and_after_modal(order: str, tls_url: str, ca: Path, emulator: Emulator) -> None:
    lines = ["import mini_modal; mini_modal.ensure_grpc_trusts_system_ca()", "import modal"]
    code = "\n".join(
        [
            *(lines if order == "before" else reversed(lines)),
            "import ssl, sys; assert ssl.SSLContext.__module__ == 'ssl'",
            "with modal.Client.from_credentials(*sys.argv[1:]) as client: client.hello()",
        ]
    )
    env = {**os.environ, "MODAL_SERVER_URL": tls_url, "REQUESTS_CA_BUNDLE": str(ca)}
    subprocess.run([sys.executable, "-c", code, *emulator.token], env=env, check=True, timeout=60)
