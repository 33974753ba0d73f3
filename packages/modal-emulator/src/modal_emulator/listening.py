"""grpclib's server, which sends what it has to say at a time in one piece."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from grpclib import server

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import H2Protocol

__all__ = ["Server"]

ENOUGH = 64 * 1024
"""Bytes that are sent at once, so that who writes much is told when to pause."""


class Server(server.Server):
    """As grpclib's, but an answer's headers, message and trailers are one system call here and one wakeup there.

    They are a third of what a small call costs.
    """

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        protocol.connection_made = partial(_made, protocol.connection_made)  # type: ignore[method-assign]
        return protocol


def _made(made: Callable[[asyncio.BaseTransport], None], transport: asyncio.BaseTransport) -> None:
    made(_Gathering(transport))  # type: ignore[arg-type]


class _Gathering:
    """A transport that keeps what is written to it until the event loop comes round."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= ENOUGH:
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
