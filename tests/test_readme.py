"""The README at the root does what it says: its program, its commands, and what it claims to link and show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pages
import pytest
from processes import run

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def block(language: str, word: str) -> str:
    """The only block of a language with a word in it."""
    (found,) = (
        block.code for block in pages.blocks(README) if block.language == language and word in block.code
    )
    return found


def test_all_blocks_are_run_by_the_tests_below() -> None:
    found = [block.language for block in pages.blocks(README)]
    assert found == ["python", "sh", "sh"]


def test_the_eight_lines_are_eight_lines_and_a_whole_program(tmp_path: Path) -> None:
    program = block("python", "import mini")
    assert len(program.splitlines()) == 8
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = [f"{seed} {sum(i * i % (seed + 2) for i in range(100_000))}" for seed in range(20)]
    assert done.stdout.splitlines() == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_two_commands(tmp_path: Path) -> None:
    demo, test = block("sh", "./go").splitlines()
    outside = {
        name: value
        for name, value in os.environ.items()
        if name not in {"UV_PYTHON", "UV_PROJECT_ENVIRONMENT"}
    }

    def bash(command: str) -> str:
        done = run("bash", "-euc", command, cwd=ROOT, env=outside)
        assert done.returncode == 0, done
        return done.stdout

    picture = tmp_path / "sweep.png"
    assert "36 models, the best first" in bash(f"{demo} --epochs 2 --out {picture}")
    assert picture.exists()
    # All of them, in this test, would be too much of a good thing.
    assert "1 passed" in bash(
        f"{test} {Path(__file__).relative_to(ROOT)} -k whole_program -p no:cacheprovider"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_project_of_ones_own_gets_it_from_a_wheel(tmp_path: Path, uv: str) -> None:
    checkout, project = tmp_path / "mini", tmp_path / "my-project"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    env = {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in {"UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV"}
        },
        "PATH": f"{Path(uv).parent}{os.pathsep}{os.environ['PATH']}",
        "UV_PYTHON": sys.executable,
    }

    def output(*command: str, cwd: Path) -> str:
        done = run(*command, cwd=cwd, env=env)
        assert done.returncode == 0, done
        return done.stdout

    output(uv, "init", "--bare", str(project), cwd=tmp_path)
    output("bash", "-euc", block("sh", "uv add"), cwd=checkout)
    shutil.rmtree(checkout)
    (project / "program.py").write_text(block("python", "import mini"))
    printed = output(uv, "run", "--frozen", "--no-sync", "python", "program.py", cwd=project)
    assert printed.splitlines()[0] == "0 50000"
    assert len(printed.splitlines()) == 20


def test_each_clause_that_is_promised_is_in_the_contract() -> None:
    contract = (ROOT / "docs" / "reference" / "contract.md").read_text()
    promised = re.findall(r"\b[A-Z]{3,4}-\d\d\b", README.read_text())
    assert len(promised) > 15
    assert [clause for clause in promised if clause not in contract] == []


def test_the_names_of_the_table_are_there() -> None:
    import mini

    table = README.read_text().partition("| to | there is |")[2].partition("\n\n")[0]
    for name in re.findall(r"`(\w+)\b", table):
        if name not in ("mini", "concurrent"):  # the command, the standard library
            assert hasattr(mini.Apparatus, name) or hasattr(mini, name), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pictures_are_what_their_script_makes(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "MINI_PROGRESS"}
    subprocess.run([sys.executable, ROOT / "docs" / "make_pictures.py", tmp_path], env=env, check=True)
    kept = ROOT / "docs" / "pictures"
    assert {path.name for path in kept.iterdir()} == {"live-display.svg", "digits-sweep.png", "report.png"}
    assert (tmp_path / "digits-sweep.png").read_bytes().startswith(b"\x89PNG")
    for folder in (kept, tmp_path):
        # The moment differs from run to run; what is shown does not.
        image = ET.parse(folder / "live-display.svg")
        words = " ".join(
            "".join(element.itertext()) for element in image.iter("{http://www.w3.org/2000/svg}text")
        )
        words = " ".join(words.split())
        assert "./go demo" in words
        assert "best so far: 0." in words
        assert re.search(r"\btrain\b.*/36 .*worker 1 .*/30 epochs +loss .*worker 2 ", words), words
