"""Clusters whose Python or Ray is another one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
import ray
from mini.requirements import find_uv
from mini_ray import RayApparatus
from ray_clusters import RayCluster, running
from standing import environment, make_venv, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OTHER_RAY = "2.59.0"
SECONDS = 10.0


def other_python() -> str | None:
    """One of another minor version, if there is one."""
    for minor in (12, 11, 13):
        if minor != sys.version_info.minor:
            command = [str(find_uv()), "python", "find", "--no-project", f"3.{minor}"]
            found = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
            if not found.returncode:
                python: str = found.stdout.strip()
                return python
    return None


@pytest.fixture(params=["python", "ray"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RayCluster, str]]:
    """A cluster, and what its version is said to be."""
    if request.param == "python":
        python = other_python()
        if python is None:
            pytest.skip("this machine has one Python only")
        made = make_venv(tmp_path / "venv", python=python)
        version = run(made, "-c", "import platform; print('Python:', platform.python_version())").strip()
    else:
        assert ray.__version__ != OTHER_RAY, "name another"
        made, version = make_venv(tmp_path / "venv", version=OTHER_RAY), f"Ray: {OTHER_RAY}"
    with running(RayCluster(python=made)) as cluster:
        yield cluster, version


def test_another_python_or_ray_is_refused_with_both_versions(
    other: tuple[RayCluster, str], tmp_path: Path
) -> None:
    cluster, version = other
    with RayApparatus("versions", cluster.address, tmp_path).w(progress=False) as app:
        for call in (app.run, app.spawn):
            begun = time.monotonic()
            with pytest.raises(mini.BackendUnavailable) as info:
                call(abs, -1)
            assert time.monotonic() - begun < SECONDS
            assert version in str(info.value)
            assert "use the same version of Python and of Ray on both sides" in str(info.value)
