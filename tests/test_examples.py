"""Each example runs, as a user would run it, and does what it is there to show."""

from __future__ import annotations

import ast
import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from processes import run

EXAMPLES = sorted(
    path.parent for path in Path(__file__).resolve().parents[1].glob("examples/*/pyproject.toml")
)


def set_grid(copy: Path, hidden: str, rates: str) -> None:
    script = (copy / "sweep.py").read_text()
    for old, new in [
        ("HIDDEN = [8, 16, 32, 64, 128, 256]", f"HIDDEN = {hidden}"),
        ("RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]", f"RATES = {rates}"),
    ]:
        assert old in script
        script = script.replace(old, new)
    (copy / "sweep.py").write_text(script)


def sweep(example: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "COLUMNS": "100", **env}
    return run(sys.executable, example / "sweep.py", *arguments, cwd=example, env=everything)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The digits example, copied out of the checkout as a user would."""
    shutil.copytree(root / "examples" / "digits", tmp_path / "digits", ignore=shutil.ignore_patterns(".*"))
    return tmp_path / "digits"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_digits_trains_a_grid_and_judges_it_where_the_models_are(copy: Path) -> None:
    done = sweep(copy, "--epochs", "8", MINI_PROGRESS="0")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "36 models, the best first" in done.stdout

    rows = re.findall(r"^│ +(\d+) │ +([\d.]+) │ +([\d.]+) │ +[\d.]+ │$", done.stdout, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 36
    scores = [float(score) for _, _, score in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert f"best so far: {scores[0]:.3f} with" in done.stdout
    judged = re.search(
        r"the best model is right in ([\d.]+)%, the best five together in ([\d.]+)%", done.stdout
    )
    assert judged is not None
    assert all(float(share) > 90 for share in judged.groups())

    models = list((copy / ".mini" / "volumes" / "digits" / "models").iterdir())
    assert len(models) == 36
    assert pickle.loads(models[0].read_bytes()).n_outputs_ == 10
    assert (copy / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_digits_goes_on_without_the_models_that_fail(copy: Path) -> None:
    # A learning rate at which the network's weights overflow: scikit-learn refuses to go on.
    set_grid(copy, "[8]", "[0.01, 1e300]")
    done = sweep(copy, "--epochs", "3")
    assert done.returncode == 0, done
    assert "1 models, the best first" in done.stdout
    assert "failed: Setting(hidden=8, rate=1e+300)" in done.stdout
    assert (copy / "sweep.png").exists()


@pytest.mark.slow
def test_digits_goes_on_when_it_is_left(copy: Path) -> None:
    set_grid(copy, "[8, 16, 32]", "[0.003, 0.01]")
    done = sweep(copy, "--epochs", "2", "--detach")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "launched 6 jobs on local" in done.stdout
    (last,) = re.findall(r"^  mini (report \w+)$", done.stdout, re.MULTILINE)
    env = {**os.environ, "MINI_PROGRESS": "0"}

    def mini(*arguments: str) -> str:
        done = run(sys.executable, "-m", "mini", *arguments, cwd=copy, env=env)
        assert done.returncode == 0, done
        return done.stdout

    assert mini("watch", "digits") == "digits on local: 6 DONE\n"
    assert mini(*last.split()).startswith("digits.html: 6 jobs")
    page = (copy / "digits.html").read_text()
    assert all(f'"name":"{name}"' in page for name in ("hidden", "rate", "accuracy", "loss"))


def test_digits_says_what_to_install_for_a_backend_that_is_not_there(copy: Path) -> None:
    done = sweep(copy, "--app", "no-such-backend")
    assert done.returncode == 1
    assert "BackendNotFound" in done.stderr
    assert "no-such-backend" in done.stderr


@pytest.mark.timeout(300)
def test_modal_hello_runs_on_the_emulator(root: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    done = run(
        *[sys.executable, "-m", "modal_emulator", "run", "--"],
        *[sys.executable, "-m", "modal", "run", str(root / "examples" / "modal_hello.py"), "--n", "4"],
        cwd=tmp_path,
        env=env,
    )
    assert done.returncode == 0, done
    assert "here 16 there 16\n" in done.stdout
    assert "mapped [0, 1, 4, 9]\n" in done.stdout
    assert sorted(re.findall(r"^squaring (\d)", done.stdout, re.MULTILINE)) == ["0", "1", "2", "3", "4", "4"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_names_what_it_imports(example: Path) -> None:
    project = tomllib.loads((example / "pyproject.toml").read_text())
    declared = {
        re.split(r"[^\w-]", line)[0]
        for lines in [project["project"]["dependencies"], *project.get("dependency-groups", {}).values()]
        for line in lines
    }
    own = {path.parent.name for path in example.glob("src/*/__init__.py")}
    imported = {
        name.partition(".")[0]
        for path in example.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    renamed = {"mini": "mini-core", "sklearn": "scikit-learn"}
    assert {renamed.get(name, name) for name in imported - own - sys.stdlib_module_names} == declared
