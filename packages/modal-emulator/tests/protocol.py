"""The protocol itself, for what no program of Modal's does, or would take long for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from grpclib.client import Channel
from modal_emulator import Emulator
from modal_proto.api_grpc import ModalClientStub

__all__ = ["ask", "connected", "metadata"]


@asynccontextmanager
async def connected(emulator: Emulator) -> AsyncIterator[ModalClientStub]:
    url = urlsplit(emulator.url)
    async with Channel(url.hostname, url.port) as channel:
        yield ModalClientStub(channel)


def metadata(emulator: Emulator) -> dict[str, str]:
    token_id, secret = emulator.token
    return {"x-modal-token-id": token_id, "x-modal-token-secret": secret}


def ask(emulator: Emulator, name: str, request: Any) -> Any:
    """The answer to one request, with the server's own token."""

    async def ask() -> Any:
        async with connected(emulator) as stub:
            return await getattr(stub, name)(request, metadata=metadata(emulator), timeout=60)

    return asyncio.run(ask())
