"""What is between a container's calls and its volume: it is brought up to date for the first call that asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import modal
from mini.context import DATA_DIR_GATE, GATE_SHUT
from modal._utils.async_utils import synchronizer

from .patience import Patience

__all__ = ["VolumeGate"]

log = logging.getLogger("mini")


class VolumeGate:
    """The gate of a container; see `mini.context.DATA_DIR_GATE`.

    Args:
        volume: that it is the gate of.
        mount: where the container has it.

    Attributes:
        variables: for the processes that calls run in.
        passed: whether a call here has asked for its data directory. From then on it may use that without asking.
    """

    def __init__(self, volume: modal.Volume, mount: Path) -> None:
        self.volume = volume
        self._mount = mount
        self._path = Path(tempfile.mkdtemp(prefix="mini-")) / "gate"
        self.variables = {DATA_DIR_GATE: str(self._path)}
        self.passed = False
        self._shut = Path(f"{self._path}{GATE_SHUT}")
        self._problem: str | None = None
        """Why the volume is not up to date, empty if it is, None if it has not been reloaded."""
        self._turn = asyncio.Lock()
        self._early: set[asyncio.Future[None]] = set()
        """Of groups that began before a call has asked."""
        self._busy = asyncio.Lock()
        self._patience = Patience()
        self._commit: Any = synchronizer.create_blocking(_commit)

    async def open(self) -> None:
        """Let calls pass; before the first one."""
        self._keeper = await asyncio.start_unix_server(self._pass, self._path)

    @contextlib.asynccontextmanager
    async def around(self) -> AsyncIterator[bool]:
        """Around each group; whether it has to reload the volume.

        Groups take turns once a call has asked: while a volume is reloaded it appears empty.
        """
        if self.passed:
            async with self._turn:
                if self._early:
                    await asyncio.wait(self._early)
                yield True
            return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._early.add(over)
        try:
            yield False
        finally:
            self._early.discard(over)
            over.set_result(None)

    async def reload(self) -> None:
        """Bring the volume up to date, while no call runs; if that fails, calls that ask for it are told why."""
        async with self._busy:
            await self._reload()

    async def commit(self) -> None:
        """Let others see what was written here. Raises what Modal says of it."""
        async with self._busy:
            await self._patience.ask(partial(self._commit.aio, self.volume))

    def close(self) -> None:
        shutil.rmtree(self._path.parent, ignore_errors=True)

    async def _reload(self) -> None:
        try:
            await self._patience.ask(self.volume.reload.aio)
        except Exception as exc:
            used = await asyncio.to_thread(_in_use, self._mount)
            self._problem = f"the volume cannot be brought up to date: {used or exc}"
            if not self._shut.exists():
                log.warning("%s", self._problem)
            self._shut.touch()
        else:
            self._problem = ""
            self._shut.unlink(missing_ok=True)

    async def _pass(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A call asks for its data directory."""
        # Before it is reloaded: what comes meanwhile has to wait for its turn, because it may have to see more.
        self.passed = True
        async with self._busy:
            # A call may have several processes: what is up to date may be in use.
            if self._problem != "":
                await self._reload()
        with contextlib.suppress(OSError):
            writer.write((self._problem or "").encode())
            writer.close()


async def _commit(volume: Any) -> None:
    """In the thread of Modal's client. Its own `commit` may reload the volume as well, while calls use it."""
    from modal_proto import api_pb2

    await volume.hydrate()
    await volume.client._stub.VolumeCommit(api_pb2.VolumeCommitRequest(volume_id=volume.object_id))


def _in_use(mount: Path) -> str:
    """What keeps a volume from being reloaded, and what to do about it; empty if nothing can be seen here."""
    place = Path(os.path.realpath(mount))
    for process in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):
            if (path := (process / "cwd").readlink()).is_relative_to(place):
                return f"a process works in {path}; change its working directory before the call returns"
            files = [file.readlink() for file in (process / "fd").iterdir()]
            mapped = (process / "maps").read_text(errors="replace").splitlines()
            files += [Path(line.split(maxsplit=5)[5]) for line in mapped if "/" in line]
            for path in files:
                if path.is_relative_to(place):
                    return f"{path} is open since an earlier call; close files there before a call returns"
    return ""
