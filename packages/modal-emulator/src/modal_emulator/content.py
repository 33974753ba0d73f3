"""Files by their content: kept once, and hard-linked to wherever they are seen.

A file here never changes. Links share their mode, so a content with two modes is two files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from pathlib import Path

from .ids import new_id

__all__ = ["ContentStore", "copy_file", "link_file"]

GRACE = 3600
"""Seconds for which a file that is linked nowhere is kept: its upload may go on."""


class ContentStore:
    """A folder of files by key: letters and digits that stand for a content, such as its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("*.tmp"):
            left.unlink()

    def path(self, key: str) -> Path:
        """Where the file of this key is, if it is there."""
        return self._folder / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether it is there; if so, it stays for a while even if it is linked nowhere."""
        path = self.path(key)
        try:
            found = path.stat()
            if found.st_nlink == 1:
                path.chmod(stat.S_IMODE(found.st_mode))  # `sweep` sees that somebody has asked
        except FileNotFoundError:
            return False
        return True

    def temporary(self) -> Path:
        """A name on the same file system for a file that is on its way to here."""
        return self._folder / f"{new_id('tm')}.tmp"

    def adopt(self, key: str, file: Path) -> None:
        """Move a file of the same file system to here."""
        path = self.path(key)
        path.parent.mkdir(exist_ok=True)
        file.chmod(0o644)
        file.rename(path)

    def add(self, data: bytes) -> str:
        """Keep these bytes; returns their SHA-256, which is their key."""
        key = hashlib.sha256(data).hexdigest()
        if not self.has(key):
            temporary = self.temporary()
            temporary.write_bytes(data)
            self.adopt(key, temporary)
        return key

    def link(self, key: str, target: Path, mode: int) -> None:
        """Put the file of `key` at `target`, which is not there yet, with these permission bits.

        FileNotFoundError if there is no such content.
        """
        source = self.path(key)
        found = source.stat()
        if stat.S_IMODE(found.st_mode) != mode:
            if found.st_nlink == 1:
                source.chmod(mode)
            else:
                other = source.with_name(f"{key}.{mode:o}")
                if not other.exists():
                    temporary = self.temporary()
                    copy_file(source, temporary)
                    os.utime(temporary, ns=(found.st_atime_ns, found.st_mtime_ns))
                    temporary.chmod(mode)
                    temporary.rename(other)
                source = other
        link_file(source, target)

    def sweep(self, grace: float = GRACE) -> None:
        """Remove what is linked nowhere, and has not been for a while."""
        old = time.time() - grace
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if found.st_nlink == 1 and found.st_ctime < old:
                    path.unlink()


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file or symbolic link; copy it where the system does not allow that."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        # EMLINK: a file can have so many links only (65 000 on ext4), which empty ones can reach. EPERM: it is another
        # user's, from a container with users of its own.
        if exc.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
            raise
        found = source.lstat()
        if stat.S_ISLNK(found.st_mode):
            target.symlink_to(source.readlink())
        else:
            copy_file(source, target)
            target.chmod(stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def copy_file(source: Path | int, target: Path) -> None:
    """Copy a regular file's bytes in the kernel, holes left out; FileExistsError if the target is there.

    The source may be an open descriptor. It may grow or shrink meanwhile: a part of it is copied then.
    """
    reader = (
        source if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    )
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(reader).st_size
            os.ftruncate(writer, size)
            offset = 0
            while offset < size:
                try:
                    start = os.lseek(reader, offset, os.SEEK_DATA)
                    end = os.lseek(reader, start, os.SEEK_HOLE)
                except OSError:
                    break  # nothing but a hole is left
                offset = end
                _copy_range(reader, writer, start, end - start)
        finally:
            os.close(writer)
    finally:
        if not isinstance(source, int):
            os.close(reader)


def _copy_range(reader: int, writer: int, offset: int, count: int) -> None:
    while count > 0:
        try:
            copied = os.copy_file_range(reader, writer, count, offset, offset)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            copied = os.pwrite(writer, os.pread(reader, min(count, 1 << 20), offset), offset)
        if copied == 0:
            return
        offset += copied
        count -= copied
