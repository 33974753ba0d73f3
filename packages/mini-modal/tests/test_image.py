"""What `make_image` puts into an image, and what rebuilds it: by the real client, on modal-emulator's builder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mini
import pytest
import surroundings
from mini_modal.building import PYTHON
from mini_modal.image import ModalSettings
from modal_emulator import Emulator
from package_index import PackageIndex, make_wheel

CREDENTIALS = ("somebody", "pa55-w0rd")
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


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in this repository: all that it locks would be installed."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """A private one, at an address that no run of these tests has had: what is locked from it is in no cache."""
    with PackageIndex(tmp_path_factory.mktemp("index"), CREDENTIALS) as index:
        yield index


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """What can be fetched without a password: a repository."""
    with PackageIndex(tmp_path_factory.mktemp("files")) as files:
        yield files


def private(index: PackageIndex) -> str:
    return f'[[tool.uv.index]]\nname = "private"\nurl = "{index.url}"\nexplicit = true\n'


LOGIN = {"UV_INDEX_PRIVATE_USERNAME": CREDENTIALS[0], "UV_INDEX_PRIVATE_PASSWORD": CREDENTIALS[1]}


# --- a member of a workspace that needs something of every kind -----------------------------------------------------


@pytest.fixture(scope="module")
def everything(builder: Emulator, index: PackageIndex, files: PackageIndex, tmp_path_factory: Any) -> Probed:
    root: Path = tmp_path_factory.mktemp("everything")
    for version in ("1.0", "2.0"):
        index.add("tiny-private", version)
    for name in ("tiny-linux", "tiny-windows", "tiny-cuda", "tiny-dev", "tiny-here"):
        index.add(name)
    archive = make_wheel(root / "dist", "tiny-archive")
    project(root / "beside", "tiny-beside")
    repository = project(root / "repository", "tiny-git")
    git: list[str | Path] = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", repository]
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "-m", "one"],
        ["update-server-info"],
    ):
        assert command(*git, *arguments, cwd=root).returncode == 0
    (files.folder / "tiny-git.git").symlink_to(repository / ".git")

    workspace = root / "workspace"
    workspace.mkdir()
    (workspace / "pyproject.toml").write_text(
        '[tool.uv.workspace]\nmembers = ["packages/*"]\n' + private(index)
    )
    from_index = [
        f"tiny-{name} = {{ index = 'private' }}"
        for name in ["private", "linux", "windows", "cuda", "dev", "here"]
    ]
    more = "\n".join(
        [
            "[dependency-groups]",
            "cuda = ['tiny-cuda']",
            "dev = ['tiny-dev']",
            "local = ['tiny-here']",
            "[tool.uv.sources]",
            "helper = { workspace = true }",
            f"tiny-git = {{ git = '{files.url}/tiny-git.git' }}",
            f"tiny-archive = {{ path = '{os.path.relpath(archive, workspace / 'packages/app')}' }}",
            f"tiny-beside = {{ path = '{os.path.relpath(root / 'beside', workspace / 'packages/app')}' }}",
            *from_index,
        ]
    )
    app = project(
        workspace / "packages/app",
        "app",
        "tiny-private<2",
        "tiny-linux ; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "tiny-windows ; sys_platform == 'win32'",
        "helper",
        "tiny-git",
        "tiny-archive",
        "tiny-beside",
        version="3.5",
        more=more,
    )
    project(workspace / "packages/helper", "helper")
    # What nothing in pyproject.toml tells of, and what is nobody else's business.
    (app / "src/new_one").mkdir()
    (app / "src/new_one/part.py").write_text("found = True\n")
    (app / "src/single.py").touch()
    (app / "src/app/.env").write_text("TOKEN=secret\n")
    (app / "src/app/__pycache__").mkdir()
    (app / "src/app/__pycache__/old.pyc").touch()
    uv("lock", cwd=app, **LOGIN)
    names = ["private", "linux", "windows", "cuda", "dev", "here", "git", "archive", "beside"]
    return run_probe(
        builder,
        app,
        [f"tiny-{name}" for name in names] + ["app"],
        ["app", "new_one", "single", "helper", "tiny_beside", "tiny_git", "mini", "mini_modal"],
        **LOGIN,
    )


@pytest.mark.slow
def test_the_python_is_the_callers(everything: Probed) -> None:
    assert everything.found["python"] == PYTHON


@pytest.mark.slow
def test_versions_are_those_of_the_lock(everything: Probed) -> None:
    versions = everything.found["versions"]
    assert {name: versions[f"tiny-{name}"] for name in ("private", "git", "archive")} == dict.fromkeys(
        ("private", "git", "archive"), "1.0"
    )


@pytest.mark.slow
def test_groups_are_installed_but_for_dev_and_local(everything: Probed) -> None:
    versions = everything.found["versions"]
    assert versions["tiny-cuda"] == "1.0"
    assert versions["tiny-dev"] is versions["tiny-here"] is None


@pytest.mark.slow
def test_markers_count_as_they_are_there(everything: Probed) -> None:
    versions = everything.found["versions"]
    assert versions["tiny-linux"] == "1.0"
    assert versions["tiny-windows"] is None


@pytest.mark.slow
def test_source_of_the_project_of_members_and_of_paths_is_shipped(everything: Probed) -> None:
    places = everything.found["places"]
    for module in ("app", "helper", "tiny_beside", "mini", "mini_modal"):
        assert places[module] == f"/root/{module}/__init__.py"
    assert everything.found["hidden"] == []


@pytest.mark.slow
def test_new_packages_under_src_are_found_by_themselves(everything: Probed) -> None:
    assert everything.found["places"]["new_one"] == "/root/new_one"
    assert everything.found["places"]["single"] == "/root/single.py"


@pytest.mark.slow
def test_source_is_in_no_layer(everything: Probed) -> None:
    copied = [line for line in everything.built if "COPY" in line]
    assert len(copied) == 1, copied  # the archive, which has to be installed
    assert any("tiny_archive" in line for line in everything.built)
    assert not any("/root" in line for line in everything.built)


@pytest.mark.slow
def test_a_password_of_an_index_is_nowhere(everything: Probed) -> None:
    assert CREDENTIALS[1] not in everything.log
    assert CREDENTIALS[1] not in json.dumps(everything.found)
    assert everything.found["secrets"] == []


# --- what rebuilds --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_editing_source_rebuilds_nothing_and_another_lock_rebuilds_once(
    builder: Emulator, index: PackageIndex, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        index.add("tiny-lib", version)
    sources = "[tool.uv.sources]\ntiny-lib = { index = 'private' }\n" + private(index)

    def lock(version: str) -> None:
        project(tmp_path, "sweep", f"tiny-lib=={version}", more=sources)
        uv("lock", cwd=tmp_path, **LOGIN)

    def run() -> tuple[str, int, str]:
        ran = run_probe(builder, tmp_path, ["tiny-lib"], ["sweep.step"], **LOGIN)
        builds = [line for line in ran.built if "--requirements" in line]
        assert ran.built == builds  # nothing else, ever: what mini needs comes before, and is in the cache
        return ran.found["versions"]["tiny-lib"], len(builds), ran.found["contents"]["sweep.step"]

    step = tmp_path / "src/sweep/step.py"
    lock("1.0")
    step.write_text("first = 1\n")
    run_probe(builder, tmp_path, [], [], **LOGIN)
    assert run() == ("1.0", 0, "first = 1\n")
    step.write_text("second = 2\n")
    assert run() == ("1.0", 0, "second = 2\n")
    lock("2.0")
    assert run() == ("2.0", 1, "second = 2\n")
    assert run() == ("2.0", 0, "second = 2\n")


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_of_pyproject_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[tool.mini.modal]\napt = ["jq"]\nbase = "python:3.12"\ngroups = ["cuda"]\nregion = "eu"\n'
    )
    assert ModalSettings.read(tmp_path) == ModalSettings(("jq",), "python:3.12", ("cuda",), "eu")
    file.write_text("[tool.mini.modal]\nbasis = 1\n")
    with pytest.raises(mini.OptionError, match="basis"):
        ModalSettings.read(tmp_path)
    file.write_text('[tool.mini.modal]\napt = "jq"\n')
    with pytest.raises(mini.OptionError, match="apt"):
        ModalSettings.read(tmp_path)
