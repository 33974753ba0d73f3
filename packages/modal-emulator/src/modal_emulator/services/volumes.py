"""Volumes: what clients and containers do with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..content import GRACE, ContentStore, link_file
from ..ids import new_id
from ..named import Named, Registry
from ..paths import clean, new_folder, remove_tree, shown
from ..rpc import Caller, declare, fail, rpc
from ..runtime import Runtime
from ..volumes.tree import Draft, Entry, Names, entries, resolve
from ..volumes.upload import BLOCK, Uploads
from ..volumes.volume import Volume
from ..volumes.working import Attachment, Working
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["VolumeService"]

V1, V2 = api_pb2.VOLUME_FS_VERSION_V1, api_pb2.VOLUME_FS_VERSION_V2
BATCH = 1000  # entries in a message of a listing
INLINE = 2 << 20  # bytes of a file that VolumeGetFile sends in its answer

declare(api_pb2.VolumeMount, reads="volume_id mount_path allow_background_commits read_only sub_path")
declare(api_pb2.VolumePutFiles2Request.File, reads="path size blocks mode")
# Which blocks are there is known here: the client need not prove it.
declare(api_pb2.VolumePutFiles2Request.Block, reads="contents_sha256", moot="put_response")
declare(api_pb2.VolumeCreateOptions)


class VolumeService(Service):
    """Volumes of both versions. They differ in how files come and go, not in what is kept."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        data = plane.settings.data
        self._folder = data / "volumes"
        self._served = data / "served"
        self._copies = plane.settings.work / "volumes"
        self._content = ContentStore(data / "blocks")
        self._registry = Registry(self.store, "Volume", "vo", self._forget)
        self._volumes: dict[str, Volume] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._uploads: Uploads

    async def start(self) -> None:
        self._content.start()
        self._content.sweep()
        self._folder.mkdir(parents=True, exist_ok=True)
        new_folder(self._served)
        self._registry.start()
        for found in self._registry:
            self._volumes[found.id] = Volume(self._folder / found.id)
        for folder in self._folder.iterdir():
            if folder.name not in self._registry:
                remove_tree(folder)
        self._uploads = Uploads(self._content, self.plane.blobs.files)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        self._registry.stop()
        self._sweeper.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def drop_environment(self, name: str) -> None:
        self._registry.drop_environment(name)

    async def attach(
        self, volume_mounts: Iterable[api_pb2.VolumeMount], task_id: str, runtime: Runtime
    ) -> Attachment:
        """Make the working copies of a container's volumes. NOT_FOUND if one is not there."""
        folder = new_folder(self._copies / task_id)
        workings: dict[str, Working] = {}
        attachment = Attachment(folder, workings)
        try:
            for index, mount in enumerate(volume_mounts):
                volume = self.volume(mount.volume_id)
                if mount.volume_id in workings:
                    fail(Status.INVALID_ARGUMENT, "a container cannot mount a volume twice")
                working = Working(volume, mount, folder / str(index), overlays=runtime.overlays)
                workings[mount.volume_id] = working
                await working.attach()
        except BaseException:
            await attachment.detach(commit=False)
            raise
        return attachment

    async def _sweep(self) -> None:
        """Now and then, remove contents that nothing has any more: those of mounts, too."""
        while True:
            await asyncio.sleep(GRACE)
            for content in (self._content, self.plane.mounts.content):
                await asyncio.to_thread(content.sweep)

    def volume(self, volume_id: str) -> Volume:
        """NOT_FOUND if there is none."""
        return self._volumes[self._registry.get(volume_id).id]

    def metadata(self, volume_id: str) -> api_pb2.VolumeMetadata:
        """What a client has to know of a volume. NOT_FOUND if there is none."""
        return self._metadata(self._registry.get(volume_id))

    def drop_app(self, app_id: str) -> None:
        """An app has ended that will not run again: forget the volumes that it alone had."""
        self._registry.drop_app(app_id)

    def _forget(self, found: Named) -> None:
        volume = self._volumes.pop(found.id)
        task = asyncio.ensure_future(volume.delete())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _metadata(self, found: Named) -> api_pb2.VolumeMetadata:
        return api_pb2.VolumeMetadata(
            version=json.loads(found.detail), name=found.name, creation_info=found.creation_info
        )

    @rpc(reads="deployment_name environment_name object_creation_type app_id version create_options")
    async def volume_get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        if request.version not in (api_pb2.VOLUME_FS_VERSION_UNSPECIFIED, V1, V2):
            fail(Status.INVALID_ARGUMENT, f"there is no version {request.version} of volumes")
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            fail(Status.INVALID_ARGUMENT, "a volume cannot be overwritten: delete it first")
        found, new = self._registry.get_or_create(
            request.deployment_name,
            request.environment_name,
            request.object_creation_type,
            request.app_id,
            detail=str(request.version or V1),
        )
        if new:
            self._volumes[found.id] = Volume(self._folder / found.id)
        metadata = self._metadata(found)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=found.id, version=metadata.version, metadata=metadata
        )

    @rpc(reads="volume_id")
    async def volume_get_by_id(
        self, request: api_pb2.VolumeGetByIdRequest, caller: Caller
    ) -> api_pb2.VolumeGetByIdResponse:
        found = self._registry.get(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=found.id, metadata=self._metadata(found))

    @rpc(reads="environment_name pagination")
    async def volume_list(
        self, request: api_pb2.VolumeListRequest, caller: Caller
    ) -> api_pb2.VolumeListResponse:
        items = [
            api_pb2.VolumeListItem(
                label=found.name,
                volume_id=found.id,
                created_at=found.created_at,
                metadata=self._metadata(found),
            )
            for found in self._registry.page(request.environment_name, request.pagination)
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=request.environment_name)

    @rpc(reads="volume_id", moot="environment_name")
    async def volume_delete(self, request: api_pb2.VolumeDeleteRequest, caller: Caller) -> Empty:
        self._registry.delete(request.volume_id)
        return Empty()

    @rpc(reads="volume_id name")
    async def volume_rename(self, request: api_pb2.VolumeRenameRequest, caller: Caller) -> Empty:
        self._registry.rename(request.volume_id, request.name)
        return Empty()

    @rpc(reads="volume_id")
    async def volume_heartbeat(self, request: api_pb2.VolumeHeartbeatRequest, caller: Caller) -> Empty:
        self._registry.heartbeat(request.volume_id)
        return Empty()

    @rpc(reads="volume_id")
    async def volume_commit(
        self, request: api_pb2.VolumeCommitRequest, caller: Caller
    ) -> api_pb2.VolumeCommitResponse:
        self._registry.get(request.volume_id)
        if caller.container is None or caller.container.attachment is None:
            fail(Status.FAILED_PRECONDITION, "a volume can be committed only in a container that mounts it")
        await caller.container.attachment.commit(request.volume_id)
        # What a container sees changes when it reloads: then files must not be open, and may be for a commit.
        return api_pb2.VolumeCommitResponse(skip_reload=not self.plane.settings.commits_reload)

    @rpc(reads="volume_id")
    async def volume_reload(self, request: api_pb2.VolumeReloadRequest, caller: Caller) -> Empty:
        self._registry.get(request.volume_id)
        container = caller.container
        if container is None or container.attachment is None or container.process is None:
            fail(Status.FAILED_PRECONDITION, "a volume can be reloaded only in a container that mounts it")
        await container.attachment.reload(request.volume_id, container.process)
        return Empty()

    @rpc(reads="volume_id path recursive max_entries")
    async def volume_list_files(
        self, request: api_pb2.VolumeListFilesRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        most = request.max_entries if request.HasField("max_entries") else None
        async for batch in self._list(request.volume_id, request.path, request.recursive, most):
            yield api_pb2.VolumeListFilesResponse(entries=batch)

    @rpc(reads="volume_id path recursive max_entries")
    async def volume_list_files2(
        self, request: api_pb2.VolumeListFiles2Request, caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        most = request.max_entries if request.HasField("max_entries") else None
        async for batch in self._list(request.volume_id, request.path, request.recursive, most):
            yield api_pb2.VolumeListFiles2Response(entries=batch)

    async def _list(
        self, volume_id: str, path: str, recursive: bool, most: int | None
    ) -> AsyncIterator[list[api_pb2.FileEntry]]:
        names = clean(path)
        # Patterns are what older clients send where newer ones say `recursive`.
        if names and names[-1] in ("*", "**"):
            names, recursive = names[:-1], recursive or names[-1] == "**"
        async with self.volume(volume_id).held() as state:
            listing = islice(entries(state.path, names, recursive), most)
            while batch := await asyncio.to_thread(_take, listing):
                yield batch

    @rpc(reads="volume_id files disallow_overwrite_existing_files", moot="earliest_checked_at")
    async def volume_put_files(self, request: api_pb2.VolumePutFilesRequest, caller: Caller) -> Empty:
        content = self.plane.mounts.content
        files = [
            (
                clean(file.filename, "file name"),
                file.sha256_hex,
                file.mode if file.HasField("mode") else 0o644,
            )
            for file in request.files
        ]
        for names, key, _ in files:
            if not key.isalnum() or not content.has(key):
                fail(Status.FAILED_PRECONDITION, f"the content of {shown('/'.join(names))} has not been sent")
        await self._put(request.volume_id, content, files, not request.disallow_overwrite_existing_files)
        return Empty()

    @rpc(reads="volume_id files disallow_overwrite_existing_files")
    async def volume_put_files2(
        self, request: api_pb2.VolumePutFiles2Request, caller: Caller
    ) -> api_pb2.VolumePutFiles2Response:
        overwrite = not request.disallow_overwrite_existing_files
        files = [
            (clean(file.path), Uploads.key(file), file.mode if file.HasField("mode") else 0o644)
            for file in request.files
        ]
        volume = self.volume(request.volume_id)
        if not overwrite:
            async with volume.held() as state:  # before gigabytes are sent in vain
                for names, _, _ in files:
                    if Draft(state.path).kind(names) is not None:
                        fail(Status.ALREADY_EXISTS, f"{shown('/'.join(names))} already exists")
        missing = self._uploads.missing(request.files)
        if not missing:
            if any(file.size == 0 for file in request.files):
                self._content.add(b"")
            await self._put(request.volume_id, self._content, files, overwrite)
        return api_pb2.VolumePutFiles2Response(missing_blocks=missing)

    async def _put(
        self, volume_id: str, content: ContentStore, files: list[tuple[Names, str, int]], overwrite: bool
    ) -> None:
        def put(draft: Draft) -> None:
            placed: set[Names] = set()
            for names, key, mode in files:
                path = draft.place(names, overwrite=overwrite or names in placed)
                placed.add(names)
                content.link(key, path, (mode & 0o777) | 0o400)

        if files:
            await self.volume(volume_id).change(put)

    @rpc(reads="volume_id path start len")
    async def volume_get_file(
        self, request: api_pb2.VolumeGetFileRequest, caller: Caller
    ) -> api_pb2.VolumeGetFileResponse:
        served, size, start, length = await self._serve(request)
        answer = api_pb2.VolumeGetFileResponse(size=size, start=start, len=length)
        try:
            if length <= INLINE:
                with served.open("rb") as file:
                    file.seek(start)
                    answer.data = file.read(length)
            else:
                answer.data_blob_id = await self.plane.blobs.put_file(served, start, length)
        finally:
            served.unlink()
        return answer

    @rpc(reads="volume_id path start len", moot="client_pads_blocks")
    async def volume_get_file2(
        self, request: api_pb2.VolumeGetFile2Request, caller: Caller
    ) -> api_pb2.VolumeGetFile2Response:
        served, size, start, length = await self._serve(request)
        download = self.plane.blobs.files.download(served, expired=lambda: served.unlink(missing_ok=True))
        urls = [download.url(*block) for block in _blocks(start, length)]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=start, len=length)

    async def _serve(
        self, request: api_pb2.VolumeGetFileRequest | api_pb2.VolumeGetFile2Request
    ) -> tuple[Path, int, int, int]:
        """A link to a file as it is now, which stays so while it is fetched; its size, and what is asked for."""
        async with self.volume(request.volume_id).held() as state:
            path = resolve(state.path, clean(request.path))
            if path.is_dir():
                fail(Status.INVALID_ARGUMENT, f"{shown(request.path)} is a directory")
            if not path.is_file():
                fail(Status.INVALID_ARGUMENT, f"{shown(request.path)} is not a regular file")
            size = path.stat().st_size
            if request.start > size:
                fail(Status.OUT_OF_RANGE, f"{shown(request.path)} has only {size} bytes")
            length = min(request.len or size, size - request.start)
            served = self._served / new_id("sv")
            link_file(path, served)
        return served, size, request.start, length

    @rpc(reads="volume_id path recursive")
    async def volume_remove_file(self, request: api_pb2.VolumeRemoveFileRequest, caller: Caller) -> Empty:
        return await self._remove(request.volume_id, request.path, request.recursive)

    @rpc(reads="volume_id path recursive")
    async def volume_remove_file2(self, request: api_pb2.VolumeRemoveFile2Request, caller: Caller) -> Empty:
        return await self._remove(request.volume_id, request.path, request.recursive)

    async def _remove(self, volume_id: str, path: str, recursive: bool) -> Empty:
        names = clean(path)
        await self.volume(volume_id).change(lambda draft: draft.remove(names, recursive=recursive))
        return Empty()

    @rpc(reads="volume_id src_paths dst_path recursive")
    async def volume_copy_files(self, request: api_pb2.VolumeCopyFilesRequest, caller: Caller) -> Empty:
        if request.recursive:
            fail(Status.INVALID_ARGUMENT, "volumes of version 1 do not copy directories")
        return await self._copy(request)

    @rpc(reads="volume_id src_paths dst_path recursive")
    async def volume_copy_files2(self, request: api_pb2.VolumeCopyFiles2Request, caller: Caller) -> Empty:
        return await self._copy(request)

    async def _copy(self, request: api_pb2.VolumeCopyFilesRequest | api_pb2.VolumeCopyFiles2Request) -> Empty:
        sources, target = [clean(path) for path in request.src_paths], clean(request.dst_path)
        if not sources:
            fail(Status.INVALID_ARGUMENT, "there is nothing to copy")
        into = request.dst_path.endswith("/")

        def copy(draft: Draft) -> None:
            draft.copy(sources, target, recursive=request.recursive, into=into)

        await self.volume(request.volume_id).change(copy)
        return Empty()


def _take(listing: Iterable[Entry]) -> list[api_pb2.FileEntry]:
    return [entry.message() for entry in islice(listing, BATCH)]


def _blocks(start: int, length: int) -> list[tuple[int, int]]:
    """The (offset, length) of the blocks that a range of bytes falls into."""
    blocks: list[tuple[int, int]] = []
    end = start + length
    while start < end:
        size = min(BLOCK - start % BLOCK, end - start)
        blocks.append((start, size))
        start += size
    return blocks
