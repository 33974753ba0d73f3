"""The contract on Modal, or rather on modal-emulator: the real client over the real wire, and real containers.

The kit's gates and tallies are files that caller and workers share, so this cannot be pointed at Modal itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from mini import Job
from mini.conformance import ApparatusConformance, MakeApparatus, footprint, subjects
from mini.conformance.err import Unreachable
from mini_modal import ModalApparatus
from modal_emulator import Emulator

PROJECT = """
[project]
name = "contract"
version = "0"
requires-python = "=={python}.*"
dependencies = [{dependencies}]
"""

# Each test that has an apparatus, or a script, of its own starts containers: `nox -s conformance` has the time.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has what the kit's functions import. The tests' own folders are in it."""
    from uv import find_uv_bin

    folder = tmp_path_factory.getbasetemp()
    pinned = ", ".join(f'"{name}=={version(name)}"' for name in ("hypothesis", "numpy", "pytest"))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "pyproject.toml").write_text(PROJECT.format(python=python, dependencies=pinned))
    subprocess.run([find_uv_bin(), "lock", "--quiet", f"--python={sys.executable}"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def emulator(project: Path) -> Iterator[Emulator]:
    with Emulator(share=[project]) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(footprint, "bystanders", footprint.bystanders | {emulator.pid})
        for name, value in emulator.variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield emulator


class TestModal(ApparatusConformance):
    @pytest.fixture
    def make_apparatus(self, emulator: Emulator) -> MakeApparatus:
        return lambda name: ModalApparatus(name)

    @pytest.fixture
    def project_src(self, project: Path) -> Iterator[Path]:
        yield project / "src"
        shutil.rmtree(project / "src")

    @pytest.fixture
    def unreachable(self, script_prelude: str) -> Unreachable:
        secret = "as-very-secret"
        there = {
            "MODAL_SERVER_URL": "http://127.0.0.1:9",
            "MODAL_TOKEN_ID": "ak-1",
            "MODAL_TOKEN_SECRET": secret,
        }
        return Unreachable(f"import os\nos.environ.update({there})\n{script_prelude}", secret=secret)

    @pytest.fixture
    def deadly(self) -> Callable[..., int]:
        return subjects.note_and_end_host

    @pytest.fixture
    def kill_worker_of(self) -> Callable[[Job], None]:
        return kill_container_of


def kill_container_of(job: Job) -> None:
    """Kill the process of the container that has claimed a job: in there it has another number than here."""
    claimed = job.record.current.claimed
    assert claimed is not None
    mark = f"MODAL_TASK_ID={claimed.worker.host}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                command = (process / "cmdline").read_bytes()
                if b"_container_entrypoint" in command and mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
    raise AssertionError(f"there is no container {claimed.worker.host}")
