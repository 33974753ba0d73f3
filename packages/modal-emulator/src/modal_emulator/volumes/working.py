"""What a container sees of its volumes, and how its changes get into them."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib import Status
from modal_proto import api_pb2

from ..content import copy_file
from ..ids import new_id
from ..paths import clean, new_folder, remove_tree
from ..rpc import fail
from ..runtime import Bind, Overlay
from .changes import Changes, Tracker
from .tree import Draft, Names
from .volume import State, Volume, uninterrupted

if TYPE_CHECKING:
    from ..runtime import Process

__all__ = ["Attachment", "Working"]

BUSY = "there are open files preventing the operation"
"""What Modal says; the client looks for these words."""


class Working:
    """The working copy of one volume in one container: the state that it started with or last reloaded, and what the
    container has changed since.

    Attributes:
        overlay, bind: how the container sees it: one of them is None.
    """

    overlay: Overlay | None = None
    bind: Bind | None = None

    def __init__(self, volume: Volume, mount: api_pb2.VolumeMount, folder: Path, *, overlays: bool) -> None:
        self.volume = volume
        self.background = mount.allow_background_commits
        self._folder = folder
        self._read_only = mount.read_only
        self._target = mount.mount_path
        self._below: Names = clean(mount.sub_path, "sub_path")
        self._overlays = overlays
        self._lock = asyncio.Lock()
        self._generation = 0
        self._state: State | None = None
        self._tracker: Tracker | None = None

    async def attach(self) -> None:
        """Make what the container will see."""
        if self._below:
            await self._make_sub_path()
        self._state = self.volume.hold()
        lower = self._state.path.joinpath(*self._below)
        await uninterrupted(asyncio.to_thread(self._attach, lower))

    def _attach(self, lower: Path) -> None:
        if self._overlays:
            self.overlay, self._tracker = self._layer(lower)
        else:
            copy = self._folder / "copy"
            self._folder.mkdir(parents=True)
            _copy_tree(lower, copy)
            self.bind = Bind(copy, self._target, read_only=self._read_only)
            self._tracker = Tracker(copy, None, self._keep())
            self._tracker.remember()

    def _layer(self, lower: Path) -> tuple[Overlay, Tracker]:
        self._generation += 1
        upper = new_folder(self._folder / f"upper{self._generation}")
        upper.chmod(stat.S_IMODE(lower.stat().st_mode))
        work = new_folder(self._folder / f"work{self._generation}")
        return Overlay(self._target, lower, upper, work, self._read_only), Tracker(upper, lower, self._keep())

    def _keep(self) -> Path:
        return new_folder(self.volume.staging / new_id("tm"))

    async def _make_sub_path(self) -> None:
        def make(draft: Draft) -> None:
            draft.parent((*self._below, "x"))

        async with self.volume.held() as state:
            path = state.path
            for name in self._below:
                path = path / name
                try:
                    mode = path.lstat().st_mode
                except FileNotFoundError:
                    break
                if not stat.S_ISDIR(mode):
                    fail(Status.FAILED_PRECONDITION, "the sub_path of a volume is not a directory")
            else:
                return
        await self.volume.change(make)

    async def commit(self, *, final: bool = False) -> None:
        """Make what the container has changed since its last commit visible to everybody.

        Args:
            final: the container has ended: nothing is copied that can be moved.
        """
        async with self._lock:
            await self._commit(final=final)

    async def _commit(self, *, final: bool = False) -> bool:
        tracker = self._tracker
        if self._read_only or tracker is None:
            return False
        return await uninterrupted(self._commit_changes(tracker, final))

    async def _commit_changes(self, tracker: Tracker, final: bool) -> bool:
        changes, now = await asyncio.to_thread(tracker.changes, self.volume.staging, final=final)
        if changes:
            await self._apply(changes)
        tracker.committed(now)
        return bool(changes)

    async def _apply(self, changes: Changes) -> None:
        try:
            await self.volume.change(lambda draft: changes.apply(draft, self._below))
        finally:
            await asyncio.to_thread(changes.discard)

    async def reload(self, process: Process) -> None:
        """Let the container see the newest state. Its own changes are committed before, as Modal may do.

        FAILED_PRECONDITION if something in the volume is in use; nothing has changed then.
        """
        async with self._lock:
            if self._below:
                await self._make_sub_path()
            await uninterrupted(self._remount(process) if self._overlays else self._synchronise())

    async def _remount(self, process: Process) -> None:
        # What is written between the commit and the change of overlays is found afterwards, and shown by another round.
        while True:
            await self._commit()
            before, tracker, overlay = self._state, self._tracker, self.overlay
            assert before is not None
            assert tracker is not None
            assert overlay is not None
            state = self.volume.hold()
            fresh, next_tracker = await asyncio.to_thread(self._layer, state.path.joinpath(*self._below))
            try:
                await process.remount(fresh)
            except OSError as exc:
                await asyncio.to_thread(self._discard, fresh, next_tracker)
                await self.volume.let_go(state)
                fail(
                    Status.FAILED_PRECONDITION, BUSY if exc.errno in (None, errno.EBUSY) else f"{BUSY}: {exc}"
                )
            self.overlay, self._tracker, self._state = fresh, next_tracker, state
            late = not self._read_only and await self._commit_changes(tracker, final=True)
            await asyncio.to_thread(self._discard, overlay, tracker)
            await self.volume.let_go(before)
            if not late:
                return

    def _discard(self, overlay: Overlay, tracker: Tracker) -> None:
        remove_tree(overlay.upper)
        remove_tree(overlay.work)
        tracker.close()

    async def _synchronise(self) -> None:
        assert self.bind is not None
        assert self._tracker is not None
        copy = self.bind.source
        await self._commit()
        if await asyncio.to_thread(_in_use, copy):
            fail(Status.FAILED_PRECONDITION, BUSY)
        before, self._state = self._state, self.volume.hold()
        await asyncio.to_thread(_synchronise, self._state.path.joinpath(*self._below), copy)
        await asyncio.to_thread(self._tracker.remember)
        if before is not None:
            await self.volume.let_go(before)

    async def detach(self) -> None:
        """Remove everything. The container has ended."""
        async with self._lock:
            await uninterrupted(self._detach())

    async def _detach(self) -> None:
        if self._tracker is not None:
            await asyncio.to_thread(self._tracker.close)
            self._tracker = None
        await asyncio.to_thread(remove_tree, self._folder)
        if self._state is not None:
            state, self._state = self._state, None
            await self.volume.let_go(state)


class Attachment:
    """The volumes of one container.

    Attributes:
        overlays, binds: what to start the container with.
    """

    def __init__(self, folder: Path, workings: dict[str, Working]) -> None:
        self._folder = folder
        self._workings = workings

    @property
    def overlays(self) -> list[Overlay]:
        return [working.overlay for working in self._workings.values() if working.overlay is not None]

    @property
    def binds(self) -> list[Bind]:
        return [working.bind for working in self._workings.values() if working.bind is not None]

    def _working(self, volume_id: str) -> Working:
        try:
            return self._workings[volume_id]
        except KeyError:
            fail(Status.FAILED_PRECONDITION, f"this container does not mount volume {volume_id[:40]!r}")

    async def commit(self, volume_id: str) -> None:
        """Make what the container has changed in a volume visible to everybody."""
        await self._working(volume_id).commit()

    async def reload(self, volume_id: str, process: Process) -> None:
        """Let the container see the newest state of a volume. FAILED_PRECONDITION if files in it are open."""
        await self._working(volume_id).reload(process)

    async def reload_all(self, process: Process) -> None:
        for working in self._workings.values():
            await working.reload(process)

    async def detach(self, *, commit: bool = True) -> None:
        """The container has ended: commit what it left, where background commits are allowed, and remove the rest.

        Nothing of it is left even if the commit fails, which is then raised.
        """
        failed: Exception | None = None
        for working in self._workings.values():
            try:
                if commit and working.background:
                    await working.commit(final=True)
            except Exception as exc:
                failed = exc
            await working.detach()
        await asyncio.to_thread(remove_tree, self._folder)
        if failed is not None:
            raise failed


def _copy_tree(source: Path, target: Path) -> None:
    found = source.stat()
    target.mkdir()
    with os.scandir(source) as inside:
        for entry in inside:
            _copy(Path(entry.path), target / entry.name)
    target.chmod(stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy(source: Path, target: Path) -> None:
    found = source.lstat()
    if stat.S_ISDIR(found.st_mode):
        _copy_tree(source, target)
        return
    if stat.S_ISLNK(found.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(found.st_mode):
        copy_file(source, target)
        target.chmod(stat.S_IMODE(found.st_mode))
    else:
        return
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def _synchronise(state: Path, copy: Path) -> None:
    """Make a private copy the same as a state, leaving alone what is the same already."""
    wanted = {entry.name: entry for entry in os.scandir(state)}
    for entry in list(os.scandir(copy)):
        if entry.name not in wanted:
            remove_tree(Path(entry.path))
    for name, entry in wanted.items():
        source, target = Path(entry.path), copy / name
        found = source.lstat()
        try:
            there = target.lstat()
        except FileNotFoundError:
            _copy(source, target)
            continue
        if stat.S_ISDIR(found.st_mode) and stat.S_ISDIR(there.st_mode):
            _synchronise(source, target)
            target.chmod(stat.S_IMODE(found.st_mode))
        elif not _alike(found, there):
            remove_tree(target)
            _copy(source, target)


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_mode, one.st_size, one.st_mtime_ns) == (other.st_mode, other.st_size, other.st_mtime_ns)


def _in_use(folder: Path) -> bool:
    """Whether a process other than this one has a file in a folder open, or is in it."""
    start = str(folder) + "/"
    return any((link + "/").startswith(start) for link in _links())


def _links() -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            yield str((process / "cwd").readlink())
        with suppress(OSError):
            for file in (process / "fd").iterdir():
                with suppress(OSError):
                    yield str(file.readlink())
