"""Detached jobs of the local backend: its runner, what it leaves behind, and what becomes of jobs when it is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pytest
from mini.conformance.footprint import Footprint, alive, descendants
from mini.conformance.ordeal import Ordeal
from mini.conformance.probes import Gate, Tally, until
from mini.errors import MiniError, WorkerLost
from mini.jobboard import Job, JobState, JobStore
from mini.local.jobs import anybody_alive
from mini.local.jobstore import prune_sources

SECONDS = 60.0
"""After which something that should happen is taken for not happening."""

DONE, LOST, PENDING, RUNNING = JobState.DONE, JobState.LOST, JobState.PENDING, JobState.RUNNING


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def app(data: Path) -> Iterator[mini.LocalApparatus]:
    with mini.LocalApparatus("jobs", max_workers=2, data_dir=data) as app:
        yield app


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(str(tmp_path / "gate"), SECONDS)
    yield gate
    gate.open()  # nobody waits for it any longer


def runner_of(job: Job) -> int:
    """The process that has claimed a job."""
    until(lambda: job.record.current.claimed is not None, SECONDS, "the claim")
    claimed = job.record.current.claimed
    assert claimed is not None
    return claimed.worker.pid


def wait_at(gate: Gate) -> Callable[..., Any]:
    # Not a function of this module, which its worker would have to import with all that this imports.
    def wait(x: int, tally: Tally | None = None) -> int:
        if tally is not None:
            tally.add(x)
        gate.wait()
        return x

    return wait


# --- the runner -----------------------------------------------------------------------------------------------------


def test_it_ends_when_there_is_nothing_left_to_do(app: mini.LocalApparatus, data: Path) -> None:
    job = app.spawn(abs, -3)
    assert job.result(SECONDS) == 3
    runner = runner_of(job)
    assert alive(runner)
    until(lambda: not alive(runner), SECONDS, "the end of the runner")
    assert not anybody_alive(data / "jobs" / "jobs")
    assert list((data / "jobs" / "jobs" / "runners").iterdir()) == []
    assert (data / "jobs" / "jobs" / "runner.log").read_text() == ""
    assert job.result(0) == 3
    assert app.spawn(abs, -4).result(SECONDS) == 4  # and the next job has another


def test_there_is_one_runner_however_many_launch_at_once(data: Path, gate: Gate, tmp_path: Path) -> None:
    started = Tally(str(tmp_path / "started"))
    code = f"""if True:
        import mini
        from mini.conformance.probes import Gate, Tally
        app = mini.LocalApparatus("jobs", max_workers=8, data_dir={str(data)!r})
        gate, started = Gate({gate.path!r}, {SECONDS}), Tally({started.path!r})
        def wait(x):
            started.add(x)
            gate.wait()
            return x
        for x in range(2):
            app.spawn(wait, x)
        """
    launchers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    for launcher in launchers:
        assert launcher.wait(SECONDS) == 0
    started.wait_for(8, SECONDS)
    jobs = mini.jobs("jobs", "local", data_dir=data)
    assert [job.state for job in jobs] == [RUNNING] * 8
    assert len({runner_of(job) for job in jobs}) == 1
    gate.open()
    assert sorted(job.result(SECONDS) for job in jobs) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_it_belongs_to_nobody(
    app: mini.LocalApparatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(
        tempfile, "tempdir", str(tmp_path / "temporary")
    )  # others have files where they usually are
    before = Footprint.now()
    job = app.spawn(abs, -3)
    assert job.result(SECONDS) == 3
    assert Footprint.now().new_since(before) == []
    assert os.getsid(runner_of(job)) != os.getsid(0)
    app.close()
    assert job.result(0) == 3  # jobs are not the apparatus's to end
    with pytest.raises(RuntimeError, match="closed"):
        app.jobs()


def test_what_a_group_may_take_at_a_time(app: mini.LocalApparatus, gate: Gate, tmp_path: Path) -> None:
    one, three, both = (Tally(str(tmp_path / name)) for name in ("one", "three", "both"))

    def count(x: int, tally: Tally, gate: Gate | None) -> int:
        tally.add(x)
        if gate is not None:
            gate.wait()
        return x

    first = app.w(max_workers=1).spawn_map(count, range(300), kwargs={"tally": one, "gate": gate})
    second = app.w(max_workers=3).spawn_map(count, range(5), kwargs={"tally": three, "gate": gate})
    one.wait_for(1, SECONDS)
    three.wait_for(2, SECONDS)  # three at a time, all in all
    assert first.counts()[RUNNING] + second.counts()[RUNNING] == 3
    assert first.counts()[RUNNING] == 1
    third = app.spawn_map(count, range(5), kwargs={"tally": both, "gate": None})
    gate.open()
    for group in (first, second, third):
        assert list(group.results(timeout=SECONDS)) == list(range(len(group)))


def test_where_and_with_what_a_job_runs(
    app: mini.LocalApparatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> tuple[str, str | None, str]:
        import os

        return os.getcwd(), os.environ.get("MINI_TEST"), os.environ["OMP_NUM_THREADS"]  # noqa: PTH109

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found = app.w(env={"MINI_TEST": name}).spawn(look).result(SECONDS)
        assert found == (str(tmp_path / name), name, "1")
    assert app.spawn(look).result(SECONDS)[1] is None


def test_a_job_may_launch_others(app: mini.LocalApparatus) -> None:
    def nested(app: mini.LocalApparatus) -> str:
        return app.spawn(abs, -5).id

    other = app.job(app.spawn(nested, app).result(SECONDS))
    assert other.result(SECONDS) == 5


def test_a_budget_ends_a_group(app: mini.LocalApparatus, tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "tally"))

    def work(x: int) -> int:
        tally.add(x)
        time.sleep(0.5)
        return x

    group = app.spawn_map(work, range(100), budget=3)
    other = app.spawn_map(abs, [-1])
    assert group.wait(SECONDS)
    counts = group.counts()
    assert set(counts) == {DONE, JobState.CANCELLED}
    assert 2 <= counts[DONE] <= 8
    assert len(tally.read()) <= 10
    spent = group._board.store.spent(group.id)
    assert 3 <= spent < 3 + SECONDS / 10
    assert spent == pytest.approx(JobStore.spent(group._board.store, group.id))
    (last,) = group.records()[-1:]
    assert last.origin.options["budget"] == 3
    with pytest.raises(mini.JobCancelled, match="the budget of 3 s is used up"):
        group[-1].result(0)
    assert list(other.results(timeout=SECONDS)) == [1]
    with pytest.raises(mini.OptionError, match="budget"):
        app.spawn_map(work, [1], budget=0)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_reading_makes_nothing(data: Path) -> None:
    assert mini.jobs("nothing", "local", data_dir=data) == []
    assert not data.exists()


def test_what_is_kept_is_nobody_elses_business(app: mini.LocalApparatus, data: Path) -> None:
    assert app.spawn(abs, -1).result(SECONDS) == 1
    assert (data / "jobs" / "jobs").stat().st_mode & 0o077 == 0


def test_a_removed_group_is_gone(app: mini.LocalApparatus, data: Path, gate: Gate) -> None:
    kept = app.spawn_map(abs, [-1, -2])
    group = app.spawn_map(wait_at(gate), range(3))
    assert list(kept.results(timeout=SECONDS)) == [1, 2]
    until(lambda: group.counts()[RUNNING] > 0, SECONDS, "a start")
    group.remove()
    assert [each.id for each in app.groups()] == [kept.id]
    with pytest.raises(LookupError):
        group.wait(0)
    with pytest.raises(LookupError, match="removed"):
        group[0].result(0)
    assert app.spawn(abs, -3).result(SECONDS) == 3
    with closing(sqlite3.connect(data / "jobs" / "jobs" / "jobs.db")) as db:
        for table in ("inputs", "attempts", "jobs"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,)  # of the two that are left
    assert list(kept.results(timeout=0)) == [1, 2]


def test_a_result_that_was_changed_is_not_taken_for_one(app: mini.LocalApparatus, data: Path) -> None:
    job = app.spawn(np.arange, 10_000)
    assert job.result(SECONDS).sum() == 49_995_000
    (file,) = (data / "jobs" / "jobs" / "outcomes").glob("*/*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(MiniError, match="not what its worker put there"):
        job.result()
    file.unlink()
    with pytest.raises(LookupError, match="not at"):
        job.result()


def test_jobs_of_a_newer_version_are_left_alone(app: mini.LocalApparatus, data: Path) -> None:
    assert app.spawn(abs, -1).result(SECONDS) == 1
    with closing(sqlite3.connect(data / "jobs" / "jobs" / "jobs.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(MiniError, match="upgrade mini-core"):
        app.jobs()


def test_jobs_of_an_older_version_are_read_and_go_on(app: mini.LocalApparatus, data: Path) -> None:
    job = app.spawn(abs, -1)
    assert job.result(SECONDS) == 1
    with closing(sqlite3.connect(data / "jobs" / "jobs" / "jobs.db")) as db:
        db.execute("DROP TABLE curves")
        db.execute("PRAGMA user_version = 1")
    assert (app.job(job.id).result(0), job.curves()) == (1, {})
    assert app.spawn(abs, -2).result(SECONDS) == 2


def test_a_store_that_cannot_be_read_says_so(app: mini.LocalApparatus, data: Path) -> None:
    folder = data / "jobs" / "jobs"
    folder.mkdir(parents=True)
    (folder / "jobs.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(mini.BackendUnavailable, match="cannot be read"):
        app.jobs()


def test_the_same_source_is_kept_once(data: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[project]\nname = "once"\nversion = "0"\n')
    (project / "src" / "once.py").write_text("def f(x): return x + 1\n")
    code = f"""if True:
        import sys
        sys.path.insert(0, "src")
        import mini, once
        app = mini.LocalApparatus("jobs", data_dir={str(data)!r})
        print([app.spawn(once.f, x).result({SECONDS}) for x in range(2)], app.jobs()[-1].record.origin.source_digest)
        """
    digests = []
    for change in ("", "", "# another\n"):
        with (project / "src" / "once.py").open("a") as file:
            file.write(change)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("[1, 2] "), done.stdout
        digests.append(done.stdout.split()[-1])
    assert digests[0] == digests[1] != digests[2]
    assert {path.name for path in (data / "source").iterdir()} == set(digests)


LAUNCH = """
def f(pipe):
    with open(pipe) as file:
        file.read()
    import alone, inside.part, spread.part
    return [alone.WHEN, inside.part.WHEN, spread.part.WHEN]

if __name__ == "__main__":
    import mini
    mini.LocalApparatus("launch").spawn(f, "../pipe")
"""


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (["-m", "mini", "run", "launch.py", "--map", "pipe=../pipe", "--detach"], "script"),
        (["-m", "mini", "run", "../script/launch.py", "--map", "pipe=../pipe", "--detach"], "elsewhere"),
        (["-m", "mini", "run", "../script/launch.py", "--map", "pipe=../pipe", "--detach"], "project"),
        (["launch.py"], "script"),
        (["-m", "launch"], "script"),
        (["../script/launch.py"], "project"),
        (["-c", LAUNCH], "script"),
    ],
)
def test_jobs_run_what_was_there_without_a_project_as_well(
    tmp_path: Path, command: list[str], where: str
) -> None:
    for folder in ("script/inside", "script/spread", "elsewhere", "project"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "0"\n')
    (tmp_path / "script" / "launch.py").write_text(LAUNCH)
    modules = [tmp_path / "script" / name for name in ("alone.py", "inside/part.py", "spread/part.py")]
    for module in modules:
        module.write_text("WHEN = 'then'\n")
    (tmp_path / "script" / "inside" / "__init__.py").touch()
    os.mkfifo(tmp_path / "pipe")
    subprocess.run([sys.executable, *command], cwd=tmp_path / where, check=True, timeout=SECONDS)
    modules[0].write_text("WHEN = 'now'\n")
    for module in modules[1:]:
        module.unlink()
    (tmp_path / "pipe").write_text("")  # when the job has opened the other end
    (job,) = mini.LocalApparatus("launch", data_dir=tmp_path / where / ".mini").jobs()
    assert job.result(SECONDS) == ["then", "then", "then"]


def test_of_a_folder_without_a_project_only_code_is_taken(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(
        "import mini, large\n"
        "if __name__ == '__main__':\n"
        "    app = mini.LocalApparatus('launch')\n"
        "    print(app.spawn(large.size).result(60))\n"
    )
    for folder in ("data", "large", "small", "spread", "venv"):
        (tmp_path / folder).mkdir()
    (tmp_path / "large" / "__init__.py").write_text(
        "from pathlib import Path\ndef size(): return Path(__file__).with_name('weights').stat().st_size\n"
    )
    with (tmp_path / "large" / "weights").open("wb") as file:
        file.truncate(1 << 30)  # with nothing in it, so that it takes no room
    for name in ("small/__init__.py", "small/words.txt", "spread/part.py", "spread/table.csv"):
        (tmp_path / name).touch()
    for name in ("data/table.csv", "notes.txt", "no-module.py", ".secret.py", "venv/pyvenv.cfg"):
        (tmp_path / name).touch()
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    done = subprocess.run(
        [sys.executable, "launch.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{1 << 30}\n", "what is not taken is found where it lies"
    assert f"{tmp_path / 'large'} is not kept with the jobs" in done.stderr
    (source,) = (tmp_path / ".mini" / "source").iterdir()
    taken = {str(file.relative_to(source / "0")) for file in source.rglob("*") if file.is_file()}
    assert taken - {name for name in taken if "__pycache__" in name} == {
        "launch.py",
        "small/__init__.py",
        "small/words.txt",
        "spread/part.py",
    }


def test_source_that_no_job_was_launched_from_is_removed_in_time(
    app: mini.LocalApparatus, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "old"\nversion = "0"\n')
    (tmp_path / "old_module.py").write_text("# nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    other = mini.LocalApparatus("other", data_dir=data)
    kept = [each.spawn(abs, -1) for each in (app, other)]
    for job in kept:
        assert job.result(SECONDS) == 1
    digest = kept[0].record.origin.source_digest
    assert digest == kept[1].record.origin.source_digest
    assert digest is not None
    for name in ("nobodys", "new", digest):
        (data / "source" / name).mkdir(exist_ok=True)
        if name != "new":
            os.utime(data / "source" / name, (0, 0))
    app.groups()[0].remove()
    prune_sources(data / "source", data / "jobs")
    assert {path.name for path in (data / "source").iterdir()} == {"new", digest}
    other.groups()[0].remove()
    prune_sources(data / "source", data / "jobs")
    assert {path.name for path in (data / "source").iterdir()} == {"new"}


# --- reports --------------------------------------------------------------------------------------------------------


def test_all_that_is_printed_is_kept_in_order(app: mini.LocalApparatus) -> None:
    def talk() -> None:
        for number in range(20_000):
            print("line", number)
        print("\ud800 is no text, and this has no end", end="")

    job = app.spawn(talk)
    assert job.result(SECONDS) is None
    lines = [line.text for line in job.logs()]
    assert lines[:-1] == [f"line {number}" for number in range(20_000)]
    assert lines[-1].endswith("this has no end")


def test_a_million_reports_neither_block_nor_flood(app: mini.LocalApparatus) -> None:
    def emit() -> float:
        began = time.monotonic()
        for number in range(200_000):
            mini.emit_progress(number, 200_000)
            mini.emit_metrics(loss=1 / (number + 1), odd=float("nan"))
        return time.monotonic() - began

    job = app.spawn(emit)
    assert job.result(SECONDS) < SECONDS / 4
    assert job.progress == mini.status.Progress(199_999, 200_000)
    assert job.metrics["loss"] == 1 / 200_000
    assert repr(job.metrics["odd"]) == "nan"


# --- deaths ---------------------------------------------------------------------------------------------------------


def test_after_the_runner_was_killed(app: mini.LocalApparatus, gate: Gate, tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "tally"))
    done = app.spawn_map(abs, [-1, -2])
    assert done.wait(SECONDS)
    group = app.spawn_map(wait_at(gate), range(6), kwargs={"tally": tally})
    tally.wait_for(2, SECONDS)
    family = descendants(runner_of(group[0]))
    assert family
    os.kill(runner_of(group[0]), signal.SIGKILL)
    until(lambda: group.counts() == {LOST: 6}, SECONDS, "the loss of all that it had, or was to have")
    until(lambda: not any(map(alive, family)), SECONDS, "the end of its processes")
    assert done.counts() == {DONE: 2}
    error = group[0].exception(0)
    assert isinstance(error, WorkerLost)
    assert "retry" in str(error)
    gate.open()
    assert group.retry() == 6
    assert list(group.results(timeout=SECONDS)) == list(range(6))
    assert {record.current.number for record in group.records()} == {2}
    assert sorted(tally.read()) == sorted([*"01", *"012345"])


def test_after_a_calls_process_was_killed(app: mini.LocalApparatus, gate: Gate, tmp_path: Path) -> None:
    started = Tally(str(tmp_path / "started"))

    def wait(x: int) -> int:
        started.add(os.getpid())
        gate.wait()
        return x

    group = app.spawn_map(wait, range(4))
    started.wait_for(2, SECONDS)
    victim = int(started.read()[0])
    os.kill(victim, signal.SIGKILL)
    until(lambda: group.counts()[LOST] == 1, SECONDS, "the loss")
    gate.open()
    assert group.wait(SECONDS)
    assert group.counts() == {LOST: 1, DONE: 3}
    (lost,) = group.records([LOST])
    assert lost.current.ended is not None
    failure = lost.current.ended.failure
    assert failure is not None
    assert (failure.kind, failure.attempt) == ("lost", 1)
    assert "SIGKILL" in failure.message
    error = group[lost.index].exception(0)
    assert isinstance(error, WorkerLost)
    assert mini.failure_record(error) == failure
    assert group.retry() == 1
    assert sorted(group.results(timeout=SECONDS)) == [0, 1, 2, 3]


def test_retries_go_on_after_a_death(app: mini.LocalApparatus, tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "tally"))

    def die_twice() -> int:
        tally.add("x")
        if len(tally.read()) < 3:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(SECONDS)
        return len(tally.read())

    job = app.w(retries=2).spawn(die_twice)
    until(lambda: job.attempt == 3, SECONDS, "the third attempt")
    assert job.result(SECONDS) == 3
    assert [attempt.state for attempt in job.record.attempts] == [LOST, LOST, DONE]


def test_a_launcher_that_dies_before_it_has_started_anybody(data: Path, tmp_path: Path) -> None:
    """Its jobs are kept, and no runner was told of them: pending while it lives, lost afterwards."""
    ready = tmp_path / "ready"
    code = f"""if True:
        import mini, time
        from pathlib import Path
        from mini.local.jobs import LocalHost
        def hang(self, jobs):
            Path({str(ready)!r}).touch()
            time.sleep({SECONDS})
        LocalHost.start = hang
        mini.LocalApparatus("jobs", data_dir={str(data)!r}).spawn_map(abs, [-1, -2])
        """
    with subprocess.Popen([sys.executable, "-c", code]) as launcher:
        until(ready.exists, SECONDS, "the launch")
        app = mini.LocalApparatus("jobs", data_dir=data)
        (group,) = app.groups()
        assert group.counts() == {PENDING: 2}
        launcher.kill()
    assert group.counts() == {LOST: 2}
    group.retry()
    assert list(group.results(timeout=SECONDS)) == [1, 2]


def test_a_stopped_runner_is_not_lost(app: mini.LocalApparatus, gate: Gate, tmp_path: Path) -> None:
    """A laptop that sleeps, for instance. What was cancelled meanwhile stays so when it goes on."""
    tally = Tally(str(tmp_path / "tally"))
    group = app.spawn_map(wait_at(gate), range(4), kwargs={"tally": tally})
    tally.wait_for(2, SECONDS)
    runner = runner_of(group[0])
    os.kill(runner, signal.SIGSTOP)
    try:
        assert group.counts() == {RUNNING: 2, PENDING: 2}
        group[0].cancel()
        group[2].cancel()
        gate.open()
    finally:
        os.kill(runner, signal.SIGCONT)
    assert group.wait(SECONDS)
    assert [record.state for record in group.records()] == ["CANCELLED", "DONE", "CANCELLED", "DONE"]
    assert sorted(tally.read()) == ["0", "1", "3"]


def test_many_readers_agree_that_a_runner_is_alive(app: mini.LocalApparatus, gate: Gate) -> None:
    """Looking at a lock takes it for a moment, which must not be taken for its holder."""
    group = app.w(max_workers=1).spawn_map(wait_at(gate), range(3))
    until(lambda: group.counts()[RUNNING] == 1, SECONDS, "a start")
    seen: list[object] = []

    def look() -> None:
        seen.extend(group.counts() for _ in range(100))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(counts == {RUNNING: 1, PENDING: 2} for counts in seen)
    os.kill(runner_of(group[0]), signal.SIGKILL)
    until(lambda: group.counts() == {LOST: 3}, SECONDS, "the loss")


# --- many deaths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "kills"),
    [
        (60, 10),
        pytest.param(1000, 200, marks=[pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_random_kills(data: Path, tmp_path: Path, jobs: int, kills: int) -> None:
    """Each job ends in one true terminal state, and nothing is run again that nobody has retried."""
    app = mini.LocalApparatus("soak", max_workers=3, data_dir=data)
    ordeal = Ordeal(app, tmp_path, jobs, kills, 2 * SECONDS)
    while ordeal.killed.total() < kills:
        running = ordeal.advance()
        if running and running[0].worker is not None:
            runner = running[0].worker.pid
            victim = ordeal.chance.choice([runner, *descendants(runner)])
            with suppress(ProcessLookupError):  # it has just ended, of what was done to it before
                os.kill(victim, signal.SIGKILL)
                ordeal.killed["runner" if victim == runner else "worker"] += 1
    ordeal.prove()
    assert min(ordeal.killed["runner"], ordeal.killed["worker"]) > kills / 20
