"""Detached jobs as all backends share them: records, facts and what follows from them, over real stores.

These are the local backend's and the one for shared folders. Hosts start nothing: these tests are the workers.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from mini import wire
from mini.curves import Curve, Point, pack
from mini.errors import (
    JobCancelled,
    JobStateError,
    JobTimeout,
    MiniError,
    RemoteError,
    WorkerLost,
)
from mini.failure import Failure
from mini.folderstore import FolderStore
from mini.jobboard import GroupRecord, JobBoard, JobGroup, JobHost, JobStatus, JobStore, Select
from mini.jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    Fact,
    JobRecord,
    JobState,
    Key,
    Origin,
    Outcome,
    Report,
    Worker,
    fold,
)
from mini.local.jobstore import SqliteStore
from mini.status import FailureRecord, LogLine, Progress, failure_record

ORIGIN = Origin(1.0, "me@here", "ab", "cd", "ef", False, "3.11.7", {"numpy": "2.0"})
ME = Worker("here", 1)


STORES = ("sqlite", "folder")


def open_store(kind: str, folder: Path) -> JobStore:
    make = SqliteStore if kind == "sqlite" else FolderStore
    return make(folder / "jobs", folder / "source")


class Nobody(JobHost):
    """A host that starts nothing by itself and loses what it is told to have lost; it notes what it was asked."""

    def __init__(self) -> None:
        self.started: list[Key] = []
        self.stopped: list[Key] = []
        self.gone: set[str] = set()

    def start(self, jobs: Sequence[JobStatus]) -> None:
        self.started += [job.key for job in jobs]

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        self.stopped += [job.key for job in jobs]

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        return self.gone & {job.id for job in jobs}


def new_records(group: str, count: int, retries: int = 0) -> list[JobRecord]:
    attempts = (Attempt(1, Created(1.0, retries)),)
    return [JobRecord(f"{group}-{i}", group, i, repr(i), "f", ORIGIN, attempts) for i in range(count)]


def create(store: JobStore, group: str, count: int, retries: int = 0) -> None:
    inputs = [b"%d" % i for i in range(count)]
    origin = replace(ORIGIN, options={"retries": retries})
    records = new_records(group, count, retries)
    store.create(GroupRecord(group, "f", count, origin), records, b"program", inputs)


def part(value: object) -> wire.Frames:
    """An outcome as a worker packs it."""
    import marshal

    data, buffers = wire.dumps(value, returning=True)
    failed = [0] if isinstance(value, Failure) else []
    return [marshal.dumps(("one", 0, 1, failed)), data, *wire.raw(buffers, copy=True)]


@pytest.fixture(params=STORES)
def board(request: pytest.FixtureRequest, tmp_path: Path) -> JobBoard:
    board = JobBoard(open_store(request.param, tmp_path), Nobody())
    create(board.store, "g", 5)
    return board


@pytest.fixture
def group(board: JobBoard) -> JobGroup:
    return JobGroup(board, "g", 5)


# --- records --------------------------------------------------------------------------------------------------------

text = st.text(max_size=5)
number = st.floats() | st.integers()
seconds = st.floats(allow_nan=False, min_value=0, max_value=1e10)
metric = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
failures = st.builds(FailureRecord, st.integers(0), st.integers(1), st.just("user"), text, text, text)
ends = st.builds(
    Ended,
    seconds,
    st.sampled_from([s for s in JobState if s.is_final]),
    st.none() | st.builds(Outcome, st.integers(0), text),
    st.none() | failures,
)
reports = st.builds(
    Report,
    st.none() | st.builds(Progress, number, st.none() | number, text),
    st.dictionaries(text, metric, max_size=3),
)
attempts = st.builds(
    Attempt,
    st.integers(1),
    st.builds(Created, seconds),
    st.none() | st.builds(Claimed, seconds, st.builds(Worker, text, st.integers(0), text)),
    st.none() | ends,
    reports,
)
origins = st.builds(
    Origin,
    seconds,
    text,
    st.none() | text,
    st.none() | text,
    st.none() | text,
    st.none() | st.booleans(),
    text,
    st.dictionaries(text, text, max_size=3),
)
records = st.builds(
    JobRecord,
    text,
    text,
    st.integers(0),
    text,
    text,
    origins,
    st.lists(attempts, min_size=1, max_size=3).map(tuple),
)


@given(records)
def test_a_record_survives_json(record: JobRecord) -> None:
    text = record.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = JobRecord.from_json(text)
    assert repr(again) == repr(record)  # the repr, because NaN is not itself
    assert again.to_json() == text


def test_metrics_are_data(board: JobBoard) -> None:
    report = Report(
        metrics={"a": np.float32(0.5), "b": np.int64(3), "c": (1, np.bool_(True)), "d": object, "e": math.inf}
    )
    assert report.metrics == {"a": 0.5, "b": 3, "c": [1, True], "d": repr(object), "e": math.inf}
    board.store.put_report(("g-0", 1), report)
    job = board.job("g-0")
    assert job.metrics == report.metrics
    assert JobRecord.from_json(job.record.to_json()) == job.record


def test_curves_are_of_an_attempt_and_apart_from_its_record(board: JobBoard) -> None:
    job = board.job("g-0")
    assert job.curves() == {}
    board.claim(("g-0", 1), ME)
    curve = Curve()
    for step, value in ((1, math.inf), (2, 0.5)):
        curve.add(Point(step, step / 2, value))
    board.store.put_curves(("g-0", 1), pack({"loss": Curve()}))
    board.store.put_curves(("g-0", 1), pack({"loss": curve}))
    assert job.curves() == asyncio.run(job.acurves()) == {"loss": [(1, 0.5, math.inf), (2, 1.0, 0.5)]}
    board.store.put_curves(("no-0", 1), b"{}")  # it was removed
    keys = [("g-1", 1), ("g-0", 1), ("g-0", 2), ("no-0", 1)]
    assert list(board.curves(keys)) == [{}, job.curves(), {}, {}]
    assert list(board.curves(keys * 1000))[-3] == job.curves()
    board.end(("g-0", 1), JobState.FAILED)
    job.retry()
    assert job.curves() == {}
    board.store.remove("g")
    assert list(board.curves([("g-0", 1)])) == [{}]
    create(board.store, "g", 1)
    assert job.curves() == {}


def test_records_of_other_versions() -> None:
    (record,) = new_records("g", 1)
    data = json.loads(record.to_json())
    data["new"] = data["attempts"][0]["new"] = data["origin"]["new"] = 1
    assert JobRecord.from_json(json.dumps(data)) == record
    data["schema"] = 99
    with pytest.raises(MiniError, match=r"schema 99, and this mini reads 1: upgrade"):
        JobRecord.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "nonsense", '{"schema": 1}', '{"schema": 1, "attempts": []}', b"\xff"]
)
def test_what_is_not_a_record_says_so(text: str | bytes) -> None:
    with pytest.raises(MiniError, match="not a job's record"):
        JobRecord.from_json(text)


def test_reading_records_loads_no_user_code_and_no_pickler() -> None:
    code = (
        "import sys, mini.jobboard, mini.jobrecord; "
        "print([m for m in ('cloudpickle', 'numpy', 'asyncio', 'mini.wire', 'mini.engine') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- states ---------------------------------------------------------------------------------------------------------


def test_states_go_forward_only() -> None:
    def after(state: JobState) -> set[JobState]:
        return set(state.allowed).union(*(after(s) for s in state.allowed))

    for state in JobState:
        assert state not in after(state)
        assert state.is_final == (not state.allowed)
    assert JobState.DONE not in JobState.PENDING.allowed
    assert {s for s in JobState if s.can_retry} == {JobState.FAILED, JobState.CANCELLED, JobState.LOST}


def test_an_attempt_ends_in_a_final_state() -> None:
    for state in (JobState.PENDING, JobState.RUNNING):
        with pytest.raises(ValueError, match="does not end"):
            Ended(1.0, state)


@given(st.permutations([Created(1.0), Claimed(2.0, ME), Ended(3.0, JobState.DONE)]), st.integers(0, 3))
def test_the_order_in_which_facts_are_found_does_not_matter(facts: list[Fact], count: int) -> None:
    known = facts[:count]
    if not any(isinstance(fact, Created) for fact in known):
        known.append(Created(1.0))
    assert fold(1, known) == fold(1, reversed(known))
    kinds = {type(fact) for fact in known}
    expected = JobState.DONE if Ended in kinds else JobState.RUNNING if Claimed in kinds else JobState.PENDING
    assert fold(1, known).state is expected


# --- one job --------------------------------------------------------------------------------------------------------


def run(board: JobBoard, id: str, value: object = None, state: JobState = JobState.DONE) -> None:
    """What a worker does."""
    record = board.job(id).record
    assert board.claim(record.key, ME)
    assert board.end(record.key, state, part(value))


def test_a_job_that_is_done_has_its_result(board: JobBoard) -> None:
    job = board.job("g-3")
    assert (job.state, job.attempt, job.progress, job.metrics) == (JobState.PENDING, 1, None, {})
    assert (board.store.program("g"), board.store.input("g-3")) == (b"program", b"3")
    assert board.claim(("g-3", 1), ME)
    assert job.state is JobState.RUNNING
    board.store.put_report(("g-3", 1), Report(Progress(1, 2, "half"), {"loss": 0.5}))
    assert job.progress == Progress(1, 2, "half")
    with pytest.raises(TimeoutError, match="job g-3 has not ended within 0 s; it runs on"):
        job.result(timeout=0)
    assert board.end(("g-3", 1), JobState.DONE, part(np.arange(3)))
    assert job.wait()
    assert job.exception() is None
    assert job.result().tolist() == [0, 1, 2]
    outcome = job.record.current.ended
    assert outcome
    assert outcome.outcome
    assert outcome.outcome.size > 0
    assert len(outcome.outcome.digest) == 64


def test_a_job_that_failed_raises_what_it_raised(board: JobBoard) -> None:
    failure = FailureRecord(0, 1, "user", "KeyError", "'x'", "Traceback …")
    job = board.job("g-0")
    board.claim(("g-0", 1), ME)
    board.end(("g-0", 1), JobState.FAILED, part(Failure.of(KeyError("x"))), failure)
    with pytest.raises(KeyError) as caught:
        job.result()
    assert failure_record(caught.value) == failure
    assert isinstance(job.exception(), KeyError)


@pytest.mark.parametrize(
    ("state", "kind", "expected"),
    [
        (JobState.FAILED, "timeout", JobTimeout),
        (JobState.FAILED, "out-of-memory", WorkerLost),
        (JobState.FAILED, "serialization", RemoteError),
        (JobState.FAILED, None, RemoteError),
        (JobState.LOST, None, WorkerLost),
        (JobState.CANCELLED, None, JobCancelled),
    ],
)
def test_an_end_without_an_outcome_is_an_error_of_its_kind(
    board: JobBoard, state: JobState, kind: Any, expected: type[BaseException]
) -> None:
    failure = kind and FailureRecord(0, 1, kind, "T", "told you", "")
    board.claim(("g-0", 1), ME)
    board.end(("g-0", 1), state, failure=failure)
    error = board.job("g-0").exception()
    assert type(error) is expected
    assert failure_record(error) == failure
    assert ("told you" if failure else "g-0") in str(error)


def test_only_the_first_claim_counts(board: JobBoard) -> None:
    assert board.claim(("g-0", 1), Worker("a", 1))
    assert not board.claim(("g-0", 1), Worker("b", 2))
    claimed = board.job("g-0").record.current.claimed
    assert claimed
    assert claimed.worker == Worker("a", 1)


def test_cancelling(board: JobBoard) -> None:
    host = board.host
    assert isinstance(host, Nobody)
    pending, running, done = (board.job(f"g-{i}") for i in range(3))
    board.claim(("g-1", 1), ME)
    run(board, "g-2", "kept")
    for job in (pending, running, done):
        job.cancel()
        job.cancel()
    assert [job.state for job in (pending, running, done)] == ["CANCELLED", "CANCELLED", "DONE"]
    assert host.stopped == [("g-0", 1), ("g-1", 1)]
    assert not board.claim(("g-0", 1), ME), "a cancelled job must not be run"
    assert not board.end(("g-1", 1), JobState.DONE, part("late")), "a result after the end is nobody's"
    assert pending.state is running.state is JobState.CANCELLED
    assert done.result() == "kept"


def test_a_lost_job_is_fenced(board: JobBoard) -> None:
    host = board.host
    assert isinstance(host, Nobody)
    job = board.job("g-0")
    board.claim(("g-0", 1), ME)
    host.gone = {"g-0"}
    assert job.state is JobState.LOST
    host.gone = set()
    assert board.job("g-0").state is JobState.LOST, "what a reader has seen stays"
    job.retry()
    assert host.started == [("g-0", 2)]
    assert board.claim(("g-0", 2), Worker("other", 2))

    # The first worker was only asleep.
    board.store.put_report(("g-0", 1), Report(metrics={"loss": "stale"}))
    assert not board.end(("g-0", 1), JobState.DONE, part("stale"))
    assert not board.claim(("g-0", 1), ME)
    assert board.job("g-0").state is JobState.RUNNING
    assert job.metrics == {}
    assert board.end(("g-0", 2), JobState.DONE, part("fresh"))
    assert job.result() == "fresh"
    assert [a.state for a in job.record.attempts] == ["LOST", "DONE"]


def test_a_worker_that_ends_while_it_is_found_lost_wins(board: JobBoard) -> None:
    job = board.job("g-0")
    board.claim(("g-0", 1), ME)

    class Late(Nobody):
        def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
            if jobs:
                board.end(("g-0", 1), JobState.DONE, part("just in time"))
            return {job.id for job in jobs}

    watching = JobBoard(board.store, Late())
    assert watching.job("g-0").state is JobState.DONE
    assert job.result() == "just in time"


def test_retrying_what_did_not_fail_changes_nothing(board: JobBoard, group: JobGroup) -> None:
    run(board, "g-0")
    run(board, "g-1", state=JobState.FAILED)
    for job in (board.job("g-0"), board.job("g-2")):
        with pytest.raises(JobStateError, match="only jobs that are FAILED, CANCELLED or LOST"):
            job.retry()
    with pytest.raises(JobStateError):
        board.retry(group.states())
    assert {r.current.number for r in group.records()} == {1}


def test_two_that_retry_at_once_make_one_attempt(board: JobBoard) -> None:
    host = board.host
    assert isinstance(host, Nobody)
    run(board, "g-0", state=JobState.FAILED)
    status = board.job("g-0").status
    board.retry([status])
    board.retry([status])
    assert host.started == [("g-0", 2)]
    assert board.job("g-0").attempt == 2


def test_logs(board: JobBoard) -> None:
    job = board.job("g-0")
    lines = [LogLine("g-0", 0, "stdout", str(i)) for i in range(4)]
    board.store.add_log(("g-0", 1), lines[:2])
    assert list(job.logs()) == lines[:2]
    board.claim(("g-0", 1), ME)
    following = job.logs(follow=True)
    assert [next(following), next(following)] == lines[:2]
    board.store.add_log(("g-0", 1), lines[2:])
    board.end(("g-0", 1), JobState.DONE, part(None))
    assert list(following) == lines[2:]


def test_a_job_that_is_not_there(board: JobBoard) -> None:
    with pytest.raises(LookupError, match="there is no job 'g-9'"):
        board.job("g-9")
    job = board.job("g-0")
    board.store.remove("g")
    with pytest.raises(LookupError, match="it was removed"):
        _ = job.state


def test_waiting(board: JobBoard) -> None:
    job = board.job("g-0")
    began = time.monotonic()
    assert not job.wait(timeout=0.1)
    assert 0.1 <= time.monotonic() - began < 5
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(job.result, 60)
        run(board, "g-0", 42)
        assert result.result() == 42


def test_the_asynchronous_twins(board: JobBoard) -> None:
    async def use() -> None:
        done, failed, other = (board.job(f"g-{i}") for i in range(3))
        waiting = [asyncio.create_task(c) for c in (done.await_(), done.aresult(), failed.aexception())]
        run(board, "g-0", 1)
        run(board, "g-1", Failure.of(KeyError("x")), JobState.FAILED)
        assert (await waiting[0], await waiting[1], type(await waiting[2])) == (True, 1, KeyError)
        await failed.aretry()
        await other.acancel()
        assert (failed.attempt, other.state) == (2, JobState.CANCELLED)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await failed.aresult()
        assert failed.state is JobState.PENDING

    threads = threading.active_count()
    asyncio.run(use())
    assert threading.active_count() == threads


# --- groups ---------------------------------------------------------------------------------------------------------


def test_a_group(board: JobBoard, group: JobGroup) -> None:
    assert len(group) == 5
    assert [job.id for job in group] == [f"g-{i}" for i in range(5)]
    assert group[-1].id == "g-4"
    with pytest.raises(IndexError):
        group[5]
    run(board, "g-4", 16)
    run(board, "g-1", Failure.of(ZeroDivisionError()), JobState.FAILED)
    assert group.counts() == {JobState.PENDING: 3, JobState.DONE: 1, JobState.FAILED: 1}
    ended = group.as_completed(timeout=0.05)
    assert {next(ended).id, next(ended).id} == {"g-1", "g-4"}
    with pytest.raises(TimeoutError, match="3 of 5 jobs have not ended"):
        next(ended)
    for i in (0, 2, 3):
        run(board, f"g-{i}", i * i)
    assert {job.id for job in group.as_completed()} == {job.id for job in group}
    results = list(group.results(return_exceptions=True))
    assert results[0::2] == [0, 4, 16]
    assert isinstance(results[1], ZeroDivisionError)
    given: list[object] = []
    with pytest.raises(ZeroDivisionError):
        given += group.results()
    assert group.retry() == 1
    assert group[1].state is JobState.PENDING
    group.cancel()
    assert group.counts() == {JobState.DONE: 4, JobState.CANCELLED: 1}
    assert (group.retry(), group.retry(failed=False)) == (0, 1)


def test_reading_a_large_group_loads_no_outcome(tmp_path: Path) -> None:
    class Counting(SqliteStore):
        calls = 0

        @contextmanager
        def db(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
            self.calls += 1
            with super().db(write=write) as db:
                yield db

        def outcome(self, key: Key) -> bytes:
            raise AssertionError("nobody asked for a result")

    store = Counting(tmp_path / "jobs", tmp_path / "source")
    create(store, "g", 10_000)
    board = JobBoard(store, Nobody())
    group = JobGroup(board, "g", 10_000)
    group.cancel()
    assert group.counts() == {JobState.CANCELLED: 10_000}
    assert group.retry(failed=False) == 10_000
    assert store.calls <= 10, "a round trip per job"


# --- several writers ------------------------------------------------------------------------------------------------


def race(kind: str, path: Path, worker: int, go: Any) -> list[int]:
    board = JobBoard(open_store(kind, path), Nobody())
    go.wait()
    won = []
    for i in range(40):
        key = (f"g-{i}", 1)
        if worker == 0:
            board.cancel(board.states(Select([key[0]])))
        elif board.claim(key, Worker("here", worker)):
            board.end(key, JobState.DONE, part(worker))
            won.append(i)
    return won


@pytest.mark.parametrize("kind", STORES)
def test_processes_that_race_agree(kind: str, tmp_path: Path) -> None:
    store = open_store(kind, tmp_path)
    create(store, "g", 40)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        go = manager.Barrier(4)
        claims = pool.starmap(race, [(kind, tmp_path, worker, go) for worker in range(4)], chunksize=1)
    owner = {i: worker for worker, won in enumerate(claims) for i in won}
    assert sum(map(len, claims)) == len(owner), "a job was claimed twice"
    for i, job in enumerate(JobGroup(JobBoard(store, Nobody()), "g", 40)):
        record = job.record
        assert record.state in (JobState.DONE, JobState.CANCELLED)
        if record.state is JobState.DONE:
            assert job.result() == owner[i]


class JobMachine(RuleBasedStateMachine):
    """Two workers that also act on attempts long given up, and die; a reader, cancels, losses and retries.

    Each has a store of its own, as if it were a process of its own.
    """

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="mini-jobs-")
        self.host = Nobody()
        self.board, *self.workers = (
            JobBoard(open_store(self.kind, Path(self.folder.name)), self.host) for _ in range(3)
        )
        create(self.board.store, "g", 2, retries=1)
        self.holders: dict[Key, int] = {}
        self.truth: dict[Key, int] = {}
        self.reports: dict[Key, int] = {}
        self.ours: dict[Key, JobState] = {}
        """How whoever was first has ended an attempt."""
        self.made: set[Key] = {("g-0", 1), ("g-1", 1)}
        self.seen: dict[Key, list[JobState]] = {}
        self.count = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    keys = st.tuples(st.sampled_from(["g-0", "g-1"]), st.integers(1, 6))
    jobs = st.integers(0, 1)

    def holder(self, key: Key) -> JobBoard | None:
        """As whom the worker that holds an attempt acts, whether it is still its own or not: it does not know."""
        return self.workers[self.holders[key]] if key in self.holders else None

    @rule(key=keys, worker=st.integers(0, 1))
    def claim(self, key: Key, worker: int) -> None:
        status = self.workers[worker].claim(key, Worker("here", worker))
        if status is not None:
            assert key in self.made
            assert key not in self.holders, "two workers hold one attempt"
            assert key not in self.ours, "a worker holds an attempt that has ended"
            assert (status.key, status.state) == (key, JobState.RUNNING)
            self.holders[key] = worker

    @rule(key=keys)
    def report(self, key: Key) -> None:
        if (board := self.holder(key)) is not None:
            self.count += 1
            board.store.put_report(key, Report(metrics={"n": self.count}))
            self.reports[key] = self.count

    @rule(key=keys, state=st.sampled_from([JobState.DONE, JobState.FAILED]), again=st.booleans())
    def end(self, key: Key, state: JobState, again: bool) -> None:
        if (board := self.holder(key)) is None:
            return
        before = board.status(key[0])
        self.count += 1
        value = self.count if state is JobState.DONE else Failure.of(ValueError(self.count))
        if not board.end(key, state, part(value)):
            assert key in self.ours
            return
        assert key not in self.ours, "an attempt ended twice"
        self.truth[key], self.ours[key] = self.count, state
        assert before is not None
        if state is JobState.FAILED and again and before.left:
            following = board.again(before)
            assert following == (key[0], key[1] + 1)
            self.made.add(following)
            assert board.again(before) is None, "another attempt was made twice"

    @rule(key=keys)
    def die_before_the_end(self, key: Key) -> None:
        """Its outcome is there, and nobody has said so."""
        if (board := self.holder(key)) is not None and key not in self.ours:
            board.store.put_outcome(key, b"half a truth")
            del self.holders[key]
            self.lose(int(key[0][-1]))

    @rule(index=jobs)
    def cancel(self, index: int) -> None:
        job = self.board.job(f"g-{index}")
        self.ours.setdefault(job.status.key, JobState.CANCELLED)
        job.cancel()

    @rule(index=jobs)
    def lose(self, index: int) -> None:
        self.host.gone = {f"g-{index}"}
        job = self.board.job(f"g-{index}")
        self.ours.setdefault((job.id, job.attempt), JobState.LOST)
        assert job.state.is_final
        self.host.gone = set()

    @rule(index=jobs, twice=st.booleans())
    def retry(self, index: int, twice: bool) -> None:
        job = self.board.job(f"g-{index}")
        status = job.status
        if status.state.can_retry and status.attempt < 6:
            job.retry()
            if twice:  # by another who has read the same
                self.workers[0].retry([status])
            assert (job.attempt, job.state) == (status.attempt + 1, JobState.PENDING)
            self.made.add(job.status.key)

    @invariant()
    def states_go_forward(self) -> None:
        for record in self.board.store.read(Select()):
            assert {(record.id, attempt.number) for attempt in record.attempts} == {
                key for key in self.made if key[0] == record.id
            }
            for attempt in record.attempts:
                key = (record.id, attempt.number)
                seen = self.seen.setdefault(key, [JobState.PENDING])
                if attempt.state is not seen[-1]:
                    assert attempt.state in seen[-1].allowed
                    seen.append(attempt.state)
                assert attempt.state is self.ours.get(key, attempt.state)
                assert attempt.state.is_final == (key in self.ours)
                assert attempt.report.metrics.get("n") == self.reports.get(key)
                ended = attempt.ended
                assert (ended is not None and ended.outcome is not None) == (key in self.truth)
            assert all(attempt.state.can_retry for attempt in record.attempts[:-1])
            if record.state is JobState.DONE:
                assert self.board.job(record.id).result() == self.truth[record.key]
            elif record.state is JobState.FAILED:
                error = self.board.job(record.id).exception()
                assert error is not None
                assert error.args == (self.truth[record.key],)


class FolderMachine(JobMachine):
    kind = "folder"


TestJobMachine = JobMachine.TestCase
TestFolderMachine = FolderMachine.TestCase
TestJobMachine.settings = TestFolderMachine.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None
)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", [JobMachine, FolderMachine])
def test_the_same_at_length(machine: type[JobMachine]) -> None:
    at_length = settings(max_examples=1000, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(machine, settings=at_length)
