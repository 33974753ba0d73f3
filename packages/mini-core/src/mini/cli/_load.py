"""A Python file that somebody names on the command line, imported so that what it defines can travel."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mini.diagnose import type_name
from mini.requirements import ProjectPackage

__all__ = ["TargetError", "find_function", "functions", "load_file", "package_of", "parse_file"]


class TargetError(Exception):
    """There is no such function in the file; the message says what there is."""


def parse_file(name: str, hint: str) -> Path:
    """The path of a Python file.

    Raises:
        click.BadParameter: there is no such file, or it is none of Python's.
    """
    file = Path(name)
    if not file.is_file():
        raise click.BadParameter(f"there is no file {name!r}", param_hint=hint)
    if file.suffix != ".py":
        raise click.BadParameter(f"{name!r} is not a Python file (.py)", param_hint=hint)
    return file


def package_of(file: Path, packages: Iterable[ProjectPackage]) -> ProjectPackage | None:
    """The package of the project that a file is in, or None: then it is a script."""
    return next((p for p in packages if p.path.is_dir() and file.is_relative_to(p.path)), None)


def load_file(file: Path, package: ProjectPackage | None, name: str) -> ModuleType:
    """Execute a file, as the module of its package, or as a script that goes by `name`.

    That is not `__main__`, so that a script's last lines do not run; what it defines pickles by value. What a module
    defines pickles by name. The process is changed (`sys.path`, `sys.modules`, `sys.argv`).

    Raises:
        whatever the file raises.
    """
    from mini import snapshot  # `mini check` of a file loads no tar

    snapshot.add_program(file)
    return _load_script(file, name) if package is None else _load_module(file, package)


def _load_script(file: Path, name: str) -> ModuleType:
    import cloudpickle

    module = ModuleType(name)
    module.__file__ = str(file)
    sys.path.insert(0, str(file.parent))
    sys.argv = [str(file)]
    sys.modules[name] = module
    cloudpickle.register_pickle_by_value(module)
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


def _load_module(file: Path, package: ProjectPackage) -> ModuleType:
    inner = file.relative_to(package.path).with_suffix("").parts
    return importlib.import_module(".".join([package.name, *(part for part in inner if part != "__init__")]))


def functions(module: ModuleType) -> list[str]:
    """The names of the functions that a module itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isroutine(value) and getattr(value, "__module__", None) == module.__name__
    ]


def find_function(module: ModuleType, function: str) -> Callable[..., Any]:
    """What can be called by a dotted name in a module.

    Raises:
        TargetError: there is nothing of that name, or it cannot be called.
    """
    found: Any = module
    for part in function.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    kind = type_name(found).removeprefix(f"{module.__name__}.")
    problem = f"there is no {function!r}" if found is None else f"{function!r} is a {kind} and no function"
    raise TargetError(
        f"{problem} in {module.__file__}; it has {', '.join(functions(module)) or 'no functions'}"
    )
