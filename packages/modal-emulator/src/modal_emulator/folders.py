"""The folders that a server has: one of its own while it runs, and one that it keeps things in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["FolderInUse", "new_work_folder", "remove_leftovers", "remove_tree", "state_lock", "work_lock"]

PREFIX = "modal-emulator-"
ROOM = 70  # bytes that a work folder's path may have, so that a socket in it can have its 107
LOCK = "lock"


class FolderInUse(Exception):
    """Another server has this folder."""


def new_work_folder() -> Path:
    """An empty folder with a short path, which nobody else may look into."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len(PREFIX) + 9 > ROOM:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))


@contextlib.contextmanager
def work_lock(folder: Path) -> Iterator[None]:
    """Mark a work folder as in use for as long as this process lives."""
    # Locked before it has its name: `remove_leftovers` of another server must not find it free.
    with (folder / f"{LOCK}.new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(folder / LOCK)
        yield


@contextlib.contextmanager
def state_lock(folder: Path) -> Iterator[None]:
    """Have a state folder for this process alone. FolderInUse, at once, if another one has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read(20).strip()
            raise FolderInUse(
                f"another modal-emulator (process {pid or 'unknown'}) keeps its state in {folder}: "
                "stop it, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def remove_leftovers() -> None:
    """Remove the work folders of this user's servers that were killed."""
    for folder in {Path(tempfile.gettempdir()), Path("/tmp")}:
        for path in folder.glob(f"{PREFIX}*/{LOCK}"):
            # Somebody else's, or gone in the meantime, is not our business.
            with contextlib.suppress(OSError), path.open("r+") as file:
                if os.fstat(file.fileno()).st_uid == os.geteuid():
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, overlayfs's own directories, which have no permissions, included."""

    def again(function: Callable[[str], object], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            for each in (os.path.dirname(path), path):  # noqa: PTH120
                mode = os.lstat(each).st_mode
                if stat.S_ISDIR(mode):
                    os.chmod(each, stat.S_IMODE(mode) | stat.S_IRWXU)  # noqa: PTH101
            if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)  # noqa: PTH108

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=again)
    else:
        shutil.rmtree(folder, onerror=again)
