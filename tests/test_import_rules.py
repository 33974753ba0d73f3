"""Imports go one way: adapters import public names of `mini`, `mini` and the emulator nothing of ours.

The rules are read from the sources, so that an import inside a function, which no test may reach, counts too.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "mini"
# They import nothing of ours: the core carries everything else, the emulator stands in for a foreign service.
ALONE = {CORE, "modal_emulator"}


@dataclass(frozen=True)
class Package:
    """A package of the workspace."""

    folder: Path
    module: str
    """What it is imported as."""
    declared: frozenset[str]
    """The distributions that it depends on, those of its extras included."""

    @classmethod
    def read(cls, folder: Path) -> Package:
        with (folder / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        extras = project.get("optional-dependencies", {})
        lines = [*project.get("dependencies", []), *(line for extra in extras.values() for line in extra)]
        (module,) = (path.parent.name for path in folder.glob("src/*/__init__.py"))
        return cls(folder, module, frozenset(normal(re.split(r"[^\w.-]", line)[0]) for line in lines))


@dataclass(frozen=True)
class Import:
    where: str
    module: str
    name: str | None
    """What is taken from the module; None for the module itself."""

    def __str__(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imports(package: Package) -> Iterator[Import]:
    """All that a package's sources import from elsewhere; what they read off `mini` by a dot counts as well."""
    for path in sorted(package.folder.glob("src/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(), path)):
            where = f"{path.relative_to(package.folder)}:{getattr(node, 'lineno', 0)}"
            match node:
                case ast.Import(names=names):
                    yield from (Import(where, name.name, None) for name in names)
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    yield from (Import(where, module, name.name) for name in names)
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == CORE:
                    yield Import(where, CORE, attribute)


def is_public(item: Import) -> bool:
    """Whether an adapter may rely on it: no part of the module is private, and it lists the name as its own."""
    if any(part.startswith("_") for part in item.module.split(".")):
        return False
    return item.name is None or item.name in getattr(importlib.import_module(item.module), "__all__", ())


def violations(package: Package, packages: list[Package]) -> list[str]:
    """What a package imports and may not, one line for each."""
    owners = {**importlib.metadata.packages_distributions()}
    owners |= {other.module: [other.folder.name] for other in packages}
    ours = {other.module for other in packages}
    found = []
    for item in imports(package):
        top = item.module.partition(".")[0]
        if top == package.module or top in sys.stdlib_module_names:
            continue
        if top in ours and (package.module in ALONE or top != CORE):
            found.append(f"{item.where}: {package.module} may not import {item}")
        elif top == CORE and not is_public(item):
            found.append(f"{item.where}: {item} is not public")
        elif package.declared.isdisjoint(map(normal, owners.get(top, ()))):
            found.append(f"{item.where}: no dependency of {package.folder.name} brings {item}")
    return found


PACKAGES = [Package.read(path.parent) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.module))
def test_a_package_imports_only_what_it_may(package: Package) -> None:
    assert violations(package, PACKAGES) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("mini_ray", "from mini import MiniError, errors\n", "mini.errors is not public"),
        ("mini_ray", "def f():\n    from mini.errors import _x\n", "mini.errors._x is not public"),
        ("mini_ray", "import mini._x\n", "mini._x is not public"),
        ("mini_ray", "import mini\nmini._load()\n", "mini._load is not public"),
        ("mini_ray", "import mini_modal\n", "mini_ray may not import mini_modal"),
        ("mini_ray", "import numpy\n", "no dependency of mini-ray brings numpy"),
        ("mini", "from mini_ray import RayApparatus\n", "mini may not import mini_ray.RayApparatus"),
        ("modal_emulator", "from mini import MiniError\n", "modal_emulator may not import mini.MiniError"),
        ("mini_ray", "import mini, click\nfrom . import b\nfrom .b import c\nmini.MiniError\n", None),
    ],
)
def test_the_rules_catch_what_they_are_for(
    tmp_path: Path, module: str, source: str, complaint: str | None
) -> None:
    made = {}
    for name, distribution in {
        "mini": "mini-core",
        "mini_ray": "mini-ray",
        "mini_modal": "mini-modal",
        "modal_emulator": "modal-emulator",
    }.items():
        folder = tmp_path / distribution
        inside = folder / "src" / name / "inside"
        inside.mkdir(parents=True)
        (inside.parent / "__init__.py").touch()
        (inside / "a.py").write_text(source if name == module else "")
        declared = ["mini-core >= 1", "click[x]>=8; python_version < '4'"]
        (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {declared}\n")
        made[name] = Package.read(folder)
    found = violations(made[module], [*made.values()])
    if complaint is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"src/{module}/inside/a.py:")
        assert line.endswith(complaint)
