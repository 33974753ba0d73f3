"""Which backend the jobs of a name were launched on, so that whoever asks for the name later need not say it.

A file for each name under the project's `.mini/launched`: a line with the backend's name, and if an apparatus needs to
be told more to find the jobs again, such as the address of a cluster, a line of JSON with that. It is a convenience:
where it cannot be written, launching goes on without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["backend_of", "data_root", "forget", "names", "remember", "settings_of"]


def data_root() -> Path:
    """Where the project, or else the current directory, keeps what mini keeps: absolute, and perhaps not there yet."""
    from .requirements import find_project_root

    return ((find_project_root() or Path.cwd()) / ".mini").absolute()


def remember(name: str, backend: str, settings: Mapping[str, Any] | None = None) -> None:
    """Note that jobs called `name` were launched on `backend`, and how to find them there; the latest holds.

    Args:
        settings: what `Apparatus._lasting_settings` has said.
    """
    text = f"{backend}\n{json.dumps(dict(settings))}\n" if settings else f"{backend}\n"
    file = _folder() / name
    with suppress(OSError):
        if file.is_file() and file.read_text() == text:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_name(f".{name}-{os.getpid()}")
        made.write_text(text)
        made.replace(file)


def backend_of(name: str) -> str | None:
    """The backend that jobs called `name` were launched on last, from here; None if there were none."""
    if backend := _read(name)[0]:
        return backend
    try:
        (data_root() / "jobs" / name / "jobs.db").stat()
    except PermissionError:
        pass  # that is to be said when they are read
    except OSError:
        return None
    return "local"


def settings_of(name: str, backend: str) -> dict[str, Any]:
    """How to find jobs called `name` on `backend`; empty if nothing is noted, or the last launch was on another one."""
    noted, settings = _read(name)
    with suppress(ValueError):
        found = json.loads(settings) if noted == backend else None
        if isinstance(found, dict):
            return found
    return {}


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


def _read(name: str) -> tuple[str, str]:
    """The two lines of a name's file; empty if they are not there."""
    with suppress(OSError, ValueError):
        backend, _, settings = (_folder() / name).read_text().partition("\n")
        return backend.strip(), settings
    return "", ""


def _folder() -> Path:
    return data_root() / "launched"
