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

__all__ = ["Fronts"]

T = TypeVar("T")
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Fronts:
    """Small servers, all in one thread, that end with the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fronts")
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._run(self._close())
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

        return self._run(start())

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # in which transports close

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
