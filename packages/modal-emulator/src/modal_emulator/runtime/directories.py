"""Containers in plain directories, for machines whose kernel refuses namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ContainerSpec, Process, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import Settings
    from .layers import Meta, Stage


class DirectoriesRuntime(Runtime):
    name = "directories"
    overlays = False

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError

    async def base(self, minor: str, say: Callable[[str], None]) -> Meta:
        raise NotImplementedError

    async def stage(self, parent: Meta) -> Stage:
        raise NotImplementedError

    async def commit(self, stage: Stage, meta: Meta) -> Meta:
        raise NotImplementedError

    async def start(self, spec: ContainerSpec) -> Process:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
