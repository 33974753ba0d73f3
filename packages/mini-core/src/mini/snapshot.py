"""A snapshot of the source code that detached jobs run: what was there at their launch, whatever is edited later.

It holds what this process can import from the project (its own packages, those of its workspace, what lies beside the
script) in one archive that is the same whenever the code is. Workers put it in the place of the originals.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .requirements import (
    ProjectPackage,
    find_project_root,
    find_workspace_root,
    project_packages,
    source_files,
)

__all__ = ["Snapshot", "import_path", "take", "unpack"]

MARK = "snapshot:"
"""Begins those entries of an import path that are folders in the snapshot."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Source code at one moment.

    Attributes:
        digest: SHA-256 (hex) of the archive.
        archive: a tar archive of numbered folders; empty if there is no code to take.
        path: this process's import path, absolute; folders that are in the archive are `snapshot:` and their number.
    """

    digest: str
    archive: bytes
    path: tuple[str, ...]


_Files = list[tuple[str, Path]]
_taken: dict[str, tuple[object, Snapshot]] = {}
_lock = threading.Lock()


def take(start: Path | None = None) -> Snapshot:
    """Take a snapshot of the project that `start` (by default the working directory) belongs to.

    Quick when repeated: files are read again only if a name, a size or a date has changed.

    Raises:
        RequirementsError: a `pyproject.toml` is not TOML.
        OSError: a file cannot be read.
    """
    root = find_project_root(start)
    path, folders = _folders(root)
    files: _Files = [
        (f"{number}/{name}", file)
        for number, packages in enumerate(folders)
        for name, file in _files_of(packages)
    ]
    signature = (path, [(name, file, *_stamp(file)) for name, file in files])
    with _lock:
        known = _taken.get(str(root))
        if known is not None and known[0] == signature:
            return known[1]
        archive = _pack(files) if files else b""
        digest = hashlib.sha256(archive).hexdigest()
        snapshot = Snapshot(digest, archive, path)
        _taken[str(root)] = (signature, snapshot)
        return snapshot


def _stamp(file: Path) -> tuple[int, int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino


def _folders(root: Path | None) -> tuple[tuple[str, ...], list[list[ProjectPackage]]]:
    """The import path, and what the folder of each number is to hold."""
    path: list[str] = []
    folders: list[list[ProjectPackage]] = []
    there: set[Path] = set()
    base = None if root is None else find_workspace_root(root).resolve()
    for place in dict.fromkeys(Path(entry or os.curdir).absolute() for entry in sys.path):
        found: list[ProjectPackage] = []
        if base is not None and place.is_dir() and _is_own(place, base):
            found = _packages_in(place)
        there.update(package.path.resolve() for package in found)
        if found:
            path.append(f"{MARK}{len(folders)}")
            folders.append(found)
        else:
            path.append(str(place))
    # What is installed in another way than by a folder on the path.
    others = [] if root is None else [p for p in project_packages(root) if p.path.resolve() not in there]
    if others:
        path.insert(0, f"{MARK}{len(folders)}")
        folders.append(others)
    return tuple(path), folders


def _is_own(place: Path, base: Path) -> bool:
    """Whether code in `place` is the project's, and not an environment's that lies in its folder."""
    real = place.resolve()
    if base not in (real, *real.parents):
        return False
    environments = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    below = real.relative_to(base).parts
    return not (
        environments & {real, *real.parents}
        or "site-packages" in below
        or any(part.startswith(".") for part in below)
    )


def _packages_in(place: Path) -> list[ProjectPackage]:
    """The packages and modules that lie in a folder of the import path.

    A package without an `__init__.py` counts only in a folder called src: elsewhere it may as well be somebody's data.
    """
    found = []
    for path in sorted(place.iterdir()):
        name = path.name
        if name.startswith(".") or name == "__pycache__":
            continue
        if path.is_dir() and name.isidentifier():
            if (path / "__init__.py").is_file() or place.name == "src":
                found.append(ProjectPackage(name, path))
        elif path.suffix == ".py" and path.stem.isidentifier():
            found.append(ProjectPackage(path.stem, path))
    return found


def _files_of(packages: Sequence[ProjectPackage]) -> Iterator[tuple[str, Path]]:
    for package in packages:
        target = package.name.replace(".", "/")
        for name, file in source_files([package.path]):
            below = name.partition("/")[2]
            yield (f"{target}/{below}" if below else f"{target}{file.suffix}"), file


def _pack(files: _Files) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, file in sorted(files):
            content = file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def unpack(archive: bytes, place: Path) -> None:
    """Have what is in `archive` at `place`, whole or not at all; nothing to do if it is there already."""
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=place.parent))
    # The early versions of Python 3.11 have no filters, and the archive is our own.
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(made, **safely)
    try:
        made.rename(place)
    except OSError:
        import shutil

        shutil.rmtree(made, ignore_errors=True)
        if not place.is_dir():  # else somebody else was faster
            raise


def import_path(path: Sequence[str], place: Path, *, here: bool) -> list[str]:
    """The import path of a worker.

    Args:
        path: `Snapshot.path` of the launch.
        place: where the snapshot is unpacked.
        here: the launch was on this machine, so that all of its path holds here; else the rest is this process's.
    """
    places = [
        str(place / entry.removeprefix(MARK)) if entry.startswith(MARK) else entry
        for entry in path
        if here or entry.startswith(MARK)
    ]
    return places if here else [*places, *sys.path]
