"""The instance that stays: jobs outlive whoever launched them, and whatever becomes of it, nothing else is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini.conformance.footprint import alive
from mini.conformance.probes import Gate, Tally, until
from mini.jobboard import JobState
from mini_ray import RayApparatus, standing
from mini_ray.guard import processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 90.0
DONE, LOST, PENDING, RUNNING = JobState.DONE, JobState.LOST, JobState.PENDING, JobState.RUNNING

LAUNCH = """
    import mini
    from mini.conformance.probes import Gate, Tally
    from mini_ray import RayApparatus

    def wait(number, tally, gate):
        tally.add(number)
        gate.wait()
        return number

    if __name__ == "__main__":
        app = RayApparatus("stays", max_workers=2).w(progress=False)
        app.spawn_map(wait, range(3), kwargs={{"tally": Tally({tally!r}), "gate": Gate({gate!r}, {patience})}})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in no project; what stays for it does so until the test is over."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    standing.stop()


def command(folder: Path, *arguments: str, status: int = 0) -> str:
    """What `mini` says, in a session of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mini", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def launch(folder: Path, tally: Tally, gate: Gate) -> None:
    """Have a process launch three jobs, of which two run at a time, and end."""
    code = textwrap.dedent(LAUNCH).format(tally=tally.path, gate=gate.path, patience=2 * PATIENCE)
    (folder / "launch.py").write_text(code)
    subprocess.run([sys.executable, "launch.py"], cwd=folder, timeout=PATIENCE, check=True)
    tally.wait_for(2, PATIENCE)


def directory(there: standing.Standing) -> Path:
    return Path(there.token).parent


def is_gone(there: standing.Standing) -> bool:
    return not directory(there).exists() and not processes(str(directory(there))) and not alive(there.pid)


def test_jobs_run_on_it_without_their_launcher_and_are_found_without_an_address(
    folder: Path, tally: Tally, gate: Gate
) -> None:
    assert not RayApparatus("stays").supports("detached_jobs")
    said = command(folder, "ray", "start")
    there = standing.find()
    assert there is not None
    assert (
        said
        == f"a Ray instance has been started at {there.address}, for {folder}/.mini; to end it: mini ray stop\n"
    )
    assert os.getsid(there.pid) != os.getsid(0)
    assert Path(there.token).stat().st_mode & 0o077 == 0
    assert (standing.place_of() / "note.json").stat().st_mode & 0o077 == 0
    assert "is there already" in command(folder, "ray", "start")
    assert json.loads(command(folder, "ray", "start", "--json")) == {
        "schema": 1,
        "address": there.address,
        "place": f"{folder}/.mini",
        "started": False,
    }

    launch(folder, tally, gate)
    assert "stays on ray: 2 RUNNING, 1 PENDING\n" in command(folder, "status", "stays", status=4)
    gate.open()
    assert command(folder, "watch", "stays").endswith("stays on ray: 3 DONE\n")
    assert [job.result(0) for job in mini.jobs("stays", app="ray")] == [0, 1, 2]
    assert command(folder, "ray", "stop") == "the Ray instance has ended\n"
    assert is_gone(there)
    assert "there is no Ray instance" in command(folder, "ray", "stop")
    assert json.loads(command(folder, "ray", "stop", "--json")) == {"schema": 1, "ended": False}
    assert "stays on ray: 3 DONE\n" in command(folder, "status", "stays")
    with pytest.raises(mini.BackendUnavailable, match="mini ray start"):
        RayApparatus("stays").spawn(abs, -1)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_jobs_of_one_that_is_no_more_are_lost_and_the_next_one_runs_them_again(
    how: str, folder: Path, tally: Tally, gate: Gate
) -> None:
    there, now = standing.start()
    assert now
    launch(folder, tally, gate)
    if how == "stopped":
        assert standing.stop()
    else:
        os.kill(there.pid, signal.SIGKILL)
    until(lambda: is_gone(there), PATIENCE, "the end of all that belonged to it")
    assert "stays on ray: 3 LOST\n" in command(folder, "status", "stays", status=1)
    gate.open()
    after, now = standing.start()
    assert now
    assert after.ids == (*there.ids, after.ids[-1])
    assert "stays on ray: 3 LOST\n" in command(folder, "status", "stays", status=1)
    command(folder, "retry", "stays")
    command(folder, "watch", "stays")
    assert [record.state for record in (job.record for job in mini.jobs("stays", app="ray"))] == [DONE] * 3
    assert len(tally.read()) == 5


def test_two_who_start_it_at_once_have_the_same(folder: Path) -> None:
    found: list[tuple[standing.Standing, bool]] = []
    threads = [threading.Thread(target=lambda: found.append(standing.start())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first, _), (second, _) = found
    assert first == second
    assert sorted(now for _, now in found) == [False, True]


def test_what_cannot_be_started_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (folder / "ray.py").write_text("raise ImportError('Ray is broken')\n")
    with pytest.raises(mini.BackendUnavailable, match=r"cannot be started here:(?s:.)*Ray is broken"):
        standing.start()
    assert standing.find() is None
