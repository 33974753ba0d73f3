"""An adapter that is none of ours keeps the contract, with nothing but what is published.

The adapter is examples/adapter_threadpool, which docs/how-to/write-an-adapter.md builds. It is built as a distribution,
installed into an empty venv beside mini-core's wheel, and its own tests are run there, away from the checkout.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pages
import pytest
from mini.conformance import CLAUSES
from processes import run
from test_import_rules import Import as Imported
from test_import_rules import is_public

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "adapter_threadpool"
PAGE = ROOT / "docs" / "how-to" / "write-an-adapter.md"


@dataclass(frozen=True)
class Archives:
    """What somebody who only has what was published has."""

    core: Path
    """mini-core's wheel."""
    adapter: Path
    sdist: Path
    """The adapter's, unpacked, without its sources: its tests are there."""


@dataclass(frozen=True)
class Venv:
    folder: Path

    def run(self, *arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the venv's Python; nothing of the checkout or of the session that runs this test gets in."""
        ours = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "MINI", "COVERAGE", "UV_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        python = self.folder / "bin" / "python"
        return run(python, *arguments, cwd=cwd, env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **env})

    def check(self, code: str, cwd: Path) -> str:
        done = self.run("-W", "error", "-c", code, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, dist: Path, uv: str) -> Archives:
    folder = tmp_path_factory.mktemp("third-party")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    subprocess.run([uv, "build", "-q", "--out-dir", folder / "adapter", source], cwd=folder, check=True)
    (sdist,) = (folder / "adapter").glob("mini_threadpool-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(unpacked / "src")
    (core,) = dist.glob("mini_core-*.whl")
    (adapter,) = (folder / "adapter").glob("mini_threadpool-*.whl")
    return Archives(core, adapter, unpacked)


def install(uv: str, folder: Path, *requirements: str | Path) -> Venv:
    """An empty venv with nothing but some distributions and what they ask for."""
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], cwd=folder.parent, check=True)
    command = [uv, "pip", "install", "-q", f"--python={folder / 'bin' / 'python'}", *requirements]
    subprocess.run(command, cwd=folder.parent, check=True)
    return Venv(folder)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, uv: str, archives: Archives) -> Venv:
    folder = tmp_path_factory.mktemp("tested")
    return install(
        uv, folder / "venv", f"mini-core[conformance] @ {archives.core.resolve().as_uri()}", archives.adapter
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, uv: str, archives: Archives) -> Venv:
    """As a user of the adapter has it: without the conformance kit's dependencies."""
    folder = tmp_path_factory.mktemp("plain")
    return install(uv, folder / "venv", archives.core, archives.adapter)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_keeps_the_contract(tested: Venv, archives: Archives, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = tested.run("-m", "pytest", "-q", f"--conformance-report={report}", cwd=archives.sdist)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr

    (fragment,) = (json.loads(path.read_text()) for path in report.glob("*.fragment.json"))
    assert fragment["backend"] == "threadpool"
    tests = fragment["tests"]
    bad = [test for test in tests if test["outcome"] not in ("passed", "declined") or test.get("overridden")]
    assert bad == []
    assert {test["clause"] for test in tests} == set(CLAUSES)
    assert {test["reason"] for test in tests if test["outcome"] == "declined"} == {
        "process_isolation",
        "kill_worker",
        "cancel_running",
        "timeout",
        "env",
        "interrupt",
        "detached_jobs",
        "resources",
    }

    shown = tested.run("-m", "mini.conformance", "report", report, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert (report / "conformance.html").exists()


@pytest.mark.slow
def test_it_is_found_by_its_name(plain: Venv, tmp_path: Path) -> None:
    out = plain.check(
        f"""
import pathlib, sys, mini, mini_threadpool
for module in (mini, mini_threadpool):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module.__file__
assert not [entry for entry in sys.path if pathlib.Path(entry).is_relative_to({str(ROOT)!r})], sys.path
with mini.apparatus("threadpool", "squares", max_workers=2) as app:
    assert type(app) is mini_threadpool.ThreadPoolApparatus
    print(list(app.w(threadpool={{}}).map(lambda x: x * x, range(5))))
""",
        tmp_path,
    )
    assert out == "[0, 1, 4, 9, 16]\n"
    done = plain.run(
        "-c", "import mini; print(mini.apparatus(name='a').backend)", cwd=tmp_path, MINI_APP="threadpool"
    )
    assert done.stdout == "threadpool\n", done.stderr


@pytest.mark.slow
def test_without_the_extra_the_kit_says_how_to_get_it(plain: Venv, tmp_path: Path) -> None:
    plain.check("import mini_threadpool, mini.conformance", tmp_path)
    done = plain.run("-c", "from mini.conformance import ApparatusConformance", cwd=tmp_path)
    assert done.returncode == 1
    assert "uv add --dev 'mini-core[conformance]'" in done.stderr.splitlines()[-1], done.stderr


def test_it_needs_only_what_is_public() -> None:
    private = []
    for path in EXAMPLE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mini":
                items = [Imported(path.name, str(node.module), alias.name) for alias in node.names]
                private += [str(item) for item in items if not is_public(item)]
    assert private == []


def test_the_page_shows_the_adapter_whole() -> None:
    shown: dict[str, str] = {}
    for block in pages.blocks(PAGE):
        if block.mark == "file":
            shown[block.value] = block.code
        elif block.mark == "append":
            shown[block.value] += "\n" + block.code
    files = [
        path for pattern in ("pyproject.toml", "src/**/*.py", "tests/*.py") for path in EXAMPLE.glob(pattern)
    ]
    assert shown == {path.relative_to(EXAMPLE).as_posix(): path.read_text() for path in files}
