"""Small projects with a lock, and a script in them that says what its container is like."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import surroundings
from modal_emulator import Emulator
from package_index import PackageIndex

__all__ = ["CREDENTIALS", "LOGIN", "Probed", "command", "private", "project", "run_probe", "run_script", "uv"]

CREDENTIALS = ("somebody", "pa55-w0rd")
LOGIN = {"UV_INDEX_PRIVATE_USERNAME": CREDENTIALS[0], "UV_INDEX_PRIVATE_PASSWORD": CREDENTIALS[1]}
RUN_SECONDS = 110

PROBE = """
import json
import sys
import modal
from mini_modal import make_image

def probe(names, modules):
    import importlib.metadata, importlib.util, os, sys
    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None
    def place(module):
        spec = importlib.util.find_spec(module)
        return spec and (spec.origin or list(spec.submodule_search_locations)[0])
    def contents(module):
        with open(place(module)) as file:
            return file.read()
    return {
        "python": "%d.%d" % sys.version_info[:2],
        "versions": {name: version(name) for name in names},
        "places": {module: place(module) for module in modules},
        "contents": {module: contents(module) for module in modules if (place(module) or "").endswith(".py")},
        "hidden": [f for _, _, files in os.walk("/root") for f in files if f.startswith(".") or f.endswith(".pyc")],
        "secrets": [name for name in os.environ if "INDEX" in name],
    }

app = modal.App("image-probe")
remote = app.function(image=make_image(), serialized=True)(probe)
with modal.enable_output(), app.run():
    found = remote.remote(*json.loads(sys.argv[1]))
print()
print("FOUND", json.dumps(found))
"""

PYPROJECT = """
[project]
name = "{name}"
version = "{version}"
requires-python = ">=3.11"
dependencies = [{dependencies}]
{more}
[build-system]
requires = ["uv_build"]
build-backend = "uv_build"
"""


def project(root: Path, name: str, *dependencies: str, version: str = "1.0", more: str = "") -> Path:
    """A project with a package that is named after it."""
    package = root / "src" / name.replace("-", "_")
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(f"version = {version!r}\n")
    quoted = ", ".join(json.dumps(each) for each in dependencies)
    text = PYPROJECT.format(name=name, version=version, dependencies=quoted, more=more)
    (root / "pyproject.toml").write_text(text)
    return root


def environment(**more: str) -> dict[str, str]:
    """That of this machine, without what a uv that runs this has set for its own ends."""
    kept = {
        k: v for k, v in surroundings.OUTSIDE.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    }
    return {**kept, "UV_PYTHON": sys.executable, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **more}


def command(*arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def uv(*arguments: str, cwd: Path, **more: str) -> None:
    from uv import find_uv_bin

    done = command(find_uv_bin(), "--quiet", *arguments, cwd=cwd, **more)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Probed:
    """What a container has said of itself, and what the builder said before."""

    found: dict[str, Any]
    log: str

    @property
    def built(self) -> list[str]:
        """The lines that installed or copied something, of those that were not in the cache."""
        lines = [line.strip() for line in self.log.splitlines()]
        return [
            line for line in lines if line.startswith("=> Step") and (" RUN " in line or " COPY . " in line)
        ]


def run_script(builder: Emulator, folder: Path, script: str) -> str:
    """Run a script in a folder, which must succeed; what it has printed."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    given = {name: value for name, value in builder.variables.items() if value is not None}
    done = command(sys.executable, "script.py", cwd=folder, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def run_probe(builder: Emulator, folder: Path, names: list[str], modules: list[str], **more: str) -> Probed:
    """Run `PROBE` in a folder, as a user would run a script there."""
    (folder / "probe.py").write_text(PROBE)
    given = {name: value for name, value in builder.variables.items() if value is not None}
    done = command(
        sys.executable, "probe.py", json.dumps([names, modules]), cwd=folder, COLUMNS="500", **given, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log, _, found = done.stdout.rpartition("\nFOUND ")
    return Probed(json.loads(found), log + done.stderr)


def private(index: PackageIndex) -> str:
    """What pyproject.toml says of an index that wants a password."""
    return f'[[tool.uv.index]]\nname = "private"\nurl = "{index.url}"\nexplicit = true\n'
