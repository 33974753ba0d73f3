"""What `make_image` puts into an image, and what rebuilds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mini
import pytest
import surroundings
from mini_modal.image import ModalSettings
from modal_emulator import Emulator

PYPROJECT = f"""
[project]
name = "sweep"
version = "0.1"
requires-python = "=={sys.version_info[0]}.{sys.version_info[1]}.*"
dependencies = ["six=={{six}}"]

[dependency-groups]
extra = ["iniconfig==2.0.0"]
local = ["sniffio==1.3.0"]
"""
SCRIPT = """
import sys
sys.path.insert(0, "src")
from mini_modal import ModalApparatus
from sweep_code.step import step

with ModalApparatus("sweep").w(progress=False) as app:
    print(app.run(step))
"""
STEP = """
from importlib.metadata import version
from importlib.util import find_spec

def step():
    return "{text}", version("six"), version("iniconfig"), find_spec("sniffio")
"""


def uv(folder: Path, *arguments: str) -> None:
    from uv import find_uv_bin

    subprocess.run([find_uv_bin(), "--quiet", *arguments], cwd=folder, env=surroundings.OUTSIDE, check=True)


@pytest.mark.slow
def test_the_lock_is_what_is_installed_and_source_rebuilds_nothing(builder: Emulator, tmp_path: Path) -> None:
    package = tmp_path / "src" / "sweep_code"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(text: str) -> str:
        (package / "step.py").write_text(STEP.format(text=text))
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env={**surroundings.OUTSIDE, **{k: v for k, v in builder.variables.items() if v is not None}},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def images() -> int:
        from modal_emulator.runtime.cache import list_images
        from modal_emulator.settings import Settings

        return len(list_images(Settings(work=tmp_path).cache))

    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(six="1.16.0"))
    uv(tmp_path, "lock", "--python", sys.executable)
    assert run("first") == str(("first", "1.16.0", "2.0.0", None))
    built = images()
    assert run("edited") == str(("edited", "1.16.0", "2.0.0", None))
    assert images() == built
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(six="1.17.0"))
    uv(tmp_path, "lock", "--python", sys.executable)
    assert run("edited") == str(("edited", "1.17.0", "2.0.0", None))


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
