"""Uploads to volumes of version 2: files in blocks, each of which is sent only if it is missing.

A block is written straight to its place in the file, so nothing is put together afterwards. Trailing zeros of a block
are not sent: they are holes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpclib import Status
from modal_proto import api_pb2

from ..content import ContentStore
from ..paths import shown
from ..rpc import fail
from ..transfer import FileServer, Received, Slot, Upload

__all__ = ["BLOCK", "Uploads"]

BLOCK = 8 << 20
"""Bytes of a block; the last one of a file may be shorter."""
LARGEST = 1 << 40  # bytes of a file: what nobody means to send
_EMPTY = hashlib.sha256().digest()


@dataclass(frozen=True, slots=True)
class _File:
    """A content that is on its way."""

    key: str
    path: Path
    size: int
    blocks: tuple[bytes, ...]


class _Session(Upload):
    """The blocks of one content."""

    def __init__(self, uploads: Uploads, file: _File) -> None:
        self._uploads, self._file = uploads, file
        self.urls: list[str] = []
        self.done = {index for index, digest in enumerate(file.blocks) if digest == _EMPTY}

    def slot(self, part: int) -> Slot:
        if not 0 <= part < len(self._file.blocks):
            raise LookupError(part)
        offset = part * BLOCK
        most = min(BLOCK, self._file.size - offset)
        digest, again = self._file.blocks[part], part in self.done
        return Slot(self._file.path, offset, most, sha256=digest, shorter=True, again=again, etag=False)

    async def received(self, part: int, got: Received) -> bytes:
        self.done.add(part)
        return self._file.key.encode()

    @property
    def missing(self) -> list[int]:
        return [index for index in range(len(self._file.blocks)) if index not in self.done]

    def expired(self) -> None:
        self._uploads.drop(self._file.key)


class Uploads:
    """The contents that are on their way to volumes.

    Sessions are found again by what they upload: the client asks for missing blocks, sends them, and asks again.
    """

    def __init__(self, content: ContentStore, files: FileServer) -> None:
        self._content = content
        self._files = files
        self._sessions: dict[str, tuple[_Session, _File]] = {}

    @staticmethod
    def key(file: api_pb2.VolumePutFiles2Request.File) -> str:
        """What the content of a file is kept by. INVALID_ARGUMENT if it cannot be one."""
        digests = tuple(block.contents_sha256 for block in file.blocks)
        if not 0 <= file.size <= LARGEST or len(digests) != -(-file.size // BLOCK):
            fail(
                Status.INVALID_ARGUMENT,
                f"{shown(file.path)}: {len(digests)} blocks are not {file.size} bytes",
            )
        if any(len(digest) != 32 for digest in digests):
            fail(Status.INVALID_ARGUMENT, f"{shown(file.path)}: a SHA-256 has 32 bytes")
        if not digests:
            return hashlib.sha256().hexdigest()
        whole = hashlib.sha256(b"%d " % file.size + b"".join(digests)).hexdigest()
        return f"b{whole}"

    def missing(
        self, files: Sequence[api_pb2.VolumePutFiles2Request.File]
    ) -> list[api_pb2.VolumePutFiles2Response.MissingBlock]:
        """The blocks that have to be sent before all files are there; empty if they are."""
        answer: list[api_pb2.VolumePutFiles2Response.MissingBlock] = []
        asked: set[str] = set()
        for file_index, file in enumerate(files):
            key = self.key(file)
            if key in asked or self._content.has(key):
                continue
            asked.add(key)
            session = self._session(key, file)
            answer.extend(
                api_pb2.VolumePutFiles2Response.MissingBlock(
                    file_index=file_index, block_index=index, put_url=session.urls[index]
                )
                for index in session.missing
            )
            if not session.missing:
                self._finish(key)
        return answer

    def drop(self, key: str) -> None:
        """An upload was given up."""
        found = self._sessions.pop(key, None)
        if found is not None:
            found[1].path.unlink(missing_ok=True)

    def _session(self, key: str, file: api_pb2.VolumePutFiles2Request.File) -> _Session:
        if key in self._sessions:
            return self._sessions[key][0]
        blocks = tuple(block.contents_sha256 for block in file.blocks)
        on_its_way = _File(key, self._content.temporary(), file.size, blocks)
        with on_its_way.path.open("xb") as new:
            os.ftruncate(new.fileno(), file.size)
        session = _Session(self, on_its_way)
        session.urls, _ = self._files.upload(session, len(blocks))
        self._sessions[key] = (session, on_its_way)
        return session

    def _finish(self, key: str) -> None:
        _, file = self._sessions.pop(key)
        self._content.adopt(key, file.path)
