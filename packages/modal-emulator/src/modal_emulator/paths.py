"""Paths that come over the wire, made safe: every one is confined to the tree that it is meant for."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from grpclib import Status

from .rpc import fail

__all__ = ["clean", "new_folder", "remove_tree", "shown"]

LONGEST_NAME = 255  # bytes; Linux's own limits
LONGEST_PATH = 4095


def clean(path: str, what: str = "path") -> tuple[str, ...]:
    """The names that a path consists of: () for the root. Leading slashes, "." and empty names mean nothing.

    What could lead out of a tree, or cannot be a path, is INVALID_ARGUMENT.
    """
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        fail(Status.INVALID_ARGUMENT, f"{what} {shown(path)} is not valid Unicode")
    if "\0" in path:
        fail(Status.INVALID_ARGUMENT, f"{what} {shown(path)} has a NUL in it")
    if size > LONGEST_PATH:
        fail(Status.INVALID_ARGUMENT, f"{what} {shown(path)} is longer than {LONGEST_PATH} bytes")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    for name in names:
        if name == "..":
            fail(Status.INVALID_ARGUMENT, f'{what} {shown(path)} has ".." in it')
        if len(os.fsencode(name)) > LONGEST_NAME:
            fail(Status.INVALID_ARGUMENT, f"{what} {shown(path)} has a name longer than {LONGEST_NAME} bytes")
    return names


def shown(path: str) -> str:
    """A path as an error message shows it: quoted, and not at any length."""
    return repr(path if len(path) <= 200 else path[:200] + "…")


def new_folder(path: Path) -> Path:
    """An empty folder at `path`, whatever was there."""
    remove_tree(path)
    path.mkdir(parents=True)
    return path


def remove_tree(path: Path) -> None:
    """Remove a folder or file that may not be there, whatever the modes of the folders in it."""

    def unlock(function: object, name: str, error: object) -> None:
        with contextlib.suppress(OSError):
            parent = Path(name).parent
            parent.chmod(0o700)
            if Path(name).is_dir() and not Path(name).is_symlink():
                Path(name).chmod(0o700)
                shutil.rmtree(name, ignore_errors=True)
            else:
                Path(name).unlink(missing_ok=True)

    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, onerror=unlock)
    else:
        path.unlink(missing_ok=True)
