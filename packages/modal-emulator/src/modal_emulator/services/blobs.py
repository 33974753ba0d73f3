"""Blobs: payloads too large for a message, which travel over HTTP."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib import Status
from modal_proto import api_pb2

from ..ids import new_id
from ..rpc import Caller, fail, rpc
from ..transfer import CHUNK, FileServer, Received, Refused, Slot, Upload
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["BlobService"]

LARGEST = 1 << 42  # bytes: what nobody means to send
_ID = re.compile(r"bl-[0-9A-Za-z]{22}")


class _Single(Upload):
    """A blob that comes in one piece."""

    def __init__(self, blobs: BlobService, blob_id: str, slot: Slot) -> None:
        self._blobs, self._id, self._slot = blobs, blob_id, slot
        self._done = False

    def slot(self, part: int) -> Slot:
        return self._slot

    async def received(self, part: int, got: Received) -> bytes:
        if not self._done:
            self._done = True
            self._blobs._adopt(self._id, self._slot.path, got.sha256)
            # Sent again because the first answer was lost, it has to be the same.
            self._slot = Slot(Path(os.devnull), 0, got.length, md5=got.md5, sha256=got.sha256, again=True)
        return b""

    def expired(self) -> None:
        if not self._done:
            self._slot.path.unlink(missing_ok=True)


class _Multi(Upload):
    """A blob that comes in parts, each written to its place in the file: there is nothing to put together."""

    def __init__(
        self, blobs: BlobService, blob_id: str, path: Path, length: int, part: int, sha256: bytes
    ) -> None:
        self._blobs, self._id, self._path = blobs, blob_id, path
        self._length, self._part, self._sha256 = length, part, sha256
        self._md5: dict[int, bytes] = {}
        self._answer: bytes | None = None
        self.count = max(1, -(-length // part))

    def slot(self, part: int) -> Slot:
        if not 0 <= part < self.count or self._answer is not None:
            raise LookupError(part)
        offset = part * self._part
        return Slot(self._path, offset, min(self._part, self._length - offset))

    async def received(self, part: int, got: Received) -> bytes:
        assert got.md5 is not None
        self._md5[part] = got.md5
        return b""

    async def complete(self, body: bytes) -> bytes:
        if self._answer is not None:
            return self._answer  # asked again because the first answer was lost
        named = [
            bytes.fromhex(etag.decode()) for etag in re.findall(rb'<ETag>"?([0-9a-f]{32})"?</ETag>', body)
        ]
        if named != [self._md5.get(part) for part in range(self.count)]:
            raise Refused("the parts that are named are not those that came")
        if self._sha256:
            # The parts came in any order, so this could not be done on the way. It is in the page cache.
            found = await asyncio.to_thread(_sha256, self._path)
            if found != self._sha256:
                raise Refused("the SHA-256 of what came is not the one that was announced")
        etag = f"{hashlib.md5(b''.join(named), usedforsecurity=False).hexdigest()}-{len(named)}"
        self._blobs._adopt(self._id, self._path, self._sha256 or None)
        self._answer = (
            f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>".encode()
        )
        return self._answer

    def expired(self) -> None:
        if self._answer is None:
            self._path.unlink(missing_ok=True)


class BlobService(Service):
    """Blobs, and the HTTP server that they and the files of volumes travel by.

    Attributes:
        files: the HTTP server.
        multipart_above: blobs of more bytes come in parts; the client expects no higher limit than 1 GiB.
        part_length: the bytes of a part.
    """

    multipart_above = 1 << 30
    part_length = 1 << 27

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self.files = FileServer(plane.settings.url_seconds)
        self._folder = plane.settings.data / "blobs"
        self._verified: dict[str, bytes] = {}

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("*.part"):
            left.unlink()
        await self.files.start()

    async def stop(self) -> None:
        await self.files.stop()

    def path(self, blob_id: str) -> Path:
        """The file of a blob. NOT_FOUND if there is none, or not yet."""
        path = self._folder / blob_id
        if not _ID.fullmatch(blob_id) or not path.is_file():
            fail(Status.NOT_FOUND, f"there is no blob {blob_id[:40]!r}")
        return path

    def sha256(self, blob_id: str) -> bytes | None:
        """The digest of a blob, if it was checked when the blob came; None if nobody knows it."""
        return self._verified.get(blob_id)

    async def put(self, data: bytes) -> str:
        """Make a blob of bytes; returns its id."""
        blob_id = new_id("bl")
        part = self._folder / f"{blob_id}.part"
        if len(data) > CHUNK:
            await asyncio.to_thread(part.write_bytes, data)
        else:
            part.write_bytes(data)
        part.rename(self._folder / blob_id)
        return blob_id

    async def put_file(self, path: Path, offset: int, length: int) -> str:
        """Make a blob of a part of a file; returns its id."""
        blob_id = new_id("bl")
        part = self._folder / f"{blob_id}.part"
        await asyncio.to_thread(_copy_part, path, offset, length, part)
        part.rename(self._folder / blob_id)
        return blob_id

    def take(self, blob_id: str, target: Path) -> None:
        """Make a blob's file another file: it is moved, and the blob is gone."""
        self.path(blob_id).rename(target)
        self._verified.pop(blob_id, None)

    def delete(self, blob_id: str) -> None:
        """Remove a blob; nothing happens if there is none."""
        self._verified.pop(blob_id, None)
        if _ID.fullmatch(blob_id):
            (self._folder / blob_id).unlink(missing_ok=True)

    def url(self, path: Path, expiry: float | None = None) -> str:
        """A URL by which one file can be fetched for a while."""
        return self.files.download(path, expiry).url()

    def _adopt(self, blob_id: str, part: Path, sha256: bytes | None) -> None:
        part.rename(self._folder / blob_id)
        if sha256 is not None:
            self._verified[blob_id] = sha256

    @rpc(reads="content_md5 content_sha256_base64 content_length")
    async def blob_create(
        self, request: api_pb2.BlobCreateRequest, caller: Caller
    ) -> api_pb2.BlobCreateResponse:
        length = request.content_length
        if not 0 <= length <= LARGEST:
            fail(Status.INVALID_ARGUMENT, f"a blob cannot have {length} bytes")
        md5 = _digest(request.content_md5, 16, "content_md5")
        sha256 = _digest(request.content_sha256_base64, 32, "content_sha256_base64")
        blob_id = new_id("bl")
        part = self._folder / f"{blob_id}.part"
        if length <= self.multipart_above:
            slot = Slot(part, 0, length, md5=md5 or None, sha256=sha256 or None)
            (url,), _ = self.files.upload(_Single(self, blob_id, slot), 1)
            return api_pb2.BlobCreateResponse(
                blob_id=blob_id, blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[url])
            )
        multi = _Multi(self, blob_id, part, length, self.part_length, sha256)
        urls, done = self.files.upload(multi, multi.count)
        parts = api_pb2.MultiPartUpload(part_length=self.part_length, upload_urls=urls, completion_url=done)
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id, blob_ids=[blob_id], multiparts=api_pb2.MultiPartUploadList(items=[parts])
        )

    @rpc(reads="blob_id", moot="function_id")
    async def blob_get(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=self.url(self.path(request.blob_id)))

    @rpc(reads="blob_id", moot="function_id")
    async def function_blob_get(
        self, request: api_pb2.BlobGetRequest, caller: Caller
    ) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=self.url(self.path(request.blob_id)))


def _copy_part(path: Path, offset: int, length: int, target: Path) -> None:
    with path.open("rb") as reader, target.open("wb") as writer:
        reader.seek(offset)
        while length > 0 and (piece := reader.read(min(CHUNK, length))):
            writer.write(piece)
            length -= len(piece)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(text: str, size: int, name: str) -> bytes:
    """A digest in base64; empty if none was given."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b"?"
    if digest and len(digest) != size:
        fail(Status.INVALID_ARGUMENT, f"{name} is not the base64 of {size} bytes")
    return digest
