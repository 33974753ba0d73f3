"""What users do: a project of their own, mini from wheels, and calls on Modal, for which the emulator stands in."""

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
    import json, os
    import mini, six

    def seen(x):
        return x * x, six.__version__, os.environ.get("MODAL_IS_REMOTE"), mini.__version__

    with mini.apparatus("modal", "from-wheels").w(max_workers=2) as app:
        print(json.dumps(list(app.map(seen, range(3)))))
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory, root: Path, uv: str) -> Path:
    """A folder with the wheels that a user needs."""
    if built := os.environ.get("MINI_DIST"):
        return Path(built)
    out = tmp_path_factory.mktemp("dist")
    for name in ("mini-core", "mini-modal"):
        command = [uv, "build", "-q", "--wheel", "--package", name, "--out-dir", out]
        subprocess.run(command, cwd=root, check=True)
    return out


def test_a_new_project_runs_calls_on_modal(dist: Path, tmp_path: Path, uv: str) -> None:
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env["UV_PYTHON"] = sys.executable

    def run(*arguments: str | Path, **more: str) -> str:
        done = subprocess.run(
            arguments,
            cwd=tmp_path,
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(uv, "init", "-q", "--bare", "--name", "sweep")
    run(uv, "add", "-q", "--find-links", dist, "mini-modal", "six==1.16.0")
    (tmp_path / "sweep.py").write_text(textwrap.dedent(SWEEP))
    with Emulator() as emulator:
        there = {name: value for name, value in emulator.variables.items() if value is not None}
        said = run(uv, "run", "-q", "python", "sweep.py", **there)
        version = run(uv, "run", "-q", "python", "-c", "import mini; print(mini.__version__)").strip()
    assert json.loads(said) == [[x * x, "1.16.0", "1", version] for x in range(3)]
