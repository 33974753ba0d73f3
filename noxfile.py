"""What is run over Python versions, backends and packages. `./go nox -l` lists the sessions.

An interpreter or a backend that is missing is a visible skip, so that everybody can run what they have. With
`--require` among the arguments, or with CI=true, it is a failure, so that a matrix never shrinks unseen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nox
import nox_uv

ROOT = Path(__file__).parent
BUILD = ROOT / "build"
REPORT = BUILD / "conformance"
TABLE = ROOT / "docs/reference/conformance-table.md"

PYTHONS = nox.project.python_versions(nox.project.load_toml(ROOT / "pyproject.toml"))
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
# The backends of the conformance matrix and the package that brings each: another one is one more line.
BACKENDS = {
    "local": "mini-core",
    "modal": "mini-modal",
    "ray": "mini-ray",
}

# What is slow is slow by what it does, not by where it runs: once, in `tests`, is enough.
QUICK = ["-m", "not slow"]
# As `./go test` does: much of what tests do is wait.
SEVERAL = ["--numprocesses=logical", "--maxprocesses=4", "--dist=loadscope"]

REQUIRE = os.environ.get("CI") == "true" or "--require" in sys.argv

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = REQUIRE
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]
if os.environ.get("UV_PYTHON_DOWNLOADS") == "never":
    nox.options.download_python = "never"


def pytest(session: nox.Session, *arguments: str, **env: str) -> None:
    # What nox-uv told its `uv sync` is not meant for every uv that a test starts.
    for name in ("UV_PYTHON", "UV_PROJECT_ENVIRONMENT"):
        session.env.pop(name, None)
    ours = ("--require", "--write-docs")
    session.run("pytest", *arguments, *(arg for arg in session.posargs if arg not in ours), env=env)


def build(session: nox.Session, out: Path) -> None:
    """Build every package into a folder as a release does, the wheel from the sdist."""
    session.run_install("uv", "build", "--quiet", "--all-packages", f"--out-dir={out}", external=True)


@contextmanager
def own_tests(session: nox.Session, package: str) -> Iterator[Path]:
    """Build all packages and go where a package's tests are, without its sources, and far from the checkout."""
    # Not in nox's own folder for such things, which is in the checkout, and has a name too long for a socket in it.
    with tempfile.TemporaryDirectory(prefix="mini-") as temporary:
        dist = Path(temporary, "dist")
        build(session, dist)
        (sdist,) = dist.glob(f"{package.replace('-', '_')}-*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(temporary, filter="data")
        folder = Path(temporary, sdist.name.removesuffix(".tar.gz"))
        shutil.rmtree(folder / "src")
        with session.chdir(folder):
            yield dist


def strangers(package: str, pyproject: dict[str, Any]) -> list[str]:
    """The import names of our packages that neither a package nor its tests ask for."""
    asked = [*pyproject["project"].get("dependencies", []), *nox.project.dependency_groups(pyproject, "test")]
    known = {package, *(re.split(r"[^\w.-]", line)[0] for line in asked)}
    inits = [
        next(ROOT.glob(f"packages/{other}/src/*/__init__.py")) for other in PACKAGES if other not in known
    ]
    return [path.parent.name for path in inits]


def left_out(report: Path, backend: str, python: str) -> list[str]:
    """The contract's tests that a backend's columns for a Python do not have, because they were skipped."""
    fragments = sorted(report.glob(f"{backend}-*{python}.fragment.json"))
    return [
        f"{fragment.name.removesuffix('.fragment.json')}: {test['test']}: {test['reason']}"
        for fragment in fragments
        for test in json.loads(fragment.read_text())["tests"]
        if test["outcome"] == "skipped"
    ] or ([] if fragments else [f"{backend} on {python}: everything"])


@nox_uv.session(python=PYTHONS, uv_groups=["test"], uv_all_packages=True)
def tests(session: nox.Session) -> None:
    """All tests, on every Python, one after the other, which shows what a test leaves for the next."""
    pytest(session)


@nox_uv.session(uv_groups=["test"], uv_all_packages=True)
def soak(session: nox.Session) -> None:
    """What goes on for minutes: fuzzing at length, a thousand containers, thousands of inputs, another client."""
    pytest(session, "-m", "soak")


@nox_uv.session(python=PYTHONS, uv_groups=["test"], uv_all_packages=True)
@nox.parametrize("backend", list(BACKENDS))
def conformance(session: nox.Session, backend: str) -> None:
    """The contract's clauses on each backend and Python, as a table in build/conformance/.

    With --write-docs it becomes the one in docs/reference, of all that has been run since the folder was emptied.
    """
    if BACKENDS[backend] not in PACKAGES:
        give_up = session.error if REQUIRE else session.skip
        give_up(f"{BACKENDS[backend]} is not in this checkout")
    REPORT.mkdir(parents=True, exist_ok=True)
    suite = f"tests/conformance/test_{backend}.py"
    try:
        # What has containers or a cluster keeps a machine busy by itself.
        several = SEVERAL if backend == "local" else []
        pytest(session, suite, "-m", "", *several, f"--conformance-report={REPORT}")
    finally:
        # The report is of all sessions so far; that another one failed is not for this one to say.
        session.run("python", "-m", "mini.conformance", "report", str(REPORT), success_codes=[0, 1])
        if "--write-docs" in session.posargs:
            shutil.copyfile(REPORT / "conformance.md", TABLE)
    # Who asked for all of it is not to take a table with holes for one without.
    if REQUIRE and (skipped := left_out(REPORT, backend, str(session.python))):
        session.error("\n".join(["not all of the contract was tested:", *skipped]))


@nox.session(python=PYTHONS[-1], reuse_venv=False)
@nox.parametrize("package", PACKAGES)
def isolated(session: nox.Session, package: str) -> None:
    """Each package from its wheel, alone with what it depends on: its own tests pass."""
    with own_tests(session, package) as dist:
        pyproject = nox.project.load_toml("pyproject.toml")
        group = nox.project.dependency_groups(pyproject, "test")
        what = [package, *group, "pytest-xdist"]
        session.install(f"--find-links={dist}", f"--reinstall-package={package}", *what)
        find = "import sys; from importlib.util import find_spec; sys.exit([*filter(find_spec, sys.argv[1:])] or 0)"
        session.run("python", "-c", find, *strangers(package, pyproject))
        pytest(session, *QUICK, *SEVERAL)


@nox.session(python=PYTHONS[0], reuse_venv=False)
@nox.parametrize("package", PACKAGES)
def minimums(session: nox.Session, package: str) -> None:
    """Each package with the oldest versions that it says it works with: its own tests pass."""
    with own_tests(session, package) as dist:
        how = ["--quiet", "--resolution=lowest-direct", f"--find-links={dist}", f"--python={session.python}"]
        what = ["pyproject.toml", "--all-extras", "--group=test", "--output-file=minimums.txt"]
        session.run_install("uv", "pip", "compile", *how, *what, external=True)
        session.install(
            f"--find-links={dist}",
            f"--reinstall-package={package}",
            package,
            "-r=minimums.txt",
            "pytest-xdist",
        )
        pytest(session, *QUICK, *SEVERAL)


@nox_uv.session(python=PYTHONS, uv_groups=["test"], uv_all_packages=True)
def wheels(session: nox.Session) -> None:
    """Wheels and sdists, left in build/dist, have what belongs in them and install into an empty venv."""
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    build(session, dist)
    pytest(session, "tests/test_wheels.py", MINI_DIST=str(dist))


@nox_uv.session(uv_groups=["test", "types"], uv_all_packages=True)
def types(session: nox.Session) -> None:
    """mypy --strict over everything that is Python here."""
    # One run for each: modules of the same name in two folders of tests are no package, and would collide.
    folders = [[*p.glob("src"), *p.glob("tests")] for p in sorted(ROOT.glob("packages/*"))]
    folders += [
        [path]
        for path in [ROOT / "tests", *sorted(ROOT.glob("examples/*/")), ROOT / "benchmarks", ROOT / "docs"]
    ]
    folders += [[Path(__file__)]]
    for paths in folders:
        present = [path for path in paths if path.is_file() or any(path.rglob("*.py"))]
        if present:
            session.run("mypy", *(str(path.relative_to(ROOT)) for path in present))


@nox_uv.session(uv_only_groups=["lint"])
def lint(session: nox.Session) -> None:
    """ruff, and shellcheck for the scripts."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("shellcheck", "go", ".ci/run")


@nox_uv.session(uv_only_groups=["docs"])
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/docs; a broken link is an error."""
    session.run("mkdocs", "build", "--strict", "--site-dir", str(BUILD / "docs"))


@nox_uv.session(uv_groups=["bench"], uv_all_packages=True)
def bench(session: nox.Session) -> None:
    """Measured claims: all suites, or the one that is named first."""
    session.run("python", "-m", "benchmarks", *session.posargs)
