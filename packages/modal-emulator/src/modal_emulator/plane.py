"""The control plane: all services, and the sockets that they are reached by."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib import Status
from grpclib.config import Configuration
from grpclib.const import Handler

from .listening import Server
from .rpc import Authorize, Caller, Router, fail
from .runtime.choose import open_runtime
from .services import Service
from .services.apps import AppService
from .services.billing import BillingService
from .services.blobs import BlobService
from .services.calls import CallService
from .services.containers import ContainerService
from .services.dicts import DictService
from .services.functions import FunctionService
from .services.images import ImageService
from .services.logs import LogService
from .services.mounts import MountService
from .services.queues import QueueService
from .services.secrets import SecretService
from .services.session import SessionService
from .services.volumes import VolumeService
from .store import Store

if TYPE_CHECKING:
    from .containers import Container
    from .settings import Settings

__all__ = ["ControlPlane"]

WINDOW = 64 * 1024 * 1024  # bytes: what Modal's client uses
CONFIG = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
CLOSE_SECONDS = 0.5
OPEN_TO_ALL = frozenset({"TokenFlowCreate", "TokenFlowWait"})
"""What a client without a token may call: it is how it gets one."""
NOT_FOR_CONTAINERS = OPEN_TO_ALL | {"TokenDelete"}
"""What a container has no business with: a token would outlive it."""


class _Listener:
    """The RPCs, as they are served on one socket."""

    def __init__(self, router: Router, authorize: Authorize) -> None:
        self._mapping = router.mapping(authorize)

    def __mapping__(self) -> Mapping[str, Handler]:
        return self._mapping


class ControlPlane:
    """Everything that a server has. `start` it in an event loop, and `stop` it there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        for folder in (settings.work, settings.data, settings.cache):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = Store(settings.state / "state.sqlite" if settings.state else None)
        self.runtime = open_runtime(settings)
        # In the order in which they are started; they are stopped in the reverse.
        self.session = SessionService(self)
        self.blobs = BlobService(self)
        self.secrets = SecretService(self)
        self.mounts = MountService(self)
        self.volumes = VolumeService(self)
        self.dicts = DictService(self)
        self.queues = QueueService(self)
        self.images = ImageService(self)
        self.logs = LogService(self)
        self.apps = AppService(self)
        self.functions = FunctionService(self)
        self.billing = BillingService(self)
        self.calls = CallService(self)
        self.containers = ContainerService(self)
        self.services = (
            self.session,
            self.blobs,
            self.secrets,
            self.mounts,
            self.volumes,
            self.dicts,
            self.queues,
            self.images,
            self.logs,
            self.apps,
            self.functions,
            self.billing,
            self.calls,
            self.containers,
        )
        self.router = Router(self.services, lenient=settings.lenient, lost=settings.lost_answers)
        self._started: list[Service] = []
        self._server: Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        """Serve clients on a loopback port; returns it."""
        with contextlib.ExitStack() as stack:
            # First of all: it is what fails when somebody has the port.
            listening = stack.enter_context(socket.create_server(("127.0.0.1", self.settings.port)))
            # asyncio does this only for sockets that say their protocol; who connects to this one inherits it. Without
            # it every answer that follows another at once waits for the client's delayed acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port: int = listening.getsockname()[1]
            for service in self.services:
                self._started.append(service)
                await service.start()
            # Somebody may have made the state folder before, for all to see.
            for path in self.settings.data.iterdir():
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode & 0o700)
            self.apps.resume()
            stack.pop_all()  # from here on it is closed with the server
        self._server = Server([_Listener(self.router, self._client)], config=CONFIG)
        await self._server.start(sock=listening, ssl=tls)
        return port

    async def stop(self) -> None:
        """End all containers and connections."""
        for service in reversed(self._started):
            await service.stop()
        await self.runtime.close()
        if self._server is not None:
            await _close(self._server)
        self.store.close()

    @contextlib.asynccontextmanager
    async def socket_for(self, container: Container, path: Path) -> AsyncIterator[None]:
        """Serve one container on a unix socket of its own, which is what it is known by."""
        server = Server(
            [_Listener(self.router, lambda name, headers: self._container(name, container, headers))],
            config=CONFIG,
        )
        await server.start(path=str(path))
        path.chmod(0o600)
        try:
            yield
        finally:
            await _close(server)
            path.unlink(missing_ok=True)

    def _container(self, name: str, container: Container, headers: Mapping[str, str]) -> Caller:
        if name in NOT_FOR_CONTAINERS:
            fail(Status.PERMISSION_DENIED, "tokens are for clients")
        return Caller(container, headers)

    def _client(self, name: str, headers: Mapping[str, str]) -> Caller:
        if name not in OPEN_TO_ALL and not self.session.accepts(
            headers.get("x-modal-token-id", ""), headers.get("x-modal-token-secret", "")
        ):
            fail(
                Status.UNAUTHENTICATED,
                "the token is missing or unknown here: modal-emulator prints the right one",
            )
        return Caller(None, headers)


async def _close(server: Server) -> None:
    """Stop serving. Calls are cancelled, but not waited for: a client may keep its connection open for ever."""
    server.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), CLOSE_SECONDS)
