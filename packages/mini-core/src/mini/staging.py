"""Files that are seen whole or not at all.

What is to appear under a name is first written into a private directory beside it, under a reserved hidden name, and
then put in place by a rename. A writer that is killed leaves such a directory behind; whoever stages in the same
place later sweeps it away once it has shown no sign of life for a day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .twins import check_stopped

__all__ = [
    "RESERVED",
    "Found",
    "Place",
    "Source",
    "Stage",
    "copy",
    "gather",
    "local_place",
    "staging",
    "telling",
]

RESERVED = ".mini-tmp-"
"""No name in a volume begins like this; what does is neither listed nor reachable."""

STALE = 24 * 3600.0
"""Seconds without a sign of life after which a staging directory counts as left behind."""

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
HERE = PurePosixPath()

_CHUNK = 1 << 26
_SWEEP_EVERY = 3600.0
_swept: dict[tuple[int, int], float] = {}


@dataclass(frozen=True, slots=True)
class Source:
    """One file or directory of an upload.

    Attributes:
        relative: where it goes, below the upload's target; "." is the target itself.
        content: a file to read, or bytes, or None for a directory.
        executable: whether it may be run.
        mtime: seconds since the epoch, or None for the time of the upload.
    """

    relative: PurePosixPath
    content: Path | bytes | None
    executable: bool = False
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A place that a path led to: the name `name` in the open directory `fd`, and what is there if anything is."""

    fd: int
    name: str
    stat: os.stat_result | None

    @property
    def is_dir(self) -> bool:
        return self.stat is not None and stat.S_ISDIR(self.stat.st_mode)


Place = Callable[[PurePosixPath, bool], AbstractContextManager[Found]]
"""Finds a place below a target; with True it makes the directories on the way."""


# --- errors ---------------------------------------------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def telling(path: object, where: str = "", *, fix: str = "", writing: bool = False) -> Iterator[None]:
    """Raise an OSError of the body again, of the same type, so that it names `path` and says what to do.

    Args:
        path: what the body works on.
        where: for example " in the volume /data".
        fix: what else to do when the place cannot be written to, for example "choose another directory".
        writing: whether the body writes.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno is None or hasattr(exc, "_told"):
            raise
        reason = (exc.strerror or os.strerror(exc.errno)) + where
        choice = f", or {fix}" if fix else ""
        if exc.errno in _FULL:
            reason += f"; no half-written file is left: make room there{choice}"
        elif exc.errno in _FORBIDDEN:
            reason += f"; make it {'writable' if writing else 'readable'} for this user{choice}"
        elif exc.errno == errno.ENOTDIR:
            reason += f"; a part of this path is a file: make it a directory{choice}"
        elif exc.errno == errno.EXDEV:
            reason += "; another file system is mounted inside of it: write to a place outside of that mount"
        told = OSError(exc.errno, reason, str(path))
        told._told = True  # type: ignore[attr-defined]
        raise told from exc


# --- the stage ------------------------------------------------------------------------------------------------------


class _StagedFile(FileIO):
    """A new file on a stage. Every write is complete, is a sign of life, and may be stopped."""

    def __init__(self, fd: int, stage: int) -> None:
        super().__init__(fd, "wb")
        self._stage = stage

    def write(self, data: object, /) -> int:
        check_stopped()
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        at = 0
        while at < len(view):
            at += os.write(self.fileno(), view[at : at + _CHUNK])
        os.utime(self._stage)
        return at

    def copy_range(self, source: int) -> None:
        """Let the kernel copy as much of `source` as it can; its file offset says how far that was."""
        copy_file_range = getattr(os, "copy_file_range", None)
        while copy_file_range is not None:
            check_stopped()
            try:
                if not copy_file_range(source, self.fileno(), _CHUNK):
                    return
            except OSError as exc:
                if exc.errno in _FULL | {errno.EFBIG, errno.EIO}:
                    raise
                return  # these two file systems cannot
            os.utime(self._stage)


def copy(source: int, file: BinaryIO) -> None:
    """Copy what is left of the open file `source` into `file`, a piece at a time."""
    if isinstance(file, _StagedFile):
        file.copy_range(source)
    while piece := os.read(source, 1 << 20):
        check_stopped()
        file.write(piece)


class Stage:
    """A private directory, in which a file or a tree is put together before it is published under its name."""

    def __init__(self, parent: int, fd: int) -> None:
        self._parent = parent
        self._fd = fd
        self._added: list[tuple[PurePosixPath, bool]] = []

    @staticmethod
    def _path(relative: PurePosixPath) -> str:
        return str("whole" / relative)

    def add_directory(self, relative: PurePosixPath) -> None:
        os.mkdir(self._path(relative), dir_fd=self._fd)
        self._added.append((relative, True))

    @contextmanager
    def add_file(
        self, relative: PurePosixPath, *, executable: bool = False, mtime: float | None = None
    ) -> Iterator[BinaryIO]:
        """A new file to be filled in the body; after it, its bytes are on the disk."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self._path(relative), flags, 0o777 if executable else 0o666, dir_fd=self._fd)
        with _StagedFile(fd, self._fd) as file:
            yield file
            if mtime is not None:
                os.utime(fd, ns=(int(mtime * 1e9), int(mtime * 1e9)))
            # Renamed before its bytes are on the disk, it could be an empty file after a power cut.
            os.fsync(fd)
        self._added.append((relative, False))

    def add(self, source: Source) -> None:
        """Add what an upload names, its bytes included."""
        if source.content is None:
            self.add_directory(source.relative)
            return
        with self.add_file(source.relative, executable=source.executable, mtime=source.mtime) as file:
            if isinstance(source.content, bytes):
                file.write(source.content)
                return
            with telling(source.content):
                origin = open_regular(source.content)
            try:
                copy(origin, file)
            finally:
                os.close(origin)

    def publish(self, place: Place) -> None:
        """Put what was added where `place` says.

        A file, or a directory where there was none, appears in one step. A directory that is there already is merged
        into: each file of it is replaced in one step, others stay. Two that merge at the same time take turns.

        Raises:
            IsADirectoryError, NotADirectoryError: a file is to replace a directory or the other way round; nothing
                was changed.
        """
        tree = self._added[0][1]
        with place(HERE, True) as found:
            if not tree or found.stat is None:
                _refuse_clash(found, tree)
                try:
                    os.rename("whole", found.name, src_dir_fd=self._fd, dst_dir_fd=found.fd)
                    return
                except OSError as exc:
                    # Somebody else made the directory in the meantime.
                    if not tree or exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                        raise
        with _turn(self._parent):
            self._merge(place)

    def _merge(self, place: Place) -> None:
        for relative, is_dir in self._added:
            with suppress(FileNotFoundError), place(relative, False) as found:
                _refuse_clash(found, is_dir)
        for relative, is_dir in self._added:
            with place(relative, True) as found:
                if not is_dir:
                    os.rename(self._path(relative), found.name, src_dir_fd=self._fd, dst_dir_fd=found.fd)
                elif found.stat is None:
                    with suppress(FileExistsError):
                        os.mkdir(found.name, dir_fd=found.fd)


def _refuse_clash(found: Found, is_dir: bool) -> None:
    if found.stat is not None and found.is_dir != is_dir:
        error = errno.ENOTDIR if is_dir else errno.EISDIR
        raise OSError(error, os.strerror(error), found.name)


@contextmanager
def _turn(directory: int) -> Iterator[None]:
    """Hold the lock of an open directory, where the file system has locks."""
    with suppress(OSError):
        fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)


@contextmanager
def staging(parent: int) -> Iterator[Stage]:
    """A stage in the open directory `parent`; after the body nothing of it is left there."""
    _sweep(parent)
    name = RESERVED + os.urandom(8).hex()
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            yield Stage(parent, fd)
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


def _sweep(parent: int) -> None:
    """Remove what killed writers left in an open directory; at most once an hour, because it reads all of it."""
    status = os.fstat(parent)
    key = (status.st_dev, status.st_ino)
    now = time.monotonic()
    if now - _swept.get(key, -_SWEEP_EVERY) < _SWEEP_EVERY:
        return
    if len(_swept) > 1000:
        _swept.clear()
    _swept[key] = now
    for name in os.listdir(parent):
        if name.startswith(RESERVED):
            with suppress(OSError):
                idle = time.time() - os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime
                if idle > STALE:
                    shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


# --- the caller's own file system -----------------------------------------------------------------------------------


def open_regular(path: str | Path, *, dir_fd: int | None = None, flags: int = 0) -> int:
    """Open a regular file for reading; a FIFO or a device is refused instead of waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        error = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        reason = os.strerror(error) if error == errno.EISDIR else "Neither a regular file nor a directory"
        raise OSError(error, reason, str(path))
    return fd


def gather(local: Path) -> list[Source]:
    """All that an upload of `local` consists of, parents before their contents. Links are followed.

    Raises:
        OSError: something cannot be read, is neither a file nor a directory, or is a link to a directory around it.
    """
    sources: list[Source] = []
    todo: list[tuple[PurePosixPath, frozenset[tuple[int, int]]]] = [(HERE, frozenset())]
    while todo:
        relative, around = todo.pop()
        path = local / relative
        with telling(path):
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "Neither a regular file nor a directory")
                sources.append(Source(relative, path, bool(status.st_mode & 0o100), status.st_mtime))
                continue
            identity = (status.st_dev, status.st_ino)
            if identity in around:
                raise OSError(errno.ELOOP, "A link to a directory around it")
            names = os.listdir(path)  # noqa: PTH208
        sources.append(Source(relative, None))
        todo += [(relative / name, around | {identity}) for name in names if not name.startswith(RESERVED)]
    return sources


def local_place(target: Path) -> Place:
    """Places below a directory of the caller's, whose links are the caller's own affair and followed."""

    @contextmanager
    def place(relative: PurePosixPath, create: bool) -> Iterator[Found]:
        path = target / relative
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.parent, OPEN_DIRECTORY)
        try:
            try:
                status = path.stat()
            except FileNotFoundError:
                status = None
            yield Found(fd, path.name or ".", status)
        finally:
            os.close(fd)

    return place
