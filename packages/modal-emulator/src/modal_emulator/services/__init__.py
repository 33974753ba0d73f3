"""The services: what handles RPCs, by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["Service"]


class Service:
    """A part of the control plane. `start` is called before the first RPC, `stop` after the last."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.store = plane.store

    async def start(self) -> None:
        """Load what a server before has kept."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def drop_environment(self, name: str) -> None:
        """Delete all that is in an environment, which is deleted."""
