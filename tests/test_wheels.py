"""What is in the wheels and sdists, and that a wheel is enough.

`nox -s wheels` runs this on what it leaves in build/dist.
"""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

JUNK = {"__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".mini"}


@pytest.fixture(params=PACKAGES, ids=lambda path: path.name)
def package(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def sources(package: Path, part: str) -> set[str]:
    """The files below a folder of a package that are part of it, relative to the folder."""
    folder = package / part
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not JUNK & set(path.parts)}


def wheel_of(package: Path, dist: Path) -> Path:
    (wheel,) = dist.glob(f"{package.name.replace('-', '_')}-*.whl")
    return wheel


def metadata_of(package: Path, dist: Path) -> Message:
    with zipfile.ZipFile(wheel_of(package, dist)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_a_wheel_has_the_sources_and_nothing_else(package: Path, dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(package, dist)) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - info == sources(package, "src")
    assert any(name.count("/") == 1 and name.endswith("/py.typed") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in info)


def test_a_wheel_carries_the_readme_and_the_licence(package: Path, dist: Path) -> None:
    metadata = metadata_of(package, dist)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert text.decode().strip() == (package / "README.md").read_text().strip()


def test_an_sdist_has_the_sources_and_their_tests(package: Path, dist: Path) -> None:
    (sdist,) = dist.glob(f"{package.name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    wanted = {f"{part}/{name}" for part in ("src", "tests") for name in sources(package, part)}
    # The .orig is uv_build's copy of pyproject.toml as we wrote it.
    assert names - {"pyproject.toml.orig"} == wanted | {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}


def test_a_wheel_is_enough(package: Path, dist: Path, tmp_path: Path, uv: str) -> None:
    """In an empty venv a wheel brings what it needs: it imports, its programs answer, its entries load."""
    with (package / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    (module,) = (path.parent.name for path in package.glob("src/*/__init__.py"))
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [uv, "pip", "install", "-q", f"--python={python}", f"--find-links={dist}"]
    subprocess.run([*install, wheel_of(package, dist)], check=True, cwd=tmp_path)
    # What pytest loads is loaded where pytest is.
    check = f"""
import importlib.metadata as metadata, importlib.util, pathlib, sys, {module}
assert pathlib.Path({module}.__file__).is_relative_to(sys.prefix), {module}.__file__
assert {module}.__version__ == metadata.version({package.name!r})
for entry in metadata.distribution({package.name!r}).entry_points:
    if entry.group != "pytest11" or importlib.util.find_spec("pytest"):
        entry.load()
"""
    # -I: nothing of this folder, of PYTHONPATH or of the user's site gets in.
    subprocess.run([python, "-I", "-W", "error", "-c", check], check=True, cwd=tmp_path)
    for script in project["project"].get("scripts", {}):
        subprocess.run(
            [python.with_name(script), "--help"], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL
        )
