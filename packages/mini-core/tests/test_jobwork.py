"""What a worker does with a detached job, on a machine that has nothing of the launching one but the store."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mini
import pytest
from mini.conformance.probes import Gate, Held, Tally, in_background, until
from mini.curves import MOST_POINTS
from mini.errors import SerializationError, WorkerLost
from mini.jobboard import Job, JobBoard, JobGroup, JobHost, JobState, JobStatus
from mini.joblaunch import Launcher, new_group_id
from mini.jobrecord import Key, Report
from mini.jobwork import JobWorker, this_worker
from mini.local.jobstore import SqliteStore
from mini.options import Options

SECONDS = 60.0

DONE, FAILED, LOST, CANCELLED = JobState.DONE, JobState.FAILED, JobState.LOST, JobState.CANCELLED


class FarStore(SqliteStore):
    """Keeps archives of source code as they are, and counts what it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "jobs", folder / "source")
        self.archives: dict[str, bytes] = {}
        self.reports: list[Report] = []
        self.curves_put: list[bytes] = []

    def put_source(self, digest: str, archive: bytes) -> None:
        self.archives.setdefault(digest, archive)

    def source(self, digest: str) -> bytes:
        return self.archives[digest]

    def put_report(self, key: Key, report: Report) -> None:
        self.reports.append(report)
        super().put_report(key, report)

    def put_curves(self, key: Key, data: bytes) -> None:
        self.curves_put.append(data)
        super().put_curves(key, data)


class Nobody(JobHost):
    """Starts nobody: each test is the host."""

    def start(self, jobs: Sequence[JobStatus]) -> None:
        pass

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        pass

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        return set()


@pytest.fixture
def store(tmp_path: Path) -> FarStore:
    return FarStore(tmp_path / "far")


@pytest.fixture
def board(store: FarStore) -> JobBoard:
    return JobBoard(store, Nobody())


@pytest.fixture
def worker(board: JobBoard) -> Iterator[JobWorker]:
    worker = JobWorker(board, this_worker("w"), report_every=0.2, watch_every=0.2)
    yield worker
    worker.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(str(tmp_path / "gate"), SECONDS)
    yield gate
    gate.open()


def launch(board: JobBoard, fn: Callable[..., Any], *args: Any, **options: Any) -> Job:
    return launch_all(board, fn, [args], **options)[0]


def launch_all(
    board: JobBoard, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]], **options: Any
) -> JobGroup:
    launcher = Launcher(board, "far", "work", "/data", Options().merged(options, tuple))
    return launcher.launch(fn, rows, {}, ())


def test_jobs_of_several_groups(board: JobBoard, worker: JobWorker) -> None:
    def who(x: int) -> tuple[int, str, int, int]:
        import os

        job = mini.current_job()
        assert job is not None
        return x, job.id, job.attempt, os.getpid()

    first = launch_all(board, who, [(1,), (2,)])
    second = launch(board, who, 3)
    for job in (*first, second, first[0]):
        worker.run((job.id, 1))
    results = [*first.results(), second.result()]
    assert [result[:3] for result in results] == [
        (1, f"{first.id}-0", 1),
        (2, f"{first.id}-1", 1),
        (3, second.id, 1),
    ]
    assert len({result[3] for result in results}) == 1, "the process for calls does not stay"
    assert not worker.run((second.id, 1)), "an attempt was run twice"
    assert not worker.run((second.id, 2)), "an attempt that there is not was run"


def test_source_code_comes_from_the_store(
    store: FarStore, board: JobBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "src" / "my_package").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[project]\nname = "my-package"\nversion = "0"\n')
    (project / "src" / "my_package" / "__init__.py").write_text("from .inner import answer\n")
    (project / "src" / "my_package" / "inner.py").write_text(
        "from pathlib import Path\ndef answer(): return 42, (Path(__file__).parent / 'data.txt').read_text()\n"
    )
    (project / "src" / "my_package" / "data.txt").write_text("data")
    monkeypatch.chdir(project)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(project / "src"))
        import my_package  # type: ignore[import-not-found]

        job = launch(board, my_package.answer)
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        monkeypatch.delitem(sys.modules, name)
    (project / "src" / "my_package" / "inner.py").unlink()
    scratch = tmp_path / "scratch"
    worker = JobWorker(board, this_worker("w"), scratch=scratch)
    assert worker.run(job.status.key)
    worker.close()
    assert job.result() == (42, "data")
    digest = job.record.origin.source_digest
    assert digest is not None
    assert [path.name for path in scratch.iterdir()] == [digest]
    assert list(store.archives) == [digest]


def test_what_it_lacks_fails_the_job(board: JobBoard, worker: JobWorker) -> None:
    import types

    gone = types.ModuleType("gone_by_then")
    exec("def f(): return 1", gone.__dict__)
    sys.modules["gone_by_then"] = gone
    try:
        job = launch(board, gone.f)
    finally:
        del sys.modules["gone_by_then"]
    worker.run(job.status.key)
    assert job.state is FAILED
    with pytest.raises(SerializationError, match="gone_by_then"):
        job.result()


def test_it_gives_up_what_somebody_else_has_ended(
    board: JobBoard, worker: JobWorker, gate: Gate, tmp_path: Path
) -> None:
    held, started = Held(str(tmp_path / "held")), Tally(str(tmp_path / "started"))

    def hang(x: int) -> None:
        with held.hold():
            started.add(x)
            gate.wait()

    group = launch_all(board, hang, [(0,), (1,), (2,)])
    for job, give_up in zip(group, ("cancel", "lose", "remove"), strict=True):
        work = in_background(worker.run, (job.id, 1))
        started.wait_for(job.status.index + 1, SECONDS)
        if give_up == "cancel":
            job.cancel()
        elif give_up == "lose":
            assert board.end((job.id, 1), LOST)
        else:
            board.store.remove(group.id)
        assert work.result(SECONDS)
        assert held.free()
        if give_up == "lose":
            worker.worker = this_worker("another")
    assert worker.run(launch(board, abs, -1).status.key)


@pytest.mark.parametrize("retried", [False, True])
def test_it_claims_no_more_once_it_was_taken_for_dead(
    board: JobBoard, worker: JobWorker, gate: Gate, tmp_path: Path, retried: bool
) -> None:
    tally = Tally(str(tmp_path / "tally"))

    def hang(x: int) -> None:
        tally.add(x)
        gate.wait()

    job, other = launch_all(board, hang, [(0,), (1,)])
    work = in_background(worker.run, job.status.key)
    tally.wait_for(1, SECONDS)
    assert board.end(job.status.key, LOST)
    if retried:
        job.retry()
    else:  # it hears of it from what it tries to record
        gate.open()
    assert work.result(SECONDS)
    for key in (job.status.key, other.status.key):
        with pytest.raises(WorkerLost, match="taken for dead"):
            worker.run(key)
    assert (other.state, len(tally.read())) == (JobState.PENDING, 1)
    assert job.record.current.claimed is None or not retried


def test_it_can_be_stopped(board: JobBoard, worker: JobWorker, gate: Gate, tmp_path: Path) -> None:
    held = Held(str(tmp_path / "held"))

    def hang() -> None:
        with held.hold():
            gate.wait()

    job = launch(board, hang, retries=3)
    work = in_background(worker.run, job.status.key)
    until(lambda: not held.free(), SECONDS, "the call")
    worker.stop()
    assert work.result(SECONDS)
    until(held.free, SECONDS, "the end of the call")
    assert (job.state, job.attempt) == (LOST, 1)
    with pytest.raises(WorkerLost, match="stopped"):
        job.result()


def test_reports_come_at_a_bounded_rate(store: FarStore, board: JobBoard, worker: JobWorker) -> None:
    def emit() -> None:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            mini.emit_progress(1, 2)
            mini.emit_metrics(a=1)

    job = launch(board, emit)
    worker.run(job.status.key)
    assert job.state is DONE
    assert 2 <= len(store.reports) <= 1.5 / 0.2 + 4
    assert 1 <= len(store.curves_put) <= 1.5 / 0.8 + 2


def test_a_call_that_emits_without_end_leaves_a_small_history(
    store: FarStore, board: JobBoard, worker: JobWorker
) -> None:
    def emit() -> float:
        began = time.process_time()
        for number in range(200_000):
            mini.emit_progress(number)
            mini.emit_metrics(loss=1 / (number + 1), part={"rate": number})
        return time.process_time() - began

    job = launch(board, emit)
    worker.run(job.status.key)
    assert job.result() < 30  # 2 s on a usual machine
    loss, rate = (job.curves()[name] for name in ("loss", "part.rate"))
    for curve in (loss, rate):
        assert MOST_POINTS / 2 - 1 <= len(curve) <= MOST_POINTS
        assert (curve[0].step, curve[-1].step) == (0, 199_999)
        gaps = {after.step - before.step for before, after in itertools.pairwise(curve[:-1])}
        assert len(gaps) == 1
    assert (loss[-1].value, rate[-1].value) == (1 / 200_000, 199_999)
    assert job.metrics == {"loss": 1 / 200_000, "part": {"rate": 199_999}}
    assert max(map(len, store.curves_put)) < 50_000


def test_retries_are_its_affair(board: JobBoard, worker: JobWorker, tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "tally"))

    def fail() -> None:
        tally.add("x")
        raise LookupError(len(tally.read()))

    job = launch(board, fail, retries=1)
    worker.run(job.status.key)
    assert [(attempt.state, attempt.created.left) for attempt in job.record.attempts] == [
        (FAILED, 1),
        (FAILED, 0),
    ]
    job.retry()  # as many again
    worker.run(job.status.key)
    assert (job.attempt, len(tally.read())) == (4, 4)
    assert str(job.exception()) == "4"
    job.retry()
    job.cancel()
    assert not worker.run(job.status.key)
    assert (job.state, len(tally.read())) == (CANCELLED, 4)


def test_ids_are_unique_and_sort_by_time() -> None:
    ids: list[str] = []

    def make() -> None:
        ids.extend(new_group_id() for _ in range(500))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 2000
    assert {len(id) for id in ids} == {12}
    assert new_group_id() > max(ids)
