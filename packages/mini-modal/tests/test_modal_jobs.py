"""Detached jobs on Modal: the real client, the real wire, real containers; and callers that are not there any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from mini.jobboard import JobBoard
from mini.jobrecord import Claimed, JobState, Worker
from mini.wire import Frames
from mini_modal import ModalApparatus
from modal_emulator import Emulator
from places import Place
from scripts import PATIENCE, Script, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def app(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalApparatus]:
    with place.apparatus("test-jobs", tmp_path_factory.mktemp("no-project")) as app:
        yield app


class Gates:
    """Queues by which the tests hold jobs back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, count: int = 1) -> None:
        import modal

        queue = modal.Queue.from_name(self.name, create_if_missing=True)
        queue.put_many([True] * count)


@pytest.fixture
def gate(app: ModalApparatus, request: pytest.FixtureRequest) -> Iterator[Gates]:
    import modal

    gate = Gates(f"gate-{abs(hash(request.node.name))}")
    yield gate
    modal.Queue.objects.delete(gate.name, allow_missing=True)


def functions() -> tuple[Callable[[int], int], Callable[[str, int], int]]:
    """Functions that travel by value: this module is not where they run."""

    def square(x: int) -> int:
        print(f"squares {x}")
        mini.emit_metrics(x=x)
        mini.emit_progress(1, 1)
        return x * x

    def waits(name: str, x: int) -> int:
        import modal

        print(f"{x} waits")
        modal.Queue.from_name(name, create_if_missing=True).get(timeout=60)
        return x * x

    return square, waits


square, waits = functions()


def is_running(job: mini.Job) -> bool:
    return job.state is JobState.RUNNING


def test_a_job_is_kept_with_all_that_is_known_of_it(app: ModalApparatus) -> None:
    job = app.spawn(square, 7)
    assert job.result(PATIENCE) == 49
    record = job.record
    assert (record.state, record.input, record.function) == (JobState.DONE, "7", "functions.<locals>.square")
    assert record.origin.backend == "modal"
    claimed, ended = record.current.claimed, record.current.ended
    assert claimed is not None
    assert claimed.worker.host.startswith("ta-")
    assert claimed.worker.id.startswith("fc-")
    assert ended is not None
    assert ended.outcome is not None
    assert job.metrics == {"x": 7}
    assert job.progress is not None
    assert [line.text for line in job.logs()] == ["squares 7"]


def test_a_group_keeps_its_order_and_is_removed_without_a_trace(app: ModalApparatus, place: Place) -> None:
    import modal

    group = app.spawn_map(square, range(30))
    assert list(group.results(timeout=PATIENCE)) == [x * x for x in range(30)]
    assert group.counts() == {JobState.DONE: 30}
    assert group.id in [each.id for each in app.groups()]
    group.remove()
    assert group.id not in [each.id for each in app.groups()]
    with pytest.raises(LookupError):
        app.job(group[0].id)
    assert not any(group.id in str(found.name) for found in modal.Dict.objects.list())
    job = app.spawn(square, 3)
    assert job.result(PATIENCE) == 9
    stale = app.job(job.id)
    group_id = job.record.group
    app.group(group_id).remove()
    with pytest.raises(LookupError):
        _ = stale.state
    gone = (job.id, 1)
    assert job._board.store.put_once([(gone, Claimed(time.time(), Worker("ta-gone", 1, "fc-gone/0")))]) == [
        False
    ]
    for name in ("mini-test-jobs", "mini.test-jobs"):
        assert not any(group_id in key for key in modal.Dict.from_name(name).keys())  # noqa: SIM118
    volume = modal.Volume.from_name("mini-test-jobs")
    assert not any(group.id in entry.path for entry in volume.listdir("/", recursive=True))


def test_apps_end_with_their_jobs(app: ModalApparatus, gate: Gates) -> None:
    job = app.spawn(waits, gate.name, 2)
    wait_until(lambda: is_running(job))
    (mine,) = [each for each in apps("mini-test-jobs") if each[1] != "stopped"]
    gate.open()
    assert job.result(PATIENCE) == 4
    wait_until(lambda: (mine[0], "stopped") in apps("mini-test-jobs"))
    assert {state for _, state in apps("mini-test-jobs-launching")} == {"stopped"}


def apps(description: str) -> list[tuple[str, str]]:
    """The apps that have a description: their ids, and their states as Modal's own command has them."""
    said = subprocess.run(
        [sys.executable, "-P", "-m", "modal", "app", "list", "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return [
        (row["app_id"], row["state"]) for row in json.loads(said.stdout) if row["description"] == description
    ]


def test_files_of_a_job_that_is_done_are_there(app: ModalApparatus) -> None:
    def write(text: str) -> None:
        (mini.get_data_dir() / "from-a-job.txt").write_text(text)

    app.spawn(write, "hello").result(PATIENCE)
    assert app.volume.read_bytes("from-a-job.txt") == b"hello"
    assert not any(entry.path.startswith(".mini") for entry in app.volume.list())


def test_a_large_result_comes_whole(app: ModalApparatus) -> None:
    def large(data: bytes, count: int) -> bytes:
        return data * count

    data = os.urandom(1 << 20)
    assert app.spawn(large, data, 9).result(PATIENCE) == data * 9


def test_an_error_is_raised_as_itself(app: ModalApparatus) -> None:
    def fails(x: int) -> None:
        raise KeyError(x)

    job = app.spawn(fails, 3)
    with pytest.raises(KeyError) as caught:
        job.result(PATIENCE)
    assert caught.value.args == (3,)
    assert job.state is JobState.FAILED


def test_retries_are_made_by_the_worker(app: ModalApparatus) -> None:
    def third_time() -> int:
        attempt = mini.current_job().attempt  # type: ignore[union-attr]
        if attempt < 3:
            raise ValueError(attempt)
        return attempt

    job = app.w(retries=2).spawn(third_time)
    assert job.result(PATIENCE) == 3
    states = [attempt.state for attempt in job.record.attempts]
    assert states == [JobState.FAILED, JobState.FAILED, JobState.DONE]
    inputs = {attempt.claimed.worker.id for attempt in job.record.attempts if attempt.claimed}
    assert len(inputs) == 1


def test_a_timeout_fails_the_job_and_spares_the_container(app: ModalApparatus) -> None:
    def sleepy(x: int) -> int:
        if x == 0:
            time.sleep(60)
        return os.getppid()

    group = app.w(timeout=1.0, max_workers=1).spawn_map(sleepy, range(2))
    first, second = group.results(return_exceptions=True, timeout=PATIENCE)
    assert isinstance(first, mini.JobTimeout)
    assert isinstance(second, int)
    workers = {r.current.claimed.worker.host for r in group.records() if r.current.claimed}
    assert len(workers) == 1


def test_a_job_that_is_cancelled_ends_at_once(app: ModalApparatus, gate: Gates) -> None:
    job = app.spawn(waits, gate.name, 2)
    wait_until(lambda: is_running(job))
    (mine,) = [each for each in apps("mini-test-jobs") if each[1] != "stopped"]
    begun = time.monotonic()
    job.cancel()
    assert job.state is JobState.CANCELLED
    wait_until(lambda: (mine[0], "stopped") in apps("mini-test-jobs"), 10)
    assert time.monotonic() - begun < 10
    with pytest.raises(mini.JobCancelled):
        job.result(1)


def test_one_job_of_a_group_is_cancelled_and_the_others_go_on(app: ModalApparatus, gate: Gates) -> None:
    group = app.w(max_workers=1).spawn_map(waits, [gate.name] * 3, range(3))
    wait_until(lambda: is_running(group[0]))
    group[0].cancel()
    group[2].cancel()
    wait_until(lambda: is_running(group[1]), 15)
    gate.open()
    assert group[1].result(PATIENCE) == 1
    assert [job.state for job in group.states()] == [
        JobState.CANCELLED,
        JobState.DONE,
        JobState.CANCELLED,
    ]
    # What was cancelled before it began never began.
    assert list(group[2].logs()) == []
    assert group.retry(failed=False) == 2
    gate.open(2)
    assert list(group.results(timeout=PATIENCE)) == [0, 1, 4]


def test_a_container_that_is_killed_costs_the_attempt(app: ModalApparatus, gate: Gates) -> None:
    def fragile(name: str, x: int) -> int:
        import modal

        modal.Queue.from_name(name, create_if_missing=True).get(timeout=60)
        if x == 1 and mini.current_job().attempt == 1:  # type: ignore[union-attr]
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return x

    group = app.w(max_workers=1).spawn_map(fragile, [gate.name] * 3, range(3))
    gate.open(3)
    outcomes = list(group.results(return_exceptions=True, timeout=PATIENCE))
    assert (outcomes[0], outcomes[2]) == (0, 2)
    assert isinstance(outcomes[1], mini.WorkerLost)
    assert "its container died" in str(outcomes[1])
    # Modal itself gives the input to another container, which must not run it again.
    assert len(group[1].record.attempts) == 1
    assert group[1].state is JobState.LOST
    gate.open()
    assert group.retry() == 1
    assert group[1].result(PATIENCE) == 1
    assert group[1].attempt == 2


def test_with_retries_a_job_survives_its_container(app: ModalApparatus) -> None:
    def fragile() -> int:
        attempt = mini.current_job().attempt  # type: ignore[union-attr]
        if attempt == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return attempt

    job = app.w(retries=1).spawn(fragile)
    assert job.result(PATIENCE) == 2
    assert [attempt.state for attempt in job.record.attempts] == [JobState.LOST, JobState.DONE]


def test_an_app_that_is_stopped_leaves_jobs_lost(app: ModalApparatus, gate: Gates) -> None:
    group = app.w(max_workers=1).spawn_map(waits, [gate.name] * 2, range(2))
    wait_until(lambda: is_running(group[0]))
    (mine,) = [each for each in apps("mini-test-jobs") if each[1] != "stopped"]
    stop = [sys.executable, "-P", "-m", "modal", "app", "stop", "--yes", mine[0]]
    subprocess.run(stop, capture_output=True, timeout=PATIENCE, check=True)
    wait_until(lambda: group.counts() == {JobState.LOST: 2})
    gate.open(2)
    assert group.retry() == 2
    assert list(group.results(timeout=PATIENCE)) == [0, 1]


def test_a_worker_that_was_given_up_changes_nothing(app: ModalApparatus, gate: Gates) -> None:
    group = app.w(max_workers=1).spawn_map(waits, [gate.name] * 2, range(2))
    wait_until(lambda: is_running(group[0]))
    board: JobBoard = app.group(group.id)._board
    # Somebody claims the second job, of whom Modal knows nothing (any more).
    stale = (group[1].id, 1)
    assert board.store.put_once([(stale, Claimed(time.time(), Worker("ta-gone", 1, "fc-gone/0")))]) == [True]
    assert group[1].state is JobState.LOST
    group[1].retry()
    frames: Frames = [b"a result that nobody wants"]
    assert not board.end(stale, JobState.DONE, frames)
    gate.open(2)
    assert list(group.results(timeout=PATIENCE)) == [0, 1]
    assert not board.end(stale, JobState.DONE, frames)
    assert [attempt.state for attempt in group[1].record.attempts] == [JobState.LOST, JobState.DONE]


def test_jobs_of_somebody_who_vanished_before_starting_them_are_lost(app: ModalApparatus) -> None:
    from mini.errors import BackendUnavailable
    from mini_modal.jobs import ModalJobHost

    class Vanishes(ModalJobHost):
        def start(self, jobs: Any) -> None:
            # Now somebody is about to start them, as Modal sees it.
            (group,) = {job.group for job in jobs}
            assert app.group(group).counts() == {JobState.PENDING: 3}
            raise BackendUnavailable(group)

    other = app.w(progress=False)
    board = other._open_jobs()
    host = board.host
    assert isinstance(host, ModalJobHost)
    board.host = Vanishes(host._name, host._store, host._options, host._define)
    other._jobs = board
    with pytest.raises(BackendUnavailable) as caught:
        other.spawn_map(square, range(3))
    group = app.group(str(caught.value))
    assert group.counts() == {JobState.LOST: 3}
    group.retry()
    assert list(group.results(timeout=PATIENCE)) == [0, 1, 4]


def test_options_hold_for_a_retry_as_well(app: ModalApparatus) -> None:
    import modal

    secret = modal.Secret.from_dict({"FROM_A_SECRET": "yes"})

    def needs(name: str) -> str:
        if mini.current_job().attempt == 1:  # type: ignore[union-attr]
            raise ValueError(name)
        return os.environ[name] + os.environ["COLOUR"]

    job = app.w(modal={"secrets": [secret]}, env={"COLOUR": "green"}).spawn(needs, "FROM_A_SECRET")
    assert isinstance(job.exception(PATIENCE), ValueError)
    # Another process has no secret of that kind.
    with pytest.raises(mini.OptionError, match=r"app\.w\(modal=\{'secrets': …\}\)\.group"):
        app.job(job.id).retry()
    again = app.w(modal={"secrets": [secret]}).job(job.id)
    assert again.state is JobState.LOST  # that there was to be a second attempt is known already
    again.retry()
    assert job.result(PATIENCE) == "yesgreen"


# --- callers that come and go ----------------------------------------------------------------------------------------

LAUNCH = """
    import time
    import mini
    from mini_modal import ModalApparatus
    import work

    if __name__ == "__main__":
        app = ModalApparatus("NAME", max_workers=2).w(progress=False)
        group = app.spawn_map(work.square, range(COUNT), kwargs={"seconds": SECONDS})
        print(group.id)
        time.sleep(300)
"""
WORK = """
import time

FACTOR = 1

def square(x, seconds):
    time.sleep(seconds)
    print("square of", x)
    return FACTOR * x * x
"""
READ = """
    import json
    from grpclib.client import Channel

    asked = []
    request = Channel.request

    def noted(self, name, *args, **kwargs):
        asked.append(name.rpartition("/")[2])
        return request(self, name, *args, **kwargs)

    Channel.request = noted
    import mini
    from mini_modal import ModalApparatus

    app = ModalApparatus("NAME")
    (group,) = app.groups()
    print(json.dumps(list(group.results(timeout=PATIENCE))))
    before = len(asked)
    print(json.dumps({str(state): count for state, count in group.counts().items()}))
    print(json.dumps([record.state for record in group.records()]))
    print(json.dumps(asked[before:]))
    print(json.dumps([line.text for index in range(5) for line in group[index].logs()]))
    print(json.dumps(sorted(set(asked))))
"""


def launch(name: str, count: int, seconds: float = 0.0) -> str:
    filled = LAUNCH.replace("NAME", name).replace("COUNT", str(count))
    return filled.replace("SECONDS", str(seconds))


def read(name: str) -> str:
    return READ.replace("NAME", name).replace("PATIENCE", str(PATIENCE))


PROJECT = """
[project]
name = "sweep"
version = "0"
requires-python = "=={}.{}.*"
"""


def project(folder: Path) -> Path:
    """A project with the module of a script."""
    from uv import find_uv_bin

    folder.mkdir()
    (folder / "work.py").write_text(WORK)
    (folder / "pyproject.toml").write_text(PROJECT.format(*sys.version_info[:2]))
    lock = [find_uv_bin(), "lock", "--quiet", "--offline", f"--python={sys.executable}"]
    subprocess.run(lock, cwd=folder, check=True, timeout=PATIENCE)
    return folder


def test_jobs_outlive_their_caller_and_another_process_only_reads(place: Place, tmp_path: Path) -> None:
    here, there, count, name = project(tmp_path / "here"), tmp_path / "there", 300, "outlives"
    there.mkdir()
    with Script(here, launch(name, count, 0.02), place.environ) as script:
        script.line()
    # It was killed. What jobs run is what was there when they were launched.
    (here / "work.py").write_text(WORK.replace("FACTOR = 1", "FACTOR = 1000"))
    with Script(there, read(name), place.environ) as reader:
        assert reader.finish() == 0, reader.err
    results, counts, states, questions, logs, asked = map(json.loads, reader.out)
    assert results == [x * x for x in range(count)]
    assert counts == {"DONE": count}
    assert states == ["DONE"] * count
    # Six answers with all of a group, or of the name, and nothing for a single job; and once, what lasts.
    copying = {
        "VolumeGetOrCreate",
        "VolumeListFiles",
        "VolumeListFiles2",
        "VolumePutFiles",
        "VolumePutFiles2",
    }
    assert set(questions) - copying - {"MountPutFile"} == {"DictContents"}
    assert questions.count("DictContents") <= 6
    assert len(questions) <= 12
    assert logs == [f"square of {x}" for x in range(5)]
    # Nothing that builds an image, makes an app or a function, or starts a container; and not once for each job.
    allowed = {
        "AppGetLifecycle",
        "BlobGet",
        "ClientHello",
        "DictContents",
        "DictGet",
        "DictGetOrCreate",
        "DictUpdate",  # what ended while it looked it may take for lost, and is refused
        "EnvironmentGetOrCreate",
        "FunctionGetOutputs",
        "VolumeGetFile",
        "VolumeGetFile2",
        "VolumeGetOrCreate",
        "VolumeListFiles",
        "VolumeListFiles2",
        "VolumePutFiles",  # a copy of what is known, once it has ended
        "VolumePutFiles2",
        "MountPutFile",
    }
    assert set(asked) <= allowed


@pytest.mark.parametrize("has_project", [True, False])
def test_another_process_retries_with_the_options_and_the_source_of_the_launch(
    place: Place, tmp_path: Path, has_project: bool
) -> None:
    here, name = tmp_path / "here", f"retried-{has_project}"
    if has_project:
        project(here)
    else:
        here.mkdir()
    work = """
        import mini, os

        FACTOR = 1

        def square(x, seconds):
            if mini.current_job().attempt == 1:
                raise ValueError(x)
            return FACTOR * x * x, os.environ["COLOUR"]
    """
    (here / "work.py").write_text(textwrap.dedent(work))
    launching = launch(name, 2).replace("w(progress=False)", "w(progress=False, env={'COLOUR': 'green'})")
    with Script(here, launching, place.environ) as script:
        script.line()
    (here / "work.py").write_text(textwrap.dedent(work).replace("FACTOR = 1", "FACTOR = 1000"))
    retry = """
        from mini_modal import ModalApparatus

        app = ModalApparatus("NAME").w(progress=False)
        (group,) = app.groups()
        assert group.wait(PATIENCE)
        print(group.retry())
        print(list(group.results(timeout=PATIENCE)))
        print([len(record.attempts) for record in group.records()])
    """.replace("PATIENCE", str(PATIENCE)).replace("NAME", name)
    with Script(here, retry, place.environ) as retrier:
        assert retrier.finish() == 0, retrier.err
    assert retrier.out == ["2", "[(0, 'green'), (1, 'green')]", "[2, 2]"]


def test_jobs_of_a_server_that_was_restarted_are_lost_and_can_be_retried(tmp_path: Path) -> None:
    with Emulator(state=tmp_path / "state") as emulator:
        place = Place.of(emulator)
        here = project(tmp_path / "here")
        with Script(here, launch("restarted", 8, 2.0), place.environ) as script:
            script.line()
            look = """
                from mini_modal import ModalApparatus

                (group,) = ModalApparatus("restarted").groups()
                for job in group.as_completed(PATIENCE):
                    break
            """.replace("PATIENCE", str(PATIENCE))
            (tmp_path / "there").mkdir()
            with Script(tmp_path / "there", look, place.environ) as looking:
                assert looking.finish() == 0, looking.err
        emulator.kill()
        emulator.start()
        retry = """
            import json
            from mini_modal import ModalApparatus

            app = ModalApparatus("restarted").w(progress=False)
            (group,) = app.groups()
            assert group.wait(PATIENCE)
            print(json.dumps({str(state): count for state, count in group.counts().items()}))
            group.retry()
            print(json.dumps(list(group.results(timeout=PATIENCE))))
        """.replace("PATIENCE", str(PATIENCE))
        with Script(tmp_path / "there", retry, place.environ) as retrier:
            assert retrier.finish() == 0, retrier.err
        counts, results = map(json.loads, retrier.out)
        assert set(counts) <= {"DONE", "LOST"}
        assert counts["LOST"] >= 1
        assert results == [x * x for x in range(8)]


KILLS = """
    import json, os, random, signal, sys, time
    from collections import Counter
    from pathlib import Path
    from mini_modal import ModalApparatus

    COUNT, MOST = {jobs}, {kills}
    folder = Path(sys.argv[0]).parent / "runs"
    pace = folder / "pace"

    def work(x):
        with open(f"{{folder}}/{{x}}", "a") as file:
            print(os.getpid(), file=file)
        while pace.stat().st_size <= x:
            time.sleep(0.01)
        return x * x

    def let_go(jobs):
        with pace.open("ab") as file:
            file.write(b"x" * jobs)

    def kill(worker):
        mark = f"MODAL_TASK_ID={{worker.host}}".encode()
        for process in Path("/proc").iterdir():
            try:
                if (
                    process.name.isdecimal()
                    and b"_container_entrypoint" in (process / "cmdline").read_bytes()
                    and mark in (process / "environ").read_bytes()
                ):
                    os.kill(int(process.name), signal.SIGKILL)
                    return 1
            except OSError:
                pass
        return 0

    if __name__ == "__main__":
        folder.mkdir()
        pace.touch()
        app = ModalApparatus("killed", max_workers=2).w(progress=False)
        group = app.spawn_map(work, range(COUNT))
        killed, deadline = 0, time.monotonic() + {seconds}
        # Jobs are held back, so that the killing is not over before it has begun.
        while killed < MOST and time.monotonic() < deadline:
            states = group.states()
            running = [job for job in states if job.worker and not job.state.is_final]
            if running and kill(random.choice(running).worker):
                killed += 1
                let_go(COUNT // MOST - 1)
        before_the_end = not all(job.state.is_final for job in group.states())
        let_go(COUNT)
        assert group.wait({seconds})
        for job, record in zip(group, group.records(), strict=True):
            file = folder / str(record.index)
            runs = len(file.read_text().split()) if file.exists() else 0
            assert runs <= 1, (job.id, runs)
            assert len(record.attempts) == 1
            if record.state == "DONE":
                assert (runs, job.result(0)) == (1, record.index**2)
        print(json.dumps([killed, before_the_end, {{str(state): count for state, count in group.counts().items()}}]))
        print(group.retry())
        print(list(group.results(timeout={seconds})) == [x * x for x in range(COUNT)])
"""


@pytest.mark.soak
@pytest.mark.parametrize(("jobs", "kills", "seconds"), [(150, 40, 400), (1000, 200, 1200)])
@pytest.mark.timeout(3700)
def test_containers_that_are_killed_at_random_cost_what_they_ran(
    tmp_path: Path, jobs: int, kills: int, seconds: int
) -> None:
    text = KILLS.format(jobs=jobs, kills=kills, seconds=seconds)
    with (
        Emulator(share=[tmp_path]) as emulator,
        Script(tmp_path, text, Place.of(emulator).environ) as script,
    ):
        assert script.finish(3 * seconds) == 0, script.err
    killed, before_the_end, counts = json.loads(script.out[0])
    assert killed == kills
    assert before_the_end, "there was nothing left to kill"
    assert set(counts) == {"DONE", "LOST"}
    assert sum(counts.values()) == jobs
    assert 0 < counts["LOST"] <= killed
    assert script.out[1:] == [str(counts["LOST"]), "True"]
