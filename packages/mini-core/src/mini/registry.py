"""Finding a backend by its name, through the entry point group `mini.backends`."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BackendNotFound

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .jobboard import Job
    from .protocol import Apparatus

__all__ = ["apparatus", "backend_names", "default_backend", "jobs", "recall"]

GROUP = "mini.backends"
KNOWN = {"local": "mini-core", "modal": "mini-modal", "ray": "mini-ray"}
"""Backends of this project and the package of each."""


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import

    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def backend_names() -> frozenset[str]:
    """The names that options may use for native dicts: the project's backends and whatever is installed."""
    return frozenset(KNOWN) | frozenset(_entry_points())


def default_backend() -> str:
    """`MINI_APP`, else `[tool.mini] app` in the project's pyproject.toml, else "local"."""
    if name := os.environ.get("MINI_APP"):
        return name
    from .requirements import find_project_root

    root = find_project_root()
    if root is not None:
        import tomllib

        with (root / "pyproject.toml").open("rb") as file:
            app = tomllib.load(file).get("tool", {}).get("mini", {}).get("app")
        if app is not None:
            return str(app)
    return "local"


def apparatus(backend: str | None = None, name: str | None = None, **settings: Any) -> Apparatus:
    """Make an apparatus of the backend that goes by `backend`.

    Args:
        backend: such as "local" or "ray"; default: see `default_backend`.
        name: of the apparatus; default: the name of the project's directory.
        settings: further arguments of the backend's class.

    Raises:
        BackendNotFound: nothing installed provides it; says which package does.
    """
    made: Apparatus = backend_class(backend or default_backend())(name or _default_name(), **settings)
    return made


def recall(backend: str | None = None, name: str | None = None) -> Apparatus:
    """The apparatus for somebody who comes back to detached jobs: `apparatus`, with what was noted at their launch.

    That is the address of a Ray cluster, for instance, if they were launched from this project.
    """
    from . import launched

    backend, name = backend or default_backend(), name or _default_name()
    made: Apparatus = backend_class(backend)._recall(name, launched.settings_of(name, backend))
    return made


def _default_name() -> str:
    from .requirements import find_project_root

    directory = (find_project_root() or Path.cwd()).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", directory).strip("._-")[:63] or "mini"


def jobs(name: str | None = None, app: str | None = None, **settings: Any) -> list[Job]:
    """The detached jobs of an apparatus name, in the order in which they were launched. Starts nothing.

    Args:
        name: of the apparatus; default: the name of the project's directory.
        app: the backend, such as "local" or "modal"; default: see `default_backend`.
        settings: further arguments of the backend's class; default: those that were noted when jobs of this name were
            launched from this project.

    Raises:
        BackendNotFound: nothing installed provides the backend; says which package does.
        Unsupported: it declines `detached_jobs`.
        BackendUnavailable: it keeps its jobs elsewhere and cannot be reached.
    """
    return (apparatus(app, name, **settings) if settings else recall(app, name)).jobs()


def backend_class(backend: str) -> Any:
    point = _entry_points().get(backend)
    if point is None:
        if backend == "local":  # works from a bare source tree too
            from .local.apparatus import LocalApparatus

            return LocalApparatus
        package = KNOWN.get(backend)
        remedy = (
            f"install it: uv add {package}"
            if package
            else f"installed are: {', '.join(sorted(_entry_points()))}"
        )
        raise BackendNotFound(f"there is no backend {backend!r} here; {remedy}")
    try:
        return point.load()
    except ImportError as exc:
        package = point.dist.name if point.dist else KNOWN.get(backend, "its package")
        raise BackendNotFound(
            f"the backend {backend!r} is installed but cannot be imported ({exc}); reinstall {package}"
        ) from exc
