"""Images: built once per content, with their log streamed to who waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..paths import clean
from ..rpc import Caller, declare, fail, rpc
from ..runtime import BuildError, Layer
from ..runtime.build import Builder, Definition, FunctionStep, fresh_key
from ..runtime.layers import Meta
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["ImageService", "RunBuilder"]

log = logging.getLogger(__name__)

RunBuilder = Callable[
    [str, "api_pb2.FunctionInput | None", Layer, Path, Callable[[str], None]], Awaitable[None]
]
"""Calls a builder function: function id, input, the image to call it in, `ContainerSpec.changes`, and where its output
goes. Raises BuildError if it fails."""

JOIN_SECONDS = 55.0
LOG_ENTRIES = 20_000

declare(
    api_pb2.Image,
    reads="base_images dockerfile_commands context_files secret_ids context_mount_id build_function build_args arch",
    # A build sees no more of a GPU than a function does, and no registry is logged in to.
    moot="version gpu_config image_registry_config",
)
declare(api_pb2.BaseImage, reads="image_id docker_tag")
declare(api_pb2.ImageContextFile, reads="filename data")
declare(api_pb2.ImageRegistryConfig, moot="registry_auth_type secret_id")
declare(api_pb2.BuildFunction, reads="definition globals input")


@dataclass(slots=True)
class Build:
    """An image, and how far it is."""

    id: str
    key: str
    builder_version: str
    lines: Sequence[str] = ()
    bases: Sequence[str] = ()
    status: int = 0
    error: str = ""
    started: float = 0.0
    finished: float = 0.0
    entries: list[api_pb2.TaskLogs] = field(default_factory=list)
    dropped: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """Wake who waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()

    def add_log(self, text: str) -> None:
        if not text:
            return
        now = time.time_ns()
        self.entries.append(
            api_pb2.TaskLogs(
                data=text,
                timestamp=now / 1e9,
                timestamp_ns=now,
                file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT,
            )
        )
        if len(self.entries) > LOG_ENTRIES:
            del self.entries[: LOG_ENTRIES // 10]
            self.dropped += LOG_ENTRIES // 10
        self.touch()


class ImageService(Service):
    """
    Attributes:
        run_builder: set by whoever starts functions; without it `Image.run_function` is refused.
    """

    run_builder: RunBuilder | None = None

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        settings = plane.settings
        self._builder = Builder(plane.runtime, settings.cache / "packages", skip_apt=settings.skip_apt)
        self._builds: dict[str, Build] = {}
        self._tags: dict[str, str] = {}

    async def start(self) -> None:
        for image_id, value in self.store.items("image"):
            said = json.loads(value)
            self._builds[image_id] = Build(
                image_id,
                said["key"],
                said["builder_version"],
                lines=said["lines"],
                bases=said["bases"],
                status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS,
            )
        for tag, value in self.store.items("image-tag"):
            self._tags[tag] = value.decode()

    async def stop(self) -> None:
        tasks = [build.task for build in self._builds.values() if build.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What other services ask

    def meta(self, image_id: str) -> Meta:
        """What is known of an image that has been built; NOT_FOUND if it has not, or is no longer in the cache."""
        build = self._builds.get(image_id)
        if build is None or build.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            fail(Status.NOT_FOUND, f"there is no image {image_id!r} that has been built")
        meta = self._builder.cache.get(build.key)
        if meta is None:
            fail(
                Status.NOT_FOUND,
                f"image {image_id} is no longer in the cache; run the program again to rebuild it",
            )
        return meta

    def layer(self, image_id: str) -> Layer:
        """The layer of an image that has been built; NOT_FOUND if it has not, or is no longer in the cache."""
        return self.meta(image_id).layer

    def builder_version(self, image_id: str) -> str:
        """The image builder version that an image was defined for."""
        build = self._builds.get(image_id)
        return build.builder_version if build is not None else ""

    # RPCs

    @rpc(
        reads="image build_function_id force_build builder_version ignore_cache",
        moot="app_id existing_image_id namespace allow_global_deployment",
    )
    async def image_get_or_create(
        self, request: api_pb2.ImageGetOrCreateRequest, caller: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        image = request.image
        self._check_arch(image)
        definition = self._definition(request)
        try:
            key = await asyncio.to_thread(self._builder.key, definition)
            error = ""
        except BuildError as exc:
            # So that the client tells of it as of any image that cannot be built.
            key, error = (
                hashlib.sha256(image.SerializeToString(deterministic=True)).hexdigest()[:32],
                str(exc),
            )
        cache = self._builder.cache
        newest = cache.newest(key)
        anew = not error and (request.force_build or request.ignore_cache)
        build_key = fresh_key(key) if anew else newest
        image_id = _image_id(build_key, request.builder_version)
        build = self._builds.get(image_id)
        if build is not None and build.task is not None and not build.task.done():
            return api_pb2.ImageGetOrCreateResponse(image_id=image_id)
        meta = None if error else cache.get(build_key)
        if meta is None or build is None:
            build = Build(image_id, build_key, request.builder_version, lines=_lines(image))
            build.bases = [base.image_id for base in image.base_images]
            self._builds[image_id] = build
        if meta is not None:
            self._succeed(build)
            return api_pb2.ImageGetOrCreateResponse(
                image_id=image_id, result=self._result(build), metadata=self._metadata(build)
            )
        build.started = time.time()
        if error:
            build.add_log(f"{error}\n")
            self._fail(build, error)
        else:
            replaces = key if request.force_build else None
            build.task = asyncio.create_task(
                self._build(build, definition, replaces), name=f"build {image_id}"
            )
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id)

    @rpc(reads="image_id timeout last_entry_id include_logs_for_finished")
    async def image_join_streaming(
        self, request: api_pb2.ImageJoinStreamingRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        build = self._get(request.image_id)
        deadline = time.monotonic() + (
            min(request.timeout, JOIN_SECONDS) if request.timeout else JOIN_SECONDS
        )
        given = request.last_entry_id
        position = int(given) if given.isdecimal() and len(given) < 16 else 0
        while True:
            changed = build.changed
            skip = max(position - build.dropped, 0)
            entries = build.entries[skip:]
            # In small pieces: a message has a limit.
            for first in range(0, len(entries), 100):
                piece = entries[first : first + 100]
                position = build.dropped + skip + first + len(piece)
                yield api_pb2.ImageJoinStreamingResponse(task_logs=piece, entry_id=str(position))
            if changed is not build.changed:
                continue
            if build.status:
                yield api_pb2.ImageJoinStreamingResponse(
                    result=self._result(build),
                    metadata=self._metadata(build),
                    entry_id=str(position),
                    eof=True,
                )
                return
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                return  # the client asks again, from where it is

    @rpc(reads="image_id")
    async def image_from_id(
        self, request: api_pb2.ImageFromIdRequest, caller: Caller
    ) -> api_pb2.ImageFromIdResponse:
        self.meta(request.image_id)
        build = self._get(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=build.id, metadata=self._metadata(build))

    @rpc(reads="image_id")
    async def image_delete(self, request: api_pb2.ImageDeleteRequest, caller: Caller) -> Empty:
        build = self._get(request.image_id)
        if build.task is not None:
            build.task.cancel()
        # Its layer may be another's base, or another server's: `prune` removes it when nothing needs it.
        del self._builds[build.id]
        self.store.delete("image", build.id)
        for tag in [tag for tag, image_id in self._tags.items() if image_id == build.id]:
            del self._tags[tag]
            self.store.delete("image-tag", tag)
        return Empty()

    @rpc(reads="image_id tag", moot="environment_name")
    async def image_publish(
        self, request: api_pb2.ImagePublishRequest, caller: Caller
    ) -> api_pb2.ImagePublishResponse:
        self.meta(request.image_id)
        tag = _bare_tag(request.tag)
        self._tags[tag] = request.image_id
        self.store.put("image-tag", tag, request.image_id.encode())
        return api_pb2.ImagePublishResponse(image_id=request.image_id)

    @rpc(reads="tag", moot="environment_name")
    async def image_get_by_tag(
        self, request: api_pb2.ImageGetByTagRequest, caller: Caller
    ) -> api_pb2.ImageGetByTagResponse:
        image_id = self._tags.get(_bare_tag(request.tag))
        if image_id is None:
            fail(Status.NOT_FOUND, f"there is no image named {request.tag!r}")
        return api_pb2.ImageGetByTagResponse(image_id=image_id)

    @rpc(reads="tag")
    async def image_name_delete(self, request: api_pb2.ImageNameDeleteRequest, caller: Caller) -> Empty:
        if self._tags.pop(_bare_tag(request.tag), None) is None:
            fail(Status.NOT_FOUND, f"there is no image named {request.tag!r}")
        self.store.delete("image-tag", _bare_tag(request.tag))
        return Empty()

    # How

    def _get(self, image_id: str) -> Build:
        build = self._builds.get(image_id)
        if build is None:
            fail(Status.NOT_FOUND, f"there is no image {image_id!r}")
        return build

    @staticmethod
    def _check_arch(image: api_pb2.Image) -> None:
        arch = getattr(image, "arch", 0)
        if not arch:
            return
        kind = api_pb2.Image.DESCRIPTOR.fields_by_name["arch"].enum_type
        assert kind is not None
        name = kind.values_by_number[arch].name
        own = {"x86_64": ("X86_64", "AMD64"), "aarch64": ("AARCH64", "ARM64")}.get(platform.machine(), ())
        if not name.endswith(own or (platform.machine().upper(),)) and not name.endswith("UNSPECIFIED"):
            fail(
                Status.INVALID_ARGUMENT,
                f"images of {name} cannot run here: this machine is {platform.machine()}",
            )

    def _definition(self, request: api_pb2.ImageGetOrCreateRequest) -> Definition:
        image = request.image
        bases = {base.docker_tag: self.meta(base.image_id).key for base in image.base_images}
        context: Path | None = None
        digest = ""
        if image.context_mount_id:
            context = self.plane.mounts.tree(image.context_mount_id)
            digest = self.plane.mounts.digest(image.context_mount_id)
        function = None
        if request.build_function_id or image.HasField("build_function"):
            function = self._function_step(request)
        elif not image.dockerfile_commands:
            fail(
                Status.INVALID_ARGUMENT,
                "an image is described by Dockerfile commands or a function, and this one by neither",
            )
        return Definition(
            commands=tuple(image.dockerfile_commands),
            bases=bases,
            context_files={
                file.filename: file.data
                for file in image.context_files
                if clean(file.filename, "the context file")
            },
            context=context,
            context_digest=digest,
            build_args=dict(image.build_args),
            secrets=self.plane.secrets.env(list(image.secret_ids)) if image.secret_ids else {},
            builder_version=request.builder_version,
            function=function,
        )

    def _function_step(self, request: api_pb2.ImageGetOrCreateRequest) -> FunctionStep:
        if self.run_builder is None:
            fail(Status.UNIMPLEMENTED, "modal-emulator does not do Image.run_function")
        if not request.build_function_id or len(request.image.base_images) != 1:
            fail(Status.INVALID_ARGUMENT, "a build function needs its id and one base image")
        run_builder = self.run_builder
        build_function = request.image.build_function
        given = build_function.input if build_function.HasField("input") else None

        async def run(layer: Layer, changes: Path, say: Callable[[str], None]) -> None:
            await run_builder(request.build_function_id, given, layer, changes, say)

        # Not its id: each run of a program defines the function anew.
        return FunctionStep(build_function.SerializeToString(deterministic=True), run)

    async def _build(self, build: Build, definition: Definition, replaces: str | None) -> None:
        loop = asyncio.get_running_loop()

        def say(text: str) -> None:
            loop.call_soon_threadsafe(build.add_log, text)

        try:
            await self._builder.build(definition, build.key, say)
            if replaces is not None:
                self._builder.cache.set_newest(replaces, build.key)
            await asyncio.sleep(0)  # what was said in the last moment
            self._succeed(build)
        except BuildError as exc:
            await asyncio.sleep(0)
            self._fail(build, str(exc))
        except asyncio.CancelledError:
            self._fail(build, "the build was stopped", api_pb2.GenericResult.GENERIC_STATUS_TERMINATED)
            raise
        except Exception as exc:
            log.exception("the build of %s failed", build.id)
            self._fail(build, f"modal-emulator has a bug in building images: {type(exc).__name__}: {exc}")

    def _succeed(self, build: Build) -> None:
        build.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        build.finished = time.time()
        self._builder.cache.use(build.key)
        row = {
            "key": build.key,
            "builder_version": build.builder_version,
            "lines": list(build.lines),
            "bases": list(build.bases),
        }
        self.store.put("image", build.id, json.dumps(row).encode())
        build.touch()

    @staticmethod
    def _fail(build: Build, error: str, status: int = api_pb2.GenericResult.GENERIC_STATUS_FAILURE) -> None:
        build.status, build.error, build.finished = status, error, time.time()
        build.touch()

    @staticmethod
    def _result(build: Build) -> api_pb2.GenericResult:
        result = api_pb2.GenericResult(exception=build.error)
        result.status = build.status  # type: ignore[assignment]
        return result

    def _metadata(self, build: Build) -> api_pb2.ImageMetadata | None:
        meta = self._builder.cache.get(build.key)
        if meta is None or build.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            return None
        return api_pb2.ImageMetadata(
            python_version_info=f"Python {meta.python_version}",
            python_packages=dict(meta.packages),
            workdir=meta.workdir,
            libc_version_info=meta.libc,
            image_builder_version=build.builder_version,
        )


_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


def _image_id(key: str, builder_version: str) -> str:
    """The same for the same content."""
    number = int.from_bytes(hashlib.sha256(f"{key} {builder_version}".encode()).digest()[:17], "big")
    text = ""
    while len(text) < 22:
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return f"im-{text}"


def _lines(image: api_pb2.Image) -> Sequence[str]:
    return tuple(image.dockerfile_commands) or ("a function's changes",)


def _bare_tag(tag: str) -> str:
    """A tag without its environment: there is one."""
    return tag.rpartition("/")[2]
