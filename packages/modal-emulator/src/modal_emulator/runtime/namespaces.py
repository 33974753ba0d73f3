"""Containers in namespaces of the kernel: each sees its image, its mounts and its own processes only.

A layer holds what it changes in each of the root directory's shared folders (`host.TOPS`) and, under "root", in all the
rest. The lowest layer is this machine's userland, the one above it Python in /usr/local.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import Bind, BuildError, ContainerSpec, Process, Runtime
from .cgroups import Cgroups, Group
from .host import host_identity, make_host_layer, system_tops
from .launching import PATH, Launched, Launcher, describe_overlay
from .layers import LayerCache, Meta, Stage, content_key, remove_tree
from .pythons import find_python, relocated, uv_binary

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["BASE_ENV", "NamespacesRuntime", "limits"]

VERSION = "namespaces-2"
BASE_ENV = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}


class NamespacesRuntime(Runtime):
    name = "namespaces"
    overlays = True

    def __init__(self, settings: Settings) -> None:
        self._work = settings.work / "containers"
        remove_tree(self._work)
        self._work.mkdir(parents=True)
        self.cache = LayerCache(settings.cache / "namespaces")
        self.cgroups = Cgroups()
        self.launcher = Launcher(settings.cache, "namespaces", settings.reload_seconds)
        self.identity = f"{VERSION} {host_identity()} {self.launcher.full}"
        self._tops = system_tops()
        self._numbers = 0
        self._mounted: dict[Path, set[str]] = {}
        # Folders of this machine belong to its root, whom only the full range of ids includes.
        self.apt = self.launcher.full and shutil.which("apt-get") is not None

    def base_key(self, minor: str) -> str:
        return content_key(
            self.identity, "python", find_python(minor).identity, str(uv_binary().stat().st_size)
        )

    async def base(self, minor: str, say: Callable[[str], None]) -> Meta:
        python = find_python(minor)
        host_key = content_key(self.identity, "host")
        key = self.base_key(minor)
        meta = self.cache.get(key)
        if meta is not None:
            return meta
        async with self.cache.lock(key):
            meta = self.cache.get(key)
            if meta is not None:
                return meta
            async with self.cache.lock(host_key):
                if self.cache.get(host_key) is None:
                    stage = self.cache.stage()
                    try:
                        await asyncio.to_thread(make_host_layer, stage.path, ids=self.launcher.full)
                        self.cache.publish(stage, Meta(key=host_key, env=BASE_ENV))
                    finally:
                        stage.close()
            stage = self.cache.stage()
            try:
                local = stage.path / "usr" / "local"
                local.mkdir(parents=True)
                os.setxattr(local, "user.overlay.opaque", b"y")  # what is in this machine's own is not seen
                for name in ("etc", "games", "include", "lib", "sbin", "share", "src"):
                    (local / name).mkdir()
                say(f"Copying Python {python.version}\n")
                await relocated(python, local, "/usr/local", say)
                env = {**BASE_ENV, "PYTHON_VERSION": python.version}
                meta = Meta(
                    key=key,
                    parent=host_key,
                    python=minor,
                    python_version=python.version,
                    env=env,
                    cmd=("python3",),
                )
                return self.cache.publish(stage, meta)
            finally:
                stage.close()

    async def stage(self, parent: Meta, key: str) -> Stage:
        return self.cache.stage()

    def find(self, stage: Stage, parent: Meta, name: str) -> Path | None:
        top, _, rest = name.partition("/")
        inner = f"{top}/{rest}" if top in self._tops else f"root/{name}"
        for folder in (stage.path, *(self.cache.layers / key for key in self.cache.chain(parent.key))):
            if (folder / inner).exists():
                return folder / inner
        return None

    async def commit(self, stage: Stage, meta: Meta) -> Meta:
        mounted = self._mounted.pop(stage.path, set())

        def tidy() -> None:
            for target in sorted(mounted, reverse=True):
                self._remove_mount_point(stage.path, target)
            for path in list(stage.path.iterdir()):
                if path.name.startswith("."):
                    remove_tree(path)
            for name in ("root", *self._tops):
                with contextlib.suppress(OSError):
                    (stage.path / name).rmdir()  # nothing was changed in it
            for name in ("proc", "dev", "sys"):
                with contextlib.suppress(OSError):
                    (stage.path / "root" / name).rmdir()

        await asyncio.to_thread(tidy)
        return self.cache.publish(stage, meta)

    def _remove_mount_point(self, folder: Path, target: str) -> None:
        """Remove what was made to mount on, as far as there is nothing in it."""
        parts = [part for part in target.split("/") if part]
        base = folder / parts[0] if parts[0] in self._tops else folder / "root" / parts[0]
        path = base.joinpath(*parts[1:])
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
            while path not in (folder, folder / "root"):
                if path.is_dir():
                    path.rmdir()
                path = path.parent

    async def start(self, spec: ContainerSpec) -> Process:
        if self.cache.get(spec.layer.key) is None:
            raise BuildError(
                f"the image of {spec.name} is no longer in the cache; run the program again to rebuild it"
            )
        chain = self.cache.chain(spec.layer.key)
        self.cache.use(spec.layer.key)
        self._numbers += 1
        folder = self._work / f"{self._numbers}"
        root = folder / "root"
        root.mkdir(parents=True)
        if spec.changes is None:
            upper, work = folder / "upper", folder / "work"
        else:
            mounted = self._mounted.setdefault(spec.changes, set())
            mounted.update(each.target for each in spec.binds)
            mounted.update(each.target for each in spec.overlays)
            upper = spec.changes
            work = spec.changes / f".work-{self._numbers}"
        tops = {"root": [f"{key}/root" for key in chain if self._has(key, "root")]}
        for top in self._tops:
            tops[top] = [*(f"{key}/{top}" for key in chain if self._has(key, top)), f"/{top}"]
        cpus, group = limits(self.cgroups, self._numbers, spec)
        process = Launched(self.launcher, spec, folder, group)
        binds = [
            *_network_files(),
            *spec.binds,
        ]
        description = {
            "root": str(root),
            "layers": str(self.cache.layers),
            "tops": tops,
            "upper": str(upper),
            "work": str(work),
            "binds": [{"source": str(b.source), "target": b.target, "read_only": b.read_only} for b in binds],
            "overlays": [describe_overlay(each) for each in spec.overlays],
            "hostname": spec.name[:63],
            "command": list(spec.command),
            "env": dict(spec.env),
            "workdir": spec.workdir,
            "cpus": cpus,
        }
        await process.run(description, watch=bool(spec.memory_mib and not (group and self.cgroups.memory)))
        return process

    @functools.lru_cache(maxsize=4096)  # noqa: B019  # one runtime per server
    def _has(self, key: str, top: str) -> bool:
        return (self.cache.layers / key / top).is_dir()

    async def close(self) -> None:
        await self.launcher.close()
        self.cgroups.close()
        self.cache.close()
        await asyncio.to_thread(remove_tree, self._work)


def _network_files() -> list[Bind]:
    """What says how names of hosts are resolved here; it may change while images are kept."""
    paths = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
    return [Bind(path.resolve(), str(path)) for path in paths if path.exists()]


def limits(cgroups: Cgroups, number: int, spec: ContainerSpec) -> tuple[list[int], Group | None]:
    """The processors that a container may run on, if that is how it is limited, and its control group."""
    group = (
        cgroups.make(str(number), spec.milli_cpu, spec.memory_mib)
        if spec.milli_cpu or spec.memory_mib
        else None
    )
    if spec.milli_cpu and not (group and cgroups.cpu):
        # Coarser than a share of time, but it holds.
        return sorted(os.sched_getaffinity(0))[: -(-spec.milli_cpu // 1000)], group
    return [], group
