"""What the apps of a running server have printed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub

__all__ = ["Line", "NoLogs", "logs"]

POLL = 50.0  # seconds that one request waits for more


class NoLogs(Exception):
    """There is nothing to show. The message says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that an app has printed."""

    app: str
    descriptor: int
    """1 or 2: its standard output or its standard error."""
    text: str


async def logs(environ: Mapping[str, str], app: str | None, *, follow: bool) -> AsyncIterator[Line]:
    """What has been printed by an app, given by its name or id, or by all, one app after the other.

    Args:
        environ: the variables by which a client finds the server.
        follow: go on until the app has ended.
    """
    missing = [
        name for name in ("MODAL_SERVER_URL", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET") if not environ.get(name)
    ]
    if missing:
        raise NoLogs(f"{missing[0]} is not set: evaluate what `modal-emulator serve` prints")
    url = urlsplit(environ["MODAL_SERVER_URL"])
    context: ssl.SSLContext | None = None
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=environ.get("MODAL_EMULATOR_CA_FILE") or None)
        context.set_alpn_protocols(["h2"])
    metadata = {
        "x-modal-token-id": environ["MODAL_TOKEN_ID"],
        "x-modal-token-secret": environ["MODAL_TOKEN_SECRET"],
    }
    channel = Channel(url.hostname, url.port, ssl=context)
    try:
        stub = ModalClientStub(channel)
        found = await stub.AppList(
            api_pb2.AppListRequest(environment_name=environ.get("MODAL_ENVIRONMENT", "")), metadata=metadata
        )
        apps = [
            item for item in found.apps if app is None or app in (item.app_id, item.name, item.description)
        ]
        if app is not None and not apps:
            raise NoLogs(f"there is no app {app!r}: `modal app list` shows what there is")
        for item in apps:
            name = item.name or item.description or item.app_id
            async for log in _app_logs(stub, item.app_id, metadata, follow=follow):
                yield Line(name, 2 if log.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDERR else 1, log.data)
    except GRPCError as exc:
        raise NoLogs(exc.message or exc.status.name) from exc
    except OSError as exc:
        raise NoLogs(f"no server answers at {url.geturl()}: {exc}") from exc
    finally:
        channel.close()


async def _app_logs(
    stub: ModalClientStub, app_id: str, metadata: Mapping[str, str], *, follow: bool
) -> AsyncIterator[api_pb2.TaskLogs]:
    last = ""
    while True:
        request = api_pb2.AppGetLogsRequest(
            app_id=app_id, timeout=POLL if follow else 0.0, last_entry_id=last
        )
        async with stub.AppGetLogs.open(metadata=metadata) as stream:
            await stream.send_message(request, end=True)
            async for batch in stream:
                last = batch.entry_id or last
                for log in batch.items:
                    if log.data:
                        yield log
                if batch.app_done:
                    return
        if not follow:
            return
        await asyncio.sleep(0)
