"""File contents over plain HTTP on the loopback: signed URLs that expire, streamed both ways.

Nobody can ask for a path: a URL names what was granted by a random token, and is signed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["Download", "FileServer", "Received", "Refused", "Slot", "Upload"]

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""What is read or written at a time, and the most that a transfer has in memory: three of them."""
TRANSFERS = 16
"""Uploads that are read at the same time; a client starts 128."""
BUFFER = 1 << 16
"""Bytes of an upload that wait in memory until it is read."""
STALL = 60.0
"""Seconds after which an upload of which nothing comes any more gives way to others."""


class Refused(Exception):
    """An upload that is not what was announced. The message goes to the client."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a body is written, and what it has to be.

    Attributes:
        length: the bytes it must have.
        shorter: whether it may also have fewer.
        again: it is there already, and is only compared: its first answer was lost.
        etag: whether the answer needs the MD5 as `ETag`; it takes longer than anything else here.
    """

    path: Path
    offset: int
    length: int
    md5: bytes | None = None
    sha256: bytes | None = None
    shorter: bool = False
    again: bool = False
    etag: bool = True


@dataclass(frozen=True, slots=True)
class Received:
    """The digests of a body that has been written; None where nobody asked."""

    length: int
    md5: bytes | None
    sha256: bytes | None


class Upload(ABC):
    """Something in numbered parts that a client was told to send."""

    @abstractmethod
    def slot(self, part: int) -> Slot:
        """Where this part goes. LookupError if there is none such."""

    @abstractmethod
    async def received(self, part: int, got: Received) -> bytes:
        """A part is there and is right; returns the body of the answer. May raise Refused."""

    async def complete(self, body: bytes) -> bytes:
        """The client says that all parts are there; returns the body of the answer. May raise Refused."""
        raise Refused("this upload has no parts to put together")

    @abstractmethod
    def expired(self) -> None:
        """Its URLs no longer work: remove what is left."""


class Download:
    """A file that may be fetched while its URLs are valid."""

    def __init__(self, server: FileServer, token: str, expires: int) -> None:
        self._server, self._token, self._expires = server, token, expires

    def url(self, offset: int = 0, length: int | None = None) -> str:
        """The URL of the whole file, or of a part of it."""
        part = "" if length is None else f"{offset}-{length}"
        return self._server._url("GET", self._token, part, self._expires)


@dataclass(slots=True)
class _Grant:
    what: Path | Upload
    expires: float
    expired: Callable[[], None] | None


def _is_ours_to_know(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's log is about more than a request that is none: that has been answered with 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class FileServer:
    """Serves what was granted. `start` it in an event loop; URLs can be had from then on.

    Attributes:
        expiry: seconds for which a URL is valid, unless the call says otherwise.
    """

    def __init__(self, expiry: float = 3600, clock: Callable[[], float] = time.time) -> None:
        self.expiry = expiry
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._grants: dict[str, _Grant] = {}
        self._base = ""
        self._runner: web.AppRunner | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn = asyncio.Semaphore(TRANSFERS)

    async def start(self) -> None:
        logging.getLogger("aiohttp.server").addFilter(_is_ours_to_know)
        app = web.Application(client_max_size=CHUNK)
        app.router.add_route("*", "/{token}/{part:[0-9-]*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, read_bufsize=BUFFER, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._base = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._runner is not None:
            await self._runner.cleanup()
        for token in list(self._grants):
            self._drop(token)

    def download(
        self, path: Path, expiry: float | None = None, expired: Callable[[], None] | None = None
    ) -> Download:
        """Let a file be fetched. `expired` is called when it no longer can be."""
        token, expires = self._grant(path, expiry, expired)
        return Download(self, token, expires)

    def upload(self, upload: Upload, parts: int, expiry: float | None = None) -> tuple[list[str], str]:
        """Let something be sent: the URLs to PUT its parts to, from 0 on, and the one that completes it."""
        token, expires = self._grant(upload, expiry, upload.expired)
        urls = [self._url("PUT", token, str(part), expires) for part in range(parts)]
        return urls, self._url("POST", token, "", expires)

    def expire(self) -> None:
        """Forget what has expired, now. Runs by itself."""
        now = self._clock()
        for token in [token for token, grant in self._grants.items() if grant.expires <= now]:
            self._drop(token)
        self._schedule()

    def _grant(
        self, what: Path | Upload, expiry: float | None, expired: Callable[[], None] | None
    ) -> tuple[str, int]:
        token = secrets.token_urlsafe(16)
        expires = int(self._clock() + (self.expiry if expiry is None else expiry)) + 1
        self._grants[token] = _Grant(what, expires, expired)
        if self._timer is None:
            self._schedule()
        return token, expires

    def _schedule(self) -> None:
        """Wake up when the next one expires; not before, and not at all if there is none."""
        self._timer = None
        if self._grants:
            wait = max(1.0, min(grant.expires for grant in self._grants.values()) - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self.expire)

    def _drop(self, token: str) -> None:
        grant = self._grants.pop(token)
        if grant.expired is not None:
            try:
                grant.expired()
            except OSError:
                log.exception("cannot clean up after a transfer")

    def _sign(self, method: str, token: str, part: str, expires: int) -> str:
        return hmac.digest(self._key, f"{method} {token} {part} {expires}".encode(), "sha256").hex()

    def _url(self, method: str, token: str, part: str, expires: int) -> str:
        return f"{self._base}/{token}/{part}?expires={expires}&sig={self._sign(method, token, part, expires)}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        token, part = request.match_info["token"], request.match_info["part"]
        method = "GET" if request.method == "HEAD" else request.method
        given = request.query.get("sig", "")
        try:
            expires = int(request.query.get("expires", ""))
        except ValueError:
            return web.Response(status=403, text="this URL is not valid")
        if not hmac.compare_digest(given.encode(), self._sign(method, token, part, expires).encode()):
            return web.Response(status=403, text="this URL is not valid")
        grant = self._grants.get(token)
        if grant is None or expires <= self._clock():
            return web.Response(status=403, text="this URL has expired")
        try:
            if isinstance(grant.what, Path):
                return await self._send(request, grant.what, part)
            if method == "PUT":
                async with self._turn:
                    return await self._receive(request, grant.what, int(part))
            body = await grant.what.complete(await request.read())
            return web.Response(body=body, content_type="application/xml")
        except TimeoutError:
            return web.Response(status=408, text="nothing comes any more")
        except Refused as exc:
            return web.Response(status=400, text=str(exc))
        except ConnectionError:
            return web.Response(status=400)  # nobody is there to read it
        except (LookupError, FileNotFoundError):
            return web.Response(status=404, text="there is no such thing here any more")

    async def _send(self, request: web.Request, path: Path, part: str) -> web.StreamResponse:
        if not part:
            return web.FileResponse(
                path, chunk_size=CHUNK, headers={"Content-Type": "application/octet-stream"}
            )
        offset, length = (int(number) for number in part.split("-"))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = length
        file = await asyncio.to_thread(path.open, "rb", buffering=0)
        try:
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            end = offset + length
            while offset < end:
                piece = await asyncio.to_thread(os.pread, file.fileno(), min(CHUNK, end - offset), offset)
                if not piece:
                    break  # it is shorter than it was: the connection breaks off, and the client sees that
                await response.write(piece)
                offset += len(piece)
        finally:
            file.close()
        return response

    async def _receive(self, request: web.Request, upload: Upload, part: int) -> web.Response:
        slot = upload.slot(part)
        md5 = hashlib.md5(usedforsecurity=False) if slot.etag or slot.md5 is not None else None
        sha256 = hashlib.sha256() if slot.sha256 is not None else None
        announced = request.content_length
        if (
            announced is not None
            and announced != slot.length
            and not (slot.shorter and announced < slot.length)
        ):
            raise Refused(f"{announced} bytes are sent where {slot.length} were announced")
        wanted = request.headers.get("Content-MD5")
        length = 0
        file = os.open(slot.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        pending: asyncio.Task[None] | None = None

        def take(pieces: list[bytes], offset: int) -> None:
            for piece in pieces:
                view = memoryview(piece)
                while view and not slot.again:
                    written = os.pwrite(file, view, offset)
                    offset += written
                    view = view[written:]
                if md5 is not None:
                    md5.update(piece)
                if sha256 is not None:
                    sha256.update(piece)

        try:
            pieces: list[bytes] = []
            start = size = 0  # of the pieces
            # As they come, without joining them: nothing is copied on the way from the socket to the file.
            reading = request.content.iter_chunks()
            while True:
                async with asyncio.timeout(STALL):
                    try:
                        piece, _ = await anext(reading)
                    except StopAsyncIteration:
                        break
                pieces.append(piece)
                size += len(piece)
                length += len(piece)
                if length > slot.length:
                    raise Refused(f"more than the {slot.length} bytes that were announced")
                if size >= CHUNK:
                    # The next pieces are read from the socket while these are written and hashed.
                    if pending is not None:
                        await pending
                    pending = asyncio.create_task(asyncio.to_thread(take, pieces, slot.offset + start))
                    start, pieces, size = length, [], 0
            if pending is not None:
                await pending
                pending = None
            take(pieces, slot.offset + start)  # too few for a thread
        finally:
            if pending is not None:
                await asyncio.wait([pending])
            os.close(file)
        got = Received(length, md5.digest() if md5 else None, sha256.digest() if sha256 else None)
        if length != slot.length and not slot.shorter:
            raise Refused(f"{length} bytes came where {slot.length} were announced")
        if wanted is not None and got.md5 is not None and wanted != base64.b64encode(got.md5).decode():
            raise Refused("The Content-MD5 you specified did not match what we received.")
        if slot.md5 is not None and got.md5 != slot.md5:
            raise Refused("The Content-MD5 you specified did not match what we received.")
        if slot.sha256 is not None and got.sha256 != slot.sha256:
            raise Refused("the SHA-256 of what came is not the one that was announced")
        body = await upload.received(part, got)
        headers = {"ETag": f'"{got.md5.hex()}"'} if got.md5 is not None else {}
        return web.Response(body=body, headers=headers)
