"""What a container has changed in its working copy of a volume, found out from the file system.

Two things can be looked at: the upper directory of an overlay, which has what was changed and marks for what was
deleted, and a private copy, which has everything. The container may go on writing meanwhile, and it may be hostile:
directories are walked by descriptors, and no symbolic link is ever followed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from grpclib import Status

from ..content import copy_file, link_file
from ..paths import remove_tree, shown
from ..rpc import fail
from .tree import Draft, Names, text

__all__ = ["Changes", "Tracker"]

TICK = 0.02
"""Seconds within which a file may change without its times doing so: the kernel's clock tick, twice."""
RACY = int(TICK * 1e9)
DEEPEST = 200
"""Levels of folders: a descriptor is open for each while they are looked at."""
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")
_WHITEOUT = ("user.overlay.whiteout", "trusted.overlay.whiteout")
_INDIRECT = (
    "user.overlay.redirect",
    "trusted.overlay.redirect",
    "user.overlay.metacopy",
    "trusted.overlay.metacopy",
)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY

Mark = tuple[object, ...]
"""What tells whether something at a path is still the same."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the last commit found at a path.

    Attributes:
        mark: None if it was deleted.
        copy: the file as it was committed, if its times alone do not tell whether it has changed since.
    """

    mark: Mark | None
    copy: Path | None = None


@dataclass(slots=True)
class Changes:
    """What is to be committed: paths to where the new file, link or directory (as its mode) is, and what is gone."""

    put: dict[Names, Path | int] = field(default_factory=dict)
    gone: set[Names] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.put or self.gone)

    def apply(self, draft: Draft, below: Names) -> None:
        """Make the changes, file by file; where somebody else has changed the same meanwhile, this one wins."""
        for names in sorted(self.gone, key=len, reverse=True):
            path = draft.root.joinpath(*below, *names)
            kind = draft.kind((*below, *names))
            if kind == stat.S_IFDIR:
                # What others have put there in the meantime stays.
                with suppress(OSError):
                    path.rmdir()
            elif kind is not None:
                path.unlink()
        for names in sorted(self.put, key=len):
            source = self.put[names]
            full = (*below, *names)
            path = draft.parent(full, force=True) / full[-1] if full else draft.root
            kind = draft.kind(full)
            if isinstance(source, int):
                if kind != stat.S_IFDIR:
                    if kind is not None:
                        path.unlink()
                    path.mkdir()
                path.chmod(source)
            else:
                if kind is not None:
                    remove_tree(path)
                source.rename(path)

    def discard(self) -> None:
        """Remove what was not committed after all."""
        for source in self.put.values():
            if isinstance(source, Path):
                source.unlink(missing_ok=True)


class Tracker:
    """Looks at one working copy again and again, and finds what is new.

    Args:
        folder: the upper directory, or the private copy.
        lower: what the overlay is over; None for a private copy.
        keep: an empty folder for copies of what may have changed unseen, on the file system of the states.
    """

    def __init__(self, folder: Path, lower: Path | None, keep: Path) -> None:
        self._folder = folder
        self._lower = lower
        self._keep = keep
        self._known: dict[Names, Known] = {}
        self._count = 0

    def remember(self) -> None:
        """Take a private copy as it is for what has been committed."""
        with _Walk(self._folder, None) as walk:
            self._known = {names: Known(mark) for names, mark, *_ in walk}
        # From here on whatever is written has other times than what has just been copied here.
        time.sleep(TICK)

    def changes(self, staging: Path, *, final: bool = False) -> tuple[Changes, dict[Names, Known]]:
        """What is new since the last `committed`, with files copied into `staging`.

        Returns it together with what `committed` wants to hear when it has been committed.

        Args:
            final: nobody writes any more: files need not be copied, links will do.
        """
        changes, now = Changes(), dict[Names, Known]()
        racy_from = time.time_ns() - RACY
        try:
            with _Walk(self._folder, self._lower) as walk:
                for names, mark, parent, name in walk:
                    before = self._known.get(names)
                    if mark is None:
                        if before is None or before.mark is not None:
                            changes.gone.add(names)
                        now[names] = Known(None)
                    elif before is not None and before.mark == mark and self._same(before, parent, name):
                        now[names] = before
                    elif mark[0] == stat.S_IFDIR:
                        assert isinstance(mark[1], int)
                        now[names] = Known(mark)
                        # An overlay has all directories above a change, too.
                        if before is not None or not self._in_lower(names, mark[1]):
                            changes.put[names] = mark[1]
                    else:
                        staged = staging / f"{id(self)}-{self._count}"
                        self._count += 1
                        if not _stage(parent, name, mark, staged, final, text(names)):
                            continue  # it went away under our eyes: the next commit will see that it is gone
                        changes.put[names] = staged
                        kept = None
                        if not final and len(mark) > 4 and isinstance(mark[4], int) and mark[4] >= racy_from:
                            kept = self._keep / f"{self._count}"
                            link_file(staged, kept)
                        now[names] = Known(mark, kept)
        except BaseException:
            changes.discard()
            raise
        changes.gone |= {names for names, known in self._known.items() if known.mark is not None} - set(now)
        return changes, now

    def committed(self, now: dict[Names, Known]) -> None:
        """What `changes` found has been committed."""
        kept = {known.copy for known in now.values()}
        for known in self._known.values():
            if known.copy is not None and known.copy not in kept:
                known.copy.unlink(missing_ok=True)
        self._known = now

    def close(self) -> None:
        """Forget everything."""
        self._known = {}
        remove_tree(self._keep)

    def _same(self, before: Known, parent: int, name: str) -> bool:
        if before.copy is None:
            return True
        try:
            file = os.open(name, _FILE, dir_fd=parent)
        except OSError:
            return False
        with os.fdopen(file, "rb") as now, before.copy.open("rb") as then:
            while True:
                piece = now.read(1 << 20)
                if piece != then.read(1 << 20):
                    return False
                if not piece:
                    return True

    def _in_lower(self, names: Names, mode: int) -> bool:
        if self._lower is None:
            return False
        try:
            found = self._lower.joinpath(*names).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISDIR(found) and stat.S_IMODE(found) == mode


class _Walk:
    """Everything in a working copy: names, mark (None for what was deleted), and where it is found by descriptor.

    A directory comes before what is in it.
    """

    def __init__(self, folder: Path, lower: Path | None) -> None:
        self._folder = folder
        self._lower = lower
        self._open: list[int] = []

    def __enter__(self) -> Iterator[tuple[Names, Mark | None, int, str]]:
        root = os.open(self._folder, _FOLDER)
        self._open.append(root)
        return self._inside(root, (), False)

    def __exit__(self, *exc: object) -> None:
        for folder in self._open:
            os.close(folder)

    def _inside(
        self, folder: int, names: Names, hides: bool
    ) -> Iterator[tuple[Names, Mark | None, int, str]]:
        """`hides`: nothing of the lower directory shows through here, because a directory above was made anew."""
        here = sorted(os.listdir(folder))
        hides = hides or (self._lower is not None and _has(folder, _OPAQUE, b"y"))
        if hides and self._lower is not None:
            for gone in _below(self._lower.joinpath(*names), names, except_for=here):
                yield gone, None, folder, ""
        for name in here:
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = (*names, name)
            kind = stat.S_IFMT(found.st_mode)
            mode = found.st_mode & 0o777
            if self._lower is not None and _is_whiteout(folder, name, found):
                yield path, None, folder, name
                for gone in _below(self._lower.joinpath(*path), path):
                    yield gone, None, folder, ""
            elif kind == stat.S_IFDIR:
                yield path, (kind, mode | 0o700), folder, name
                try:
                    inner = os.open(name, _FOLDER, dir_fd=folder)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as exc:
                    if exc.errno == errno.ELOOP:
                        continue
                    _unreadable(path, exc)
                self._open.append(inner)
                if len(path) > DEEPEST:
                    fail(Status.FAILED_PRECONDITION, f"folders are more than {DEEPEST} levels deep")
                if self._lower is not None and _has(inner, _INDIRECT):
                    fail(Status.FAILED_PRECONDITION, "the overlay has redirected directories")
                yield from self._inside(inner, path, hides)
                self._open.pop()
                os.close(inner)
            elif kind == stat.S_IFLNK:
                try:
                    yield path, (kind, os.readlink(name, dir_fd=folder)), folder, name
                except OSError:
                    continue
            elif kind == stat.S_IFREG:
                times = (found.st_mtime_ns, found.st_ctime_ns)
                yield path, (kind, mode | 0o400, found.st_ino, *times, found.st_size), folder, name
            # Pipes, sockets and devices mean nothing in another container.


def _stage(parent: int, name: str, mark: Mark, staged: Path, final: bool, shown_as: str) -> bool:
    """Put a file or symbolic link of a working copy at `staged`. False if it is not there any more."""
    if mark[0] == stat.S_IFLNK:
        staged.symlink_to(str(mark[1]))
        return True
    assert isinstance(mark[1], int)
    assert isinstance(mark[3], int)
    if final:
        with suppress(OSError):
            os.link(name, staged, src_dir_fd=parent, follow_symlinks=False)
            staged.chmod(mark[1])
            return True
    try:
        file = os.open(name, _FILE, dir_fd=parent)
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return False
        _unreadable((shown_as,), exc)
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        copy_file(file, staged)
    finally:
        os.close(file)
    staged.chmod(mark[1])
    os.utime(staged, ns=(mark[3], mark[3]))
    return True


def _unreadable(names: Names, exc: OSError) -> None:
    fail(Status.FAILED_PRECONDITION, f"{shown(text(names))} cannot be committed: {exc.strerror}")


def _is_whiteout(folder: int, name: str, found: os.stat_result) -> bool:
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == 0
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        return False
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return False
    try:
        return _has(file, _WHITEOUT)
    finally:
        os.close(file)


def _has(file: int, attributes: Iterable[str], value: bytes | None = None) -> bool:
    for attribute in attributes:
        with suppress(OSError):
            found = os.getxattr(file, attribute)
            if value is None or found == value:
                return True
    return False


def _below(folder: Path, names: Names, except_for: Iterable[str] = ()) -> Iterator[Names]:
    """The paths of everything in a directory of a committed state; nothing if it is none."""
    try:
        with os.scandir(folder) as inside:
            for entry in inside:
                if entry.name not in except_for:
                    yield (*names, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        yield from _below(Path(entry.path), (*names, entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return
