"""The volume of an apparatus: a `modal.Volume`."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

from mini.volume import Source, Volume, VolumeEntry

if TYPE_CHECKING:
    import modal

__all__ = ["RESERVED", "ModalVolume"]

P = ParamSpec("P")
T = TypeVar("T")

RESERVED = ".mini-"
"""How the names of our own files in a volume begin."""


def blocking(method: Callable[P, T]) -> Callable[P, T]:
    """Make what calls Modal raise OSError, and let it be called where an event loop runs.

    Modal warns of calls that block a loop. Whoever makes one here has asked for it: there are async twins.
    """

    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        from modal.exception import ConflictError, Error, InvalidError, NotFoundError

        from .connect import explain

        try:
            return method(*args, **kwargs)
        except NotFoundError as exc:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from exc
        except (ConflictError, InvalidError) as exc:
            raise OSError(errno.EINVAL, str(exc)) from exc
        except Error as exc:
            known = explain(exc)
            if known is None:
                raise OSError(errno.EIO, str(exc)) from exc
            raise known from known.__cause__

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return told(*args, **kwargs)
        with ThreadPoolExecutor(1, thread_name_prefix="mini-modal-volume") as thread:
            return thread.submit(told, *args, **kwargs).result()

    return call


class ModalVolume(Volume):
    """The files of the `modal.Volume` called `name`; it is made when something is written to it or a call runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def label(self) -> str:
        return f"modal:{self.name}"

    def _there(self, *, create: bool = False) -> modal.Volume:
        import modal

        from .connect import client, run

        return modal.Volume.from_name(self.name, create_if_missing=create, client=run(client))

    @blocking
    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        if not path.parts:
            return VolumeEntry("", 0, True, 0.0)
        return next((entry for entry in self._listing(path.parent) if entry.path == str(path)), None)

    @blocking
    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
        return self._listing(path, recursive=recursive)

    def _listing(self, path: PurePosixPath, *, recursive: bool = False) -> list[VolumeEntry]:
        from modal.exception import ConflictError, NotFoundError

        try:
            found = self._there().listdir("/" + "/".join(path.parts), recursive=recursive)
        except (NotFoundError, ConflictError):  # there is nothing, or a file
            return []
        return [
            VolumeEntry(entry.path, 0 if is_dir else entry.size, is_dir, entry.mtime)
            for entry in found
            if not entry.path.startswith(RESERVED)
            for is_dir in [entry.type.name == "DIRECTORY"]
        ]

    @blocking
    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        self._there().read_file_into_fileobj(str(path), file)

    @blocking
    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        with self._there(create=True).batch_upload(force=True) as batch:
            for source in sources:
                target = "/" + "/".join((path / source.relative).parts)
                if isinstance(source.content, bytes):
                    batch.put_file(io.BytesIO(source.content), target)
                elif source.content is not None:
                    batch.put_file(Path(source.content), target)

    @blocking
    def _delete(self, path: PurePosixPath) -> None:
        self._there().remove_file(str(path), recursive=True)
