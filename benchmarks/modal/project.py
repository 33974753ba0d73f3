"""The project whose image all calls have: a small one, with a lock and a module of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from mini.requirements import find_uv

from . import functions

__all__ = ["MODULE", "make_project"]

MODULE = "benchmark_functions"
PYPROJECT = """
[project]
name = "benchmark"
version = "0"
requires-python = "=={python}.*"
dependencies = ["numpy=={numpy}"]
"""


def make_project(folder: Path) -> None:
    (folder / "src").mkdir(parents=True)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "pyproject.toml").write_text(PYPROJECT.format(python=python, numpy=version("numpy")))
    shutil.copy(functions.__file__, folder / "src" / f"{MODULE}.py")
    subprocess.run([find_uv(), "lock", "--quiet", f"--python={sys.executable}"], cwd=folder, check=True)
