"""The matrix says what it could not run, and fails for that where it is told to."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = f"3.{sys.version_info.minor}"
WAYS = pytest.mark.parametrize(
    ("arguments", "ci", "fails"),
    [([], "", False), (["--", "--require"], "", True), ([], "true", True)],
    ids=["locally", "with --require", "in CI"],
)


@pytest.fixture
def workspace(root: Path, tmp_path: Path) -> Path:
    """A copy in which the oldest Python is one that nobody has, and one backend's package is not there."""
    for name in ("packages", "uv.lock"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / name)
    pyproject = (root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(
        pyproject.replace(
            '\n  "Programming', '\n  "Programming Language :: Python :: 3.99",\n  "Programming', 1
        )
    )
    noxfile = (root / "noxfile.py").read_text()
    (tmp_path / "noxfile.py").write_text(
        noxfile.replace("BACKENDS = {", 'BACKENDS = {\n    "ghost": "mini-ghost",')
    )
    return tmp_path


def nox(workspace: Path, session: str, arguments: list[str], ci: str) -> subprocess.CompletedProcess[str]:
    outside = {
        name: value
        for name, value in os.environ.items()
        if name not in {"UV_PYTHON", "UV_PROJECT_ENVIRONMENT"}
    }
    return subprocess.run(
        [sys.executable, "-m", "nox", "-s", session, *arguments],
        cwd=workspace,
        env={**outside, "CI": ci, "UV_PYTHON_DOWNLOADS": "never"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@WAYS
def test_a_missing_interpreter(workspace: Path, arguments: list[str], ci: str, fails: bool) -> None:
    result = nox(workspace, "tests-3.99", arguments, ci)
    assert (result.returncode != 0) is fails, result.stdout
    assert "3.99 not found" in result.stdout


@WAYS
def test_a_missing_backend(workspace: Path, arguments: list[str], ci: str, fails: bool) -> None:
    """It takes one line in BACKENDS to be asked for."""
    result = nox(workspace, f"conformance-{HERE}(backend='ghost')", arguments, ci)
    assert (result.returncode != 0) is fails, result.stdout
    assert "mini-ghost is not in this checkout" in result.stdout


def test_a_table_with_holes_is_not_whole(root: Path, tmp_path: Path) -> None:
    """What a session skips, it does not pass: where all is required, that fails it."""
    spec = importlib.util.spec_from_file_location("noxfile", root / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    noxfile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)

    def fragment(column: str, **outcomes: str) -> None:
        tests = [{"test": test, "outcome": outcome, "reason": "why"} for test, outcome in outcomes.items()]
        (tmp_path / f"{column}.fragment.json").write_text(json.dumps({"tests": tests}))

    assert noxfile.left_out(tmp_path, "here", "3.11") == ["here on 3.11: everything"]
    fragment("here-process-3.11", test_a="passed", test_b="declined")
    fragment("here-process-3.12", test_a="skipped")
    fragment("there-process-3.11", test_a="skipped")
    assert noxfile.left_out(tmp_path, "here", "3.11") == []
    fragment("here-thread-3.11", test_a="passed", test_b="skipped", test_c="failed")
    assert noxfile.left_out(tmp_path, "here", "3.11") == ["here-thread-3.11: test_b: why"]
