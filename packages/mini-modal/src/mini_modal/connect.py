"""Reaching Modal's control plane, and saying in words why it cannot be reached.

Modal's own client tries for 64 seconds and then says that it could not connect, whatever the reason was. `probe` makes
one attempt and names the reason within ten seconds; `client` is Modal's client, with the same promise.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mini import AuthError, BackendUnavailable

from ._peer import Peer, look
from ._tls import ensure_grpc_trusts_system_ca
from .egress import EGRESS

if TYPE_CHECKING:
    import modal
    from grpclib.client import Channel
    from modal_proto import api_pb2

__all__ = ["Kind", "Problem", "client", "explain", "probe"]

T = TypeVar("T")

Kind = Literal["token", "network", "certificate", "proxy"]

# Together with a look at who answers they have to be less than ten seconds.
REACH_SECONDS = 4.0  # for a connection
ANSWER_SECONDS = 6.5  # for a connection and an answer
CLOSING_SECONDS = 0.02  # in which transports that have been closed let go of their sockets
PATIENCE_SECONDS = 1.5  # how long Modal's client may take to connect before somebody else has a look

PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why Modal cannot be used from here.

    Attributes:
        kind: of what sort it is.
        message: what is wrong and what to do, without anything secret.
        said: Modal's own words, if it was Modal that said no.
    """

    kind: Kind
    message: str
    said: str = ""

    def error(self) -> BackendUnavailable:
        """It as an exception."""
        return (AuthError if self.kind == "token" else BackendUnavailable)(self.message)


class Unreachable(Exception):
    """One of the control plane's addresses cannot be used. `__cause__` is the exception that says so."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


# --- for an adapter -------------------------------------------------------------------------------------------------


def probe() -> str:
    """Reach Modal as its client would, with its settings and credentials; the name of the workspace.

    One attempt, over within ten seconds. May be called anywhere, in a running event loop as well.

    Raises:
        AuthError: Modal was reached, and there is no token or it is not accepted.
        BackendUnavailable: Modal was not reached; says why, and what to do.
    """
    from modal.config import config

    token_id, secret = config["token_id"], config["token_secret"]
    if not (token_id and secret):
        raise AuthError("there is no token for Modal here: run `mini auth modal`")
    found = run(lambda: workspace(config["server_url"], (token_id, secret)))
    if isinstance(found, Problem):
        raise found.error()
    return found


def explain(exc: BaseException) -> BackendUnavailable | None:
    """What a failure of Modal's client to connect or to authenticate means; None if it is none of those.

    What comes back has `__cause__` set, unless the cause's text has a secret in it. May take three seconds for a look
    at who answers in Modal's place.
    """
    from grpclib.exceptions import StreamTerminatedError
    from modal.config import config
    from modal.exception import AuthError as ModalAuthError
    from modal.exception import ConnectionError as ModalConnectionError

    if not isinstance(
        exc, ModalAuthError | ModalConnectionError | StreamTerminatedError | OSError | ImportError
    ):
        return None
    url = _addresses(config["server_url"])[0]
    looks = url.startswith("https") and _needs_look(exc)
    peer = run(lambda: look(*_host_and_port(url))) if looks else None
    problem = problem_of(exc, url, peer)
    secrets = [secret for secret in (config["token_secret"], *proxy_secrets()) if secret]
    error = Problem(problem.kind, hidden(problem.message, tuple(secrets))).error()
    if any(secret in str(each) for each in _chain(exc) for secret in secrets):
        error.__suppress_context__ = True  # a traceback shows all that led to an error
    else:
        error.__cause__ = exc
    return error


async def client() -> modal.Client:
    """Modal's client for this process, connected; that it cannot connect is named within ten seconds.

    Raises:
        AuthError: there is no token. Whether Modal accepts the one that is there shows with the first call.
        BackendUnavailable: Modal cannot be reached; says why, and what to do.
    """
    import modal

    ensure_grpc_trusts_system_ca()
    connecting = asyncio.ensure_future(modal.Client.from_env.aio())
    try:
        done, _ = await asyncio.wait({connecting}, timeout=PATIENCE_SECONDS)
        if not done:
            # Somebody else has a look meanwhile. If that finds no problem, Modal's client goes on trying.
            looking = asyncio.ensure_future(_found_problem())
            await asyncio.wait({connecting, looking}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() and (problem := await looking) is not None:
                raise problem.error()
            looking.cancel()
        try:
            return await connecting
        except modal.exception.Error as exc:
            error = await asyncio.to_thread(explain, exc)
            if error is None:
                raise
        raise error
    finally:
        connecting.cancel()


async def _found_problem() -> Problem | None:
    from modal.config import config

    found = await workspace(config["server_url"], None)
    return found if isinstance(found, Problem) else None


# --- one attempt ----------------------------------------------------------------------------------------------------


async def workspace(server_url: str, token: tuple[str, str] | None) -> str | Problem:
    """Ask whose a token is; "" without one. `server_url` may be several, as for Modal's client: one is enough."""

    async def ask(channel: Channel) -> str:
        from modal_proto import api_pb2

        answer: api_pb2.TokenInfoGetResponse = await _call(
            channel, "TokenInfoGet", api_pb2.TokenInfoGetRequest(), api_pb2.TokenInfoGetResponse
        )
        return answer.workspace_name

    return await _ask(server_url, token, ask)


async def profile_name(server_url: str, token: tuple[str, str]) -> str | Problem:
    """What Modal's own commands call the profile of a token."""

    async def ask(channel: Channel) -> str:
        from google.protobuf.empty_pb2 import Empty
        from modal_proto import api_pb2

        answer: api_pb2.WorkspaceNameLookupResponse = await _call(
            channel, "WorkspaceNameLookup", Empty(), api_pb2.WorkspaceNameLookupResponse
        )
        return answer.username or answer.workspace_name

    return await _ask(server_url, token, ask)


async def _ask(
    server_url: str, token: tuple[str, str] | None, ask: Callable[[Channel], Coroutine[Any, Any, str]]
) -> str | Problem:
    ensure_grpc_trusts_system_ca()
    urls = _addresses(server_url)
    tasks = [asyncio.ensure_future(_attempt(url, token, ask)) for url in urls]
    try:
        for task in asyncio.as_completed(tasks):
            with suppress(Unreachable):
                return await task
        # The first address is the one that a user knows.
        error = tasks[0].exception()
        assert isinstance(error, Unreachable)
        return error.problem
    finally:
        for each in tasks:
            each.cancel()
            if each.done() and not each.cancelled():
                each.exception()  # has been seen


async def _attempt(
    url: str, token: tuple[str, str] | None, ask: Callable[[Channel], Coroutine[Any, Any, str]]
) -> str:
    from grpclib import GRPCError, Status

    peer: Peer | None = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            channel = await _reach(url, token)
            try:
                return await ask(channel)
            finally:
                channel.close()
    except GRPCError as exc:
        if token is None and exc.status is Status.UNAUTHENTICATED:
            return ""  # it answers, which is all that was asked
        error: BaseException = exc
    except Exception as exc:
        error = exc
    if url.startswith("https") and _needs_look(error):
        peer = await look(*_host_and_port(url))
    problem = problem_of(error, url, peer)
    if token is not None:
        problem = Problem(problem.kind, hidden(problem.message, token), hidden(problem.said, token))
    raise Unreachable(problem) from error


async def _reach(url: str, token: tuple[str, str] | None) -> Channel:
    import modal
    from modal._utils.grpc_utils import create_channel
    from modal._utils.proxy_support import get_proxy_url
    from modal.client import _get_metadata
    from modal_proto import api_pb2

    host, port = _host_and_port(url)
    async with asyncio.timeout(REACH_SECONDS):
        if get_proxy_url(host, use_ssl=url.startswith("https")) is None:
            await _resolve(host, port)
        channel = create_channel(url, _get_metadata(api_pb2.CLIENT_TYPE_CLIENT, token, modal.__version__))
        try:
            await channel.__connect__()
        except BaseException:
            channel.close()
            raise
    return channel


async def _resolve(host: str, port: int) -> None:
    """Look a host up. The event loop's own way waits for a name server that never answers, even when told to stop."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[None] = loop.create_future()

    def finish(error: OSError | None) -> None:
        if not found.done():
            found.set_exception(error) if error is not None else found.set_result(None)

    def look_up() -> None:
        error = None
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            error = exc
        with suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=look_up, name="mini-modal-dns", daemon=True).start()
    done, _ = await asyncio.wait({found}, timeout=REACH_SECONDS - 0.5)
    if not done:
        raise socket.gaierror(socket.EAI_AGAIN, "no name server has answered")
    found.result()


async def _call(channel: Channel, name: str, request: Any, reply: type[T]) -> T:
    from grpclib.client import UnaryUnaryMethod

    method: UnaryUnaryMethod[Any, T] = UnaryUnaryMethod(
        channel, f"/modal.client.ModalClient/{name}", type(request), reply
    )
    return await method(request, timeout=REACH_SECONDS)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run something in an event loop of its own, whether or not the caller is in one."""

    async def settled() -> T:
        try:
            return await work()
        finally:
            await asyncio.sleep(CLOSING_SECONDS)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(settled())
    results: list[T] = []
    errors: list[BaseException] = []

    def inside() -> None:
        try:
            results.append(asyncio.run(settled()))
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=inside, name="mini-modal-probe")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


# --- what an exception means ----------------------------------------------------------------------------------------


def problem_of(exc: BaseException, url: str, peer: Peer | None = None) -> Problem:
    """What an exception of a connection to `url` means."""
    host, _ = _host_and_port(url)
    for problem in (
        _token_problem(exc),
        _proxy_problem(exc, url, host),
        _tls_problem(exc, host, peer),
        _network_problem(exc, url, host),
    ):
        if problem is not None:
            return problem
    return Problem("network", f"the connection to {host} failed: {_text(exc)}.")


def _token_problem(exc: BaseException) -> Problem | None:
    from grpclib import GRPCError, Status
    from modal.exception import AuthError as ModalAuthError

    for each in _chain(exc):
        if isinstance(each, ModalAuthError):
            said = str(each)
        elif isinstance(each, GRPCError) and each.status in (
            Status.UNAUTHENTICATED,
            Status.PERMISSION_DENIED,
        ):
            said = each.message or each.status.name
        else:
            continue
        said = said.strip().rstrip(".")
        return Problem("token", f"Modal says: {said}. To log in: mini auth modal", said)
    return None


def _needs_look(exc: BaseException) -> bool:
    """Whether it would help to know who answers in the server's place."""
    from grpclib import GRPCError
    from modal.exception import AuthError as ModalAuthError

    clear = GRPCError | ModalAuthError | socket.gaierror | ConnectionRefusedError | ImportError
    return not any(
        isinstance(each, clear) or type(each).__module__.startswith("python_socks") for each in _chain(exc)
    )


def _proxy_problem(exc: BaseException, url: str, host: str) -> Problem | None:
    from modal._utils.proxy_support import get_proxy_url

    try:
        proxy = get_proxy_url(host, use_ssl=url.startswith("https"))
    except Exception:
        proxy = None
    if proxy is None:
        return None
    where = f"the proxy {shown(proxy)}" + (f" (from {name})" if (name := _proxy_variable(proxy)) else "")
    variable = name or "HTTPS_PROXY"
    flaw = _flaw(proxy)
    if flaw is not None:
        return Problem("proxy", f"{where} {flaw}: set {variable}=http://HOST:PORT")
    for each in _chain(exc):
        match type(each).__module__.partition(".")[0], type(each).__name__:
            case _, "ImportError" | "ModuleNotFoundError":
                return Problem(
                    "proxy",
                    f"{where} is configured, and what Modal's client needs for it is not installed:"
                    " uv add 'modal[api-proxy-support]'  (or pip install)",
                )
            case "python_socks", "ProxyError":
                return Problem("proxy", f"{where} {_refusal(each, proxy, variable, host)}")
            case "python_socks", _:
                return Problem(
                    "proxy",
                    f"{where} cannot be reached: {_text(each)}. Is it running, and is this the right address? If"
                    f" {host} can be reached without it, set NO_PROXY={host}",
                )
    if any(isinstance(each, TimeoutError) for each in _chain(exc)):
        return Problem("proxy", f"{where} does not connect to {host}: it did not answer in time. {_egress()}")
    return None


def _refusal(exc: BaseException, proxy: str, variable: str, host: str) -> str:
    code = getattr(exc, "error_code", None)
    if code != 407:
        said = hidden(str(exc), tuple(proxy_secrets()))
        return f"does not let this machine connect to {host}: {said}. {_egress()}"
    if urllib.parse.urlsplit(proxy).username:
        return f"does not accept the user name and password in {variable} (407)"
    address = re.sub(r"^\w+://", "", shown(proxy))
    return (
        f"wants a user name and a password (407): set {variable}=http://USER:PASSWORD@{address}, with"
        " percent signs for special characters"
    )


def _flaw(proxy: str) -> str | None:
    """What is wrong with a proxy's URL, as far as Modal's client is concerned."""
    scheme, separator, _ = proxy.partition("://")
    if not separator:
        return "has no scheme"
    if scheme.lower() == "https":
        return "is spoken to by TLS, which Modal's client cannot do; most such proxies take http:// on the same port"
    if scheme.lower() not in ("http", "socks4", "socks4a", "socks5", "socks5h"):
        return f"has a scheme that is not known, {scheme}"
    try:
        parts = urllib.parse.urlsplit(proxy)
        port = parts.port
    except ValueError:
        return "has a port that is no number"
    if not parts.hostname:
        return "has no host"
    return None if port is not None else "has no port, which Modal's client needs"


# OpenSSL's numbers for what is wrong with a certificate.
_DATES, _NAMES = {9: "is not valid yet", 10: "has expired"}, {62, 63, 64}


def _tls_problem(exc: BaseException, host: str, peer: Peer | None) -> Problem | None:
    signed = f"signed by {peer.issuer}" if peer is not None and peer.issuer else "of an unknown signer"
    # When a proxy opens TLS, it is not Modal's.
    remedy = (
        "install that CA in this machine's store, or set SSL_CERT_FILE to a PEM file that has it"
        " (certificates in REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_DIR count, too)"
    )
    for each in _chain(exc):
        if (
            isinstance(each, ssl.SSLCertVerificationError)
            or type(each).__name__ == "SSLCertVerificationError"
        ):
            code = getattr(each, "verify_code", 0)
            if code in _DATES:
                wrong = (
                    f"{_DATES[code]}. Is this machine's clock right? If so, whoever runs what signs here has to renew"
                    f" it. With a certificate that is valid: {remedy}"
                )
            elif code in _NAMES:
                wrong = (
                    "is for another host. Something on the way answers in its place: a captive portal to log in to, or"
                    f" a proxy. If it is your network's inspecting proxy: {remedy}"
                )
            else:
                wrong = f"is not trusted here. A proxy or a virus scanner probably opens TLS: {remedy}"
            return Problem("certificate", f"the certificate for {host}, {signed}, {wrong}")
    if any(isinstance(each, ssl.SSLError) for each in _chain(exc)) or (
        peer is not None and peer.protocol != "h2"
    ):
        if peer is not None and peer.protocol != "h2":
            return Problem(
                "proxy",
                f"what answers for {host}, with a certificate {signed}, does not speak HTTP/2, which Modal needs."
                f" A proxy that opens TLS has to be told to leave {host} alone, or to pass HTTP/2 on",
            )
        return Problem(
            "proxy", f"no TLS connection to {host} comes about: {_text(exc)}. Is a proxy in between?"
        )
    return None


def _network_problem(exc: BaseException, url: str, host: str) -> Problem | None:
    for each in _chain(exc):
        if isinstance(each, socket.gaierror):
            return Problem("network", f"the name {host} cannot be looked up: {_text(each)}. {_egress()}")
        if isinstance(each, ConnectionRefusedError):
            return Problem(
                "network", f"{host} refuses connections ({urllib.parse.urlsplit(url).netloc}). {_egress()}"
            )
        if isinstance(each, TimeoutError):
            return Problem("network", f"{host} does not answer in time. {_egress()}")
        if isinstance(each, OSError):
            return Problem("network", f"{host} cannot be reached: {_text(each)}. {_egress()}")
    return None


def _egress() -> str:
    return f"A firewall or proxy has to let through, on TCP port 443: {', '.join(EGRESS)}"


# --- small things ---------------------------------------------------------------------------------------------------


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception and what it came of, groups opened."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [exc]
    while queue:
        each = queue.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            queue += each.exceptions
        queue += [each.__cause__, each.__context__]


def _text(exc: BaseException) -> str:
    text = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
    return hidden(text.rstrip("."), tuple(proxy_secrets()))


def _addresses(server_url: str) -> list[str]:
    return [url.strip() for url in server_url.split(",") if url.strip()]


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _proxy_variable(proxy: str) -> str | None:
    """The environment variable that names a proxy; None if the system's settings do."""
    return next((name for name in PROXY_VARIABLES if os.environ.get(name) == proxy), None)


def shown(proxy: str) -> str:
    """A proxy's URL without the user name and the password."""
    return re.sub(r"^(\w+://)?.*@", lambda match: match[1] or "", proxy)


def proxy_secrets() -> Iterator[str]:
    """Passwords of proxies, as they are in URLs and as they are meant."""
    for name in PROXY_VARIABLES:
        value = os.environ.get(name, "")
        userinfo, at, _ = re.sub(r"^\w+://", "", value).rpartition("@")
        _, _, password = userinfo.partition(":")
        if at and password:
            yield password
            yield urllib.parse.unquote(password)


def hidden(text: str, secrets: tuple[str, ...]) -> str:
    """A text without the secrets that are in it."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
