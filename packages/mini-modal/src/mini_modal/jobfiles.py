"""Files of detached jobs, in the volume of their apparatus: as a caller gets at them, and as a container does."""

from __future__ import annotations

import contextlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .asking import Missing, ask, gather, in_client, this_client
from .volume import RESERVED

if TYPE_CHECKING:
    import modal

__all__ = ["JOBS", "JobFiles", "MountedFiles", "RemoteFiles"]

JOBS = f"{RESERVED}jobs"
"""The folder of them in a volume."""


class JobFiles(ABC):
    """Paths are relative to the folder of all jobs. A file is written once and then stays as it is."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """What a file has in it. LookupError: it is not there."""

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, paths)

    @abstractmethod
    def read_some(self, paths: Sequence[str]) -> list[bytes | None]:
        """What files have in them; None for one that is not there."""

    @abstractmethod
    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, except those that are there; when this returns everybody sees them."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names of what is in a folder; none if it is not there."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""


class RemoteFiles(JobFiles):
    """As a caller gets at them: by Modal's client. The volume is made when something is written to it."""

    def __init__(self, volume: str) -> None:
        self._name = volume

    def _volume(self, *, create: bool = False) -> modal.Volume:
        import modal

        return modal.Volume.from_name(self._name, create_if_missing=create, client=this_client())

    def read(self, path: str) -> bytes:
        return next(self.read_all([path]))

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        def all_of_them() -> list[bytes]:
            volume = self._volume()
            volume.hydrate()
            return in_client(_read)(volume, [f"{JOBS}/{path}" for path in paths])

        return iter(ask(all_of_them))

    def read_some(self, paths: Sequence[str]) -> list[bytes | None]:
        def those_that_are_there() -> list[bytes | None]:
            volume = self._volume()
            volume.hydrate()
            return in_client(_read_some)(volume, [f"{JOBS}/{path}" for path in paths])

        try:
            return ask(those_that_are_there) if paths else []
        except Missing:
            return [None] * len(paths)

    def write(self, files: Mapping[str, bytes]) -> None:
        def upload(some: Mapping[str, bytes]) -> None:
            with self._volume(create=True).batch_upload() as batch:
                for path, data in some.items():
                    batch.put_file(io.BytesIO(data), f"/{JOBS}/{path}")

        try:
            ask(partial(upload, files))
        except FileExistsError:  # and none of them was written
            for path, data in files.items() if len(files) > 1 else ():
                with contextlib.suppress(FileExistsError):
                    ask(partial(upload, {path: data}))

    def names(self, folder: str) -> list[str]:
        try:
            entries = ask(lambda: self._volume().listdir(f"/{JOBS}/{folder}"))
        except Missing:
            return []
        return [entry.path.rpartition("/")[2] for entry in entries]

    def remove(self, path: str) -> None:
        with contextlib.suppress(Missing):
            ask(lambda: self._volume().remove_file(f"{JOBS}/{path}", recursive=True))


async def _read(volume: Any, paths: list[str]) -> list[bytes]:
    return await gather(_read_one(volume, path) for path in paths)


async def _read_one(volume: Any, path: str) -> bytes:
    parts = [part async for part in volume.read_file(path)]
    return b"".join(parts)


async def _read_some(volume: Any, paths: list[str]) -> list[bytes | None]:
    from modal.exception import NotFoundError

    async def one(path: str) -> bytes | None:
        try:
            return await _read_one(volume, path)
        except (NotFoundError, FileNotFoundError):
            return None

    return await gather(map(one, paths))


class MountedFiles(JobFiles):
    """As a container gets at them.

    Args:
        mount: where the volume is.
        commit: shows others what was written here; it blocks.
        remote: has what others have written since the volume was last reloaded here.
    """

    def __init__(self, mount: Path, commit: Callable[[], None], remote: JobFiles) -> None:
        self._folder = mount / JOBS
        self._commit = commit
        self._remote = remote

    def read(self, path: str) -> bytes:
        try:
            return (self._folder / path).read_bytes()
        except FileNotFoundError:
            return self._remote.read(path)

    def read_some(self, paths: Sequence[str]) -> list[bytes | None]:
        files = [self._folder / path for path in paths]
        return [file.read_bytes() if file.exists() else None for file in files]

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            file = self._folder / path
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                made = file.with_name(f".{file.name}-{os.environ.get('MODAL_TASK_ID', os.getpid())}")
                made.write_bytes(data)
                made.rename(file)
        self._commit()

    def names(self, folder: str) -> list[str]:
        try:
            return [file.name for file in (self._folder / folder).iterdir()]
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        raise NotImplementedError("a container removes no group")
