"""Packages come into an image from the files that projects list them in. Runs on Modal as well."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import modal
import uv

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
here = Path(tempfile.mkdtemp())


def write(name: str, text: str) -> Path:
    path = here / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def wheel(name: str) -> str:
    """Make a package; returns what Poetry calls it. Its own way to ask an index is not every index's."""
    file = f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    (here / "wheels").mkdir(exist_ok=True)
    with zipfile.ZipFile(here / "wheels" / file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f'{name} = {{ path = "/wheels/{file}" }}'


project = f"""
[project]
name = "mine"
version = "1.0"
requires-python = ">={MINOR}"
dependencies = ["six==1.16.0"]

[project.optional-dependencies]
more = ["toolz==0.12.1"]

[dependency-groups]
test = ["iniconfig==2.0.0"]
dev = ["pluggy==1.4.0"]
"""
poetry = f"""
[tool.poetry]
name = "mine"
version = "1.0"
description = ""
authors = []

[tool.poetry.dependencies]
python = "^{MINOR}"
{wheel("verse")}

[tool.poetry.group.more.dependencies]
{wheel("rhyme")}

[tool.poetry.group.test]
optional = true

[tool.poetry.group.test.dependencies]
{wheel("metre")}
"""
requirements = write("requirements.txt", "# by hand\nsix==1.16.0\ntoolz == 0.12.1 ; python_version >= '3'\n")
plain = write("plain/pyproject.toml", project)
locked = write("locked/pyproject.toml", project)
poetic = write("poetic/pyproject.toml", poetry)
subprocess.run([uv.find_uv_bin(), "lock", "--quiet", "--project", locked.parent], check=True)

slim = modal.Image.debian_slim(python_version=MINOR)
stocked = slim.add_local_dir(here / "wheels", "/wheels", copy=True)
poetic_image = stocked.poetry_install_from_file(str(poetic), ignore_lockfile=True, without=["more"])
IMAGES = {
    "requirements": slim.pip_install_from_requirements(str(requirements)),
    "pyproject": slim.pip_install_from_pyproject(str(plain), optional_dependencies=["more"]),
    "uv without a lock": slim.uv_sync(str(plain.parent), extras=["more"]),
    "uv with a lock": slim.uv_sync(str(locked.parent), groups=["test"], extra_options="--no-group dev"),
    "poetry without a lock": poetic_image,
}
app = modal.App("test-installs")


def found() -> dict[str, str]:
    """The versions of what can be imported."""
    versions = {}
    for name in ("six", "toolz", "iniconfig", "pluggy", "verse", "rhyme", "metre"):
        try:
            __import__(name)
        except ImportError:
            continue
        versions[name] = version(name)
    return versions


def lock(pyproject: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pyproject.toml").write_text(pyproject)
        subprocess.run(["poetry", "lock"], cwd=folder, check=True)
        return Path(folder, "poetry.lock").read_text()


functions = {
    name: app.function(image=image, name=f"found-{number}", serialized=True)(found)
    for number, (name, image) in enumerate(IMAGES.items())
}
lock_there = app.function(image=poetic_image, serialized=True)(lock)


def say(name: str, value: object) -> None:
    print(json.dumps([name, value]), flush=True)


def main() -> None:
    with modal.enable_output(), app.run():
        for name, function in functions.items():
            say(name, function.remote())
        write("poetic/poetry.lock", lock_there.remote(poetry))
    other = modal.App("test-installs-locked")
    image = stocked.poetry_install_from_file(str(poetic), with_=["test"])
    function = other.function(image=image, serialized=True)(found)
    with modal.enable_output(), other.run():
        say("poetry with a lock", function.remote())


if __name__ == "__main__":
    main()
