"""The image that calls run in: the caller's Python, what `uv.lock` pins, and the project's own code.

What is pinned makes the layers that are built; source code is no layer, but is added when a container starts. So
editing it rebuilds nothing, and changing the lock rebuilds once.
"""

from __future__ import annotations

import logging
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mini import find_project_root, uv_freeze
from mini.requirements import find_workspace_root
from mini.shipment import (
    backend_settings,
    installed_source,
    locked_source,
    our_source,
    pack_project,
    project_source,
)

from .building import PYTHON, check_python
from .pins import install
from .source import add_source

if TYPE_CHECKING:
    import modal

__all__ = ["ModalSettings", "complete_image", "make_image"]

log = logging.getLogger("mini")

OURS = {"mini_modal": "mini-modal"}
PLAIN = ("cloudpickle", "tblib")
"""Modules that mini needs to run a call. They are plain Python and can be shipped as source."""
NOT_INSTALLED = frozenset({"modal"})
"""Containers have the client from Modal itself."""


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
        table = backend_settings(root, "modal", lists=("apt", "groups"), strings=("base", "region"))
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
    settings = ModalSettings.read(root)
    image = base if base is not None else _start(settings.base)
    if settings.apt:
        image = image.apt_install(*settings.apt)
    if root is None:
        log.info("there is no project here: containers get what mini itself needs, and nothing else")
    shipment = pack_project(root, OURS, groups=settings.groups, there=NOT_INSTALLED)
    return _made(add_source(install(image, shipment), shipment.source))


def complete_image(image: modal.Image, root: Path | None = None) -> modal.Image:
    """An image of the user's own with what calls need in any: mini, and the project's source; none of it is built.

    What `make_image` made is complete already.
    """
    if image in _MADE:
        return image
    root = root or find_project_root()
    source = our_source(OURS) + installed_source(*PLAIN)
    if root is not None and (find_workspace_root(root) / "uv.lock").is_file():
        source += locked_source(root, uv_freeze(root))
    elif root is not None:
        source += project_source([root], [])
    return add_source(image, source)


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
