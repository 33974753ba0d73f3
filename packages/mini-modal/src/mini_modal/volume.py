"""The volume of an apparatus: a `modal.Volume`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from mini.volume import Source, Volume, VolumeEntry

if TYPE_CHECKING:
    import modal

__all__ = ["ModalVolume"]


class ModalVolume(Volume):
    """The files of the `modal.Volume` called `name`; it is made when something is written to it or a call runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def label(self) -> str:
        return f"modal:{self.name}"

    @property
    def _there(self) -> modal.Volume:
        import modal

        return modal.Volume.from_name(self.name, create_if_missing=True)

    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        if not path.parts:
            return VolumeEntry("", 0, True, 0.0)
        return next((entry for entry in self._listing(path.parent) if entry.path == str(path)), None)

    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
        return self._listing(path, recursive=recursive)

    def _listing(self, path: PurePosixPath, *, recursive: bool = False) -> list[VolumeEntry]:
        import modal.exception

        try:
            found = self._there.listdir("/" + "/".join(path.parts), recursive=recursive)
        except (modal.exception.NotFoundError, FileNotFoundError):
            return []
        return [
            VolumeEntry(
                e.path,
                0 if e.type.name == "DIRECTORY" else e.size,
                e.type.name == "DIRECTORY",
                e.mtime,
            )
            for e in found
            if not e.path.startswith(".mini-")
        ]

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        self._there.read_file_into_fileobj(str(path), file)

    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        with self._there.batch_upload(force=True) as batch:
            for source in sources:
                target = "/" + "/".join((path / source.relative).parts)
                if isinstance(source.content, bytes):
                    batch.put_file(io.BytesIO(source.content), target)
                elif source.content is not None:
                    batch.put_file(Path(source.content), target)

    def _delete(self, path: PurePosixPath) -> None:
        self._there.remove_file(str(path), recursive=True)
