"""A snapshot of the source code that detached jobs run: what was there at their launch, whatever is edited later.

It holds what this process can import from the project (its own packages, those of its workspace, what lies beside the
script) in one archive that is the same whenever the code is. Where there is no project, or the script lies outside it,
that is what lies beside the script. Workers put it before the originals.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import sysconfig
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .requirements import (
    find_project_root,
    find_workspace_root,
    project_packages,
    source_files,
    walk_source,
)

__all__ = ["Snapshot", "add_program", "import_path", "take", "unpack"]

MARK = "snapshot:"
"""Begins those entries of an import path that are folders in the snapshot."""
MOST_FILES = 10_000
MOST_BYTES = 64 << 20
"""What is taken at most of packages that no project has told us of: theirs may be the folder of somebody's data."""
MOST_NAMES = 1000
"""As many names in a folder are looked at for Python files: who has more there has data."""


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


@dataclass(frozen=True, slots=True)
class _Package:
    """A package or module to take.

    Attributes:
        name: what `import` calls it.
        path: its folder or file.
        loose: no project has told of it, so that there is a limit to what is taken.
        code_only: of its files only those of Python are taken.
    """

    name: str
    path: Path
    loose: bool = False
    code_only: bool = False


_Files = list[tuple[str, Path]]
_programs: dict[Path, None] = {}
_taken: dict[str, tuple[object, Snapshot]] = {}
_lock = threading.Lock()


def add_program(file: Path) -> None:
    """Say that this process runs what is in `file`, besides the file that it was started with: see `take`."""
    _programs[file.absolute().parent] = None


def take(start: Path | None = None) -> Snapshot:
    """Take a snapshot of the project that `start` (by default the working directory) belongs to.

    What this process runs is taken as well where it lies elsewhere: the project of the script, or else the modules and
    packages beside it; in an interactive session those of the working directory. Of the latter at most `MOST_FILES`
    and `MOST_BYTES`; a warning names packages in use that are left out. Quick when repeated: files are read again only
    if a name, a size or a date has changed.

    Raises:
        RequirementsError: a `pyproject.toml` is not TOML.
        OSError: a file of a project cannot be read.
    """
    root = find_project_root(start)
    path, folders = _folders(root)
    files: _Files = []
    stamps: list[object] = []
    for number, packages in enumerate(folders):
        for name, file in _files_of(packages):
            with suppress(FileNotFoundError):  # somebody has removed it in this moment
                stamps.append((number, name, file, *_stamp(file)))
                files.append((f"{number}/{name}", file))
    signature = (path, stamps)
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


# --- what is own ----------------------------------------------------------------------------------------------------


def _folders(root: Path | None) -> tuple[tuple[str, ...], list[list[_Package]]]:
    """The import path, and what the folder of each number is to hold."""
    path: list[str] = []
    folders: list[list[_Package]] = []
    there: set[Path] = set()
    bases = _own_folders(root)
    for place in dict.fromkeys(Path(entry or os.curdir).absolute() for entry in sys.path):
        base = _owner(place, bases)
        if base is not None and (found := _packages_in(place, loose=not bases[base])):
            there.update(package.path.resolve() for package in found)
            path.append(f"{MARK}{len(folders)}")
            folders.append(found)
        # Behind the snapshot stays what is not in it: extension modules, and what was too large.
        path.append(str(place))
    # What is installed in another way than by a folder on the path.
    others = [] if root is None else [p for p in project_packages(root) if p.path.resolve() not in there]
    if others:
        path.insert(0, f"{MARK}{len(folders)}")
        folders.append([_Package(package.name, package.path) for package in others])
    return tuple(path), _within_limits(folders)


def _own_folders(root: Path | None) -> dict[Path, bool]:
    """Where own code lies, and whether that is a project's folder."""
    found: dict[Path, bool] = {} if root is None else {find_workspace_root(root).resolve(): True}
    for folder in map(Path.resolve, _program_folders()):
        if not _is_installed(folder) and _owner(folder, found) is None:
            if (other := find_project_root(folder)) is not None:
                found[find_workspace_root(other).resolve()] = True
            if _owner(folder, found) is None:
                found[folder] = False
    return found


def _program_folders() -> Iterator[Path]:
    """The folders that Python, or who has loaded a file to run it, has put on the path for what runs here."""
    yield from _programs
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    name: str = getattr(getattr(main, "__spec__", None), "name", "")
    if file and name != f"{__package__}.__main__":  # `python -m mini` is not what it runs
        # `python -m a.b` has put the folder of `a` on the path.
        yield from islice(Path(file).absolute().parents, name.count("."), name.count(".") + 1)
    if "" in sys.path:  # an interactive session, a notebook or `python -c`
        yield Path.cwd()


def _is_installed(folder: Path) -> bool:
    """Whether a program that lies there is one that was installed, as the command `mini` is."""
    user = sysconfig.get_preferred_scheme("user")
    places = [*map(sysconfig.get_path, ("scripts", "stdlib", "purelib")), sysconfig.get_path("scripts", user)]
    return bool({Path(place).resolve() for place in places} & {folder, *folder.parents} or _is_site(folder))


def _is_site(folder: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(folder.parts)


def _owner(place: Path, bases: Iterable[Path]) -> Path | None:
    """In which of `bases` the code in `place` is own, and not an environment's that lies in it."""
    real = place.resolve()
    above = {real, *real.parents}
    environments = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)} & above
    for base in bases:
        if base in above and not _is_site(real):
            hidden = any(part.startswith(".") for part in real.relative_to(base).parts)
            # Where the project lies in what is an environment's, as in /usr, that says nothing.
            if not hidden and environments <= set(base.parents):
                return base
    return None


def _packages_in(place: Path, *, loose: bool) -> list[_Package]:
    """The packages and modules that lie in a folder of the import path.

    Of a package without an `__init__.py` only Python files are taken, unless it is in a folder called src: elsewhere it
    may as well be somebody's data.
    """
    found = []
    for entry in _entries(place):
        name = entry.name.removesuffix(".py")
        if not name.isidentifier() or name == "__pycache__":  # most of what lies there may be data
            continue
        path = Path(entry.path)
        if name != entry.name:
            if entry.is_file():
                found.append(_Package(name, path, loose))
        elif entry.is_dir():
            if (path / "__init__.py").is_file() or place.name == "src":
                found.append(_Package(name, path, loose))
            elif any(each.name.endswith(".py") for each in islice(_entries(path), MOST_NAMES)):
                found.append(_Package(name, path, loose=True, code_only=True))
    return sorted(found, key=lambda package: package.path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _within_limits(folders: Sequence[Sequence[_Package]]) -> list[list[_Package]]:
    """Without what is too large; what is in use comes first."""
    files, size = MOST_FILES, MOST_BYTES
    out: set[Path] = set()
    loose = [package for packages in folders for package in packages if package.loose]
    for package in sorted(loose, key=lambda package: package.name not in sys.modules):
        count = total = 0
        for count, file in enumerate(walk_source(package.path), 1):
            if not package.code_only or file.suffix == ".py":
                with suppress(OSError):
                    total += file.stat().st_size
            if count > files or total > size:
                out.add(package.path)
                if package.name in sys.modules:
                    _warn(package.path)
                break
        else:
            files, size = files - count, size - total
    return [[package for package in packages if package.path not in out] for packages in folders]


def _warn(folder: Path) -> None:
    warnings.warn(
        f"{folder} is not kept with the jobs: with all else beside the script it is more than {MOST_FILES:,} files or "
        f"{MOST_BYTES >> 20} MiB. Jobs here see it as it is when they run, and those elsewhere not at all; "
        "in the src/ of a project it travels whatever its size",
        RuntimeWarning,
        stacklevel=2,
    )


def _files_of(packages: Sequence[_Package]) -> Iterator[tuple[str, Path]]:
    for package in packages:
        target = package.name.replace(".", "/")
        for name, file in source_files([package.path]):
            if package.code_only and file.suffix != ".py":
                continue
            if package.loose and not os.access(file, os.R_OK):  # somebody else's, in a folder such as /tmp
                continue
            below = name.partition("/")[2]
            yield (f"{target}/{below}" if below else f"{target}{file.suffix}"), file


def _pack(files: _Files) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, file in sorted(files):
            try:
                content = file.read_bytes()
            except FileNotFoundError:  # somebody has removed it in this moment
                continue
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
