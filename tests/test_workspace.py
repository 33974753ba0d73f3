"""What several files of the workspace say has to be the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def read(folder: Path) -> dict[str, Any]:
    with (folder / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def pythons(folder: Path) -> list[str]:
    start = "Programming Language :: Python :: 3."
    return [line for line in read(folder)["project"]["classifiers"] if line.startswith(start)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_supports_what_the_matrix_runs(package: Path) -> None:
    assert pythons(package) == pythons(ROOT)
    assert read(package)["project"]["requires-python"] == read(ROOT)["project"]["requires-python"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_ships_the_licence_of_the_project(package: Path) -> None:
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_packages_tests_run_alone_as_they_run_here(package: Path) -> None:
    """pytest reads one configuration, the nearest: an sdist's has to be as strict as the checkout's."""
    here = read(ROOT)["tool"]["pytest"]["ini_options"]
    alone = read(package)["tool"]["pytest"]["ini_options"]
    assert here | {"testpaths": ["tests"]} == alone


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_checkout_runs_every_packages_tests(package: Path) -> None:
    testpaths = read(ROOT)["tool"]["pytest"]["ini_options"]["testpaths"]
    assert f"packages/{package.name}/tests" in testpaths


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by their names, whatever folder they are in."""
    names = [
        path.name
        for folder in ("packages/*/tests", "tests", "tests/*")
        for path in ROOT.glob(f"{folder}/*.py")
    ]
    assert [name for name in sorted(set(names)) if names.count(name) > 1 and name != "conftest.py"] == []
