"""What travels with a function: read from real projects, locked and built by uv itself.

The packages that they depend on are made here too and served from indexes on the loopback interface; only the build
backends that layouts are compared with come from PyPI.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mini.errors import RequirementsError
from mini.requirements import (
    LocalPackage,
    ProjectPackage,
    Requirements,
    check_lock,
    content_digest,
    dependency_groups,
    find_project_root,
    find_uv,
    find_workspace_root,
    importable_packages,
    project_packages,
    source_files,
    uv_freeze,
)
from uv_projects import bare_uv, outside_of_projects, project, serving, uv, write


@pytest.fixture(scope="module", autouse=True)
def _uv_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with bare_uv(tmp_path_factory.mktemp("uv-cache")):
        yield


@pytest.fixture
def nowhere() -> Iterator[Path]:
    with outside_of_projects() as folder:
        yield folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL it is served at."""
    root = tmp_path_factory.mktemp("served")
    with serving(root) as url:
        yield root, url


@pytest.fixture(scope="module")
def indexes(served: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL below which there are the indexes `main` and `special` and, in `files`, a wheel of none of them."""
    root, url = served
    sources = tmp_path_factory.mktemp("sources")
    for index, name, version, dependencies in [
        ("main", "tiny-base", "1.0", []),
        ("main", "tiny-base", "2.0", []),
        ("main", "tiny-app", "1.0", ["tiny-base>=1"]),
        ("main", "tiny-windows", "1.0", []),
        ("main", "tiny-lint", "1.0", []),
        ("main", "tiny-docs", "1.0", []),
        ("main", "tiny-extra", "1.0", []),
        ("main", "tiny-accel", "1.0", []),
        ("special", "tiny-accel", "1.0+cpu", []),
        ("files", "tiny-url", "1.0", []),
    ]:
        source = project(sources / f"{name}-{version}", name, *dependencies, version=version)
        uv("build", "--wheel", "--out-dir", root / index / name, cwd=source)
    for folder in root.glob("*/*"):
        links = []
        for wheel in sorted(folder.glob("*.whl")):
            sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
            links.append(f"<a href='{wheel.name.replace('+', '%2B')}#sha256={sha256}'>{wheel.name}</a>")
        (folder / "index.html").write_text("\n".join(links))
    return url


def index_tables(url: str) -> str:
    return (
        f"[[tool.uv.index]]\nname = 'special'\nurl = '{url}/special'\nexplicit = true\n"
        f"[[tool.uv.index]]\nname = 'main'\nurl = '{url}/main'\ndefault = true\n"
    )


@pytest.fixture(scope="module")
def commit(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The URL of a git repository that has the package `tiny-git` in a folder, and its commit."""
    repo = tmp_path_factory.mktemp("repo")
    project(repo / "python", "tiny-git")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(repo)]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return repo.as_uri(), head.stdout.strip()


@pytest.fixture(scope="module")
def everything(indexes: str, commit: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A locked project that has a requirement of every kind."""
    root = tmp_path_factory.mktemp("everything")
    project(root / "beside", "tiny-beside")
    project(root / "editable", "tiny-editable")
    uv("build", "--wheel", "--out-dir", root / "dist", cwd=project(root / "archive", "tiny-archive"))
    more = (
        "optional-dependencies = { fast = ['tiny-extra'] }\n"
        "[dependency-groups]\n"
        "dev = ['tiny-lint']\n"
        "docs = ['tiny-docs']\n"
        "[tool.uv.sources]\n"
        "tiny-accel = { index = 'special' }\n"
        f"tiny-git = {{ git = '{commit[0]}', subdirectory = 'python' }}\n"
        f"tiny-url = {{ url = '{indexes}/files/tiny-url/tiny_url-1.0-py3-none-any.whl' }}\n"
        "tiny-beside = { path = '../beside' }\n"
        "tiny-editable = { path = '../editable', editable = true }\n"
        "tiny-archive = { path = '../dist/tiny_archive-1.0-py3-none-any.whl' }\n"
    )
    dependencies = [
        "tiny-app",
        "tiny-accel",
        "tiny-git",
        "tiny-url",
        "tiny-beside",
        "tiny-editable",
        "tiny-archive",
    ]
    windows = 'tiny-windows ; sys_platform == "win32"'
    app = project(root / "app", "everything", *dependencies, windows, more=more + index_tables(indexes))
    uv("lock", cwd=app)
    return app


@pytest.fixture
def small(indexes: str, tmp_path: Path) -> Path:
    """A locked project with one requirement."""
    root = project(tmp_path / "small", "small", "tiny-app", more=index_tables(indexes))
    uv("lock", cwd=root)
    return root


# --- where the project is -------------------------------------------------------------------------------------------


def test_project_root_is_the_nearest_with_a_project_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "outer", "outer")
    write(tmp_path / "outer/scripts/deep", {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"})
    inner = project(tmp_path / "outer/inner", "inner")
    assert find_project_root(tmp_path / "outer/scripts/deep") == tmp_path / "outer"
    assert find_project_root(inner / "src/inner") == inner
    monkeypatch.chdir(inner / "src")
    assert find_project_root() == inner


def test_folder_outside_of_any_project_has_no_root(nowhere: Path) -> None:
    assert find_project_root(nowhere) is None


def test_root_of_a_workspace_need_not_be_a_project(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "[tool.uv.workspace]\nmembers = ['packages/*']\n"})
    assert find_project_root(tmp_path) == tmp_path


def test_pyproject_that_is_not_toml_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "[project\n"})
    with pytest.raises(RequirementsError, match=r"pyproject.toml is not valid TOML.*line 1"):
        find_project_root(tmp_path)


def test_workspace_root_holds_for_members_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"pyproject.toml": "[tool.uv.workspace]\nmembers = ['packages/*']\nexclude = ['packages/old']\n"},
    )
    member = project(tmp_path / "packages/one", "one")
    excluded = project(tmp_path / "packages/old", "old")
    stranger = project(tmp_path / "examples/demo", "demo")
    assert [find_workspace_root(p) for p in (tmp_path, member, excluded, stranger)] == [
        tmp_path,
        tmp_path,
        excluded,
        stranger,
    ]


# --- what the lock pins ---------------------------------------------------------------------------------------------


def test_every_kind_of_requirement_is_pinned_or_reported_as_local(
    everything: Path, indexes: str, commit: tuple[str, str]
) -> None:
    found = uv_freeze(everything)
    assert found.requirements == (
        "tiny-accel==1.0+cpu",
        "tiny-app==1.0",
        "tiny-base==2.0",
        f"tiny-git @ git+{commit[0]}@{commit[1]}#subdirectory=python",
        f"tiny-url @ {indexes}/files/tiny-url/tiny_url-1.0-py3-none-any.whl",
        "tiny-windows==1.0 ; sys_platform == 'win32'",
    )
    assert set(found.indexes) == {f"{indexes}/main", f"{indexes}/special"}
    assert found.requires_python == ">=3.11"
    beside = everything.parent
    assert found.local == (
        LocalPackage("everything", everything, editable=True),
        LocalPackage("tiny-archive", beside / "dist/tiny_archive-1.0-py3-none-any.whl", editable=False),
        LocalPackage("tiny-beside", beside / "beside", editable=False),
        LocalPackage("tiny-editable", beside / "editable", editable=True),
    )


def test_what_comes_from_a_folder_of_archives_is_local(indexes: str, tmp_path: Path) -> None:
    dist = tmp_path / "a folder"
    uv("build", "--wheel", "--out-dir", dist, cwd=project(tmp_path / "wheel", "tiny-wheel"))
    uv("build", "--sdist", "--out-dir", dist, cwd=project(tmp_path / "sdist", "tiny-sdist"))
    folder = "[[tool.uv.index]]\nname = 'folder'\nurl = '../a folder'\nformat = 'flat'\n"
    app = project(
        tmp_path / "app", "app", "tiny-wheel", "tiny-sdist", "tiny-app", more=folder + index_tables(indexes)
    )
    uv("lock", cwd=app)
    found = uv_freeze(app)
    assert found.requirements == ("tiny-app==1.0", "tiny-base==2.0")
    assert "tiny-wheel" not in found.pylock
    assert found.local == (
        LocalPackage("app", app, editable=True),
        LocalPackage("tiny-sdist", dist / "tiny_sdist-1.0.tar.gz", editable=False),
        LocalPackage("tiny-wheel", dist / "tiny_wheel-1.0-py3-none-any.whl", editable=False),
    )
    assert all(url.startswith(indexes) for url in found.indexes)


def test_pylock_keeps_hashes_and_each_packages_own_index(everything: Path, served: tuple[Path, str]) -> None:
    pylock = tomllib.loads(uv_freeze(everything).pylock)
    packages = {package["name"]: package for package in pylock["packages"]}
    assert pylock["lock-version"] == "1.0"
    assert packages["tiny-accel"]["index"] == f"{served[1]}/special"
    assert packages["tiny-base"]["index"] == f"{served[1]}/main"
    wheel = served[0] / "special/tiny-accel/tiny_accel-1.0+cpu-py3-none-any.whl"
    assert packages["tiny-accel"]["wheels"][0]["hashes"] == {
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()
    }
    assert packages["tiny-windows"]["marker"] == "sys_platform == 'win32'"
    assert not {"everything", "tiny-archive", "tiny-beside", "tiny-editable"} & packages.keys()


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, []),
        ({"groups": ["docs"]}, ["tiny-docs==1.0"]),
        ({"groups": ["docs", "dev"], "not_groups": ["dev"]}, ["tiny-docs==1.0"]),
        ({"all_groups": True}, ["tiny-docs==1.0", "tiny-lint==1.0"]),
        ({"all_groups": True, "not_groups": ["dev"]}, ["tiny-docs==1.0"]),
        ({"extras": ["fast"]}, ["tiny-extra==1.0"]),
        ({"all_extras": True}, ["tiny-extra==1.0"]),
    ],
    ids=str,
)
def test_groups_and_extras_are_added_when_asked_for(everything: Path, options: Any, added: list[str]) -> None:
    plain = uv_freeze(everything).requirements
    found = uv_freeze(everything, **options).requirements
    assert sorted(set(found) - set(plain)) == added


@pytest.mark.parametrize("form", ["requirements", "pylock"])
def test_both_forms_can_be_installed(everything: Path, tmp_path: Path, form: str) -> None:
    found = uv_freeze(everything)
    options: list[str | Path] = []
    if form == "pylock":
        (tmp_path / "pylock.toml").write_text(found.pylock)
        options += ["-r", "pylock.toml"]
    else:
        (tmp_path / "requirements.txt").write_text("\n".join(found.requirements))
        options += ["-r", "requirements.txt", "--index-strategy", "unsafe-best-match"]
        options += [part for url in found.indexes for part in ("--index", url)]
    uv("pip", "install", "--python", sys.executable, "--target", tmp_path / "there", *options, cwd=tmp_path)
    code = "import tiny_app, tiny_accel, tiny_git, tiny_url, tiny_base; print(tiny_accel.version, tiny_base.version)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1.0+cpu", "2.0"]


def test_member_of_a_workspace_gets_what_it_needs(
    indexes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = "[tool.uv]\npackage = false\n[tool.uv.workspace]\nmembers = ['packages/*']\n"
    sources = "[tool.uv.sources]\none = { workspace = true }\ntwo = { workspace = true }\n"
    head = "[project]\nname = 'all'\nversion = '0'\nrequires-python = '>=3.11'\ndependencies = ['one', 'tiny-lint']\n"
    write(tmp_path, {"pyproject.toml": head + workspace + sources + index_tables(indexes)})
    one = project(tmp_path / "packages/one", "one", "two", "tiny-app")
    two = project(tmp_path / "packages/two", "two", "tiny-docs")
    uv("lock", cwd=tmp_path)
    monkeypatch.chdir(one / "src")
    found = uv_freeze()
    assert found.requirements == ("tiny-app==1.0", "tiny-base==2.0", "tiny-docs==1.0")
    assert found.local == (LocalPackage("one", one, editable=True), LocalPackage("two", two, editable=True))
    assert uv_freeze(two).requirements == ("tiny-docs==1.0",)
    assert "tiny-lint==1.0" in uv_freeze(tmp_path).requirements


def test_groups_are_those_that_uv_would_take(tmp_path: Path) -> None:
    groups = "[dependency-groups]\nOne_Two = []\n[tool.uv]\ndev-dependencies = ['six']\n"
    root = project(tmp_path / "plain", "plain", more=groups)
    assert dependency_groups(root) == {"one-two", "dev"}
    write(tmp_path / "all", {"pyproject.toml": "[tool.uv.workspace]\nmembers = ['*']\n"})
    project(tmp_path / "all/member", "member", more="[dependency-groups]\ninner = []\n")
    assert dependency_groups(tmp_path / "all") == {"inner"}
    uv("lock", cwd=tmp_path / "all")
    assert uv_freeze(tmp_path / "all", groups=["inner"]).requirements == ()


def test_several_versions_of_a_package_keep_their_markers(indexes: str, tmp_path: Path) -> None:
    old, new = 'tiny-base<2 ; python_version < "3.13"', 'tiny-base>=2 ; python_version >= "3.13"'
    root = project(tmp_path, "forked", old, new, more=index_tables(indexes))
    uv("lock", cwd=root)
    assert uv_freeze(root).requirements == (
        "tiny-base==1.0 ; python_full_version < '3.13'",
        "tiny-base==2.0 ; python_full_version >= '3.13'",
    )


def test_project_without_requirements(tmp_path: Path) -> None:
    root = project(tmp_path, "alone")
    uv("lock", cwd=root)
    found = uv_freeze(root)
    assert (found.requirements, found.indexes) == ((), ())
    assert [package.name for package in found.local] == ["alone"]
    assert tomllib.loads(found.pylock)["packages"] == []


def test_project_with_nothing_in_its_lock_at_all(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"pyproject.toml": "[tool.uv.workspace]\nmembers = []\n[dependency-groups]\nempty = []\n"},
    )
    uv("lock", cwd=tmp_path)
    found = uv_freeze(tmp_path, all_groups=True)
    assert (found.requirements, found.local) == ((), ())
    assert not tomllib.loads(found.pylock).get("packages")


def test_pylock_is_what_uv_exports_without_what_is_local(everything: Path) -> None:
    arguments = "export --frozen --no-header --no-default-groups --format pylock.toml --no-emit-local"
    assert uv_freeze(everything).pylock == uv(*arguments.split(), cwd=everything)


def test_nothing_is_written(small: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    uv_freeze(small)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_settings_for_other_uses_of_uv_do_not_matter(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = uv_freeze(small)
    for name in ("UV_FROZEN", "UV_LOCKED", "UV_NO_EDITABLE", "UV_NO_DEV", "FORCE_COLOR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UV_PROJECT", "/nowhere")
    assert uv_freeze(small) == plain


def test_a_python_that_the_project_does_not_take_is_named(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small / "pyproject.toml"
    file.write_text(file.read_text().replace(">=3.11", ">=3.99"))
    monkeypatch.delenv("UV_PYTHON")
    with pytest.raises(RequirementsError, match=r"(?s)incompatible.*>=3\.99"):
        uv_freeze(small)


def test_digest_is_that_of_the_pins(small: Path, indexes: str, tmp_path: Path) -> None:
    def moved(name: str, *dependencies: str) -> Requirements:
        root = project(tmp_path / name, name, *dependencies, more=index_tables(indexes))
        uv("lock", cwd=root)
        return uv_freeze(root)

    digest = uv_freeze(small).digest
    assert len(bytes.fromhex(digest)) == 32
    assert moved("elsewhere", "tiny-app").digest == digest
    assert moved("older", "tiny-app", "tiny-base<2").digest != digest


# --- what is wrong with a lock --------------------------------------------------------------------------------------


def test_missing_lock_says_which_command_makes_it(small: Path) -> None:
    (small / "uv.lock").unlink()
    with pytest.raises(RequirementsError, match=r"small has no uv.lock; run `uv lock`"):
        uv_freeze(small)


def test_stale_lock_says_which_command_mends_it(small: Path) -> None:
    pyproject = small / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("'tiny-app'", "'tiny-app', 'tiny-docs'"))
    lock = (small / "uv.lock").read_text()
    with pytest.raises(
        RequirementsError, match=r"uv.lock does not fit pyproject.toml; run `uv lock` in .*small"
    ):
        check_lock(small)
    assert (small / "uv.lock").read_text() == lock
    uv("lock", cwd=small)  # the command it names
    assert "tiny-docs==1.0" in uv_freeze(small).requirements


def test_what_uv_has_against_it_is_passed_on(small: Path) -> None:
    with pytest.raises(RequirementsError, match=r"--group nope.*failed(.|\n)*`nope`"):
        uv_freeze(small, groups=["nope"])
    (small / "uv.lock").write_text("version = 999\n")
    with pytest.raises(RequirementsError, match=r"uv\.lock"):
        uv_freeze(small)


def test_no_project_says_so(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nowhere)
    for function in (uv_freeze, project_packages):
        with pytest.raises(RequirementsError, match=r"no pyproject.toml .* run `uv init`"):
            function()


def test_uv_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_uv()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").symlink_to(real)
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_uv() == tmp_path / "bin/uv"
    (tmp_path / "named").symlink_to(real)
    monkeypatch.setenv("UV", str(tmp_path / "named"))
    assert find_uv() == tmp_path / "named"
    monkeypatch.setenv("UV", str(tmp_path / "gone"))
    assert find_uv() == tmp_path / "bin/uv"


def test_missing_uv_says_how_to_install_it(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "uv", None)  # which makes its import fail
    with pytest.raises(RequirementsError, match="pip install uv"):
        uv_freeze(small)


def test_uv_that_does_not_run_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "uv"
    broken.write_bytes(b"\0")
    broken.chmod(0o755)
    monkeypatch.setenv("UV", str(broken))
    with pytest.raises(RequirementsError, match=f"cannot run {broken}"):
        uv_freeze(small)


# --- the project's own packages -------------------------------------------------------------------------------------

MODULE = "x = 1\n"


def layout(backend: str, table: str, *files: str, name: str = "my-app") -> tuple[str, dict[str, str]]:
    requires = {
        "uv_build": "uv_build",
        "hatchling.build": "hatchling",
        "setuptools.build_meta": "setuptools",
    }[backend]
    pyproject = (
        f"[build-system]\nrequires = ['{requires}']\nbuild-backend = '{backend}'\n"
        f"[project]\nname = '{name}'\nversion = '1.0'\n{table}"
    )
    return backend, {"pyproject.toml": pyproject} | dict.fromkeys(files, MODULE)


UV, HATCH, SETUPTOOLS = "uv_build", "hatchling.build", "setuptools.build_meta"
LAYOUTS = {
    "uv: default": layout(UV, "", "src/my_app/__init__.py", "src/my_app/deep/er.py", "tests/test_x.py"),
    "uv: named": layout(UV, "[tool.uv.build-backend]\nmodule-name = 'other'\n", "src/other/__init__.py"),
    "uv: several": layout(
        UV,
        "[tool.uv.build-backend]\nmodule-name = ['a', 'b']\n",
        "src/a/__init__.py",
        "src/b/__init__.py",
        "src/b/c.py",
    ),
    "uv: root": layout(
        UV, "[tool.uv.build-backend]\nmodule-root = ''\n", "my_app/__init__.py", "docs/conf.py"
    ),
    "uv: in a namespace": layout(
        UV, "[tool.uv.build-backend]\nmodule-name = 'org.data.sets'\n", "src/org/data/sets/__init__.py"
    ),
    "uv: a namespace": layout(
        UV,
        "[tool.uv.build-backend]\nmodule-name = 'org'\nnamespace = true\n",
        "src/org/data/__init__.py",
        "src/org/more/__init__.py",
    ),
    "hatch: default src": layout(HATCH, "", "src/my_app/__init__.py", "src/my_app/a.py", "tests/__init__.py"),
    "hatch: default root": layout(HATCH, "", "my_app/__init__.py", "other/__init__.py"),
    "hatch: default module": layout(HATCH, "", "my_app.py"),
    "hatch: default namespace": layout(HATCH, "", "org/my_app/__init__.py"),
    "hatch: packages": layout(
        HATCH,
        "[tool.hatch.build.targets.wheel]\npackages = ['src/a', 'lib/deep/b']\n",
        "src/a/__init__.py",
        "lib/deep/b/__init__.py",
        "src/no/__init__.py",
    ),
    "hatch: only-include": layout(
        HATCH,
        "[tool.hatch.build.targets.wheel]\nonly-include = ['src/org/a', 'one.py']\nsources = ['src']\n",
        "src/org/a/__init__.py",
        "src/org/b/__init__.py",
        "one.py",
        "two.py",
    ),
    "hatch: only-include src": layout(
        HATCH,
        "[tool.hatch.build.targets.wheel]\nonly-include = ['src']\nsources = ['src']\n",
        "src/a/__init__.py",
        "src/m.py",
    ),
    "hatch: renamed": layout(
        HATCH,
        "[tool.hatch.build.targets.wheel]\nonly-include = ['code']\nsources = { code = 'new' }\n",
        "code/__init__.py",
        "code/a.py",
    ),
    "hatch: force-include": layout(
        HATCH,
        "[tool.hatch.build.targets.wheel]\npackages = ['a']\n"
        "[tool.hatch.build.targets.wheel.force-include]\n'gen' = 'made/up'\n",
        "a/__init__.py",
        "gen/__init__.py",
    ),
    "setuptools: default src": layout(SETUPTOOLS, "", "src/a/__init__.py", "src/a/b/c.py", "src/m.py"),
    "setuptools: default root": layout(SETUPTOOLS, "", "a/__init__.py", "tests/__init__.py", "docs/conf.py"),
    "setuptools: default module": layout(SETUPTOOLS, "", "alone.py", "conftest.py"),
    "setuptools: packages": layout(
        SETUPTOOLS,
        "[tool.setuptools]\npackages = ['a', 'a.b', 'far', 'far.off']\n"
        "[tool.setuptools.package-dir]\n'' = 'src'\nfar = 'lib/distant'\n",
        "src/a/__init__.py",
        "src/a/b/__init__.py",
        "lib/distant/__init__.py",
        "lib/distant/off/__init__.py",
    ),
    "setuptools: py-modules": layout(
        SETUPTOOLS,
        "[tool.setuptools]\npy-modules = ['one', 'two']\npackages = []\n",
        "one.py",
        "two.py",
        "three.py",
    ),
    "setuptools: find": layout(
        SETUPTOOLS,
        "[tool.setuptools.packages.find]\nwhere = ['lib']\ninclude = ['a*', 'org.*']\nexclude = ['a_not*']\n",
        "lib/a/__init__.py",
        "lib/a_not/__init__.py",
        "lib/b/__init__.py",
        "lib/org/c/__init__.py",
    ),
    "setuptools: find regular": layout(
        SETUPTOOLS,
        "[tool.setuptools.packages.find]\nnamespaces = false\n",
        "a/__init__.py",
        "no/b/__init__.py",
    ),
}


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the build backends, so that not every build installs them again."""
    root = tmp_path_factory.mktemp("backends")
    uv("venv", "--python", sys.executable, "env", cwd=root)
    uv("pip", "install", "--python", "env", "hatchling", "setuptools", cwd=root)
    return root / "env"


@pytest.mark.parametrize("name", LAYOUTS)
def test_packages_are_those_that_the_backend_would_build(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    backend, files = LAYOUTS[name]
    root = write(tmp_path / "project", files)
    isolation: list[str | Path] = []
    if backend != UV:  # which is a part of uv itself
        isolation = ["--no-build-isolation", "--python", request.getfixturevalue("backends")]
    found = {
        f"{package.name.replace('.', '/')}{file.removeprefix(package.path.name)}"
        if package.path.is_dir()
        else f"{package.name}.py"
        for package in project_packages(root)
        for file, _ in source_files([package.path])
    }
    uv("build", "--wheel", *isolation, "--out-dir", tmp_path, cwd=root)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        built = {file for file in archive.namelist() if ".dist-info/" not in file and file[-1] != "/"}
    assert found == built


def test_project_that_is_not_built_has_what_lies_in_it(tmp_path: Path) -> None:
    head = "[project]\nname = 'x'\nversion = '0'\n"
    files = [
        "helpers.py",
        "models/__init__.py",
        "models/net.py",
        "tests/__init__.py",
        "notes/a.txt",
        "conftest.py",
    ]
    root = write(tmp_path, {"pyproject.toml": head} | dict.fromkeys(files, MODULE))
    assert project_packages(root) == [
        ProjectPackage("helpers", root / "helpers.py"),
        ProjectPackage("models", root / "models"),
    ]
    write(
        root,
        {"src/inner/__init__.py": MODULE, "src/space/deep/mod.py": MODULE, "src/empty.egg-info/PKG-INFO": ""},
    )
    assert project_packages(root) == [
        ProjectPackage("inner", root / "src/inner"),
        ProjectPackage("space", root / "src/space"),
    ]


def test_packages_that_do_not_exist_are_not_listed(tmp_path: Path) -> None:
    _, files = layout(UV, "[tool.uv.build-backend]\nmodule-name = ['gone', 'here']\n", "src/here/__init__.py")
    root = write(tmp_path, files)
    assert project_packages(root) == [ProjectPackage("here", root / "src/here")]


# --- content --------------------------------------------------------------------------------------------------------


def test_source_files_leave_out_what_does_not_travel(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/data/table.csv": "1",
            "pkg/__pycache__/__init__.cpython-311.pyc": "x",
            "pkg/.env": "TOKEN=x",
            "pkg/.cache/blob": "x",
            "pkg/old.py~": "x",
            "pkg/pkg.egg-info/PKG-INFO": "x",
            "one.py": "",
        },
    )
    (tmp_path / "pkg/loop").symlink_to(tmp_path / "pkg")
    (tmp_path / "pkg/broken").symlink_to(tmp_path / "nowhere")
    names = [name for name, _ in source_files([tmp_path / "pkg", tmp_path / "one.py"])]
    assert names == ["one.py", "pkg/__init__.py", "pkg/data/table.csv"]


def test_content_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"pkg/x.py": "1", "pkg/y.py": "2"}) / "pkg"
    second = Path(shutil.copytree(first, tmp_path / "b/pkg"))
    os.utime(second / "x.py", (0, 0))
    (second / "__pycache__").mkdir()
    digest = content_digest([first])
    assert content_digest([second]) == digest
    changes: list[Callable[[], object]] = [
        lambda: (second / "x.py").write_text("3"),
        lambda: (second / "x.py").rename(second / "z.py"),
        lambda: (second / "new.py").write_text(""),
    ]
    seen = {digest}
    for change in changes:
        change()
        seen.add(content_digest([second]))
    assert len(seen) == 4
    other = write(tmp_path / "c", {"m.py": ""}) / "m.py"
    assert content_digest([first, other]) == content_digest([other, first]) != digest


def test_what_can_be_imported_is_all_in_src(tmp_path: Path) -> None:
    root = project(tmp_path, "told")
    write(
        root, {"src/other/__init__.py": "", "src/one.py": "", "src/data/x.csv": "", "beside/__init__.py": ""}
    )
    assert [package.name for package in project_packages(root)] == ["told"]
    assert [package.name for package in importable_packages(root)] == ["one", "other", "told"]
