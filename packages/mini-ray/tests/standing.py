"""Clusters that have nothing of mini, and projects whose calls they run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import ray
from mini.requirements import find_uv
from ray_clusters import RayCluster

__all__ = ["Cluster", "answer", "at_home", "environment", "make_venv", "processes", "project", "run", "uv"]

PROCESS_SECONDS = 110


def environment(**more: str) -> dict[str, str]:
    """That of this machine, without what a uv that runs this has set for its own ends."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "RAY_ADDRESS", "XDG_CACHE_HOME", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    local = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
    return {**kept, **local, "RAY_USAGE_STATS_ENABLED": "0", **more}


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program, which must succeed; what it has printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path, cwd: Path | None = None, **more: str) -> str:
    return run(find_uv(), *arguments, cwd=cwd, env=environment(UV_PYTHON=sys.executable, **more))


def at_home(home: Path) -> dict[str, str]:
    """The variables of somebody whose home that is."""
    home.mkdir()
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


def make_venv(folder: Path, python: str = sys.executable, version: str = ray.__version__) -> Path:
    """A virtual environment in which there is Ray, by default as it is here, and nothing else; returns its Python."""
    uv("venv", "--quiet", "--python", python, folder)
    made = folder / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", made, f"ray=={version}")
    return made


def project(root: Path, *dependencies: str, more: str = "") -> Path:
    """A locked project with a package `sample`, outside of any other."""
    package = root / "src" / "sample"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("version = 1\n")
    (root / "pyproject.toml").write_text(
        f"[project]\nname = 'sample'\nversion = '1.0'\nrequires-python = '>=3.11'\n"
        f"dependencies = {json.dumps(dependencies)}\n{more}\n"
        "[build-system]\nrequires = ['uv_build']\nbuild-backend = 'uv_build'\n"
    )
    uv("lock", "--quiet", cwd=root)
    return root


class Cluster(RayCluster):
    """A head whose processes have a home of their own, and what they need to install packages.

    Args:
        python: in whose environment it runs.
    """

    def __init__(self, python: Path) -> None:
        cache = uv("cache", "dir").strip()  # so that not everything has to be fetched
        path = os.pathsep.join([str(find_uv().parent), os.environ["PATH"]])
        super().__init__(env={"PATH": path, "UV_CACHE_DIR": cache}, python=python)
        self.home = self.directory / "home"
        self._env.update(at_home(self.home))

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "mini" / "ray"

    def environments(self) -> list[Path]:
        """Those that count."""
        return sorted(path.parent for path in self.cache.glob("environments/*/mini.json"))

    def leftovers(self) -> list[Path]:
        """Folders that do not count."""
        return [
            path
            for path in [*self.cache.glob("environments/*"), *self.cache.glob("sources/.*")]
            if path.is_dir() and not (path / "mini.json").exists()
        ]

    def start(self, folder: Path, code: str, **more: str) -> subprocess.Popen[str]:
        """Start a script in a folder, in which `app` is an apparatus that has joined; it prints JSON."""
        script = folder / f"script-{os.urandom(4).hex()}.py"
        script.write_text(
            "import json, logging, sys, time, mini\n"
            "from mini_ray import RayApparatus\n"
            "logging.basicConfig(level=logging.INFO)\n"
            f"app = RayApparatus('env', {self.address!r}, {str(self.home / 'volumes')!r}, max_workers=2)\n"
            "app = app.w(progress=False)\n" + textwrap.dedent(code)
        )
        env = environment(**self.variables, **more)
        return subprocess.Popen(
            [sys.executable, script],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, code: str, **more: str) -> tuple[Any, str]:
        """What a script has printed, and its log."""
        return answer(self.start(folder, code, **more))


def answer(process: subprocess.Popen[str]) -> tuple[Any, str]:
    try:
        out, err = process.communicate(timeout=PROCESS_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + err
    return json.loads(out.splitlines()[-1]), err


def processes(word: str) -> list[int]:
    """Of this machine, those that have a word in their command line; not this one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (each / "cmdline").read_text() and int(each.name) != os.getpid():
                found.append(int(each.name))
    return found
