"""Everything that can be known about a call before it is made: what travels, and what would fail where it arrives."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mini.diagnose import Unpicklable, survey, type_name
from mini.errors import RequirementsError
from mini.pickling import Pickler
from mini.requirements import (
    ProjectPackage,
    Requirements,
    find_project_root,
    find_workspace_root,
    importable_packages,
    source_files,
    uv_freeze,
    worker_groups,
)
from mini.wire import dumps

from ._imports import imports_of, is_standard
from ._load import TargetError, find_function, load_file, package_of

__all__ = ["Preflight", "Problem", "TargetError", "preflight"]

SCHEMA = 1
LARGE = 10_000_000
"""Bytes from which a function is called large: it goes to every worker."""

MODULE_NAME = "__mini_check__"
"""What a script is called while it is checked; it is not `__main__`, so that its last lines do not run."""

# On every worker, because the worker is made of them.
_ON_EVERY_WORKER = {"mini", "cloudpickle", "tblib"}

Kind = Literal[
    "import",
    "generator",
    "signature",
    "unpicklable",
    "handle",
    "module",
    "lock",
    "project",
    "large",
    "unpinned",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would fail, or that is worth knowing.

    Attributes:
        kind: what sort of thing.
        subject: the path in the function, the module or the file that it is about.
        message: what is wrong.
        hint: what to do; empty where nothing is to be done.
    """

    kind: Kind
    subject: str
    message: str
    hint: str = ""


@dataclass(slots=True)
class Preflight:
    """What a preflight found. Sizes are in bytes, as pickled; None where that failed or there is nothing."""

    file: Path
    function: str
    loaded_as: Literal["script", "module"]
    root: Path | None = None
    workspace: Path | None = None
    lock: Literal["ok", "bad", "none"] = "none"
    function_bytes: int | None = None
    input_bytes: int | None = None
    captures: list[tuple[str, str, int]] = field(default_factory=list)
    packages: list[ProjectPackage] = field(default_factory=list)
    requirements: Requirements | None = None
    modules: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def package_sizes(self) -> list[tuple[ProjectPackage, int, int]]:
        """Each of the project's packages with the number and the bytes of its files."""
        sizes = []
        for package in self.packages:
            files = [file.stat().st_size for _, file in source_files([package.path])]
            sizes.append((package, len(files), sum(files)))
        return sizes

    def archives(self) -> list[tuple[str, Path, int]]:
        """Each wheel or source archive of this machine that travels: name, path and bytes."""
        found = self.requirements.local if self.requirements else ()
        return [
            (local.name, local.path, local.path.stat().st_size) for local in found if local.path.is_file()
        ]

    def as_json(self) -> dict[str, Any]:
        """As docs/reference/cli.md says."""
        found = self.requirements
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "target": {"file": str(self.file), "function": self.function, "loaded_as": self.loaded_as},
            "project": self.root
            and {"root": str(self.root), "workspace_root": str(self.workspace), "lock": self.lock},
            "ships": {
                "function_bytes": self.function_bytes,
                "input_bytes": self.input_bytes,
                "captures": [
                    {"path": path, "type": kind, "bytes": size} for path, kind, size in self.captures
                ],
                "packages": [
                    {"name": package.name, "path": str(package.path), "files": files, "bytes": size}
                    for package, files, size in self.package_sizes()
                ],
                "local": [{**asdict(local), "path": str(local.path)} for local in found.local]
                if found
                else [],
                "requirements": list(found.requirements) if found else [],
                "requirements_digest": found.digest if found else None,
            },
            "modules": [{"name": name, "origin": origin} for name, origin in sorted(self.modules.items())],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
        }


_NOTHING = object()


def preflight(file: Path, function: str, value: Any = _NOTHING, *, app: str | None = None) -> Preflight:
    """Check the function called `function` in `file`, and `value` as its first input if it is given.

    `app` is the backend that it is meant for, which may have settings of its own in the project.

    Executes the file as an import would; calls nothing of it. The process is changed by that (`sys.path`,
    `sys.modules`), so it is meant to end soon after.

    Raises:
        TargetError: the file has no such function.
    """
    file = file.resolve()
    result = Preflight(file, function, "script")
    _look_at_project(result, app)
    # A worker has them, whether or not they are installed here.
    sys.path += [str(_path_entry(package)) for package in result.packages]
    package = package_of(file, result.packages)
    result.loaded_as = "script" if package is None else "module"
    try:
        module = load_file(file, package, MODULE_NAME)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        result.problems.append(_import_problem(exc, file))
        return result
    fn = find_function(module, function)
    inputs = () if value is _NOTHING else (value,)
    _look_at_call(result, fn, inputs)
    _look_at_pickles(result, fn, inputs)
    _look_at_modules(result, (fn, inputs))
    return result


# --- the project ----------------------------------------------------------------------------------------------------


def _look_at_project(result: Preflight, app: str | None) -> None:
    try:
        result.root = find_project_root(result.file.parent)
        if result.root is None:
            note = f"no project in {result.file.parent} or above (pyproject.toml): only the function itself travels"
            result.notes.append(
                Problem("project", str(result.file), note, "run `uv init` to have a project with a lock")
            )
            return
        result.workspace = find_workspace_root(result.root)
        result.packages = importable_packages(result.root)
        result.lock = "bad"
        result.requirements = uv_freeze(result.root, groups=sorted(worker_groups(result.root, app)))
        result.lock = "ok"
    except RequirementsError as exc:
        message, _, details = str(exc).partition("\n")
        result.problems.append(Problem("lock", "uv.lock", message, details))
        return
    listed = {package.path for package in result.packages}
    for local in result.requirements.local:
        if local.path.is_dir():
            result.packages += [
                package for package in importable_packages(local.path) if package.path not in listed
            ]


# --- loading --------------------------------------------------------------------------------------------------------


def _path_entry(package: ProjectPackage) -> Path:
    """The directory that has to be on `sys.path` for the package to be found."""
    return package.path.parents[package.name.count(".")]


def _import_problem(exc: BaseException, file: Path) -> Problem:
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename) == file]
    where = f"{file.name}:{frames[-1].lineno}" if frames else file.name
    hint = (
        "guard what only a script does with `if __name__ == '__main__':`"
        if isinstance(exc, SystemExit)
        else ""
    )
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        hint = f"run `uv add {exc.name.partition('.')[0]}`, or with `uv run` if it is added already"
    message = "".join(traceback.format_exception_only(exc)).strip()
    return Problem("import", where, f"the file cannot be imported: {message}", hint)


# --- the call -------------------------------------------------------------------------------------------------------


def _look_at_call(result: Preflight, fn: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        message = "it is a generator function, which run and map refuse"
        result.notes.append(
            Problem("generator", result.function, message, "call it with `stream`, or return a list")
        )
    if inputs:
        with contextlib.suppress(ValueError):  # some callables have no signature
            try:
                inspect.signature(fn).bind(*inputs)
            except TypeError as exc:
                result.problems.append(
                    Problem(
                        "signature",
                        result.function,
                        f"it does not take the input: {exc}",
                        "one input is one positional argument",
                    )
                )


def _look_at_pickles(result: Preflight, fn: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    result.function_bytes = _size(fn)
    result.input_bytes = _size(inputs) if inputs else None
    result.problems += [_unpicklable(one) for one in survey(fn, result.function, make_pickler=Pickler)]
    if result.loaded_as == "module":  # it travels as its name
        return
    try:
        variables = inspect.getclosurevars(inspect.unwrap(fn))
    except TypeError:  # a callable that is no function
        return
    for form, values in (("__closure__", variables.nonlocals), ("__globals__", variables.globals)):
        for name, value in values.items():
            if (
                not isinstance(value, ModuleType | type)
                and not callable(value)
                and (size := _size(value)) is not None
            ):
                result.captures.append(
                    (f"{result.function}.{form}[{name!r}]", _shown(type_name(value)), size)
                )
    result.captures.sort(key=lambda capture: -capture[2])
    if (result.function_bytes or 0) >= LARGE:
        biggest = result.captures[0][0] if result.captures else result.function
        result.notes.append(
            Problem(
                "large",
                biggest,
                f"the function is {result.function_bytes:,} bytes, which go to every worker once per map",
                "write it to the volume once and read it there, or load it inside the function",
            )
        )


def _size(obj: object) -> int | None:
    try:
        data, buffers = dumps(obj)
    except Exception:
        return None
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)


def _shown(kind: str) -> str:
    """The name of a type as the script knows it."""
    return kind.removeprefix(f"{MODULE_NAME}.")


def _unpicklable(one: Unpicklable) -> Problem:
    return Problem(
        "unpicklable" if one.fatal else "handle", one.path, f"{_shown(one.type)}: {one.reason}", one.hint
    )


# --- the modules ----------------------------------------------------------------------------------------------------


def _look_at_modules(result: Preflight, obj: object) -> None:
    provided = importlib.metadata.packages_distributions()
    locked = _locked_names(result.requirements) if result.requirements else set()
    own = {package.name for package in result.packages}
    unpinned: set[str] = set()
    told: set[str] = set()
    for item in imports_of(obj, result.function, result.packages):
        top = item.name.partition(".")[0]
        if top in _ON_EVERY_WORKER or top in told or top == MODULE_NAME or is_standard(item.name):
            continue
        # Also a namespace that one of the project's packages is in.
        if any(f"{item.name}.".startswith(f"{name}.") or name.startswith(f"{item.name}.") for name in own):
            result.modules[top] = "project"
            continue
        distributions = {_normal(name) for name in provided.get(top, [])}
        if distributions & locked or (not distributions and _normal(top) in locked):
            result.modules[top] = "lock"
            continue
        origin, problem = _foreign_module(result, top, item.where, sorted(distributions))
        if item.optional and problem:
            continue
        told.add(top)
        result.modules[top] = origin
        if origin == "installed" and result.requirements is None:
            unpinned.add(top)  # no lock, or one that has been complained of
        elif problem:
            result.problems.append(problem)
    if unpinned and result.root is None:
        what = ", ".join(sorted(unpinned))
        message = f"nothing pins the versions of {what}: a worker elsewhere may have others, or none"
        result.notes.append(Problem("unpinned", what, message, "a project with a uv.lock pins them"))


def _foreign_module(
    result: Preflight, top: str, where: str, distributions: list[str]
) -> tuple[str, Problem | None]:
    """Where a module that is not Python's, the project's or in the lock comes from, and what is wrong with that."""
    if distributions:
        name = distributions[0]
        hint = f"run `uv add {name}`"
        if result.root and result.requirements and name in _in_some_group(result.root):
            hint += (
                "; it is only in an extra or a dependency group (dev, local) now, which workers do not get"
            )
        return "installed", Problem(
            "module", top, f"{where} imports {top} ({name}), which is not in uv.lock", hint
        )
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    add = "run `uv add` with the distribution that has it"
    if result.root is None:
        add = "run `uv init` to have a project, then `uv add` with the distribution that has it"
    if spec is None:
        lacking = (
            "which is neither installed here nor in uv.lock"
            if result.requirements
            else "which is not installed here"
        )
        return "missing", Problem("module", top, f"{where} imports {top}, {lacking}", add)
    place = spec.origin or next(iter(spec.submodule_search_locations or []), "somewhere")
    move = (
        "move it into the project's packages, such as src/"
        if result.root
        else "move it into src/ of a project"
    )
    return "local", Problem("module", top, f"{where} imports {top} from {place}, which does not travel", move)


def _locked_names(requirements: Requirements) -> set[str]:
    packages = tomllib.loads(requirements.pylock).get("packages", [])
    return {_normal(package["name"]) for package in packages} | {
        _normal(local.name) for local in requirements.local
    }


def _in_some_group(root: Path) -> set[str]:
    try:
        return _locked_names(uv_freeze(root, all_groups=True, all_extras=True))
    except RequirementsError:  # groups that exclude each other
        return set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
