"""A volume: a row of committed states, of which containers and clients see one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from grpclib import Status

from ..paths import new_folder, remove_tree
from ..rpc import fail
from .tree import Draft, clone

__all__ = ["State", "Volume", "uninterrupted"]

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await something to its end even if the caller is cancelled: threads cannot be, and files stay consistent."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is left to hear of it
        raise


class State:
    """A committed state. It stays as long as it is the newest one or somebody uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0


class Volume:
    """The states of one volume, in a folder of its own: directories named by numbers, the highest of which is the head.

    A new state appears by the renaming of a directory, so a server that is killed leaves the one before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = asyncio.Lock()
        self._deleted = False
        folder.mkdir(parents=True, exist_ok=True)
        states = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        self._number = max(states, default=0)
        for path in list(folder.iterdir()):
            if path.name != str(self._number):
                remove_tree(path)
        if not states:
            new_folder(folder / "0")
        self.head = State(folder / str(self._number))

    @property
    def staging(self) -> Path:
        """A folder for files that are on their way into a state."""
        path = self.folder / "staging"
        path.mkdir(exist_ok=True)
        return path

    def hold(self) -> State:
        """The head, which is kept until it is let go, whatever is committed meanwhile."""
        if self._deleted:
            fail(Status.NOT_FOUND, "the volume has been deleted")
        self.head.users += 1
        return self.head

    async def let_go(self, state: State) -> None:
        state.users -= 1
        if state.users == 0 and (state is not self.head or self._deleted):
            await uninterrupted(asyncio.to_thread(remove_tree, state.path))
        if self._deleted:
            await self._clean_up()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[State]:
        state = self.hold()
        try:
            yield state
        finally:
            await self.let_go(state)

    async def change(self, work: Callable[[Draft], object]) -> None:
        """Commit what `work`, called in a thread, makes of the head. Nothing is changed if it raises."""
        await uninterrupted(self._change(work))

    async def _change(self, work: Callable[[Draft], object]) -> None:
        async with self._lock:
            if self._deleted:
                fail(Status.NOT_FOUND, "the volume has been deleted")
            before = self.head
            number = self._number + 1
            path = self.folder / f"{number}.tmp"

            def make() -> State:
                remove_tree(path)
                try:
                    clone(before.path, path)
                    work(Draft(path))
                    return State(path.rename(self.folder / str(number)))
                except BaseException:
                    remove_tree(path)
                    raise

            self.head = await asyncio.to_thread(make)
            self._number = number
            if before.users == 0:
                await asyncio.to_thread(remove_tree, before.path)

    async def delete(self) -> None:
        """Remove it. States that containers use stay until they let go of them."""
        await uninterrupted(self._delete())

    async def _delete(self) -> None:
        async with self._lock:
            self._deleted = True
            if self.head.users == 0:
                await asyncio.to_thread(remove_tree, self.head.path)
            await self._clean_up()

    async def _clean_up(self) -> None:
        if not any(path.name.isdecimal() for path in self.folder.glob("*")):
            await asyncio.to_thread(remove_tree, self.folder)
