"""What a project sends to where its calls run: what is to be installed there, and source code that is only put there.

Every adapter whose workers have no part in the caller's environment takes it from here, so that they all get the same.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import re
import tarfile
import tomllib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import OptionError, RequirementsError
from .requirements import (
    ProjectPackage,
    Requirements,
    find_workspace_root,
    importable_packages,
    source_files,
    uv_freeze,
    worker_groups,
)

__all__ = [
    "METADATA",
    "Index",
    "Shipment",
    "Source",
    "backend_settings",
    "index_options",
    "indexes_of",
    "installed_source",
    "locked_source",
    "normal_name",
    "our_source",
    "pack_project",
    "project_source",
    "requirement_name",
]

METADATA = ("METADATA", "entry_points.txt")
"""What of an installed distribution travels with its source: its version, and what others find it by."""
CORE = {"mini": "mini-core"}


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a project's calls need elsewhere.

    Attributes:
        own: requirements of mini itself, in the versions that are here; without what is pinned.
        pinned: what the lock pins; None without a project.
        archives: wheels and source archives of this machine to install; what they need is pinned.
        indexes: package indexes that the project names.
        source: what travels as it is.
    """

    own: tuple[str, ...]
    pinned: Requirements | None
    archives: tuple[Path, ...]
    indexes: tuple[Index, ...]
    source: Source


def pack_project(
    root: Path | None,
    ours: Mapping[str, str],
    *,
    groups: Sequence[str] | None = None,
    there: Iterable[str] = (),
) -> Shipment:
    """Find out what the calls of the project at `root` need elsewhere. Nothing is built or sent.

    Args:
        root: the project's directory; None if there is none: then it is what mini itself needs.
        ours: the adapter's import package, and its distribution.
        groups: dependency groups to install; None for all but `dev` and `local`.
        there: distributions that need no installing.

    Raises:
        RequirementsError: the lock is missing or stale; says which command mends it.
    """
    if root is None:
        return Shipment(_own_requirements(ours, (), there), None, (), (), our_source(ours))
    config = _pyproject(root)
    chosen = sorted(worker_groups(root)) if groups is None else groups
    pinned = uv_freeze(root, groups=chosen)
    names = {normal_name(name) for name in _with_core(ours).values()}
    return Shipment(
        own=_own_requirements(ours, pinned.requirements, there),
        pinned=pinned,
        archives=tuple(
            each.path for each in pinned.local if each.path.is_file() and normal_name(each.name) not in names
        ),
        indexes=tuple(indexes_of(root, config)),
        source=our_source(ours) + locked_source(root, pinned),
    )


def backend_settings(
    root: Path | None, backend: str, *, lists: Sequence[str] = (), strings: Sequence[str] = ()
) -> dict[str, Any]:
    """Read `[tool.mini.BACKEND]` of the project at `root`; empty if there is none.

    Args:
        root: the project's directory.
        backend: the name of the table.
        lists: settings that take a list of names.
        strings: settings that take a string.

    Raises:
        OptionError: names a setting that nobody knows, or whose value is of the wrong kind.
        RequirementsError: pyproject.toml is not TOML.
    """
    table = _pyproject(root).get("tool", {}).get("mini", {}).get(backend, {})
    where = f"[tool.mini.{backend}]"
    if unknown := set(table).difference(lists, strings):
        raise OptionError(
            f"{where} has no setting {min(unknown)!r}; there are {', '.join(sorted([*lists, *strings]))}"
        )
    for name in lists:
        value = table.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise OptionError(f"{where} {name} takes a list of names")
    for name in strings:
        if not isinstance(table.get(name, ""), str):
            raise OptionError(f"{where} {name} takes a string")
    return dict(table)


def _pyproject(root: Path | None) -> dict[str, Any]:
    path = None if root is None else root / "pyproject.toml"
    if path is None or not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RequirementsError(f"{path} is not valid TOML: {exc}") from exc


# --- source code ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Import packages and modules, and the names of distributions whose metadata goes with them."""

    packages: tuple[ProjectPackage, ...]
    distributions: tuple[str, ...]

    def __add__(self, other: Source) -> Source:
        """Both; where a name is in both it is the first one's."""
        known = {package.name for package in self.packages}
        more = (package for package in other.packages if package.name not in known)
        return Source((*self.packages, *more), tuple(dict.fromkeys(self.distributions + other.distributions)))

    def metadata(self) -> list[Path]:
        """The `.dist-info` folders of those distributions that are installed; of each, `METADATA` travels."""
        return [folder for folder in map(_metadata_folder, self.distributions) if folder is not None]

    def files(self) -> Iterator[tuple[str, Path]]:
        """All files, as (name, path): the name is where it is below a folder of the import path."""
        for package in self.packages:
            target = package.name.replace(".", "/")
            for name, path in source_files([package.path]):
                below = name.partition("/")[2]
                yield (f"{target}/{below}" if below else f"{target}.py"), path
        for folder in self.metadata():
            for name in METADATA:
                if (path := folder / name).is_file():
                    yield f"{folder.name}/{name}", path

    def archive(self) -> bytes:
        """All files as a tar archive, which is the same whenever they are."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, path in sorted(self.files()):
                content = path.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                tar.addfile(entry, io.BytesIO(content))
        return data.getvalue()


def our_source(ours: Mapping[str, str]) -> Source:
    """mini's own packages, as they are here: both sides have to speak the same version of mini's own messages.

    Args:
        ours: the adapter's import package, and its distribution.
    """
    ours = _with_core(ours)
    return Source(tuple(_installed(ours)), tuple(ours.values()))


def project_source(folders: Iterable[Path], distributions: Iterable[str]) -> Source:
    """All that can be imported from projects in `folders`."""
    found = Source((), tuple(distributions))
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        found += Source(tuple(importable_packages(folder)), ())
    return found


def locked_source(root: Path, pinned: Requirements) -> Source:
    """The source of the project at `root`, of its workspace's members and of what it has by its path."""
    local = [each for each in pinned.local if each.path.is_dir()]
    return project_source([root, *(each.path for each in local)], [each.name for each in local])


def installed_source(*modules: str) -> Source:
    """Packages and modules that are installed here and need nothing that is not plain Python."""
    return Source(tuple(_installed(modules)), ())


def _with_core(ours: Mapping[str, str]) -> dict[str, str]:
    return {**CORE, **ours}


def _installed(modules: Iterable[str]) -> Iterator[ProjectPackage]:
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        yield ProjectPackage(name, path.parent if spec.submodule_search_locations else path)


def _metadata_folder(distribution: str) -> Path | None:
    """Where the metadata of a distribution is here; None if it is not installed."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in found.files or ():
        if file.name in METADATA and file.parent.name.endswith(".dist-info"):
            return Path(str(found.locate_file(file))).parent
    return None


# --- what mini itself needs -----------------------------------------------------------------------------------------


def _own_requirements(
    ours: Mapping[str, str], pinned: Iterable[str], there: Iterable[str]
) -> tuple[str, ...]:
    """What our packages need, in the versions that are here; what the lock pins anyway is its business."""
    locked = {requirement_name(line) for line in pinned}
    names = {normal_name(name) for name in _with_core(ours).values()}
    present = {normal_name(name) for name in there}
    found: dict[str, str] = {}
    todo = sorted(names)
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or ():
            name = requirement_name(line)
            if "extra ==" in line or name in found or name in present or name in names:
                continue
            with suppress(importlib.metadata.PackageNotFoundError):  # a marker: it is not for this platform
                found[name] = importlib.metadata.version(name)
    return tuple(sorted(f"{name}=={version}" for name, version in found.items() if name not in locked))


def requirement_name(requirement: str) -> str:
    """The normalized name of the distribution that a requirement is for."""
    return normal_name(re.split(r"[^\w.-]", requirement)[0])


def normal_name(distribution: str) -> str:
    """A distribution's name as comparisons want it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


# --- package indexes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Index:
    """A package index that a project names.

    Attributes:
        name, url: as in pyproject.toml, without credentials.
        default: it stands in for PyPI.
        explicit: only what names it comes from it.
        username, password: from the URL, or from the variables that uv reads; empty if there are none.
    """

    name: str
    url: str
    default: bool = False
    explicit: bool = False
    username: str = ""
    password: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The variables that uv reads the credentials from."""
        if not self.username and not self.password:
            return {}
        prefix = _variable(self.name)
        return {f"{prefix}_USERNAME": self.username, f"{prefix}_PASSWORD": self.password}


def indexes_of(
    root: Path, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> list[Index]:
    """The indexes that the project at `root` names, or its workspace; only what can be reached from elsewhere.

    Args:
        root: the project's directory.
        config: the project's pyproject.toml.
        environment: has credentials in variables, as uv wants them; by default this process's.
    """
    environment = os.environ if environment is None else environment
    tables = list(_index_tables(config))
    workspace = find_workspace_root(root)
    if workspace != root.absolute():
        tables += _index_tables(_pyproject(workspace))
    found: dict[str, Index] = {}
    for number, table in enumerate(tables):
        url = urllib.parse.urlsplit(str(table.get("url", "")))
        if url.scheme not in ("http", "https") or table.get("format") == "flat":
            continue
        index = Index(
            str(table.get("name") or f"index-{number}"),
            url._replace(netloc=url.netloc.rpartition("@")[2]).geturl(),
            bool(table.get("default", False)),
            bool(table.get("explicit", False)),
            urllib.parse.unquote(url.username or ""),
            urllib.parse.unquote(url.password or ""),
        )
        prefix = _variable(index.name)
        index = replace(
            index,
            username=environment.get(f"{prefix}_USERNAME", index.username),
            password=environment.get(f"{prefix}_PASSWORD", index.password),
        )
        found.setdefault(index.url, index)
    return list(found.values())


def index_options(indexes: Iterable[Index]) -> list[str]:
    """Options for `uv pip install` of what a lock pins, without credentials, for which see `Index.variables`.

    What is pinned says itself where it comes from; what its building needs does not, and neither do credentials.
    """
    return [
        f"--{'default-' if index.default else ''}index={index.name}={index.url}"
        for index in indexes
        if index.default or not index.explicit or index.variables
    ]


def _index_tables(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from config.get("tool", {}).get("uv", {}).get("index", [])


def _variable(name: str) -> str:
    return f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
