"""Runtimes and builders for the tests of the parts that know nothing of Modal's protocol."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from modal_emulator.runtime import Bind, ContainerSpec, Layer, Overlay, Process, Runtime
from modal_emulator.runtime.build import Builder, Definition
from modal_emulator.runtime.choose import open_runtime
from modal_emulator.runtime.launching import LauncherUnavailable
from modal_emulator.runtime.layers import Meta
from modal_emulator.settings import Isolation, Settings

T = TypeVar("T")

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass
class Ran:
    """What came of a container."""

    status: int
    out: str
    err: str
    oom: bool


@dataclass
class Lab:
    """A runtime with an image in it, and the event loop that it runs in."""

    runner: asyncio.Runner
    runtime: Runtime
    builder: Builder
    work: Path
    image: Meta
    names: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def isolated(self) -> bool:
        return self.runtime.name == "namespaces"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def start(
        self,
        *command: str,
        output: list[tuple[int, bytes]] | None = None,
        layer: Layer | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str = "/root",
        binds: Sequence[Bind] = (),
        overlays: Sequence[Overlay] = (),
        **limits: Any,
    ) -> Process:
        self.names += 1
        layer = layer or self.image.layer
        spec = ContainerSpec(
            name=f"test-{self.names}",
            layer=layer,
            command=command,
            env=layer.env if env is None else env,
            workdir=workdir,
            binds=binds,
            overlays=overlays,
            output=lambda number, data: (output if output is not None else []).append((number, data)),
            **limits,
        )
        return await self.runtime.start(spec)

    async def ran(self, *command: str, **options: Any) -> Ran:
        """Run a container to its end."""
        output: list[tuple[int, bytes]] = []
        process = await self.start(*command, output=output, **options)
        status = await process.wait()
        out, err = (b"".join(data for n, data in output if n == number).decode() for number in (1, 2))
        return Ran(status, out, err, process.oom)

    def run(self, *command: str, **options: Any) -> Ran:
        return self.do(self.ran(*command, **options))

    def build(self, *lines: str, upon: Meta | None = None, **options: Any) -> Meta:
        """Build an image upon the lab's, or another; what is said meanwhile goes to `said`."""
        base = upon or self.image
        definition = Definition(commands=("FROM base", *lines), bases={"base": base.key}, **options)
        return self.define(definition)

    def define(self, definition: Definition) -> Meta:
        self.said.clear()
        key = self.builder.key(definition)
        return self.do(self.builder.build(definition, key, self.said.append))


def new_lab(isolation: Isolation, work: Path) -> Iterator[Lab]:
    """A lab whose containers are kept apart in this way; where they cannot be, the test is skipped."""
    settings = Settings(work=work, isolation=isolation)
    try:
        runtime = open_runtime(settings)
    except LauncherUnavailable as exc:
        pytest.skip(f"the kernel refuses namespaces: {exc}")
    with asyncio.Runner() as runner:
        image = runner.run(runtime.base(MINOR, lambda _: None))
        try:
            yield Lab(runner, runtime, Builder(runtime, settings.cache / "packages"), work, image)
        finally:
            runner.run(runtime.close())


async def first_line(output: list[tuple[int, bytes]], process: Process) -> str:
    """Wait until a container has written a line."""
    while not any(b"\n" in data for _, data in output):
        await asyncio.sleep(0)
        await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=0.01)
    return b"".join(data for _, data in output).decode()
