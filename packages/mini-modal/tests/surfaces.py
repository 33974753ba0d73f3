"""The places where Modal's client makes TLS connections, each as a function that makes one and sends something."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from unittest.mock import patch

from modal._utils import async_utils, grpc_utils, http_utils
from modal.client import _Client
from modal.sandbox import _task_command_router_client as router
from modal_proto import api_pb2

__all__ = ["SURFACES", "contexts", "refused", "visit"]

Token = tuple[str, str]


async def channel(url: str, token: Token) -> None:
    made = grpc_utils.create_channel(url)
    try:
        await made.__connect__()
    finally:
        made.close()


async def hello(url: str, token: Token) -> None:
    await _Client.verify(url, token)


async def blob(url: str, token: Token) -> None:
    async with http_utils._http_client_with_tls(timeout=5) as session, session.get(f"{url}/blob") as response:
        await response.read()


async def sandbox(url: str, token: Token) -> None:
    async def access() -> api_pb2.CommandRouterAccess:
        raise AssertionError("it has been given")

    # For a server on localhost Modal turns verification off.
    client = _Client("https://modal.example", api_pb2.CLIENT_TYPE_CLIENT, token)
    made = await router.TaskCommandRouterClient._connect(client, "ta-1", url, "a.b.c", fetch_access=access)
    await made.close()


SURFACES: dict[str, Callable[[str, Token], Awaitable[None]]] = {
    "channel": channel,
    "hello": hello,
    "blob": blob,
    "router": sandbox,
}


def visit(surface: str, url: str, token: Token, *, attempts: int | None = None) -> None:
    """Connect; an exception says that it does not work. By default Modal decides how often it is tried."""

    async def once() -> None:
        with patch.object(async_utils, "RETRY_N_ATTEMPTS_OVERRIDE", attempts):
            try:
                await SURFACES[surface](url, token)
            finally:
                await _closed()

    asyncio.run(once())


async def _closed() -> None:
    """Wait for the last transport to close: until the loop watches nothing but a pipe of its own."""
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while len(selector.get_map()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)  # what was closed last is told so in the loop's next round


def refused(surface: str, url: str, token: Token) -> bool:
    """Whether a connection fails, and for the server's certificate."""
    try:
        visit(surface, url, token, attempts=1)
    except Exception as exc:
        if certificate_error(exc) is None:
            raise
        return True
    return False


def contexts() -> dict[str, ssl.SSLContext]:
    """The context of each place."""

    async def make() -> dict[str, ssl.SSLContext]:
        made = grpc_utils.create_channel("https://127.0.0.1:1")
        session = http_utils._http_client_with_tls(timeout=5)
        try:
            return {
                "channel": made._ModalChannel__ssl_context,  # type: ignore[attr-defined]
                "blob": session.connector._ssl,  # type: ignore[union-attr]
                "router": router._shared_verifying_ssl_context(),
            }
        finally:
            made.close()
            await session.close()

    return asyncio.run(make())


def certificate_error(exc: BaseException) -> ssl.SSLCertVerificationError | None:
    """The certificate error that led to an exception."""
    return next((each for each in _chain(exc) if isinstance(each, ssl.SSLCertVerificationError)), None)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        with contextlib.suppress(AttributeError):
            inner = exc.certificate_error  # type: ignore[attr-defined]
            if isinstance(inner, BaseException):
                yield inner
        exc = exc.__cause__ or exc.__context__
