"""The image that calls run in: the caller's Python, what `uv.lock` pins, and the project's own code.

What is pinned makes the layers that are built; source code is no layer, but is added when a container starts. So
editing it rebuilds nothing, and changing the lock rebuilds once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini import OptionError, RequirementsError, find_project_root, project_packages, uv_freeze

if TYPE_CHECKING:
    import modal
    from mini.requirements import ProjectPackage

__all__ = ["make_image"]

log = logging.getLogger("mini")

LEFT_OUT = ("dev", "local")
"""Dependency groups that containers do not get: tools for developing, and what is of use on this machine only."""
OURS = {"mini": "mini-core", "mini_modal": "mini-modal"}
"""What of ours a container needs, by module and distribution."""
NOT_INSTALLED = frozenset({"modal"})
"""Containers have the client from Modal itself."""
SETTINGS = frozenset({"apt", "base", "groups", "region"})
ROOT = "/root"
"""Where source code is, which is on the containers' import path."""


@dataclass(frozen=True, slots=True)
class ModalSettings:
    """`[tool.mini.modal]` of a project's pyproject.toml.

    Attributes:
        apt: Debian packages to install.
        base: an image of a registry to start from, instead of Debian slim with the caller's Python.
        groups: dependency groups to install; None for all but `dev` and `local`.
        region: where containers run.
    """

    apt: tuple[str, ...] = ()
    base: str | None = None
    groups: tuple[str, ...] | None = None
    region: str | None = None

    @classmethod
    def read(cls, root: Path | None) -> ModalSettings:
        """OptionError names a setting that nobody knows, or whose value is of the wrong kind."""
        table = _pyproject(root).get("tool", {}).get("mini", {}).get("modal", {})
        unknown = set(table) - SETTINGS
        if unknown:
            raise OptionError(
                f"[tool.mini.modal] has no setting {min(unknown)!r}; there are {', '.join(sorted(SETTINGS))}"
            )
        for name in ("apt", "groups"):
            if not isinstance(table.get(name, []), list):
                raise OptionError(f"[tool.mini.modal] {name} takes a list of names")
        groups = table.get("groups")
        return cls(
            tuple(table.get("apt", ())),
            table.get("base"),
            None if groups is None else tuple(groups),
            table.get("region"),
        )


def make_image(root: Path | None = None) -> modal.Image:
    """The image for the project at `root`, by default the one that the working directory is in.

    It has the caller's Python minor version, exactly what the project's `uv.lock` pins (of all dependency groups except
    `local` and `dev`; markers count as they are there), and the source of the project's packages, of the workspace's
    members and of what is installed in editable form. Without a project it has what mini needs. Nothing is built or
    sent before something runs in it.

    Raises:
        RequirementsError: the lock is missing or stale; says which command mends it.
        OptionError: `[tool.mini.modal]` in pyproject.toml is wrong.
    """
    import modal

    root = root or find_project_root()
    settings = ModalSettings.read(root)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if settings.base is None:
        image = modal.Image.debian_slim(python_version=python)
    else:
        image = modal.Image.from_registry(settings.base)
    if settings.apt:
        image = image.apt_install(*settings.apt)
    lines, options, packages, archives = _needed(root, settings)
    image = image.uv_pip_install(*_own_requirements(lines))
    if lines:
        image = image.uv_pip_install(*lines, extra_options=" ".join(options))
    for archive in archives:
        there = f"/tmp/{archive.name}"
        image = image.add_local_file(archive, there, copy=True).run_commands(
            f"uv pip install --system --no-deps {there}"
        )
    return reduce(_add_source, packages, image)


def _needed(
    root: Path | None, settings: ModalSettings
) -> tuple[list[str], list[str], list[ProjectPackage], list[Path]]:
    """Requirements, options for the installer, packages of which the source is added, and archives to install."""
    packages = list(_our_packages())
    if root is None:
        log.info("there is no project here: containers get what mini itself needs, and nothing else")
        return [], [], packages, []
    groups = set(_pyproject(root).get("dependency-groups", {}))
    if settings.groups is not None:
        frozen = uv_freeze(root, groups=settings.groups)
    else:
        frozen = uv_freeze(root, all_groups=True, not_groups=[name for name in LEFT_OUT if name in groups])
    archives = [local.path for local in frozen.local if local.path.is_file()]
    folders = [root, *(local.path for local in frozen.local if local.path.is_dir())]
    known = {package.name for package in packages}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for package in project_packages(folder):
            if package.name not in known:
                known.add(package.name)
                packages.append(package)
    ours = re.compile(rf"({'|'.join([*OURS.values(), *NOT_INSTALLED])})\b", re.IGNORECASE)
    lines = [line for line in frozen.requirements if not ours.match(line)]
    return lines, _index_options(frozen.indexes), packages, [a for a in archives if not _is_ours(a)]


def _index_options(indexes: Iterable[str]) -> list[str]:
    urls = list(indexes)
    if not urls or (len(urls) == 1 and urls[0].startswith("https://pypi.org/")):
        return []
    first, *others = urls
    # Each package is pinned, so which index it comes from is of no consequence but that it has this version.
    return [
        f"--index-url={first}",
        *(f"--extra-index-url={url}" for url in others),
        "--index-strategy=unsafe-best-match",
    ]


def _our_packages() -> Iterator[ProjectPackage]:
    from mini.requirements import ProjectPackage

    for name in OURS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        yield ProjectPackage(name, Path(spec.origin).parent)


def _is_ours(archive: Path) -> bool:
    return archive.name.replace("-", "_").startswith(
        tuple(module.replace("-", "_") for module in OURS.values())
    )


def _own_requirements(pinned: Iterable[str]) -> list[str]:
    """What our packages need, in the versions that are here; what the lock pins anyway is its business."""
    there = {_normal(re.split(r"[^\w.-]", line)[0]) for line in pinned}
    found: dict[str, str] = {}
    todo = list(OURS.values())
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or ():
            name = _normal(re.split(r"[^\w.-]", line)[0])
            if "extra ==" in line or name in found or name in NOT_INSTALLED:
                continue
            if name in OURS.values():
                continue
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # a marker says that it is not for this platform
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in there)


def _add_source(image: modal.Image, package: ProjectPackage) -> modal.Image:
    target = f"{ROOT}/{package.name.replace('.', '/')}"
    if package.path.is_file():
        return image.add_local_file(package.path, f"{target}.py")
    return image.add_local_dir(package.path, target, ignore=["**/__pycache__", "**/*.pyc"])


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _pyproject(root: Path | None) -> dict[str, Any]:
    path = None if root is None else root / "pyproject.toml"
    if path is None or not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RequirementsError(f"{path} is not valid TOML: {exc}") from exc
