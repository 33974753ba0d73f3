"""The volume: files that calls and the caller share, and that outlive both.

`Volume` is what users hold. It checks paths, stages local files and words the errors; what a backend adds is the
moving of bytes: six methods whose names begin with an underscore. `DirectoryVolume` is the one over a directory.

Paths in a volume are relative, with "/" between the parts, whatever the platform; "" is the volume itself.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from . import staging
from .errors import OptionError, VolumePathError
from .staging import HERE, OPEN_DIRECTORY, Found, Source, telling
from .twins import check_stopped, in_thread

__all__ = ["DirectoryVolume", "Source", "Volume", "VolumeEntry", "clean_path"]

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """A file or directory in a volume.

    Attributes:
        path: from the root of the volume, so that it can be passed to the volume's methods as it is.
        size: bytes; 0 for a directory.
        is_dir: whether it is a directory.
        mtime: when its content was last changed, in seconds since the epoch.
        executable: whether its owner may run it; always False where the backend does not keep this.
    """

    path: str
    size: int
    is_dir: bool
    mtime: float
    executable: bool = False


def clean_path(remote: str | os.PathLike[str]) -> PurePosixPath:
    """Return `remote` as a path inside of a volume; "" and "." are the volume's root.

    Raises:
        VolumePathError: it is absolute, or has a part that is "..", empty, reserved for mini, or means a drive or a
            directory on another platform.
        OptionError: it is not a string or path.
    """
    try:
        text: object = os.fspath(remote)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise OptionError(f"a path in a volume is a string such as 'models/a.pkl', not {remote!r}")
    reason = _objection(text)
    if reason:
        raise VolumePathError(
            f"{text!r} is not a path inside of a volume: {reason}; write it relative to the volume's root, "
            "for example 'models/a.pkl'"
        )
    return PurePosixPath(text)


def _objection(text: str) -> str | None:
    parts = text.removesuffix("/").split("/")
    if text.startswith("/"):
        return "it is absolute"
    if "\0" in text:
        return "it contains a NUL"
    if "\\" in text:
        return "it contains a backslash"
    if ".." in parts:
        return "'..' could leave the volume"
    if "" in parts and text:
        return "a part of it is empty"
    for part in parts:
        if _DRIVE.match(part):
            return f"{part!r} means a drive on another platform"
        if part.startswith(staging.RESERVED):
            return f"names that begin with {staging.RESERVED!r} are mini's own"
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return None


class Volume(ABC):
    """Files shared by the calls of an apparatus and its caller.

    Making one reaches nothing, and it can be pickled. A file or tree appears under its name whole or not at all;
    two writers of one name leave what one of them wrote. After any error nothing half-written is seen.

    The methods whose names begin with "a" are the same for `asyncio`. If they are cancelled they stop early, and are
    over when `CancelledError` is raised: what they were to do is then done either whole or not at all.

    Raises (all methods):
        VolumePathError: a path leaves the volume, by its spelling or through a symbolic link.
        OSError: as the built-in file functions do, naming the volume and the path.
    """

    # --- what a backend adds ---

    @property
    @abstractmethod
    def label(self) -> str:
        """What messages call this volume, for example its directory."""

    @abstractmethod
    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        """The entry of `path`, or None if nothing is there. The root is always there."""

    @abstractmethod
    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
        """What is in the directory `path`, in any order."""

    @abstractmethod
    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        """Write the content of the file `path` into `file`, a piece at a time."""

    @abstractmethod
    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        """Make `sources` appear at `path`, whole or not at all; parents come before their contents.

        Directories that are missing on the way are made. If `path` is a directory already, what `sources` does not
        name stays in it.
        """

    @abstractmethod
    def _delete(self, path: PurePosixPath) -> None:
        """Remove the file, link or whole tree `path`; FileNotFoundError if nothing is there."""

    # --- what users call ---

    def read_bytes(self, remote: str | os.PathLike[str]) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is a directory.
        """
        path = clean_path(remote)
        with self._telling(path):
            file = io.BytesIO()
            if self._existing(path).is_dir:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._fetch(path, file)
            return file.getvalue()

    def write_bytes(self, remote: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
        """Make `data` the content of a file; directories that are missing on the way are made."""
        path = clean_path(remote)
        with self._telling(path, writing=True):
            self._check_target(path, is_dir=False)
            self._put(path, [Source(HERE, data if isinstance(data, bytes) else bytes(memoryview(data)))])

    def upload(self, local: str | os.PathLike[str], remote: str | os.PathLike[str]) -> None:
        """Copy a file or a whole directory of the caller's into the volume, under exactly the name `remote`.

        A directory that is there already is merged into. Links are followed; times and the right to run are kept.

        Raises:
            FileNotFoundError: `local` does not exist.
            IsADirectoryError, NotADirectoryError: a file is to replace a directory or the other way round.
        """
        path = clean_path(remote)
        sources = staging.gather(Path(local))
        for source in sources:
            clean_path(path / source.relative)
        with self._telling(path, writing=True):
            self._check_target(path, is_dir=sources[0].content is None)
            self._put(path, sources)

    def download(self, remote: str | os.PathLike[str], local: str | os.PathLike[str]) -> None:
        """Copy a file or a whole directory out of the volume, to exactly the path `local`.

        A directory that is there already is merged into; directories that are missing on the way are made.

        Raises:
            FileNotFoundError: there is no such file in the volume.
            IsADirectoryError, NotADirectoryError: a file is to replace a directory or the other way round.
        """
        path, target = clean_path(remote), Path(os.path.realpath(local))
        with self._telling(path):
            top = self._existing(path)
            entries = list(self._scan(path, recursive=True)) if top.is_dir else []
        with telling(target, fix="choose another place", writing=True):
            _check_local(target, top)
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
            parent = os.open(target if target.is_dir() else target.parent, OPEN_DIRECTORY)
            try:
                with staging.staging(parent) as stage:
                    self._fill(stage, path, [top, *sorted(entries, key=_order)])
                    stage.publish(staging.local_place(target))
            finally:
                os.close(parent)

    def list(self, remote: str | os.PathLike[str] = "", recursive: bool = False) -> list[VolumeEntry]:
        """What is in a directory (with `recursive`, all below it), sorted by path; of a file, its own entry.

        A link is listed as what it leads to. One that leads nowhere, out of the volume or to a directory around it
        is listed as itself, so that it can be removed.

        Raises:
            FileNotFoundError: there is no such directory.
        """
        path = clean_path(remote)
        with self._telling(path):
            top = self._existing(path)
            return sorted(self._scan(path, recursive=recursive), key=_order) if top.is_dir else [top]

    def exists(self, remote: str | os.PathLike[str]) -> bool:
        """Whether there is a file or directory of that name."""
        path = clean_path(remote)
        with self._telling(path):
            return self._stat(path) is not None

    def remove(self, remote: str | os.PathLike[str]) -> None:
        """Remove a file, or a directory with all that is in it. A link is removed, not what it leads to.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = clean_path(remote)
        if path == HERE:
            raise VolumePathError(
                "the volume itself is not removed; name what to remove in it, as list() shows it"
            )
        with self._telling(path, writing=True):
            self._delete(path)

    async def aread_bytes(self, remote: str | os.PathLike[str]) -> bytes:
        """`read_bytes` without blocking the event loop."""
        return await in_thread(self.read_bytes, remote)

    async def awrite_bytes(
        self, remote: str | os.PathLike[str], data: bytes | bytearray | memoryview
    ) -> None:
        """`write_bytes` without blocking the event loop."""
        await in_thread(self.write_bytes, remote, data)

    async def aupload(self, local: str | os.PathLike[str], remote: str | os.PathLike[str]) -> None:
        """`upload` without blocking the event loop."""
        await in_thread(self.upload, local, remote)

    async def adownload(self, remote: str | os.PathLike[str], local: str | os.PathLike[str]) -> None:
        """`download` without blocking the event loop."""
        await in_thread(self.download, remote, local)

    async def alist(self, remote: str | os.PathLike[str] = "", recursive: bool = False) -> Entries:
        """`list` without blocking the event loop."""
        return await in_thread(self.list, remote, recursive)

    async def aexists(self, remote: str | os.PathLike[str]) -> bool:
        """`exists` without blocking the event loop."""
        return await in_thread(self.exists, remote)

    async def aremove(self, remote: str | os.PathLike[str]) -> None:
        """`remove` without blocking the event loop."""
        await in_thread(self.remove, remote)

    # --- shared by both ---

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    def _telling(self, path: PurePosixPath, *, writing: bool = False) -> Any:
        return telling(path, f" in the volume {self.label}", fix=self._elsewhere, writing=writing)

    _elsewhere = ""
    """What to do when the volume cannot be written to, beside making that possible."""

    def _existing(self, path: PurePosixPath) -> VolumeEntry:
        entry = self._stat(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return entry

    def _check_target(self, path: PurePosixPath, *, is_dir: bool) -> None:
        """Refuse early, before anything is copied, to put a file where a directory is or the other way round."""
        if path == HERE and not is_dir:
            raise VolumePathError(
                "the volume itself is not a file; name one in it, for example 'models/a.pkl'"
            )
        entry = self._stat(path)
        if entry is not None and entry.is_dir != is_dir:
            error = errno.ENOTDIR if is_dir else errno.EISDIR
            raise OSError(error, os.strerror(error))

    def _fill(self, stage: staging.Stage, top: PurePosixPath, entries: Sequence[VolumeEntry]) -> None:
        for entry in entries:
            path = PurePosixPath(entry.path)
            # What a server says is there must not decide where on this machine it is written.
            if path.is_absolute() or ".." in path.parts or not path.is_relative_to(top):
                raise VolumePathError(f"{self!r} lists {entry.path!r}, which is not inside of {str(top)!r}")
            relative = path.relative_to(top)
            check_stopped()
            if entry.is_dir:
                stage.add_directory(relative)
                continue
            with stage.add_file(relative, executable=entry.executable, mtime=entry.mtime) as file:
                try:
                    self._fetch(path, file)
                except OSError as exc:
                    if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                        raise  # it is about the local file
                    with self._telling(path):
                        raise


Entries = list[VolumeEntry]  # in the class, `list` is the method


def _order(entry: VolumeEntry) -> tuple[str, ...]:
    return PurePosixPath(entry.path).parts


def _check_local(target: Path, top: VolumeEntry) -> None:
    if target.exists() and target.is_dir() != top.is_dir:
        error = errno.ENOTDIR if top.is_dir else errno.EISDIR
        hint = "" if top.is_dir else "; give the name of the file, not of the directory that it goes to"
        raise OSError(error, os.strerror(error) + hint)
    if target.exists() and not (target.is_dir() or target.is_file()):
        raise OSError(errno.EINVAL, "Neither a regular file nor a directory")


class DirectoryVolume(Volume):
    """A volume over the directory `root`, which the first write makes.

    Links in it may lead to other places in it. Each part of a path is opened by itself, so that nobody who exchanges
    directories for links meanwhile can lead a read or a write out of the volume.
    """

    _elsewhere = "choose another data_dir"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()

    @property
    def label(self) -> str:
        return str(self.root)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirectoryVolume) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        try:
            with self._at(path) as found:
                return None if found.stat is None else _entry(path, found.stat)
        except (FileNotFoundError, NotADirectoryError):
            return VolumeEntry(".", 0, True, 0.0) if path == HERE and not self.root.exists() else None

    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterator[VolumeEntry]:
        around = frozenset(filter(None, (self._identity(parent) for parent in path.parents)))
        todo = [(path, around)]
        while todo:
            check_stopped()
            directory, around = todo.pop()
            identity = self._identity(directory)
            if identity is None:
                continue  # removed meanwhile, or the root of a volume that nobody has written to
            around |= {identity}
            for name, status in self._children(directory):
                entry = _entry(directory / name, status)
                if stat.S_ISLNK(status.st_mode):
                    with suppress(OSError, VolumePathError), self._at(directory / name) as found:
                        if found.stat is not None and _identity(found.stat) not in around:
                            entry = _entry(directory / name, found.stat)
                yield entry
                if recursive and entry.is_dir:
                    todo.append((directory / name, around))

    def _children(self, path: PurePosixPath) -> list[tuple[str, os.stat_result]]:
        children = []
        with suppress(FileNotFoundError, NotADirectoryError), self._open(path) as directory:
            for name in os.listdir(directory):  # noqa: PTH208
                if not name.startswith(staging.RESERVED):
                    with suppress(FileNotFoundError):
                        children.append((name, os.stat(name, dir_fd=directory, follow_symlinks=False)))
        return children

    def _identity(self, path: PurePosixPath) -> tuple[int, int] | None:
        with suppress(FileNotFoundError, NotADirectoryError), self._at(path) as found:
            return found.stat and _identity(found.stat)
        return None

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        with self._at(path) as found:
            if found.stat is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            fd = staging.open_regular(found.name, dir_fd=found.fd, flags=os.O_NOFOLLOW)
        try:
            staging.copy(fd, file)
        finally:
            os.close(fd)

    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        root = os.open(self.root, OPEN_DIRECTORY)
        try:
            with staging.staging(root) as stage:
                for source in sources:
                    check_stopped()
                    stage.add(source)
                stage.publish(lambda relative, create: self._at(path / relative, create=create))
        finally:
            os.close(root)

    def _delete(self, path: PurePosixPath) -> None:
        with self._at(path, follow=False) as found:
            if found.is_dir:
                shutil.rmtree(found.name, dir_fd=found.fd)
            else:
                os.unlink(found.name, dir_fd=found.fd)

    @contextmanager
    def _open(self, path: PurePosixPath) -> Iterator[int]:
        with self._at(path) as found:
            fd = os.open(found.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=found.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _at(self, path: PurePosixPath, *, create: bool = False, follow: bool = True) -> Iterator[Found]:
        """Walk to `path` and hold open the directory that it is in.

        Args:
            path: as `clean_path` returns it.
            create: make directories that are missing on the way.
            follow: whether a link at the end of the path is walked too; those on the way always are.

        Raises:
            FileNotFoundError, NotADirectoryError: a part on the way is missing or not a directory.
            VolumePathError: a link leads out of the volume.
        """
        fds = [os.open(self.root, OPEN_DIRECTORY)]
        todo = list(reversed(path.parts))
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == "..":  # only links have it
                    if len(fds) == 1:
                        raise self._escape(path)
                    os.close(fds.pop())
                    continue
                try:
                    status = os.stat(name, dir_fd=fds[-1], follow_symlinks=False)
                except FileNotFoundError:
                    if not todo:
                        yield Found(fds[-1], name, None)
                        return
                    if not create:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fds[-1])
                    todo.append(name)
                    continue
                if stat.S_ISLNK(status.st_mode) and (todo or follow):
                    links += 1
                    if links > 40:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = self._inside(path, os.readlink(name, dir_fd=fds[-1]))
                    if target.is_absolute():
                        while len(fds) > 1:
                            os.close(fds.pop())
                    todo += reversed(target.parts[target.is_absolute() :])
                    continue
                if not todo:
                    yield Found(fds[-1], name, status)
                    return
                fds.append(os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=fds[-1]))
            yield Found(fds[-1], ".", os.fstat(fds[-1]))
        finally:
            for fd in fds:
                os.close(fd)

    def _inside(self, path: PurePosixPath, target: str) -> PurePosixPath:
        """What a link says, from the directory that it is in, or, if it is absolute, from the root of the volume."""
        link = PurePosixPath(target)
        if not link.is_absolute():
            return link
        for root in (self.root, PurePosixPath(os.path.realpath(self.root))):
            if link.is_relative_to(root):
                return "/" / link.relative_to(root)
        raise self._escape(path)

    def _escape(self, path: PurePosixPath) -> VolumePathError:
        return VolumePathError(
            f"{str(path)!r} goes through a link that leads out of the volume {self.label}; nothing outside was read "
            "or written: remove the link, or copy what it leads to into the volume"
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def _entry(path: PurePosixPath, status: os.stat_result) -> VolumeEntry:
    is_dir = stat.S_ISDIR(status.st_mode)
    executable = stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o100)
    return VolumeEntry(str(path), 0 if is_dir else status.st_size, is_dir, status.st_mtime, executable)
