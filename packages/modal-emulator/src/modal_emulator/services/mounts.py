"""Mounts: files of the client's machine, by their content, as trees that images and containers see."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import Status
from modal_proto import api_pb2

from ..content import ContentStore
from ..ids import new_id
from ..paths import clean, new_folder, remove_tree, shown
from ..rpc import Caller, declare, fail, rpc
from ..runtime import Bind
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["MountService"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
# What Modal has put there for everybody: its client, and what that needs. Containers get both from elsewhere.
_CLIENT = re.compile(
    r"modal-client-mount-[0-9A-Za-z.]+|20\d\d\.\d\d-cp3\d+t?-[0-9a-z_]+-x86_64|PREVIEW-cp3\d+t?-.+"
)
# The directories of a Linux system. A mount inside them must not hide what an image has there.
_SYSTEM = frozenset(
    [
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib64",
        "media",
        "mnt",
        "opt",
        "proc",
        "run",
        "sbin",
        "srv",
        "sys",
        "tmp",
        "usr",
        "var",
    ]
)

declare(api_pb2.MountFile, reads="filename sha256_hex mode", moot="size")

Manifest = dict[tuple[str, ...], tuple[str, int]]
"""The files of a mount: SHA-256 and permission bits by the names that the path consists of."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount. `client` says that it stands for Modal's client or its dependencies, and has no files."""

    digest: str
    files: Manifest = field(default_factory=dict)
    client: bool = False
    app_id: str = ""


class MountService(Service):
    """Mounts, and the files in them, which are kept by content.

    Attributes:
        content: the files; volumes of version 1 take theirs from here too.
    """

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self.content = ContentStore(plane.settings.data / "files")
        self._trees = plane.settings.data / "trees"
        self._mounts: dict[str, Mount] = {}
        self._named: dict[tuple[str, str], str] = {}

    async def start(self) -> None:
        self.content.start()
        self._trees.mkdir(parents=True, exist_ok=True)
        for left in self._trees.glob("*.tmp"):
            remove_tree(left)
        for mount_id, row in self.store.items("mount"):
            request = api_pb2.MountGetOrCreateRequest.FromString(row)
            self._add(mount_id, request)
        self.sweep()

    def sweep(self) -> None:
        """Remove trees that no mount needs any more, and files that are in no tree."""
        needed = {mount.digest for mount in self._mounts.values()}
        for tree in self._trees.iterdir():
            if tree.name not in needed:
                remove_tree(tree)
        self.content.sweep()

    def drop_app(self, app_id: str) -> None:
        """An app has ended that will not run again: forget the mounts that it alone had."""
        gone = {
            mount_id: mount for mount_id, mount in self._mounts.items() if app_id and mount.app_id == app_id
        }
        for mount_id in gone:
            del self._mounts[mount_id]
            self.store.delete("mount", mount_id)
        needed = {mount.digest for mount in self._mounts.values()}
        for digest in {mount.digest for mount in gone.values()} - needed:
            remove_tree(self._trees / digest)

    def mount(self, mount_id: str) -> Mount:
        """NOT_FOUND if there is none."""
        try:
            return self._mounts[mount_id]
        except KeyError:
            fail(Status.NOT_FOUND, f"there is no mount {mount_id[:40]!r}")

    def is_client(self, mount_id: str) -> bool:
        """Whether it stands for Modal's client or its dependencies, which containers get from elsewhere."""
        return self.mount(mount_id).client

    def digest(self, mount_id: str) -> str:
        """A digest of names, contents and modes."""
        return self.mount(mount_id).digest

    def tree(self, mount_id: str) -> Path:
        """A directory that nobody may change, with the mount's files at their absolute paths below it."""
        mount = self.mount(mount_id)
        return self._tree(mount.digest, mount.files)

    def binds(self, mount_ids: Iterable[str], occupied: Callable[[str], bool] | None = None) -> list[Bind]:
        """What makes the files of several mounts appear in a container; of two at one path, the later mount's.

        Nothing that an image has beside them is hidden: a directory is bound as a whole only where the image has none.

        Args:
            occupied: whether the image has something at an absolute path. Without it, directories at the root and
                those of a Linux system are taken to be there.
        """
        files: Manifest = {}
        for mount_id in mount_ids:
            files |= self.mount(mount_id).files
        if not files:
            return []
        _check_tree(files)
        digest = _digest(files)
        tree = self._tree(digest, files)
        there = _likely if occupied is None else occupied
        binds: dict[str, Bind] = {}
        for names in files:
            depth = len(names)
            for end in range(1, len(names)):
                if not there("/" + "/".join(names[:end])):
                    depth = end
                    break
            target = "/" + "/".join(names[:depth])
            binds.setdefault(target, Bind(tree.joinpath(*names[:depth]), target))
        return list(binds.values())

    def _tree(self, digest: str, files: Manifest) -> Path:
        tree = self._trees / digest
        if not tree.is_dir():
            building = new_folder(self._trees / f"{new_id('tm')}.tmp")
            made: set[Path] = {building}
            for names, (key, mode) in files.items():
                path = building.joinpath(*names)
                if path.parent not in made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made.add(path.parent)
                self.content.link(key, path, mode)
            building.rename(tree)
        return tree

    def _add(self, mount_id: str, request: api_pb2.MountGetOrCreateRequest) -> Mount:
        files = {
            clean(file.filename, "file name"): (
                file.sha256_hex,
                _mode(file.mode if file.HasField("mode") else 0o644),
            )
            for file in request.files
        }
        _check_tree(files)
        client = request.namespace == api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL
        mount = Mount(_digest(files), files, client=client, app_id=request.app_id)
        self._mounts[mount_id] = mount
        if request.deployment_name:
            self._named[request.environment_name, request.deployment_name] = mount_id
        return mount

    @rpc(reads="sha256_hex_hashes")
    async def mount_batched_check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, caller: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [key for key in request.sha256_hex_hashes if not self.content.has(_key(key))]
        return api_pb2.MountBatchedCheckExistenceResponse(
            missing_sha256_hex_hashes=missing, checked_at=_now()
        )

    @rpc(reads="sha256_hex data data_blob_id")
    async def mount_put_file(
        self, request: api_pb2.MountPutFileRequest, caller: Caller
    ) -> api_pb2.MountPutFileResponse:
        key = _key(request.sha256_hex)
        sent = request.WhichOneof("data_oneof")
        if sent is not None and not self.content.has(key):
            if sent == "data":
                if hashlib.sha256(request.data).hexdigest() != key:
                    fail(Status.INVALID_ARGUMENT, "the SHA-256 of the file is not the one that was announced")
                self.content.add(request.data)
            else:
                await self._put_blob(key, request.data_blob_id)
        return api_pb2.MountPutFileResponse(exists=self.content.has(key), checked_at=_now())

    async def _put_blob(self, key: str, blob_id: str) -> None:
        blobs = self.plane.blobs
        path = blobs.path(blob_id)
        found = blobs.sha256(blob_id)
        if found is None:  # it was not announced when the blob came
            with path.open("rb") as file:
                found = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).digest()
        if found.hex() != key:
            fail(Status.INVALID_ARGUMENT, "the SHA-256 of the blob is not the one that was announced")
        temporary = self.content.temporary()
        blobs.take(blob_id, temporary)
        self.content.adopt(key, temporary)

    @rpc(
        reads="deployment_name namespace environment_name object_creation_type files app_id",
        moot="earliest_checked_at",
    )
    async def mount_get_or_create(
        self, request: api_pb2.MountGetOrCreateRequest, caller: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        name, kind = request.deployment_name, request.object_creation_type
        if name:
            if request.namespace == api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL:
                return self._global(name, kind)
            known = self._named.get((request.environment_name, name))
            if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED and known is None:
                fail(Status.NOT_FOUND, f"there is no mount {name[:100]!r}")
            if kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS and known is not None:
                fail(Status.ALREADY_EXISTS, f"there is a mount {name[:100]!r} already")
            if known is not None and not request.files:
                return _answer(known, self._mounts[known])
        elif kind not in (
            api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
            api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
        ):
            fail(Status.INVALID_ARGUMENT, "a mount without a name is ephemeral, or an app's")
        for file in request.files:
            if not self.content.has(_key(file.sha256_hex)):
                fail(Status.FAILED_PRECONDITION, f"the content of {shown(file.filename)} has not been sent")
        if name and known is not None and (row := self.store.get("mount", known)) is not None:
            nameless = api_pb2.MountGetOrCreateRequest.FromString(row)
            nameless.deployment_name = ""
            self.store.put("mount", known, nameless.SerializeToString())
        mount_id = new_id("mo")
        mount = self._add(mount_id, request)
        self.store.put("mount", mount_id, request.SerializeToString())
        return _answer(mount_id, mount)

    def _global(self, name: str, kind: int) -> api_pb2.MountGetOrCreateResponse:
        if not _CLIENT.fullmatch(name):
            fail(Status.NOT_FOUND, f"there is no mount {name[:100]!r} for everybody here")
        if kind != api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            fail(Status.PERMISSION_DENIED, "mounts for everybody are not made by clients")
        for mount_id, mount in self._mounts.items():
            if mount.client:
                return _answer(mount_id, mount)
        mount_id = new_id("mo")
        request = api_pb2.MountGetOrCreateRequest(namespace=api_pb2.DEPLOYMENT_NAMESPACE_GLOBAL)
        self.store.put("mount", mount_id, request.SerializeToString())
        return _answer(mount_id, self._add(mount_id, request))


def _answer(mount_id: str, mount: Mount) -> api_pb2.MountGetOrCreateResponse:
    metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=mount.digest)
    return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)


def _digest(files: Manifest) -> str:
    lines = sorted(repr((names, key, mode)) for names, (key, mode) in files.items())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _check_tree(files: Manifest) -> None:
    """Refuse a file that is a directory for another one."""
    for names in files:
        if not names:
            fail(Status.INVALID_ARGUMENT, "a file needs a name")
        for end in range(1, len(names)):
            if names[:end] in files:
                path = shown("/" + "/".join(names[:end]))
                fail(Status.INVALID_ARGUMENT, f"{path} cannot be a file and a directory")


def _likely(path: str) -> bool:
    names = path.split("/")[1:]
    return len(names) == 1 or names[0] in _SYSTEM


def _mode(mode: int) -> int:
    """Permission bits; the server's own user must be able to read and link what it keeps."""
    return (mode & 0o777) | 0o400


def _key(sha256_hex: str) -> str:
    if not _SHA256.fullmatch(sha256_hex):
        fail(Status.INVALID_ARGUMENT, f"{sha256_hex[:80]!r} is no SHA-256 in lower-case hexadecimal")
    return sha256_hex


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
