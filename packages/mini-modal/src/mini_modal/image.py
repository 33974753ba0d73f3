"""The image that calls run in: the caller's Python, what `uv.lock` pins, and the project's own code.

What is pinned makes the layers that are built; source code is no layer, but is added when a container starts. So
editing it rebuilds nothing, and changing the lock rebuilds once.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import tomllib
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini import OptionError, RequirementsError, find_project_root, uv_freeze
from mini.requirements import find_workspace_root, worker_groups

from .building import PYTHON, check_python
from .pins import indexes_of, install
from .source import OURS, Source, installed_source, our_source, project_source

if TYPE_CHECKING:
    import modal
    from mini.requirements import Requirements

__all__ = ["ModalSettings", "complete_image", "make_image"]

log = logging.getLogger("mini")

PLAIN = ("cloudpickle", "tblib")
"""Modules that mini needs to run a call. They are plain Python and can be shipped as source."""
NOT_INSTALLED = frozenset({"modal"})
"""Containers have the client from Modal itself."""
SETTINGS = frozenset({"apt", "base", "groups", "region"})


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
            value = table.get(name, [])
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise OptionError(f"[tool.mini.modal] {name} takes a list of names")
        for name in ("base", "region"):
            if not isinstance(table.get(name, ""), str):
                raise OptionError(f"[tool.mini.modal] {name} takes a string")
        groups = table.get("groups")
        return cls(
            tuple(table.get("apt", ())),
            table.get("base"),
            None if groups is None else tuple(groups),
            table.get("region"),
        )


def make_image(root: Path | None = None, *, base: modal.Image | None = None) -> modal.Image:
    """The image for the project at `root`, by default the one that the working directory is in.

    It has the caller's Python minor version, exactly what the project's `uv.lock` pins (of all dependency groups except
    `local` and `dev`; markers count as they are there), and the source of the project's packages, of the workspace's
    members and of what is installed in editable form. Without a project it has what mini needs. Nothing is built or
    sent before something runs in it.

    Args:
        root: the project's directory.
        base: an image to build upon, instead of what pyproject.toml says. It has the caller's Python.

    Raises:
        RequirementsError: the lock is missing or stale; says which command mends it.
        OptionError: `[tool.mini.modal]` in pyproject.toml is wrong.
    """
    root = root or find_project_root()
    config = _pyproject(root)
    settings = ModalSettings.read(root)
    image = base if base is not None else _start(settings.base)
    if settings.apt:
        image = image.apt_install(*settings.apt)
    if root is None:
        log.info("there is no project here: containers get what mini itself needs, and nothing else")
        image = image.uv_pip_install(*_own_requirements(()))
        return _made(our_source().add_to(image))
    groups = settings.groups
    if groups is None:
        groups = tuple(sorted(worker_groups(root)))
    frozen = uv_freeze(root, groups=groups)
    ours = {_normal(name) for name in OURS.values()}
    archives = tuple(
        local for local in frozen.local if local.path.is_dir() or _normal(local.name) not in ours
    )
    if own := _own_requirements(frozen.requirements):
        image = image.uv_pip_install(*own)
    image = install(image, replace(frozen, local=archives), indexes_of(root, config, os.environ))
    return _made((our_source() + _project_source(root, frozen)).add_to(image))


def complete_image(image: modal.Image, root: Path | None = None) -> modal.Image:
    """An image of the user's own with what calls need in any: mini, and the project's source; none of it is built.

    What `make_image` made is complete already.
    """
    if image in _MADE:
        return image
    root = root or find_project_root()
    source = our_source() + installed_source(*PLAIN)
    if root is not None and (find_workspace_root(root) / "uv.lock").is_file():
        source += _project_source(root, uv_freeze(root))
    elif root is not None:
        source += project_source([root], [])
    return source.add_to(image)


_MADE: weakref.WeakSet[modal.Image] = weakref.WeakSet()


def _made(image: modal.Image) -> modal.Image:
    _MADE.add(image)
    return image


def _start(base: str | None) -> modal.Image:
    """What everything else is put upon."""
    import modal

    if base is None:
        return modal.Image.debian_slim(python_version=PYTHON)
    if _REPOSITORY.search(base):
        check_python(_version_of_tag(base))
        return modal.Image.from_registry(base)
    # Most have none, or an own one for their tools; what is pinned is for ours anyway.
    return modal.Image.from_registry(base, add_python=PYTHON)


_REPOSITORY = re.compile(r"^(?:(?:index\.)?docker\.io/)?(?:library/)?python(?=[:@]|$)")
"""Python's own images, which are the only ones whose names say which Python they have."""


def _version_of_tag(base: str) -> str | None:
    found = re.search(r":(\d+\.\d+)", base)
    return found[1] if found else None


def _project_source(root: Path, frozen: Requirements) -> Source:
    folders = [local.path for local in frozen.local if local.path.is_dir()]
    return project_source([root, *folders], [local.name for local in frozen.local if local.path.is_dir()])


def _own_requirements(pinned: Iterable[str]) -> list[str]:
    """What our packages need, in the versions that are here; what the lock pins anyway is its business."""
    there = {_name(line) for line in pinned}
    ours = {_normal(name) for name in OURS.values()}
    found: dict[str, str] = {}
    todo = sorted(ours)
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or ():
            name = _name(line)
            if "extra ==" in line or name in found or name in NOT_INSTALLED or name in ours:
                continue
            with suppress(importlib.metadata.PackageNotFoundError):  # a marker: it is not for this platform
                found[name] = importlib.metadata.version(name)
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in there)


def _name(requirement: str) -> str:
    return _normal(re.split(r"[^\w.-]", requirement)[0])


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
