"""Servers that speak TLS, with certificates of any sort, in front of one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import urllib.parse
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from modal_emulator.tls import Certificate

__all__ = ["Fronts", "Link"]

T = TypeVar("T")
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Fronts:
    """Small servers, all in one thread, that end with the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fronts")
        self._servers: list[asyncio.Server] = []
        self._links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, certificate: Certificate, target: str, alpn: tuple[str, ...] = ("h2",)) -> str:
        """Serve TLS and pass what comes on to the server at `target`; the address."""
        parts = urllib.parse.urlsplit(target)

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))

        return f"https://127.0.0.1:{self.serve(pass_on, certificate, alpn)}"

    def http(self, certificate: Certificate | None, answer: bytes) -> str:
        """Answer every HTTP/1 request the same; the address."""

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(answer)
            await writer.drain()

        port = self.serve(respond, certificate, ("http/1.1",))
        return f"http{'s' if certificate else ''}://127.0.0.1:{port}"

    def silent(self) -> str:
        """Take connections and never say anything."""

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                pass

        return f"http://127.0.0.1:{self.serve(wait, None, ())}"

    def link(self, target: str) -> Link:
        """A way to the server at `target` that can be cut."""
        link = Link(self, target)
        self._links.append(link)
        return link

    def serve(self, connected: Connected, certificate: Certificate | None, alpn: tuple[str, ...]) -> int:
        context = certificate.context(alpn) if certificate is not None else None

        async def start() -> int:
            async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._tasks.add(task)
                try:
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await connected(reader, writer)
                finally:
                    self._tasks.discard(task)
                    writer.transport.abort()

            server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return self.run(start())

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in self._links:
            await link.cut_off()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # in which transports close

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the servers' thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class Link:
    """A way to a server, on which it can be made to be gone: nobody listens, and connections are reset.

    Attributes:
        url: where it begins.
    """

    def __init__(self, fronts: Fronts, target: str) -> None:
        self._fronts = fronts
        self._target = urllib.parse.urlsplit(target)
        self._connections: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._server: asyncio.Server | None = None
        self.mend()
        self.url = f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Have the server be there again, at the same address."""
        self._fronts.run(self._mend())

    def cut(self) -> None:
        """Have the server be gone."""
        self._fronts.run(self.cut_off())

    async def _mend(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut_off(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._connections:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._connections |= {writer, back}
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)
        finally:
            self._connections -= {writer, back}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
