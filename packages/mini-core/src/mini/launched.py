"""Which backend the jobs of a name were launched on, so that whoever asks for the name later need not say it.

A file for each name under the project's `.mini/launched`, holding the backend's name. It is a convenience: where it
cannot be written, launching goes on without it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["backend_of", "data_root", "forget", "names", "remember"]


def data_root() -> Path:
    """Where the project, or else the current directory, keeps what mini keeps: absolute, and perhaps not there yet."""
    from .requirements import find_project_root

    return ((find_project_root() or Path.cwd()) / ".mini").absolute()


def remember(name: str, backend: str) -> None:
    """Note that jobs called `name` were launched on `backend`; the latest holds."""
    if backend_of(name) == backend:
        return
    file = _folder() / name
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_name(f".{name}-{os.getpid()}")
        made.write_text(f"{backend}\n")
        made.replace(file)


def backend_of(name: str) -> str | None:
    """The backend that jobs called `name` were launched on last, from here; None if there were none."""
    with suppress(OSError, ValueError):
        if text := (_folder() / name).read_text().strip():
            return text
    if (data_root() / "jobs" / name / "jobs.db").is_file():
        return "local"
    return None


def names() -> dict[str, str]:
    """All names that were launched from here, each with its backend, sorted."""
    found: set[str] = set()
    with suppress(OSError):
        found.update(file.name for file in _folder().iterdir() if not file.name.startswith("."))
    with suppress(OSError):
        found.update(file.parent.name for file in (data_root() / "jobs").glob("*/jobs.db"))
    backends = {name: backend_of(name) for name in sorted(found)}
    return {name: backend for name, backend in backends.items() if backend is not None}


def forget(name: str) -> None:
    """Note that there are no jobs of this name any more."""
    with suppress(OSError):
        (_folder() / name).unlink()


def _folder() -> Path:
    return data_root() / "launched"
