"""The cache of image layers on disk.

A layer is a folder named by its key, with `meta.json`, which is written last: what lacks it is not a layer. Servers
share the cache; a lock file per key makes one of them build what several want. Unfinished folders are held by a lock as
well, so that those which a killed server has left can be told from those in use, and removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from . import Layer

__all__ = ["LayerCache", "Meta", "Stage", "content_key", "remove_tree", "tree_size"]


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a layer, beside its files.

    Attributes:
        key, parent: its name, and that of the layer below; empty for the lowest.
        lines: what it was built by.
        python, python_version, libc, packages: of the `python` in its PATH.
        env, workdir, entrypoint, cmd, shell: what its ENV, WORKDIR and so on and those below it said.
        local: whether it or one below it has files that somebody brought, or a function wrote.
        size: bytes of its own files.
        created: seconds since 1970.
    """

    key: str
    parent: str = ""
    lines: Sequence[str] = ()
    python: str = ""
    python_version: str = ""
    libc: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/root"
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    shell: Sequence[str] = ("/bin/sh", "-c")
    local: bool = False
    size: int = 0
    created: float = 0.0

    @property
    def layer(self) -> Layer:
        return Layer(
            key=self.key,
            python=self.python,
            env=dict(self.env),
            workdir=self.workdir,
            entrypoint=tuple(self.entrypoint),
            cmd=tuple(self.cmd),
        )


@dataclass(slots=True)
class Stage:
    """An unfinished layer: a folder held by a lock. `close` removes it, unless it was published."""

    path: Path
    _lock_file: Path
    _lock: int

    def close(self) -> None:
        if self._lock >= 0:
            remove_tree(self.path)
            self.keep()

    def keep(self) -> None:
        """Let go of it, leaving what is there."""
        self._lock_file.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1


class LayerCache:
    """The layers in one folder."""

    def __init__(self, folder: Path) -> None:
        self.layers = folder / "layers"
        self._stages = folder / "unfinished"
        self._locks = folder / "locks"
        self._newest = folder / "newest"
        for each in (self.layers, self._stages, self._locks, self._newest):
            each.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Meta] = {}
        self._held: dict[str, int] = {}
        self._remove_abandoned()

    def get(self, key: str) -> Meta | None:
        """The layer of this key, if it and those below it are there."""
        if not key or "/" in key or key.startswith("."):
            return None
        meta = self._known.get(key)
        if meta is None:
            try:
                meta = Meta(**json.loads((self.layers / key / "meta.json").read_text()))
            except (OSError, ValueError, TypeError):
                return None
            if meta.parent and self.get(meta.parent) is None:
                return None
            self._known[key] = meta
        elif not (self.layers / key / "meta.json").exists():  # pruned by another server
            self._known.clear()
            return None
        return meta

    def use(self, key: str) -> None:
        """Note that a layer is used now, and keep it from being removed until `close`."""
        path = self.layers / key / "meta.json"
        with contextlib.suppress(OSError):
            os.utime(path)
            if key not in self._held:
                self._held[key] = file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(file, fcntl.LOCK_SH)

    def is_held(self, key: str) -> bool:
        """Whether somebody uses a layer."""
        try:
            file = os.open(self.layers / key / "meta.json", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def close(self) -> None:
        """Let go of the layers that were used."""
        for file in self._held.values():
            os.close(file)
        self._held.clear()

    def chain(self, key: str) -> list[str]:
        """The keys of a layer and those below it, topmost first."""
        keys: list[str] = []
        while key:
            keys.append(key)
            meta = self.get(key)
            key = meta.parent if meta is not None else ""
        return keys

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """Hold the right to build a layer; others, in this process or another, wait."""
        file = os.open(self._locks / key, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Waiting in a thread could not be given up when the server stops.
                    await asyncio.sleep(0.05)
            yield
        finally:
            os.close(file)

    def stage(self, key: str = "") -> Stage:
        """A folder for a new layer. With `key` it is where that layer will be, for content that cannot be moved."""
        name = f"{key}-" if key else secrets.token_hex(8)
        lock = os.open(self._stages / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = self.layers / key if key else self._stages / name
        remove_tree(path)
        path.mkdir()
        return Stage(path, self._stages / f"{name}.lock", lock)

    def publish(self, stage: Stage, meta: Meta) -> Meta:
        """Make a layer of what is in a stage."""
        meta = replace(meta, size=tree_size(stage.path), created=time.time())
        temporary = stage.path / "meta.json.new"
        temporary.write_text(json.dumps(asdict(meta)))
        temporary.rename(stage.path / "meta.json")
        target = self.layers / meta.key
        if stage.path == target:
            stage.keep()
        else:
            if self.get(meta.key) is None:
                remove_tree(target)  # without its meta.json or a parent, if it is there at all
                stage.path.rename(target)
            stage.close()
        self._known[meta.key] = meta
        return meta

    def newest(self, key: str) -> str:
        """The key under which the newest build of a definition is: `key` itself, unless it was built anew."""
        try:
            newest = (self._newest / key).read_text()
        except OSError:
            return key
        return newest if self.get(newest) is not None else key

    def set_newest(self, key: str, newest: str) -> None:
        temporary = self._newest / f".{secrets.token_hex(8)}"
        temporary.write_text(newest)
        temporary.rename(self._newest / key)

    def all(self) -> Iterator[Meta]:
        for path in sorted(self.layers.iterdir()):
            meta = self.get(path.name)
            if meta is not None:
                yield meta

    def last_used(self, key: str) -> float:
        try:
            return (self.layers / key / "meta.json").stat().st_mtime
        except OSError:
            return 0.0

    def remove(self, key: str) -> bool:
        """Remove a layer, if nobody uses it; those above it are then no layers any more."""
        if self.is_held(key):
            return False
        self._known.clear()
        path = self.layers / key
        (path / "meta.json").unlink(missing_ok=True)
        remove_tree(path)
        (self._locks / key).unlink(missing_ok=True)
        return True

    def _remove_abandoned(self) -> None:
        for lock in self._stages.glob("*.lock"):
            try:
                file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                key = lock.stem.removesuffix("-")
                if key == lock.stem:
                    remove_tree(lock.with_suffix(""))
                elif not (self.layers / key / "meta.json").exists():
                    remove_tree(self.layers / key)
                lock.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            finally:
                os.close(file)


def content_key(*parts: str) -> str:
    """A key of a layer that is made of these."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def remove_tree(path: Path) -> None:
    """Remove a folder, with what is write-protected in it; nothing if it is not there."""
    for _ in range(10):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not path.exists():
                return
            # Something in it went in the meantime: another removes a part of it. On with the rest.
        except OSError:
            # The kernel makes folders without any permission for itself, and programs do so too.
            with contextlib.suppress(OSError):
                path.chmod(0o700)
            for folder, names, _ in os.walk(path):
                for name in names:  # they are entered afterwards
                    with contextlib.suppress(OSError):
                        if not Path(folder, name).is_symlink():
                            Path(folder, name).chmod(0o700)
        else:
            return
    shutil.rmtree(path, ignore_errors=True)


def tree_size(path: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    stack = [str(path)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total
