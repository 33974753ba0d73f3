"""What an adapter uses: problems are named within ten seconds, as errors of mini's."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import mini
import mini_modal._tls as tls
import modal
import pytest
from fronts import Fronts
from mini_modal import connect
from mini_modal._peer import issuer_of
from mini_modal.egress import EGRESS
from modal._utils import async_utils
from modal_emulator import Emulator
from modal_emulator.tls import Authority, self_signed

LIMIT = 10.0
SECRET = "as-VerySecretIndeed"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    tls._restore()
    modal.Client._set_env_client(None)


@pytest.fixture
def use(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have this process use a server."""

    def use(url: str = emulator.url, token: tuple[str, str] = emulator.token) -> None:
        monkeypatch.setenv("MODAL_SERVER_URL", url)
        monkeypatch.setenv("MODAL_TOKEN_ID", token[0])
        monkeypatch.setenv("MODAL_TOKEN_SECRET", token[1])

    return use


@pytest.fixture
def clock() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LIMIT


# --- probe ----------------------------------------------------------------------------------------------------------


def test_a_probe_names_the_workspace(use: Callable[..., None]) -> None:
    use()
    assert connect.probe() == "emulator"
    assert mini.apparatus("modal", "reach").reach() == "Modal, workspace emulator"


def test_a_probe_can_be_made_where_a_loop_runs(use: Callable[..., None]) -> None:
    use()

    async def main() -> str:
        return connect.probe()

    assert asyncio.run(main()) == "emulator"


def test_one_of_several_addresses_is_enough(use: Callable[..., None], emulator: Emulator) -> None:
    use(f"https://127.0.0.1:1, {emulator.url}")
    assert connect.probe() == "emulator"


def test_of_several_addresses_the_first_is_named(use: Callable[..., None]) -> None:
    use("https://no-such-host.invalid,https://127.0.0.1:1")
    with pytest.raises(mini.BackendUnavailable, match=r"the name no-such-host\.invalid cannot be looked up"):
        connect.probe()


def test_a_token_that_is_rejected(use: Callable[..., None]) -> None:
    use(token=("ak-1", SECRET))
    with pytest.raises(mini.AuthError, match=r"missing or unknown here.*mini auth modal") as caught:
        connect.probe()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_token() -> None:
    with pytest.raises(mini.AuthError, match="mini auth modal"):
        connect.probe()


def test_a_server_that_is_silent(use: Callable[..., None], fronts: Fronts, clock: None) -> None:
    use(fronts.silent())
    with pytest.raises(mini.BackendUnavailable, match="does not answer in time"):
        connect.probe()


def test_a_name_server_that_is_silent(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    use("https://api.modal.example")
    try:
        with pytest.raises(mini.BackendUnavailable, match="no name server has answered"):
            connect.probe()
    finally:
        over.set()


# --- Modal's client -------------------------------------------------------------------------------------------------


def test_a_client_is_modals_own(
    use: Callable[..., None], tls_url: str, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tls_url)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(ca))

    async def main() -> None:
        client = await connect.client()
        assert client is await modal.Client.from_env.aio()
        await client.hello.aio()  # type: ignore[no-untyped-call]
        await client.close.aio()

    asyncio.run(main())


def test_that_a_client_cannot_connect_is_named_soon(
    use: Callable[..., None], fronts: Fronts, emulator: Emulator, clock: None
) -> None:
    """Modal itself would try for a minute."""
    use(fronts.open(self_signed(), emulator.url))
    with pytest.raises(mini.BackendUnavailable, match=r"is not trusted here.*SSL_CERT_FILE"):
        asyncio.run(connect.client())


def test_a_client_without_a_token() -> None:
    with pytest.raises(mini.AuthError, match="mini auth modal") as caught:
        asyncio.run(connect.client())
    assert isinstance(caught.value.__cause__, modal.exception.AuthError)


# --- what Modal's errors mean ---------------------------------------------------------------------------------------


def failure(monkeypatch: pytest.MonkeyPatch) -> modal.exception.Error:
    """What Modal's client raises, were it not for its patience."""
    monkeypatch.setattr(async_utils, "RETRY_N_ATTEMPTS_OVERRIDE", 1)
    with pytest.raises(modal.exception.Error) as caught:
        modal.Client.from_credentials("ak-1", SECRET)
    return caught.value


def test_a_connection_error_of_modals(
    use: Callable[..., None], fronts: Fronts, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(fronts.open(Authority.create("stranger").issue(), emulator.url))
    error = failure(monkeypatch)
    meaning = connect.explain(error)
    assert type(meaning) is mini.BackendUnavailable
    assert "signed by stranger CA of modal-emulator" in str(meaning)
    assert meaning.__cause__ is error


def test_what_has_a_password_in_it_is_no_cause(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback would show it."""
    use("https://api.modal.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pa55word%21@127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    error = failure(monkeypatch)
    assert "pa55word" in "".join(traceback.format_exception(error))
    meaning = connect.explain(error)
    assert "modal[api-proxy-support]" in str(meaning)
    try:
        raise error
    except modal.exception.Error:
        with pytest.raises(mini.BackendUnavailable) as caught:
            raise meaning  # type: ignore[misc]  # noqa: B904
    assert "pa55word" not in "".join(traceback.format_exception(caught.value))


def test_other_errors_are_not_explained() -> None:
    assert connect.explain(modal.exception.NotFoundError("there is no app")) is None
    assert connect.explain(ValueError("1")) is None


# --- small things ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://user:p@ss@proxy:3128", "http://proxy:3128"),
        ("user:pass@proxy:3128", "proxy:3128"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("proxy:3128", "proxy:3128"),
    ],
)
def test_a_proxy_is_shown_without_its_password(proxy: str, shown: str) -> None:
    assert connect.shown(proxy) == shown


@pytest.mark.parametrize("length", [0, 1, 40, 150])
def test_an_issuer_that_cannot_be_read_is_no_error(length: int, authority: Authority) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    der = authority.certificate.public_bytes(Encoding.DER)
    assert issuer_of(der) == "inspector CA of modal-emulator"
    assert issuer_of(der[:length]) == ""
    assert issuer_of(os.urandom(length)) == ""


def test_the_hosts_are_those_of_the_documentation() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "modal-egress.md"
    if not page.exists():
        pytest.skip("this is not the checkout")
    assert [host for host in EGRESS if f"`{host}`" not in page.read_text()] == []


def test_importing_mini_modal_loads_nothing() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import mini_modal; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = ["modal", "grpclib", "typing", "asyncio", "ssl", "certifi", "truststore", "click", "mini"]
    assert [name for name in heavy if name in loaded] == []


def test_the_exported_names() -> None:
    import mini_modal

    names = ["ModalApparatus", "__version__", "ensure_grpc_trusts_system_ca", "make_image"]
    assert mini_modal.__all__ == dir(mini_modal) == names
    for name in mini_modal.__all__:
        assert getattr(mini_modal, name)
    with pytest.raises(AttributeError, match="no attribute 'ensure'"):
        mini_modal.ensure  # noqa: B018
