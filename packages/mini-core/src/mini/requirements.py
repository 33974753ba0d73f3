"""What must travel for a function to find the same world elsewhere: pinned requirements, and the project's own code.

The first comes from `uv.lock` by way of `uv export`, whose `pylock.toml` (PEP 751) is read; the second from
`pyproject.toml`, the way the project's build backend reads it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import RequirementsError

__all__ = [
    "LocalPackage",
    "ProjectPackage",
    "Requirements",
    "content_digest",
    "dependency_groups",
    "find_project_root",
    "find_uv",
    "find_workspace_root",
    "importable_packages",
    "project_packages",
    "source_files",
    "uv_freeze",
    "walk_source",
    "worker_groups",
]

# --- where the project is -------------------------------------------------------------------------------------------


def find_project_root(start: Path | None = None) -> Path | None:
    """The directory of the project that `start` (by default the working directory) belongs to, or None.

    That is the nearest directory upward whose `pyproject.toml` has a `[project]` table, or declares a uv workspace
    (a workspace's root need not be a project). In a member of a workspace it is the member's directory; the lock is
    then in `find_workspace_root`. A `pyproject.toml` that only configures tools is passed over.

    Raises:
        RequirementsError: a `pyproject.toml` on the way is not TOML.
    """
    here = (start or Path.cwd()).absolute()
    for directory in (here, *here.parents):
        config = _pyproject(directory)
        if "project" in config or _table(config, "tool", "uv", "workspace"):
            return directory
    return None


def find_workspace_root(project: Path) -> Path:
    """The directory that holds, or would hold, the `uv.lock` of the project at `project`.

    The project's own directory, unless a uv workspace above it has the project among its members.
    """
    project = project.absolute()
    for directory in (project, *project.parents):
        workspace = _table(_pyproject(directory), "tool", "uv", "workspace")
        if workspace:
            excluded = _matches(directory, workspace.get("exclude", []))
            members = _matches(directory, workspace.get("members", []))
            return directory if project.resolve() in members - excluded else project
    return project


def _matches(root: Path, patterns: Iterable[str]) -> set[Path]:
    return {path.resolve() for pattern in patterns for path in root.glob(pattern.strip("/"))}


def _pyproject(directory: Path) -> dict[str, Any]:
    path = directory / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RequirementsError(f"{path} is not valid TOML: {exc}") from exc


def _table(config: Any, *keys: str) -> dict[str, Any]:
    """The table at `keys`, or an empty one."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


# --- what the lock pins ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """A requirement that is a directory or an archive on this machine; it is not pinned, its content has to travel.

    Attributes:
        name: the distribution's name.
        path: absolute; a directory with a project in it, or a wheel or source archive.
        editable: whether the project's environment has it in editable form.
    """

    name: str
    path: Path
    editable: bool


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a lock pins.

    Attributes:
        requirements: one requirement per item, as pip and uv read them: `six==1.17.0`, `torch==2.9.0+cpu`,
            `tomli==2.5.0 ; sys_platform == 'win32'`, `pkg @ git+https://…@<commit>`. Without hashes and without
            index options; see `indexes`.
        pylock: the same as the text of a `pylock.toml` (PEP 751), which also has the hashes and each package's own
            index; local packages are not in it.
        indexes: the URLs of the indexes that the packages came from, PyPI first if it is among them.
        local: what is on this machine only: the project, the members of its workspace, and what comes from a path
            or from a folder of archives (`find-links`).
        requires_python: the project's own range, empty if it gives none.
        digest: SHA-256 (hex) of what is pinned, wherever the project lies, and without regard to `local`, for whose
            content see `content_digest`.
    """

    requirements: tuple[str, ...]
    pylock: str
    indexes: tuple[str, ...]
    local: tuple[LocalPackage, ...]
    requires_python: str
    digest: str


def uv_freeze(
    root: Path | None = None,
    *,
    groups: Sequence[str] | None = None,
    not_groups: Sequence[str] | None = None,
    all_groups: bool = False,
    extras: Sequence[str] | None = None,
    all_extras: bool = False,
) -> Requirements:
    """Read what the project's `uv.lock` pins.

    By default that is what the project itself depends on, and no dependency group: neither pytest nor the linter is
    of use to a worker. The lock is checked as well and neither it nor any environment is changed.

    Args:
        root: the project's directory; by default `find_project_root()`. In a member of a workspace, what that
            member needs is exported from the workspace's lock.
        groups: dependency groups to add.
        not_groups: dependency groups to leave out, of `groups` or of all.
        all_groups: add all groups.
        extras: extras of the project to add.
        all_extras: add all extras.

    Raises:
        RequirementsError: there is no project, no lock, no uv, no such group, or the lock does not fit
            `pyproject.toml`. The message names the command that mends it.
    """
    if root is None and (root := find_project_root()) is None:
        raise RequirementsError(
            f"there is no pyproject.toml with a [project] in {Path.cwd()} or above; run `uv init`"
        )
    root = root.absolute()
    workspace = find_workspace_root(root)
    # Run in the workspace's root: where else paths in the export start from differs between versions of uv.
    command = ["export", "--frozen", "--no-header", "--no-default-groups"]
    if workspace != root and (name := _table(_pyproject(root), "project").get("name")):
        command += ["--package", str(name)]
    command += ["--all-groups"] * all_groups + ["--all-extras"] * all_extras
    for option, names in (("--group", groups), ("--no-group", not_groups), ("--extra", extras)):
        command += [part for name in names or () for part in (option, name)]
    uv = find_uv()  # in one thread: sysconfig, which it may ask, is not made for several
    # Side by side, and little of it parsed: whoever asks has to wait for this before each first call.
    with ThreadPoolExecutor(3) as pool:
        checked = pool.submit(check_lock, root, uv)
        full = pool.submit(_uv, [*command, "--format", "pylock.toml"], workspace, uv=uv)
        plain = pool.submit(
            _uv, [*command, "--no-hashes", "--no-annotate", "--no-emit-local"], workspace, uv=uv
        )
        checked.result()  # its complaint comes first: it is what the others' come from
        head, *packages = full.result().split(_PACKAGE)
        lines = plain.result().splitlines()
    here, elsewhere = _divide(packages)
    pylock = _PACKAGE.join([head, *elsewhere])
    # uv counts what comes from a folder as what comes from an index.
    local = {package["name"] for package in here}
    lines = [line for line in lines if re.split(r"[^\w.-]", line)[0] not in local]
    if here and not elsewhere:
        pylock += "packages = []\n"
    return Requirements(
        requirements=tuple(line.strip() for line in lines if line.strip()),
        pylock=pylock,
        indexes=_indexes(elsewhere),
        local=tuple(_local_package(package, workspace) for package in here),
        requires_python=str(tomllib.loads(head).get("requires-python", "")),
        digest=_digest(pylock),
    )


def dependency_groups(root: Path) -> frozenset[str]:
    """The names of the dependency groups that `uv_freeze` takes for the project at `root`, normalized.

    For the root of a workspace that is no project itself, these are the groups of all its members.

    Raises:
        RequirementsError: a `pyproject.toml` is not TOML.
    """
    root = root.absolute()
    config = _pyproject(root)
    configs = [config]
    if "project" not in config:
        workspace = _table(config, "tool", "uv", "workspace")
        members = _matches(root, workspace.get("members", [])) - _matches(root, workspace.get("exclude", []))
        configs += [_pyproject(member) for member in members]
    names = {name for each in configs for name in _table(each, "dependency-groups")}
    if any(_table(each, "tool", "uv").get("dev-dependencies") for each in configs):
        names.add("dev")  # where uv put it before there were groups
    return frozenset(re.sub(r"[-_.]+", "-", name).lower() for name in names)


def worker_groups(root: Path, backend: str | None = None) -> frozenset[str]:
    """The dependency groups that workers elsewhere get: all but `dev`, the tools, and `local`, what is for here only.

    Args:
        root: the project's directory.
        backend: where the workers are; `groups` in `[tool.mini.BACKEND]` names others.

    Raises:
        RequirementsError: a `pyproject.toml` is not TOML.
    """
    named = None
    if backend is not None:
        named = _table(_pyproject(root), "tool", "mini", backend).get("groups")
    return dependency_groups(root) - {"dev", "local"} if named is None else frozenset(named)


def check_lock(root: Path, uv: Path | None = None) -> None:
    """Check that the lock of the project at `root` is there and fits its `pyproject.toml`.

    Args:
        root: the project's directory.
        uv: the uv to run; by default `find_uv()`.

    Raises:
        RequirementsError: it is not, or cannot be checked; the message names the command that mends it.
    """
    workspace = find_workspace_root(root)
    if not (workspace / "uv.lock").is_file():
        raise RequirementsError(f"{workspace} has no uv.lock; run `uv lock` there")
    _uv(
        ["lock", "--check"],
        workspace,
        f"{workspace / 'uv.lock'} does not fit pyproject.toml; run `uv lock` in {workspace}",
        uv=uv,
    )


def find_uv() -> Path:
    """The uv to run: `$UV` (which uv itself sets for what it runs), else the one on PATH, else the package `uv`.

    Raises:
        RequirementsError: there is none; says how to install it.
    """
    for candidate in (os.environ.get("UV"), "uv"):
        if candidate and (found := shutil.which(candidate)):
            return Path(found)
    try:
        return Path(importlib.import_module("uv").find_uv_bin())
    except (ImportError, FileNotFoundError):
        raise RequirementsError(
            "uv is needed to read uv.lock, and is neither on PATH nor installed; run `pip install uv`, "
            "or see https://docs.astral.sh/uv/getting-started/installation/"
        ) from None


# Settings for what else people do with uv, which would change what is exported.
_NOT_OURS = {
    f"UV_{name}"
    for name in "DEV FROZEN LOCKED NO_DEFAULT_GROUPS NO_DEV NO_EDITABLE NO_GROUP PROJECT WORKING_DIR".split()  # noqa: SIM905
}


def _uv(arguments: list[str], cwd: Path, trouble: str = "", *, uv: Path | None = None) -> str:
    """Run uv and return what it wrote; if it exits with 1 and not with another error, `trouble` is what that means."""
    env = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    # Else uv asks whatever is called python on the PATH which version it is, or fetches one: it takes its time.
    env.setdefault("UV_PYTHON", sys.executable)
    command = [str(uv or find_uv()), "--quiet", "--color", "never", *arguments]
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", check=False
        )
    except OSError as exc:
        raise RequirementsError(
            f"cannot run {command[0]}: {exc}; reinstall uv: `pip install --force-reinstall uv`"
        ) from exc
    if done.returncode:
        said = done.stderr.strip()
        told = trouble if trouble and done.returncode == 1 else f"`uv {' '.join(arguments)}` failed in {cwd}"
        raise RequirementsError(f"{told}\n{said}" if said else told)
    return done.stdout


_PACKAGE = "\n[[packages]]\n"
"""What begins a package in a pylock that uv writes; no string in it goes over several lines."""


def _divide(packages: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Of the packages of a pylock, those that are on this machine only, parsed, and the others as they are."""
    here: list[dict[str, Any]] = []
    elsewhere: list[str] = []
    for text in packages:
        if ("path = " in text or '"file:' in text) and "path" in _source(package := tomllib.loads(text)):
            here.append(package)
        else:
            elsewhere.append(text)
    return here, elsewhere


def _source(package: dict[str, Any]) -> dict[str, Any]:
    return _table(package, "directory") or _table(package, "archive") or _flat_source(package)


def _flat_source(package: dict[str, Any]) -> dict[str, Any]:
    """The archive of a package that comes from a folder of archives (`find-links`); empty if it does not.

    Of several the one that fits anywhere, or else Linux, where workers are.
    """
    names = [_file_of(each) for each in package.get("wheels", [])]
    wheels = [name for name in names if name]
    for fits in (r"-none-any\.whl$", r"linux\w*\.whl$", ""):
        for wheel in wheels:
            if re.search(fits, wheel):
                return {"path": wheel}
    sdist = _file_of(_table(package, "sdist"))
    return {"path": sdist} if sdist else {}


def _file_of(archive: dict[str, Any]) -> str:
    """Where an archive is on this machine; empty if it is not."""
    url = urllib.parse.urlsplit(str(archive.get("url", "")))
    if url.scheme != "file":
        return str(archive.get("path", ""))
    from urllib.request import url2pathname  # its import takes long

    return url2pathname(url.path)


def _indexes(packages: Iterable[str]) -> tuple[str, ...]:
    texts = (re.search(r"^index = .*$", package, re.MULTILINE) for package in packages)
    lines = dict.fromkeys(text[0] for text in texts if text)
    found = [str(tomllib.loads(line)["index"]) for line in lines]
    return tuple(sorted(found, key=lambda url: not url.startswith("https://pypi.org/")))


def _local_package(package: dict[str, Any], base: Path) -> LocalPackage:
    source = _source(package)
    path = Path(os.path.normpath(base / source["path"]))
    return LocalPackage(package["name"], path, bool(source.get("editable", False)))


def _digest(pylock: str) -> str:
    content = re.sub(r"^created-by = .*\n", "", pylock, count=1, flags=re.MULTILINE)
    return hashlib.sha256(content.encode()).hexdigest()


# --- the project's own packages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectPackage:
    """An import package or single-file module of the project.

    Attributes:
        name: what `import` calls it; dotted for a package within a namespace.
        path: its directory, or its `.py` file; absolute.
    """

    name: str
    path: Path


def project_packages(root: Path | None = None) -> list[ProjectPackage]:
    """List the import packages and modules of the project at `root`, sorted by name; only what exists.

    What `pyproject.toml` tells the build backend counts: `module-name`, `module-root` and `namespace` of uv_build;
    `packages`, `only-include`, `force-include` and `sources` of hatchling; `packages`, `packages.find`, `package-dir`
    and `py-modules` of setuptools. Where it tells nothing, and for other backends, it is what lies in `src/`, or
    else in `root` itself except the usual folders that are no packages (`tests`, `docs`, …).

    Args:
        root: the project's directory; by default `find_project_root()`.

    Raises:
        RequirementsError: there is no project, or `pyproject.toml` is not TOML.
    """
    if root is None and (root := find_project_root()) is None:
        raise RequirementsError(
            f"there is no pyproject.toml with a [project] in {Path.cwd()} or above; run `uv init`"
        )
    root = root.absolute()
    config = _pyproject(root)
    backend = str(_table(config, "build-system").get("build-backend", "")).partition(".")[0]
    readers = {"uv_build": _uv_build, "hatchling": _hatch, "setuptools": _setuptools}
    reader = readers.get(backend)
    found = [package for package in reader(root, config) if package.path.exists()] if reader else []
    return _topmost(found or _lying_around(root))


def importable_packages(root: Path) -> list[ProjectPackage]:
    """What can be imported from the project at `root` as it lies there: `project_packages`, and all else in `src/`.

    Building takes only what the build backend is told of, but an editable install puts the whole of `src/` on the
    path, and so does who runs a script beside it.

    Raises:
        RequirementsError: there is no project, or `pyproject.toml` is not TOML.
    """
    told = project_packages(root)
    known = {package.name.partition(".")[0] for package in told}
    found = [package for package in _importable(root.absolute() / "src") if package.name not in known]
    return _topmost([*told, *found])


def _topmost(packages: Iterable[ProjectPackage]) -> list[ProjectPackage]:
    """Without what lies in a package that is listed itself, and without doubles."""
    kept: list[ProjectPackage] = []
    for package in sorted(set(packages), key=lambda package: (package.name, package.path)):
        if not any(
            package.name.startswith(f"{other.name}.") and other.path in package.path.parents for other in kept
        ):
            kept.append(package)
    return kept


def _module_name(project: dict[str, Any]) -> str:
    return re.sub(r"[-_.]+", "_", str(project.get("name", ""))).lower()


def _at(root: Path, name: str) -> ProjectPackage:
    """The package or module `name` (dotted) below `root`."""
    path = root.joinpath(*name.split("."))
    module = path.with_name(f"{path.name}.py")
    return ProjectPackage(name, module if module.is_file() and not path.is_dir() else path)


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [item for item in value or [] if isinstance(item, str)]


def _uv_build(root: Path, config: dict[str, Any]) -> Iterator[ProjectPackage]:
    table = _table(config, "tool", "uv", "build-backend")
    where = root / str(table.get("module-root", "src"))
    names = _strings(table.get("module-name")) or [_module_name(_table(config, "project"))]
    return (_at(where, name) for name in names)


def _hatch(root: Path, config: dict[str, Any]) -> Iterator[ProjectPackage]:
    table = _table(config, "tool", "hatch", "build") | _table(
        config, "tool", "hatch", "build", "targets", "wheel"
    )
    for path in _strings(table.get("packages")):
        yield ProjectPackage(PurePosixPath(path).name.removesuffix(".py"), root / path)
    for source, target in _table(table, "force-include").items():
        yield ProjectPackage(_dotted(str(target)), Path(os.path.normpath(root / source)))
    sources = table.get("sources", [])
    renamed = sources if isinstance(sources, dict) else dict.fromkeys(_strings(sources), "")
    for path in _strings(table.get("only-include")):
        target = path.strip("/")
        for prefix, replacement in renamed.items():
            if PurePosixPath(target).is_relative_to(prefix):
                target = str(PurePosixPath(replacement) / PurePosixPath(target).relative_to(prefix))
                break
        if target in ("", "."):
            yield from _importable(root / path)
        else:
            yield ProjectPackage(_dotted(target), root / path)
    if not any(table.get(key) for key in ("packages", "only-include")):
        name = _module_name(_table(config, "project"))
        namespaced = (
            path.parent for path in sorted(root.glob(f"*/{name}/__init__.py")) if path.parts[-3] != "src"
        )
        for candidate in (root / name, root / "src" / name, root / f"{name}.py"):
            if (candidate / "__init__.py").is_file() or (candidate.suffix and candidate.is_file()):
                yield ProjectPackage(name, candidate)
                return
        yield from (ProjectPackage(_dotted(str(path.relative_to(root))), path) for path in namespaced)


def _dotted(path: str) -> str:
    return ".".join(part for part in PurePosixPath(path.removesuffix(".py")).parts if part not in ("/", "."))


def _setuptools(root: Path, config: dict[str, Any]) -> Iterator[ProjectPackage]:
    table = _table(config, "tool", "setuptools")
    homes = {name: root / str(path) for name, path in _table(table, "package-dir").items()}

    def locate(name: str) -> ProjectPackage:
        # The nearest parent that has a place of its own, else the place of all.
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            if (home := homes.get(".".join(parts[:length]))) is not None:
                return ProjectPackage(name, home.joinpath(*parts[length:]))
        return _at(homes.get("", root), name)

    packages = table.get("packages")
    for name in [
        *_strings(packages if isinstance(packages, list) else []),
        *_strings(table.get("py-modules")),
    ]:
        yield locate(name)
    if isinstance(packages, dict):
        find = _table(packages, "find")
        include, exclude = _strings(find.get("include", ["*"])), _strings(find.get("exclude"))
        for where in _strings(find.get("where", ["."])):
            yield from _find(root / where, include, exclude, namespaces=bool(find.get("namespaces", True)))


def _find(
    where: Path, include: list[str], exclude: list[str], *, namespaces: bool, parent: str = ""
) -> Iterator[ProjectPackage]:
    """The topmost packages that setuptools' `packages.find` would find."""
    for directory in _directories(where):
        name = f"{parent}{directory.name}"
        if not namespaces and not (directory / "__init__.py").is_file():
            continue
        wanted = any(fnmatchcase(name, pattern) for pattern in include)
        if wanted and not any(fnmatchcase(name, pattern) for pattern in exclude) and _has_python(directory):
            yield ProjectPackage(name, directory)
        else:
            yield from _find(directory, include, exclude, namespaces=namespaces, parent=f"{name}.")


# What lies beside the code of many projects and is not part of it.
_NO_PACKAGES = {
    "tests",
    "test",
    "testing",
    "docs",
    "doc",
    "examples",
    "benchmarks",
    "scripts",
    "tools",
    "build",
    "dist",
}
_NO_MODULES = {"setup", "conftest", "noxfile", "tasks", "fabfile", "dodo", "toxfile", "__main__", "__init__"}


def _lying_around(root: Path) -> list[ProjectPackage]:
    """What can be imported with `src/`, or else the project's directory, on the path."""
    if found := list(_importable(root / "src")):
        return found
    packages = [
        ProjectPackage(path.name, path) for path in _directories(root) if (path / "__init__.py").is_file()
    ]
    return [package for package in packages if package.name not in _NO_PACKAGES] + [
        module for module in _modules(root) if module.name not in _NO_MODULES
    ]


def _importable(where: Path) -> Iterator[ProjectPackage]:
    for directory in _directories(where):
        if _has_python(directory):
            yield ProjectPackage(directory.name, directory)
    yield from _modules(where)


def _modules(where: Path) -> Iterator[ProjectPackage]:
    for file in sorted(where.glob("*.py")):
        if file.stem.isidentifier() and file.is_file():
            yield ProjectPackage(file.stem, file)


def _directories(where: Path) -> list[Path]:
    return [
        path
        for path in sorted(where.glob("*"))
        if path.name.isidentifier() and path.is_dir() and not _ignored(path)
    ]


def _has_python(directory: Path) -> bool:
    return next(directory.rglob("*.py"), None) is not None


# --- content --------------------------------------------------------------------------------------------------------


def source_files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The files below `paths` that travel, as (name, path), in the order of their names.

    A name starts with that of the path given and has `/` between its parts. Bytecode, hidden files and folders (which
    hold caches, environments and secrets), `*.egg-info` and editors' backups do not travel. Links are followed, but
    never round in a circle.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for file in walk_source(path):
            below = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            found[f"{path.name}{below}"] = file
    yield from sorted(found.items())


def walk_source(path: Path) -> Iterator[Path]:
    """The same files of a single path, one by one as they are found."""
    if path.is_file():
        yield path
        return
    visited = set()
    for folder, subfolders, files in os.walk(path, followlinks=True):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if not _ignored(here / name)]
        if (real := here.resolve()) in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in files:
            file = here / name
            if not _ignored(file) and file.is_file():
                yield file


def _ignored(path: Path) -> bool:
    name = path.name
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".pyo", ".egg-info", "~"))


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) of the files that `source_files` lists: their names and contents, not their dates or place.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in source_files(paths):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
    return digest.hexdigest()
