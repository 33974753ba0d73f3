"""Modal's client as containers see it: `/pkg`, and `/__modal/deps` with what it needs.

Containers have the client from outside of their image, in the version of the program that is run. What it imports comes
after what the image has itself: `/pkg/sitecustomize.py` puts it at the end of `sys.path`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import Bind, BuildError
from .layers import LayerCache, Stage, content_key, remove_tree
from .pythons import find_python, uv_binary

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["ClientTree", "client_tree"]

VERSION = "1"
PACKAGES = ("modal", "modal_proto", "modal_version", "synchronicity")
DEPS = "/__modal/deps"
SITECUSTOMIZE = f"""# What Modal's client needs, after what the image has itself.
import sys

sys.path.append({DEPS!r})
"""


@dataclass(frozen=True, slots=True)
class ClientTree:
    """Two folders of this machine: what is mounted at `/pkg` and at `/__modal/deps`."""

    pkg: Path
    deps: Path

    @property
    def binds(self) -> tuple[Bind, Bind]:
        return Bind(self.pkg, "/pkg"), Bind(self.deps, DEPS)


_made: dict[tuple[Path, str, str, str], ClientTree] = {}


async def client_tree(
    settings: Settings, client_version: str, python_minor: str, builder_version: str = "2025.06"
) -> ClientTree:
    """The client in the given version for containers with the given Python, made if it is not in the cache.

    Raises:
        BuildError: this machine lacks that Python, or the package index does not have or cannot give what is needed.
    """
    builder_version = builder_version or "2025.06"
    call = (settings.cache, client_version, python_minor, builder_version)
    if call in _made and (_made[call].pkg.parent / "complete").exists():
        return _made[call]
    own = importlib.metadata.version("modal")
    version = re.match(r"[\w.]*", client_version)
    client_version = (version[0] if version else "") or own
    python = find_python(python_minor)
    identity = content_key(VERSION, own, client_version, python.version, builder_version, sys.prefix)
    key = f"{client_version}-{python_minor}-{identity[:12]}"
    cache = LayerCache(settings.cache / "client")
    path = cache.layers / key
    tree = ClientTree(path / "pkg", path / "deps")
    _made[call] = tree
    if (path / "complete").exists():
        return tree
    async with cache.lock(key):
        if not (path / "complete").exists():
            stage = cache.stage()
            try:
                await asyncio.to_thread(
                    _make, stage, client_version, python_minor, builder_version, python.executable
                )
                remove_tree(path)
                stage.path.rename(path)
            finally:
                stage.close()
    return tree


def _make(stage: Stage, client_version: str, minor: str, builder_version: str, executable: Path) -> None:
    own = importlib.metadata.version("modal")
    same_python = minor == f"{sys.version_info.major}.{sys.version_info.minor}"
    pkg, deps = stage.path / "pkg", stage.path / "deps"
    pkg.mkdir()
    deps.mkdir()
    fetched = stage.path / "fetched"
    if client_version == own:
        _copy_packages(Path(str(importlib.metadata.distribution("modal").locate_file(""))), pkg, PACKAGES[:3])
    else:
        _install(fetched, executable, ["--no-deps", f"modal=={client_version}"])
        _copy_packages(fetched, pkg, PACKAGES[:3])
    requirements = pkg / "modal" / "builder" / f"{builder_version}.txt"
    if not requirements.exists():
        requirements = max(pkg.glob("modal/builder/2*.txt"))
    names = _requirement_names(requirements, minor)
    _copy_packages(
        Path(str(importlib.metadata.distribution("synchronicity").locate_file(""))), pkg, PACKAGES[3:]
    )
    if not same_python or not all(_copy_distribution(name, deps) for name in names):
        # Ours are for another Python. They go together in our versions, if it can have them; else by the client's own
        # list, if the index has them; else in the newest.
        _install_first(deps, executable, [list(map(_pinned, names)), ["-r", str(requirements)], names])
    (pkg / "sitecustomize.py").write_text(SITECUSTOMIZE)
    remove_tree(fetched)
    # Hashes that are never checked: importing the client is most of a cold start.
    command: list[str | Path] = [
        executable,
        "-I",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    subprocess.run([*command, pkg, deps], check=False, capture_output=True, stdin=subprocess.DEVNULL)
    (stage.path / "complete").touch()


def _requirement_names(file: Path, minor: str) -> list[str]:
    names = []
    for line in file.read_text().splitlines():
        requirement, _, marker = line.partition(";")
        match = re.match(r"[\w.-]+", requirement)
        if match is not None and _applies(marker, minor):
            names.append(match[0])
    return list(dict.fromkeys(names))


def _applies(marker: str, minor: str) -> bool:
    """Whether a marker about `python_version` holds; one about anything else does."""
    match = re.fullmatch(r"\s*python_version\s*(<|>=|==|<=|>)\s*[\"']([\d.]+)[\"']\s*", marker)
    if match is None:
        return True
    have, limit = (tuple(int(n) for n in text.split(".")) for text in (minor, match[2]))
    return {
        "<": have < limit,
        ">=": have >= limit,
        "==": have == limit,
        "<=": have <= limit,
        ">": have > limit,
    }[match[1]]


def _install_first(target: Path, executable: Path, choices: Sequence[list[str]]) -> None:
    """Install the first of these that can be had."""
    for number, choice in enumerate(choices):
        try:
            _install(target, executable, ["--no-deps", *choice])
        except BuildError:
            if number == len(choices) - 1:
                raise
        else:
            return


def _pinned(name: str) -> str:
    """A requirement of a distribution in the version that we have, or in any."""
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _copy_packages(site: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        source = site / name
        if not source.is_dir():
            raise BuildError(f"{name}, a part of Modal's client, is not where it should be")
        shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def _copy_distribution(name: str, target: Path) -> bool:
    """Copy an installed distribution of ours; False if there is none."""
    try:
        files = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if not files:
        return False
    for file in files:
        source = Path(str(file.locate()))
        if ".." not in file.parts and file.suffix != ".pyc" and source.is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / file)
    return True


def _install(target: Path, executable: Path, what: list[str]) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON", "UV_PYTHON"))}
    command: list[str | Path] = [
        uv_binary(),
        "pip",
        "install",
        "--quiet",
        "--link-mode",
        "copy",
        "--target",
        target,
        "--python",
        executable,
    ]
    remove_tree(target)
    done = subprocess.run(
        [*command, *what], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise BuildError(
            f"Modal's client cannot be had for this image's Python:\n{done.stderr.strip()[-2000:]}"
        )
