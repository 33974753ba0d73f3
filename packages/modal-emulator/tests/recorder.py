"""Stands between a client and a server, and notes what goes by."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream
from modal_emulator import Emulator
from modal_emulator.rpc import SERVICE
from wire import RawCodec

__all__ = ["Recorder", "recording"]

PASSED_ON = ("x-modal-",)
CONFIG = Configuration(http2_connection_window_size=1 << 26, http2_stream_window_size=1 << 26)


class Recorder:
    """
    Attributes:
        requests, replies: each call's, as bytes, by the RPC's name.
        url: what a client is given in place of the server's.
    """

    def __init__(self, server: Emulator) -> None:
        address = urlsplit(server.url)
        self._target = (address.hostname, address.port)
        self.requests: list[tuple[str, bytes]] = []
        self.replies: list[tuple[str, bytes]] = []
        self.url = ""

    def __mapping__(self) -> Mapping[str, Handler]:
        return {f"/{SERVICE.full_name}/{method.name}": self._handler(method) for method in SERVICE.methods}

    def _handler(self, method: Any) -> Handler:
        kind = Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY
        path = f"/{SERVICE.full_name}/{method.name}"

        async def handle(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            assert request is not None
            self.requests.append((method.name, request))
            assert stream.metadata is not None
            headers = {k: v for k, v in stream.metadata.items() if k.startswith(PASSED_ON)}
            async with self._channel.request(path, kind, bytes, bytes, metadata=headers) as onward:
                await onward.send_message(request, end=True)
                while (reply := await onward.recv_message()) is not None:
                    self.replies.append((method.name, reply))
                    await stream.send_message(reply)

        return Handler(handle, kind, bytes, bytes)

    @contextlib.asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        self._channel = Channel(*self._target, codec=RawCodec(), config=CONFIG)
        server = Server([self], codec=RawCodec(), config=CONFIG)
        await server.start("127.0.0.1", 0)
        assert isinstance(server._server, asyncio.Server)
        self.url = f"http://127.0.0.1:{server._server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            self._channel.close()


@contextlib.contextmanager
def recording(server: Emulator) -> Iterator[Recorder]:
    recorder = Recorder(server)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with recorder._serve():
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()

    thread = threading.Thread(target=work, name="recorder")
    thread.start()
    ready.wait(30)
    try:
        yield recorder
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
