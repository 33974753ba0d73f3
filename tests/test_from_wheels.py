"""What users do: a project of their own, mini from wheels, and calls on Ray, or on Modal as the emulator has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from modal_emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = """
    import json, os, sys
    import mini, six

    def seen(x):
        return x * x, six.__version__, "MODAL_IS_REMOTE" in os.environ, os.getpid() != caller, mini.__version__

    caller = os.getpid()
    with mini.apparatus(sys.argv[1], "from-wheels").w(max_workers=2) as app:
        print(json.dumps(list(app.map(seen, range(3)))))
"""


class Project:
    """An empty project in `folder`, and what is done with it."""

    def __init__(self, folder: Path, uv: str) -> None:
        self._folder = folder
        self._uv = uv
        self._env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT") and not name.startswith("RAY_")
        } | {"UV_PYTHON": sys.executable}
        self.run("init", "-q", "--bare", "--name", "sweep")
        (folder / "sweep.py").write_text(textwrap.dedent(SWEEP))

    def run(self, *arguments: str | Path, **more: str) -> str:
        done = subprocess.run(
            [self._uv, *arguments],
            cwd=self._folder,
            env={**self._env, **more},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self, backend: str, *, remote: bool, **more: str) -> None:
        said = self.run("run", "-q", "python", "sweep.py", backend, **more)
        version = self.run("run", "-q", "python", "-c", "import mini; print(mini.__version__)").strip()
        assert json.loads(said) == [[x * x, "1.16.0", remote, True, version] for x in range(3)]


@pytest.fixture
def project(tmp_path: Path, uv: str) -> Project:
    return Project(tmp_path, uv)


def test_a_new_project_runs_calls_on_modal(dist: Path, project: Project) -> None:
    project.run("add", "-q", "--find-links", dist, "mini-modal", "six==1.16.0")
    with Emulator() as emulator:
        there = {name: value for name, value in emulator.variables.items() if value is not None}
        project.check("modal", remote=True, **there)


def test_a_new_project_runs_calls_on_ray(dist: Path, project: Project) -> None:
    project.run("add", "-q", "--find-links", dist, "mini-ray", "six==1.16.0")
    project.check("ray", remote=False)
