"""What `make_image` puts into an image, and what rebuilds it: by the real client, on modal-emulator's builder."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from image_projects import CREDENTIALS, LOGIN, Probed, command, private, project, run_probe, run_script, uv
from mini_modal import make_image
from mini_modal.building import PYTHON
from mini_modal.cache import FOLDERS, MOUNT, cache_variables
from mini_modal.image import ModalSettings
from modal_emulator import Emulator
from package_index import PackageIndex, make_wheel


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


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_of_pyproject_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[tool.mini.modal]\napt = ["jq"]\nbase = "python:3.12"\ngroups = ["cuda"]\nregion = "eu"\n'
    )
    assert ModalSettings.read(tmp_path) == ModalSettings(("jq",), "python:3.12", ("cuda",), "eu")
    for wrong, named in [
        ("basis = 1", "basis"),
        ('apt = "jq"', "apt"),
        ("groups = [1]", "groups"),
        ("base = 3.12", "base"),
        ("region = []", "region"),
    ]:
        file.write_text(f"[tool.mini.modal]\n{wrong}\n")
        with pytest.raises(mini.OptionError, match=named):
            ModalSettings.read(tmp_path)


@pytest.mark.slow
def test_settings_of_pyproject_make_the_image(builder: Emulator, index: PackageIndex, tmp_path: Path) -> None:
    for name in ("tiny-one", "tiny-two"):
        index.add(name)
    # All of them are on every machine; in an order of their own they are a layer that is not in the cache.
    packages = random.sample(["bash", "coreutils", "grep", "gzip", "sed", "tar", "diffutils", "findutils"], 5)
    more = (
        "[dependency-groups]\none = ['tiny-one']\ntwo = ['tiny-two']\n"
        f"[tool.mini.modal]\nbase = 'python:{PYTHON}-slim'\napt = {packages}\ngroups = ['one']\n"
        "[tool.uv.sources]\ntiny-one = { index = 'private' }\ntiny-two = { index = 'private' }\n"
    )
    project(tmp_path, "settled", more=more + private(index))
    uv("lock", cwd=tmp_path, **LOGIN)
    ran = run_probe(builder, tmp_path, ["tiny-one", "tiny-two"], ["settled"], **LOGIN)
    assert ran.found["python"] == PYTHON
    assert ran.found["versions"] == {"tiny-one": "1.0", "tiny-two": None}
    assert any(line.endswith(f"apt-get install -y {' '.join(packages)}") for line in ran.built), ran.built


@pytest.mark.slow
def test_an_image_of_the_users_own_takes_the_place_of_it(builder: Emulator, tmp_path: Path) -> None:
    project(tmp_path, "own")
    uv("lock", cwd=tmp_path)
    said = run_script(
        builder,
        tmp_path,
        """
        import modal
        from mini_modal import ModalApparatus, make_image

        def ask():
            import os, own
            return os.environ.get("COLOUR"), own.version

        base = modal.Image.debian_slim(python_version="%d.%d" % __import__("sys").version_info[:2])
        image = make_image(base=base.env({"COLOUR": "green"}))
        with ModalApparatus("own-image").w(progress=False, image=image) as app:
            print(app.run(ask))
        """,
    )
    assert said == "('green', '1.0')"


@pytest.mark.slow
def test_any_image_can_be_completed(builder: Emulator, tmp_path: Path) -> None:
    """It has what a call needs beside what the user has put there, and nothing of that is built."""
    project(tmp_path, "own")
    uv("lock", cwd=tmp_path)
    said = run_script(
        builder,
        tmp_path,
        """
        import modal
        from mini_modal.image import complete_image, make_image

        def ask():
            import cloudpickle, tblib
            import mini.adapter, mini_modal.worker
            import own
            return own.version, "/root/" in cloudpickle.__file__, "/root/" in mini.__file__

        python = "%d.%d" % __import__("sys").version_info[:2]
        image = complete_image(modal.Image.debian_slim(python_version=python).add_local_file(__file__, "/x.py"))
        made = make_image()
        assert complete_image(made) is made
        app = modal.App("completed")
        remote = app.function(image=image, serialized=True)(ask)
        with app.run():
            print(remote.remote())
        """,
    )
    assert said == "('1.0', True, True)"


# --- without a project ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_script_without_a_project_gets_what_mini_needs_and_is_told(
    builder: Emulator, tmp_path: Path
) -> None:
    if mini.find_project_root(tmp_path) is not None:
        pytest.skip("the folder for temporary files is within a project")
    said = run_script(
        builder,
        tmp_path,
        """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        logging.getLogger("mini").setLevel(logging.INFO)
        from mini_modal import ModalApparatus
        with ModalApparatus("plain").w(progress=False) as app:
            print(app.run(lambda: 6 * 7))
        """,
    )
    assert said.splitlines()[-1] == "42"
    told = [line for line in said.splitlines() if line.startswith("INFO there is no project here")]
    assert len(told) == 1, said


# --- what is known without building -----------------------------------------------------------------------------------


def test_a_stale_lock_is_named_with_what_mends_it(tmp_path: Path) -> None:
    project(tmp_path, "stale")
    with pytest.raises(mini.RequirementsError, match="run `uv lock`"):
        make_image(tmp_path)


def test_what_a_lock_pins_is_kept_once(
    tmp_path: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny-kept")
    more = "[tool.uv.sources]\ntiny-kept = { index = 'private' }\n" + private(index)
    project(tmp_path / "kept", "kept", "tiny-kept", more=more)
    uv("lock", cwd=tmp_path / "kept", **LOGIN)
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        make_image(tmp_path / "kept")
    ours = tmp_path / "cache" / "mini"
    (kept,) = (path for path in ours.rglob("*") if path.is_file())
    assert "tiny-kept" in kept.read_text()
    assert CREDENTIALS[1] not in kept.read_text()
    kept.write_text("cut short")
    make_image(tmp_path / "kept")
    assert "tiny-kept" in kept.read_text()
    ours.rename(tmp_path / "elsewhere")
    ours.touch()
    with pytest.raises(mini.RequirementsError, match="XDG_CACHE_HOME"):
        make_image(tmp_path / "kept")


def test_variables_of_the_cache_give_way_to_the_users() -> None:
    variables = cache_variables({"HF_HOME": "/mine"})
    assert variables.keys() == FOLDERS.keys() - {"HF_HOME"}
    assert variables["TORCH_HOME"] == f"{MOUNT}/torch"
