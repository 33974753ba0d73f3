"""Committed states of volumes: directory trees that never change, and share the files that they have in common."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grpclib import Status
from modal_proto import api_pb2

from ..content import link_file
from ..paths import remove_tree, shown
from ..rpc import fail

__all__ = ["Draft", "Names", "clone", "entries", "resolve"]

Names = tuple[str, ...]
"""A path inside a tree, as the names that it consists of."""

MOST_LINKS = 40  # as many as the kernel follows


def text(names: Names) -> str:
    """A path as the client sees it; bytes that are not UTF-8 are shown as such."""
    return "/".join(names).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def missing(names: Names) -> None:
    fail(Status.NOT_FOUND, f"{shown(text(names))}: no such file or directory")


def resolve(root: Path, names: Names) -> Path:
    """Where a path leads in a tree, symbolic links followed, but not out of it. NOT_FOUND if nowhere."""
    left = list(reversed(names))
    found: list[str] = []
    links = 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not found:
                missing(names)
            found.pop()
            continue
        path = root.joinpath(*found, name)
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            missing(names)
            raise  # for the type checker: it is never reached
        if stat.S_ISLNK(mode):
            links += 1
            target = str(path.readlink())
            if links > MOST_LINKS or target.startswith("/"):
                missing(names)
            left.extend(reversed(target.split("/")))
        else:
            found.append(name)
    return root.joinpath(*found)


def clone(source: Path, target: Path) -> None:
    """Make `target`, which is not there yet, a tree of the same files as `source`."""
    found = source.stat()
    target.mkdir()
    with os.scandir(source) as inside:
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                clone(Path(entry.path), target / entry.name)
                continue
            try:
                os.link(entry.path, f"{target}/{entry.name}", follow_symlinks=False)
            except OSError:
                link_file(Path(entry.path), target / entry.name)
    target.chmod(stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of one path."""

    names: Names
    found: os.stat_result

    def message(self) -> api_pb2.FileEntry:
        kinds = {
            stat.S_IFREG: api_pb2.FileEntry.FILE,
            stat.S_IFDIR: api_pb2.FileEntry.DIRECTORY,
            stat.S_IFLNK: api_pb2.FileEntry.SYMLINK,
            stat.S_IFIFO: api_pb2.FileEntry.FIFO,
            stat.S_IFSOCK: api_pb2.FileEntry.SOCKET,
        }
        kind = stat.S_IFMT(self.found.st_mode)
        return api_pb2.FileEntry(
            path=text(self.names),
            type=kinds.get(kind, api_pb2.FileEntry.UNSPECIFIED),
            mtime=max(0, int(self.found.st_mtime)),
            size=self.found.st_size if kind == stat.S_IFREG else 0,
        )


def entries(root: Path, names: Names, recursive: bool) -> Iterator[Entry]:
    """What is in a directory, in the order of names; for a file, that file alone. NOT_FOUND if there is neither."""
    start = resolve(root, names)
    found = start.lstat()
    if not stat.S_ISDIR(found.st_mode):
        yield Entry(names, found)
        return
    yield from _inside(start, names, recursive)


def _inside(folder: Path, names: Names, recursive: bool) -> Iterator[Entry]:
    with os.scandir(folder) as inside:
        here = sorted(inside, key=lambda entry: entry.name)
    for entry in here:
        yield Entry((*names, entry.name), entry.stat(follow_symlinks=False))
        if recursive and entry.is_dir(follow_symlinks=False):
            yield from _inside(Path(entry.path), (*names, entry.name), True)


class Draft:
    """A state in the making. Nobody else sees it, so it may be changed; the files that are in it may not."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def kind(self, names: Names) -> int | None:
        """The type bits of what is at a path; None if nothing is. A symbolic link on the way there is not followed."""
        path = self.root
        for name in names[:-1]:
            path = path / name
            if not _is_folder(path):
                return None
        try:
            return stat.S_IFMT(self.root.joinpath(*names).lstat().st_mode)
        except FileNotFoundError:
            return None

    def parent(self, names: Names, *, force: bool = False) -> Path:
        """Make the directories above a path; returns the last one.

        Args:
            force: replace what is in the way, instead of FAILED_PRECONDITION.
        """
        path = self.root
        for depth, name in enumerate(names[:-1], 1):
            path = path / name
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                path.mkdir()
                continue
            if not stat.S_ISDIR(mode):
                if not force:
                    fail(Status.FAILED_PRECONDITION, f"{shown(text(names[:depth]))} is not a directory")
                path.unlink()
                path.mkdir()
        return path

    def place(self, names: Names, *, overwrite: bool) -> Path:
        """A place for an uploaded file: nothing is there any more, and its directories are."""
        if not names:
            fail(Status.INVALID_ARGUMENT, "a file needs a name")
        path = self.parent(names) / names[-1]
        kind = self.kind(names)
        if kind is not None:
            if kind == stat.S_IFDIR:
                fail(Status.ALREADY_EXISTS, f"{shown(text(names))} is a directory")
            if not overwrite:
                fail(Status.ALREADY_EXISTS, f"{shown(text(names))} already exists")
            path.unlink()
        return path

    def remove(self, names: Names, *, recursive: bool) -> None:
        kind = self.kind(names)
        if kind is None:
            missing(names)
        path = self.root.joinpath(*names)
        if kind != stat.S_IFDIR:
            path.unlink()
            return
        if not recursive:
            fail(
                Status.INVALID_ARGUMENT,
                f"{shown(text(names) or '/')} is a directory: it takes recursive=True",
            )
        if names:
            remove_tree(path)
        else:
            for inside in list(path.iterdir()):
                remove_tree(inside)

    def copy(self, sources: list[Names], target: Names, *, recursive: bool, into: bool) -> None:
        """Copy as `cp` does. `into`: the target was written with a slash at its end."""
        is_folder = not target or self.kind(target) == stat.S_IFDIR
        if (into or len(sources) > 1) and not is_folder:
            fail(Status.INVALID_ARGUMENT, f"{shown(text(target))} is not a directory")
        for source in sources:
            found = resolve(self.root, source)
            end = (*target, source[-1]) if is_folder and source else target
            if end == source:
                fail(Status.INVALID_ARGUMENT, f"{shown(text(source))} and {shown(text(end))} are the same")
            if found.is_dir():
                if not recursive:
                    fail(Status.INVALID_ARGUMENT, f"{shown(text(source))} is a directory")
                if end[: len(source)] == source:
                    fail(Status.INVALID_ARGUMENT, f"{shown(text(source))} cannot be copied into itself")
                self._copy_folder(found, end)
            else:
                if len(end) > 1 and self.kind(end[:-1]) != stat.S_IFDIR:
                    missing(end[:-1])
                link_file(found, self.place(end, overwrite=True))

    def _copy_folder(self, found: Path, end: Names) -> None:
        kind = self.kind(end)
        if kind is not None and kind != stat.S_IFDIR:
            fail(Status.INVALID_ARGUMENT, f"{shown(text(end))} is not a directory")
        if kind is None:
            self.parent(end)
            clone(found, self.root.joinpath(*end))
            return
        for inside in list(found.iterdir()):
            if inside.is_dir() and not inside.is_symlink():
                self._copy_folder(inside, (*end, inside.name))
            else:
                link_file(inside, self.place((*end, inside.name), overwrite=True))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
