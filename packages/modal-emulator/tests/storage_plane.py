"""The storage services alone, served by a thread of this process, and the real client against them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import modal
from google.protobuf.empty_pb2 import Empty
from grpclib.config import Configuration
from grpclib.const import Handler
from grpclib.server import Server
from modal_emulator.rpc import Caller, Router, rpc
from modal_emulator.services.blobs import BlobService
from modal_emulator.services.dicts import DictService
from modal_emulator.services.mounts import MountService
from modal_emulator.services.queues import QueueService
from modal_emulator.services.secrets import SecretService
from modal_emulator.services.volumes import VolumeService
from modal_emulator.settings import Settings
from modal_emulator.store import Store
from modal_proto import api_pb2

__all__ = ["Plane", "Settings", "connected", "serving"]

T = TypeVar("T")
WINDOW = 64 * 1024 * 1024


class Session:
    """The least that a client wants to hear before it uses storage."""

    @rpc()
    async def client_hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    @rpc()
    async def auth_token_get(
        self, request: api_pb2.AuthTokenGetRequest, caller: Caller
    ) -> api_pb2.AuthTokenGetResponse:
        return api_pb2.AuthTokenGetResponse(token="none")

    @rpc(reads="deployment_name", moot="object_creation_type")
    async def environment_get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        name = request.deployment_name or "main"
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-1", metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings)
        )


class Plane:
    """The storage services, served on a loopback port by a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        for folder in (settings.work, settings.data):
            folder.mkdir(parents=True, exist_ok=True)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="emulator")
        self._thread.start()
        self.port = self.run(self._start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def call(self, function: Callable[[], T]) -> T:
        async def work() -> T:
            return function()

        return self.run(work())

    async def _start(self) -> int:
        self.store = Store(self.settings.state / "state.sqlite" if self.settings.state else None)
        self.blobs = BlobService(self)  # type: ignore[arg-type]
        self.secrets = SecretService(self)  # type: ignore[arg-type]
        self.mounts = MountService(self)  # type: ignore[arg-type]
        self.volumes = VolumeService(self)  # type: ignore[arg-type]
        self.dicts = DictService(self)  # type: ignore[arg-type]
        self.queues = QueueService(self)  # type: ignore[arg-type]
        self.services = (self.blobs, self.secrets, self.mounts, self.volumes, self.dicts, self.queues)
        router = Router((Session(), *self.services), lenient=False)

        class Listener:
            def __mapping__(self) -> Mapping[str, Handler]:
                return router.mapping(lambda _, headers: Caller(None, headers))

        for service in self.services:
            await service.start()
        config = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
        self._server = Server([Listener()], config=config)
        await self._server.start("127.0.0.1", self.settings.port)
        assert self._server._server is not None
        port: int = self._server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return port

    async def _stop(self) -> None:
        for service in reversed(self.services):
            await service.stop()
        self._server.close()
        await self._server.wait_closed()
        self.store.close()

    def stop(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self.port}",
            "MODAL_TOKEN_ID": self.settings.token_id,
            "MODAL_TOKEN_SECRET": self.settings.token_secret,
            "MODAL_CONFIG_PATH": str(self.settings.work / "modal.toml"),
        }


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Plane]:
    plane = Plane(settings)
    try:
        yield plane
    finally:
        plane.stop()


@contextlib.contextmanager
def connected(environ: Mapping[str, str]) -> Iterator[modal.Client]:
    """A client of this process for the server that `environ` names."""
    # Only while it is made: other tests of this process have clients of their own.
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    try:
        # It is open already, which 1.6.3 would not have twice, and has no public way to close.
        client = modal.Client.from_credentials(environ["MODAL_TOKEN_ID"], environ["MODAL_TOKEN_SECRET"])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    try:
        yield client
    finally:
        client.__exit__(None, None, None)  # type: ignore[no-untyped-call]
