"""Containers in plain directories, for machines whose kernel refuses namespaces.

There is no isolation. An image is a folder with a Python of its own in `usr/local`, and what its lines have written; a
container has a copy of the small files in it, with links to the rest and to its mounts. Paths are translated where they
are seen: in commands and the variables of their environment, and, by a start-up hook, in what the container's Python
opens, lists and changes (`paths.py`). Not covered are programs other than Python that name an absolute path themselves,
compiled extensions that open files, `sqlite3`, and `python -I`. Mounts that are read-only can be written to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import Bind, BuildError, ContainerSpec, Process, Runtime
from .cgroups import Cgroups
from .host import host_identity
from .launching import Launched, Launcher
from .layers import LayerCache, Meta, Stage, content_key, remove_tree
from .namespaces import BASE_ENV, limits
from .paths import Paths
from .pythons import find_python, relocated, uv_binary

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["DirectoriesRuntime"]

VERSION = "directories-1"
COPIED_UP_TO = 1024 * 1024
"""Bytes: what is larger is linked to the image's, as nearly nothing changes large files in place."""

EMPTY = ("root", "tmp", "home", "mnt", "srv", "etc", "var/tmp", "usr/local")


class DirectoriesRuntime(Runtime):
    name = "directories"
    overlays = False
    apt = False

    def __init__(self, settings: Settings) -> None:
        self._work = settings.work.resolve() / "containers"
        remove_tree(self._work)
        self._work.mkdir(parents=True)
        self.cache = LayerCache(settings.cache.resolve() / "directories")
        self.cgroups = Cgroups()
        self.launcher = Launcher(settings.cache, "directories")
        self.identity = f"{VERSION} {host_identity()} {self.cache.layers}"
        self._real = [
            str(settings.work.resolve()),
            str(settings.cache.resolve()),
            str(settings.data.resolve()),
        ]
        self._numbers = 0
        self._hook = self._work / "hook"
        self._hook.mkdir(exist_ok=True)
        here = Path(__file__).parent
        shutil.copyfile(here / "hook.py", self._hook / "sitecustomize.py")
        shutil.copyfile(here / "paths.py", self._hook / "_modal_emulator_paths.py")

    def base_key(self, minor: str) -> str:
        return content_key(
            self.identity, "python", find_python(minor).identity, str(uv_binary().stat().st_size)
        )

    async def base(self, minor: str, say: Callable[[str], None]) -> Meta:
        python = find_python(minor)
        key = self.base_key(minor)
        if (meta := self.cache.get(key)) is not None:
            return meta
        async with self.cache.lock(key):
            if (meta := self.cache.get(key)) is not None:
                return meta
            stage = self.cache.stage(key)
            try:
                root = stage.path / "root"
                for name in EMPTY:
                    (root / name).mkdir(parents=True, exist_ok=True)
                say(f"Copying Python {python.version}\n")
                await relocated(python, root / "usr" / "local", str(root / "usr" / "local"), say)
                env = {**BASE_ENV, "PYTHON_VERSION": python.version}
                return self.cache.publish(
                    stage,
                    Meta(key=key, python=minor, python_version=python.version, env=env, cmd=("python3",)),
                )
            finally:
                stage.close()

    async def stage(self, parent: Meta, key: str) -> Stage:
        # Scripts and environments name their interpreter by its whole path, so that a layer cannot be moved.
        stage = self.cache.stage(key)
        try:
            old, new = self.cache.layers / parent.key / "root", stage.path / "root"
            await asyncio.to_thread(_copy_tree, old, new)
            await asyncio.to_thread(_rename_within, new, str(old), str(new))
        except BaseException:
            stage.close()
            raise
        return stage

    def find(self, stage: Stage, parent: Meta, name: str) -> Path | None:
        for path in (stage.path / "root" / name, Path("/", name)):
            if path.exists():
                return path
        return None

    async def commit(self, stage: Stage, meta: Meta) -> Meta:
        return self.cache.publish(stage, meta)

    async def start(self, spec: ContainerSpec) -> Process:
        if self.cache.get(spec.layer.key) is None:
            raise BuildError(
                f"the image of {spec.name} is no longer in the cache; run the program again to rebuild it"
            )
        if spec.overlays:
            raise OSError("there are no overlays in plain directories")
        self.cache.use(spec.layer.key)
        self._numbers += 1
        folder = self._work / f"{self._numbers}"
        folder.mkdir()
        image = self.cache.layers / spec.layer.key / "root"
        if spec.changes is None:
            root, local = folder / "root", image / "usr" / "local"
            await asyncio.to_thread(_lay_out, image, root)
        else:
            root = spec.changes / "root"
            local = root / "usr" / "local"
        paths = Paths(str(root), str(local), self._real)
        mounted = _Mounts(root)
        try:
            for bind in spec.binds:
                mounted.add(bind)
            workdir = paths(spec.workdir)
            os.makedirs(workdir, exist_ok=True)  # noqa: PTH103
        except BaseException:
            mounted.remove()
            remove_tree(folder)
            raise
        env = paths.environment(spec.env)
        env["PYTHONPATH"] = ":".join(filter(None, (str(self._hook), env.get("PYTHONPATH", ""))))
        env["MODAL_EMULATOR_PATHS"] = json.dumps([str(root), str(local), self._real])
        env.setdefault("TMPDIR", paths("/tmp"))
        cpus, group = limits(self.cgroups, self._numbers, spec)
        process = Launched(
            self.launcher, spec, folder, group, mounted.remove if spec.changes is not None else None
        )
        description = {
            "command": paths.command(spec.command),
            "env": env,
            "workdir": workdir,
            "cpus": cpus,
        }
        await process.run(description, watch=bool(spec.memory_mib and not (group and self.cgroups.memory)))
        return process

    async def close(self) -> None:
        await self.launcher.close()
        self.cgroups.close()
        self.cache.close()
        await asyncio.to_thread(remove_tree, self._work)


def _copy_tree(old: Path, new: Path) -> None:
    """Copy an image's files; those of its Python are linked, because what installs packages replaces whole files."""
    local = Path("usr", "local")
    (new / local.parent).mkdir(parents=True)
    # cp, because these are thousands of files.
    subprocess.run(
        ["cp", "-a", "--link", "--", old / local, new / local], check=True, stdin=subprocess.DEVNULL
    )
    for source in (*old.iterdir(), *(old / local.parent).iterdir()):
        if source.relative_to(old) not in (local, local.parent):
            subprocess.run(
                ["cp", "-a", "--", source, new / source.relative_to(old)],
                check=True,
                stdin=subprocess.DEVNULL,
            )


def _lay_out(image: Path, root: Path) -> None:
    """Make a container's own copy of an image's files, but for those that are not likely to be changed."""
    root.mkdir()
    for entry in os.scandir(image):
        target = root / entry.name
        path = Path(entry.path)
        if entry.is_symlink():
            target.symlink_to(path.readlink())
        elif not entry.is_dir():
            if entry.stat().st_size <= COPIED_UP_TO:
                shutil.copy2(path, target)
            else:
                _link(path, target)
        elif (path / "pyvenv.cfg").exists() or entry.name in ("site-packages", "node_modules"):
            target.symlink_to(path)
        elif path.parts[-2:] == ("usr", "local"):
            continue  # seen at its own place
        else:
            _lay_out(path, target)
            shutil.copystat(path, target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _rename_within(root: Path, old: str, new: str) -> None:
    """Let what names its interpreter by the place where it was copied from name that where it is now."""
    for path in _candidates(root):
        if path.is_symlink():
            link = str(path.readlink())
            if link == old or link.startswith(old + "/"):
                path.unlink()
                path.symlink_to(new + link[len(old) :])
            continue
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"#!" or path.suffix in (".cfg", ".pth", ".py", ".json", ".sh", ".fish", ".csh", ""):
            data = path.read_bytes()
            if old.encode() in data and b"\0" not in data[:1024]:
                mode = path.stat().st_mode
                path.unlink()  # it may be a link to the other image's
                path.write_bytes(data.replace(old.encode(), new.encode()))
                path.chmod(mode)


def _candidates(root: Path) -> Iterator[Path]:
    """Scripts, links, and files that describe an environment."""
    for folder, folders, names in os.walk(root):
        base = Path(folder)
        if base.name in ("__pycache__", "include"):
            continue
        scripts = base.name in ("bin", "sbin")
        for name in (*names, *folders):
            path = base / name
            if path.is_symlink():
                yield path
            elif name in folders:
                continue
            elif (
                scripts
                or name.endswith((".pth", ".cfg"))
                or name.startswith("_sysconfigdata")
                or name == "direct_url.json"
            ):
                yield path


class _Mounts:
    """What is mounted in a container's folder: links, which `remove` takes away again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._undo: list[Callable[[], object]] = []

    def add(self, bind: Bind) -> None:
        if not bind.source.exists():
            raise FileNotFoundError(f"{bind.source} cannot be mounted at {bind.target}: it is not there")
        parts = [part for part in bind.target.split("/") if part not in ("", ".", "..")]
        if not parts:
            raise OSError("nothing can be mounted at /")
        parent = self._root
        for part in parts[:-1]:
            parent = parent / part
            if parent.is_symlink():
                self._expand(parent)
            if not parent.exists():
                parent.mkdir()
                self._undo.append(parent.rmdir)
        target = parent / parts[-1]
        if os.path.lexists(target):
            aside = target.with_name(f".{target.name}.hidden-{len(self._undo)}")
            target.rename(aside)
            self._undo.append(lambda: aside.rename(target))
        source = bind.source.resolve()
        if bind.read_only and source.is_file() and source.stat().st_size <= COPIED_UP_TO:
            shutil.copy2(source, target)
        else:
            target.symlink_to(source)
        self._undo.append(target.unlink)

    def _expand(self, link: Path) -> None:
        """Make a folder of links of a link to a folder, so that something can be mounted in it."""
        source = link.resolve()
        link.unlink()
        link.mkdir()
        for child in source.iterdir():
            (link / child.name).symlink_to(child)

        def restore() -> None:
            remove_tree(link)
            link.symlink_to(source)

        self._undo.append(restore)

    def remove(self) -> None:
        for undo in reversed(self._undo):
            with contextlib.suppress(OSError):
                undo()
        self._undo.clear()
