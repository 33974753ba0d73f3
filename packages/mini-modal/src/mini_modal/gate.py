"""What is between a container's calls and its volume: it is brought up to date for the first call that asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import modal
from mini.context import DATA_DIR_GATE

__all__ = ["VolumeGate"]


class VolumeGate:
    """The gate of a container; see `mini.context.DATA_DIR_GATE`.

    Attributes:
        variables: for the processes that calls run in.
        passed: whether a call here has asked for its data directory. From then on it may use that without asking.
    """

    def __init__(self, volume: modal.Volume) -> None:
        self.volume = volume
        self._path = Path(tempfile.mkdtemp(prefix="mini-")) / "gate"
        self.variables = {DATA_DIR_GATE: str(self._path)}
        self.passed = False

    async def open(self) -> None:
        """Let calls pass; before the first one."""
        self._keeper = await asyncio.start_unix_server(self._pass, self._path)

    async def reload(self) -> None:
        """Bring the volume up to date."""
        # Of another group that runs here files may be open; it was reloaded when that one began.
        with contextlib.suppress(modal.exception.Error, RuntimeError):
            await self.volume.reload.aio()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        shutil.rmtree(self._path.parent, ignore_errors=True)

    async def _pass(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A call asks for its data directory."""
        await self.reload()
        self.passed = True
        writer.close()
