"""DET: detached jobs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from ..capability import Capability
from ..curves import MOST_POINTS
from ..errors import (
    JobCancelled,
    JobStateError,
    JobTimeout,
    RemoteError,
    SerializationError,
    Unsupported,
    WorkerLost,
)
from ..jobboard import Job, JobGroup, JobState
from ..jobrecord import Claimed, Created, Ended, Report, Worker
from ..protocol import Apparatus
from ..status import failure_record
from . import subjects
from .base import MakeApparatus, Suite, requires, when_declined
from .err import caught
from .footprint import Footprint
from .probes import Gate, Held, Tally, until
from .scripts import Scripts

__all__ = ["DetSuite"]

Test = TypeVar("Test", bound=Callable[..., Any])

# Whatever a clause is about, it begins with a job, and there are these ways to come by one.
JOBS: dict[str, Callable[[Apparatus], Any]] = {
    "spawn": lambda apparatus: apparatus.spawn(subjects.double, 1),
    "spawn_map": lambda apparatus: apparatus.spawn_map(subjects.double, [1]),
    "jobs": lambda apparatus: apparatus.jobs(),
    "job": lambda apparatus: apparatus.job("none"),
    "groups": lambda apparatus: apparatus.groups(),
    "group": lambda apparatus: apparatus.group("none"),
}

DONE, FAILED, LOST, CANCELLED = JobState.DONE, JobState.FAILED, JobState.LOST, JobState.CANCELLED
PENDING, RUNNING = JobState.PENDING, JobState.RUNNING

CANCEL_SECONDS = 10.0
"""What the contract gives a running job that is cancelled."""


def refused(apparatus: Apparatus, *ways: str) -> None:
    """Each of the ways raises Unsupported, says by which name to ask, and starts nothing."""
    before = Footprint.now()
    for way in ways:
        with pytest.raises(Unsupported, match=way):
            JOBS[way](apparatus)
        with pytest.raises(NotImplementedError):
            JOBS[way](apparatus)
    assert Footprint.now().new_since(before) == []


def detached(*ways: str, also: tuple[Capability, ...] = ()) -> Callable[[Test], Test]:
    """Mark a test as one of detached jobs. Where they are declined, each of the ways to come by one is refused."""

    def decorate(test: Test) -> Test:
        checked = requires(Capability.DETACHED_JOBS, *also)(test)

        @when_declined(checked)
        def is_refused(self: Suite, apparatus: Apparatus) -> None:
            if not apparatus.supports(Capability.DETACHED_JOBS):
                refused(apparatus, *ways)

        return checked

    return decorate


# --- what jobs do ---


def report_and_wait(x: int, started: Gate, gate: Gate) -> int:
    """Print, emit, and wait at the gate."""
    from mini import emit_metrics, emit_progress

    print("first line")
    emit_progress(1, 4, "a quarter")
    emit_metrics(loss=0.5, epoch=x)
    started.open()
    gate.wait()
    print("last line")
    emit_progress(4, 4, "all")
    emit_metrics(loss=0.25)
    return x * 2


def descend(rounds: int) -> None:
    """Emit a loss per round, the first few of which say their step."""
    from mini import emit_metrics, emit_progress

    for number in range(rounds):
        if number < 3:
            emit_progress(10 * (number + 1), 30)
        emit_metrics(loss=1 / (number + 1))


def where_am_i(tally: Tally) -> tuple[str, int, str]:
    from mini import current_job

    job = current_job()
    assert job is not None
    tally.add(job.id)
    return job.id, job.attempt, job.apparatus


class Odd(Exception):
    pass


def raise_odd(x: int) -> int:
    if x % 2:
        raise Odd(x)
    return x


# --- scripts ---

SPAWN_AND_LEAVE = """
import sys
from mini.conformance import subjects
from mini.conformance.probes import Gate, Tally
def mine(x, started, gate):
    started.open()
    gate.wait()
    return Point(x, factor * x)
class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def sum(self):
        return self.x + self.y
factor = 10
started, gate = (Gate(path, float(sys.argv[3])) for path in sys.argv[1:3])
job = app.spawn(mine, 3, started, gate)
group = app.w(max_workers=1).spawn_map(lambda x: x + factor, range(5))
print(job.id, group.id, flush=True)
"""

READ = """
import json, sys, time
from mini.conformance.footprint import descendants
before = descendants()
ids = [job.id for job in app.jobs()]
job = app.job(sys.argv[1])
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    record = job.record
    if record.current.report.progress and len(list(job.logs())) >= 1 and record.current.report.metrics:
        break
    time.sleep(0.02)
print(json.dumps({
    "ids": ids,
    "groups": [group.id for group in app.groups()],
    "state": job.state,
    "attempt": job.attempt,
    "progress": [job.progress.step, job.progress.total, job.progress.message],
    "metrics": job.metrics,
    "logs": [[line.stream, line.text] for line in job.logs()],
    "record": json.loads(job.record.to_json()),
    "user code": "test_of_the_user" in sys.modules,
    "started": sorted(descendants() - before),
}))
"""

READ_ENDS = """
import json, sys
group = app.group(sys.argv[1])
states = [record.state for record in group.records()]
errors = []
for job in group:
    try:
        errors.append(["result", job.result(0)])
    except Exception as exc:
        errors.append([type(exc).__name__, str(exc)])
failures = [r.current.ended.failure and [r.current.ended.failure.kind, r.current.ended.failure.type,
            "raise_odd" in r.current.ended.failure.traceback] for r in group.records()]
print(json.dumps([states, errors, failures]))
"""

SNAPSHOT = """
import sys
from pathlib import Path
from mini.conformance.probes import Gate
from detached_module import after
started, gate = (Gate(path, float(sys.argv[1])) for path in sys.argv[2:4])
group = app.w(max_workers=1).spawn_map(after, [0, 1], kwargs={"started": started, "gate": gate})
started.wait(float(sys.argv[1]))
here = Path(sys.modules["detached_module"].__file__)
here.write_text(here.read_text().replace("'old'", "'new'"))
(here.parent / "detached_constant.py").write_text("VALUE = 'new'\\n")
gate.open()
print(list(group.results(timeout=float(sys.argv[1]))), flush=True)
again = app.spawn(__import__("detached_later").late)
print(again.result(float(sys.argv[1])), flush=True)
"""

ACT_AT_ONCE = """
import sys
from mini.conformance.probes import Gate
from mini.errors import JobStateError
gate, patience, act, *ids = sys.argv[1:]
jobs = [app.job(id) for id in ids]
print("ready", flush=True)
Gate(gate, float(patience)).wait()
for job in jobs:
    try:
        getattr(job, act)()
    except JobStateError:
        pass
print("done", flush=True)
"""


class DetSuite(Suite):
    """DET: detached jobs."""

    # --- DET-01 ---

    @detached("spawn")
    def test_det_01_spawn_returns_at_once(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`spawn(fn, *args, **kwargs)` returns a `Job` at once"

        A failure means that `spawn` waits for the call, or that what it returns is not the job that was started.
        """
        job = apparatus.spawn(subjects.pass_gate, gate, gate=gate2)
        assert isinstance(job, Job)
        assert not gate2.is_open
        gate.wait(3 * patience)
        assert job.state is RUNNING
        gate2.open()
        assert job.result(3 * patience) == "through"
        assert job.state is DONE
        assert apparatus.job(job.id).record == job.record

    @detached("spawn_map", "group", "groups")
    def test_det_01_spawn_map_returns_a_group(self, apparatus: Apparatus, patience: float) -> None:
        """ "`spawn_map` returns a `JobGroup`"

        A failure means that inputs are zipped, kept in order or given constants in another way than `map` does it.
        """
        group = apparatus.spawn_map(subjects.everything, (x for x in range(7)), "abcde", kwargs={"k": [1]})
        assert isinstance(group, JobGroup)
        assert len(group) == 5
        results = list(group.results(timeout=3 * patience))
        assert results == [((x, "abcde"[x]), {"k": [1]}) for x in range(5)]
        assert group.counts() == {DONE: 5}
        assert [job.id for job in group] == [record.id for record in group.records()]
        assert [record.index for record in group.records()] == list(range(5))
        assert {job.id for job in group.as_completed(0)} == {job.id for job in group}
        same = apparatus.group(group.id)
        assert len(same) == 5
        assert same[2].result(0) == ((2, "c"), {"k": [1]})
        assert group.id in [each.id for each in apparatus.groups()]

    @detached("spawn_map")
    def test_det_01_an_empty_group(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "`spawn_map` returns a `JobGroup`"

        A failure means that no inputs are an error, or that something is started for them.
        """
        apparatus = fresh(unused_name)
        group = apparatus.spawn_map(subjects.double, [])
        assert (len(group), list(group), list(group.results()), group.wait(0)) == (0, [], [], True)
        assert apparatus.jobs() == []

    @detached("spawn", "spawn_map")
    def test_det_01_what_cannot_be_sent_starts_nothing(
        self, fresh: MakeApparatus, unused_name: str, tally: Tally
    ) -> None:
        """ "`spawn(fn, *args, **kwargs)` returns a `Job` at once"

        A failure means that a group is created in part, or that what is wrong with a call is only found by its worker.
        """
        apparatus = fresh(unused_name)
        lock = subjects.HoldsALock("x")

        def broken() -> Any:
            yield 1
            raise LookupError("the input iterator's own")

        with pytest.raises(SerializationError):
            apparatus.spawn(subjects.identity, lock)
        with pytest.raises(SerializationError) as raised:
            apparatus.spawn_map(subjects.identity, [1, 2, lock])
        assert any("input 2" in note for note in raised.value.__notes__)
        with pytest.raises(LookupError, match="the input iterator's own"):
            apparatus.spawn_map(tally.add, broken())
        with pytest.raises(TypeError, match="generator function"):
            apparatus.spawn(subjects.count_up, 3)
        assert apparatus.jobs() == []
        assert apparatus.groups() == []
        assert tally.read() == []

    @pytest.mark.parametrize("how", ["exits", "is killed"])
    @detached("spawn", "spawn_map", "job")
    def test_det_01_goes_on_without_the_caller(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        scripts: Scripts,
        gate: Gate,
        gate2: Gate,
        patience: float,
        how: str,
    ) -> None:
        """ "the work goes on when the calling process ends"

        A failure means that jobs, or those that had not started, end with the process that spawned them or with its
        terminal.
        """
        hang = "import time\ntime.sleep(600)\n" if how == "is killed" else ""
        script = scripts.start(SPAWN_AND_LEAVE + hang, gate.path, gate2.path, patience)
        if how == "exits":
            assert script.wait(3 * patience) == 0, script.words()
        else:
            script.wait_for_line("\n", 3 * patience)
            script.signal_group(1)  # what the end of a terminal sends
            script.kill()
        job_id, group_id = script.out.split()
        apparatus = fresh(unused_name)
        job, group = apparatus.job(job_id), apparatus.group(group_id)
        gate2.open()
        point = job.result(3 * patience)
        assert (point.x, point.y, point.sum()) == (3, 30, 33)  # its class came along, from a `__main__`
        assert list(group.results(timeout=3 * patience)) == [10, 11, 12, 13, 14]

    @detached("spawn", "spawn_map")
    def test_det_01_runs_the_code_that_was_there(
        self, scripts: Scripts, project_src: Path, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`spawn(fn, *args, **kwargs)` returns a `Job` at once […] the work goes on when the calling process ends"

        A failure means that a pending job runs what `src/` has become since it was launched, or that a new job still
        runs what it was.
        """
        project_src.mkdir(parents=True, exist_ok=True)
        if not (project_src.parent / "pyproject.toml").exists():
            (project_src.parent / "pyproject.toml").write_text(
                '[project]\nname = "launched"\nversion = "0"\n'
            )
        (project_src / "detached_constant.py").write_text("VALUE = 'old'\n")
        (project_src / "detached_later.py").write_text(
            "def late():\n    from detached_constant import VALUE\n    return VALUE\n"
        )
        (project_src / "detached_module.py").write_text(
            "def mine(): return 'old'\n"
            "def after(number, started, gate):\n"
            "    started.open()\n"
            "    if number == 0:\n"
            "        gate.wait()\n"
            "    from detached_constant import VALUE\n"
            "    return mine(), VALUE\n"
        )
        script = scripts.run(
            SNAPSHOT, 3 * patience, gate.path, gate2.path, path=project_src, cwd=project_src.parent
        )
        assert script.out.splitlines() == ["[('old', 'old'), ('old', 'old')]", "new"], script.words()

    @detached("spawn")
    def test_det_01_with_options_hooks_and_context(
        self, apparatus: Apparatus, tally: Tally, patience: float
    ) -> None:
        """ "`spawn(fn, *args, **kwargs)` returns a `Job` at once"

        A failure means that a job is run without the options, the hooks or the context that a call has.
        """
        hook = tally.add

        def before() -> None:
            hook("hook")

        job = apparatus.before_each(before).spawn(where_am_i, tally)
        assert job.result(3 * patience) == (job.id, 1, apparatus.name)
        assert tally.read() == ["hook", job.id]

    # --- DET-02 ---

    @detached("jobs", "job")
    def test_det_02_read_from_another_process(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        scripts: Scripts,
        gate: Gate,
        gate2: Gate,
        patience: float,
    ) -> None:
        """ "Another process, given the apparatus name, lists the jobs and reads state, progress, metrics, […] and logs;
        reading starts no worker, no cluster and no image build."

        A failure means that what is known of a job is known only to the process that spawned it or runs it, or that
        looking at it starts something.
        """
        apparatus = fresh(unused_name)
        job = apparatus.spawn(report_and_wait, 3, gate, gate2)
        other = apparatus.spawn_map(subjects.double, range(3))
        gate.wait(3 * patience)
        read = json.loads(scripts.run(READ, job.id, 2 * patience).out)
        assert read["ids"] == [job.id, *(each.id for each in other)]
        assert read["groups"] == [job.record.group, other.id]
        assert (read["state"], read["attempt"]) == ("RUNNING", 1)
        assert read["progress"] == [1, 4, "a quarter"]
        assert read["metrics"] == {"loss": 0.5, "epoch": 3}
        assert read["logs"] == [["stdout", "first line"]]
        assert read["started"] == []
        record = read["record"]
        assert (record["id"], record["index"], record["function"]) == (job.id, 0, "report_and_wait")
        assert record["input"].startswith("3, ")
        gate2.open()
        assert job.result(3 * patience) == 6
        read = json.loads(scripts.run(READ, job.id, 2 * patience).out)
        assert read["state"] == "DONE"
        assert read["progress"] == [4, 4, "all"]
        assert read["metrics"] == {"loss": 0.25, "epoch": 3}
        assert [text for _, text in read["logs"]] == ["first line", "last line"]

    @detached("jobs", "job")
    def test_det_02_results_and_errors_from_another_process(
        self, fresh: MakeApparatus, unused_name: str, scripts: Scripts, patience: float
    ) -> None:
        """ "Another process, given the apparatus name, […] reads state, progress, metrics, result, error and logs"

        A failure means that results or failures stay with the process that spawned the jobs.
        """
        group = fresh(unused_name).spawn_map(raise_odd, range(3))
        assert group.wait(3 * patience)
        states, errors, failures = json.loads(scripts.run(READ_ENDS, group.id).out)
        assert states == ["DONE", "FAILED", "DONE"]
        assert errors == [["result", 0], ["Odd", "1"], ["result", 2]]
        assert failures == [None, ["user", f"{__name__}.Odd", True], None]

    @detached("spawn_map", "job")
    def test_det_02_the_history_of_metrics(self, apparatus: Apparatus, patience: float) -> None:
        """ "Another process, given the apparatus name, […] reads state, progress, metrics, […]"

        A failure means that of a metric only the last value is kept, or that the values of one job are given as those
        of another.
        """
        group = apparatus.spawn_map(descend, [3, 0, 5000])
        group.wait(3 * patience)
        few, none, many = (apparatus.job(job.id).curves() for job in group)
        assert [(point.step, point.value) for point in few["loss"]] == [(10, 1.0), (20, 1 / 2), (30, 1 / 3)]
        assert none == {}
        losses = [point.value for point in many["loss"]]
        assert (losses[0], losses[-1]) == (1.0, 1 / 5000)
        assert 100 < len(losses) <= MOST_POINTS
        assert losses == sorted(losses, reverse=True)
        for curve in (few["loss"], many["loss"]):
            seconds = [point.seconds for point in curve]
            assert seconds == sorted(seconds)
            assert 0 <= seconds[0] <= seconds[-1] <= 3 * patience
        at_once = group[0]._board.curves([(group[index].id, 1) for index in (2, 1, 0)])
        assert list(at_once) == [many, none, few], "several at once are not what they are one by one"

    @detached("jobs", "job", "groups", "group")
    def test_det_02_a_name_without_jobs(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "Another process, given the apparatus name, lists the jobs […] reading starts no worker, no cluster and no
        image build."

        A failure means that reading makes what it reads, or that what is not there is not said to be so.
        """
        apparatus = fresh(unused_name)
        before = Footprint.now()
        assert apparatus.jobs() == []
        assert apparatus.groups() == []
        with pytest.raises(LookupError, match="'none'"):
            apparatus.job("none")
        with pytest.raises(LookupError, match="'none'"):
            apparatus.group("none")
        assert Footprint.now().children == before.children

    @detached("spawn", "job")
    def test_det_02_where_it_comes_from(self, apparatus: Apparatus, patience: float) -> None:
        """ "Another process, given the apparatus name, lists the jobs and reads state"

        A failure means that a record does not say where, when, from what and with which options its job was launched.
        """
        before = time.time()
        job = apparatus.w(retries=0, timeout=None).spawn(subjects.add, 1, y=2)
        assert job.result(3 * patience) == 3
        record = job.record
        assert (record.function, record.input, record.index) == ("add", "1, y=2", 0)
        origin = record.origin
        assert before - 1 <= origin.launched <= time.time() + 1
        assert "@" in origin.launched_by
        assert (origin.backend, origin.apparatus) == (apparatus.backend, apparatus.name)
        assert origin.options["max_workers"] == 2
        assert origin.python.count(".") == 2
        assert origin.packages["numpy"] == np.__version__
        now = record.current
        assert now.claimed is not None
        assert now.ended is not None
        assert now.ended.outcome is not None
        assert now.claimed.worker.host
        assert now.created.time <= now.claimed.time + 1 <= now.ended.time + 2
        assert now.ended.outcome.size > 0

    @detached("spawn", "job")
    def test_det_02_logs_can_be_followed(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "reads state, progress, metrics, result, error and logs"

        A failure means that what a job prints is seen only after its end, or not to its end.
        """
        job = apparatus.spawn(report_and_wait, 3, gate, gate2)
        lines = job.logs(follow=True)
        assert next(lines).text == "first line"
        assert not gate2.is_open
        gate2.open()
        assert [(line.job, line.text) for line in lines] == [(job.id, "last line")]

    # --- DET-03 ---

    @detached("spawn", "job")
    def test_det_03_states_never_go_backwards(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "States are PENDING → RUNNING → DONE | FAILED | CANCELLED | LOST and never go backwards within an attempt; a
        result is visible if and only if its state is DONE."

        A failure means that a state is not what the job's facts amount to, or that a result can be had before its end.
        """
        job = apparatus.spawn(subjects.pass_gate, gate, gate2)
        seen = [job.state]

        def look() -> JobState:
            state = job.state
            if state is not seen[-1]:
                assert state in seen[-1].allowed, f"{state} after {seen[-1]}"
                seen.append(state)
            return state

        until(lambda: look() is RUNNING, 3 * patience, "the job's start")
        with pytest.raises(TimeoutError, match=job.id):
            job.result(0)
        assert job.record.current.ended is None
        gate2.open()
        until(lambda: look().is_final, 3 * patience, "the job's end")
        assert job.result(0) == "through"
        assert seen[-1] is DONE
        assert look() is DONE

    @detached("spawn_map", "group")
    def test_det_03_only_what_is_done_has_a_result(self, apparatus: Apparatus, patience: float) -> None:
        """ "a result is visible if and only if its state is DONE"

        A failure means that a job which failed has a result, or that one which is done has none.
        """
        group = apparatus.spawn_map(raise_odd, range(6))
        done = 0
        for job in group.as_completed(3 * patience):
            if job.state is DONE:
                done += 1
                assert job.result(0) % 2 == 0
            else:
                assert job.state is FAILED
                with pytest.raises(Odd):
                    job.result(0)
        assert done == 3
        assert group.counts() == {DONE: 3, FAILED: 3}

    # --- DET-04 ---

    @detached("spawn", "job")
    def test_det_04_result_waits(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`job.result(timeout=None)` waits; `aresult` awaits"

        A failure means that waiting ends too early, too late or with the event loop blocked.
        """
        job = apparatus.spawn(subjects.pass_gate, gate, gate2)
        began = time.monotonic()
        assert not job.wait(0.2)
        with pytest.raises(TimeoutError, match="runs on"):
            job.result(timeout=0.2)
        with pytest.raises(TimeoutError, match="runs on"):
            job.exception(timeout=0)
        assert time.monotonic() - began >= 0.4

        async def wait() -> tuple[Any, int]:
            waiting = asyncio.create_task(job.aresult())
            turns = 0
            while not waiting.done():
                turns += 1
                await asyncio.sleep(0.01)
                if turns == 3:
                    gate2.open()
            return await waiting, turns

        value, turns = asyncio.run(asyncio.wait_for(wait(), 3 * patience))
        assert value == "through"
        assert turns >= 3
        assert job.exception() is None

    @detached("spawn", "job")
    def test_det_04_a_failed_job_raises_its_own_exception(
        self, apparatus: Apparatus, patience: float
    ) -> None:
        """ "a failed job raises as ERR-01…07 say"

        A failure means that an exception which a job raises arrives in another way than one which a call raises.
        """
        job = apparatus.spawn(subjects.chain)
        error = job.exception(3 * patience)
        call = caught(lambda: apparatus.run(subjects.chain))
        assert type(error) is type(call)
        assert error.args == call.args
        assert type(error.__cause__) is type(call.__cause__)
        record = failure_record(error)
        assert record is not None
        assert record == job.record.current.ended.failure  # type: ignore[union-attr]
        assert (record.index, record.attempt, record.kind) == (0, 1, "user")
        assert "in chain" in record.traceback
        with pytest.raises(type(call)) as raised:
            job.result()
        assert any(entry.name == "chain" for entry in raised.traceback)
        assert job.state is FAILED

    @detached("spawn_map", "job")
    def test_det_04_what_cannot_travel(self, apparatus: Apparatus, patience: float) -> None:
        """ "a failed job raises as ERR-01…07 say"

        A failure means that an exception or a result which cannot be pickled leaves a job without an end, or ends more
        than the one job.
        """
        calls: list[Callable[[], Any]] = [
            partial(subjects.raise_unpicklable, "holds a lock"),
            partial(subjects.exit_at_three, 3),
            partial(subjects.HoldsALock, "x"),
            partial(abs, -4),
        ]
        group = apparatus.spawn_map(lambda n: calls[n](), range(4))
        first, second, third, last = group.results(return_exceptions=True, timeout=3 * patience)
        assert isinstance(first, RemoteError)
        assert isinstance(second, RemoteError)
        assert second.type_name == "SystemExit"
        assert isinstance(third, SerializationError)
        assert last == 4
        assert group.counts() == {DONE: 1, FAILED: 3}

    @detached("spawn_map", "job", also=(Capability.KILL_WORKER,))
    def test_det_04_a_call_that_dies_costs_itself(
        self, apparatus: Apparatus, tally: Tally, patience: float
    ) -> None:
        """ "a failed job raises as ERR-01…07 say"

        A failure means that a call which ends its process takes other jobs along, is run again, or is waited for for
        ever.
        """
        group = apparatus.spawn_map(subjects.note_and_die, range(6), kwargs={"tally": tally, "deadly": 2})
        results = list(group.results(return_exceptions=True, timeout=3 * patience))
        assert results[:2] + results[3:] == [0, 1, 3, 4, 5]
        assert isinstance(results[2], WorkerLost)
        assert group.counts() == {DONE: 5, LOST: 1}
        assert sorted(tally.read()) == list("012345")

    @detached("spawn", "job", also=(Capability.TIMEOUT,))
    def test_det_04_a_call_that_takes_too_long(
        self, apparatus: Apparatus, tally: Tally, shared_dir: Path, patience: float
    ) -> None:
        """ "a failed job raises as ERR-01…07 say"

        A failure means that `timeout` does not end a job, or that its end is not told from others.
        """
        held = Held(str(shared_dir / "held"))
        job = apparatus.w(timeout=0.5).spawn(subjects.hang, held, "computes", 20 * patience, tally)
        error = job.exception(3 * patience)
        assert isinstance(error, JobTimeout)
        assert job.state is FAILED
        assert failure_record(error).kind == "timeout"  # type: ignore[union-attr]
        until(held.free, CANCEL_SECONDS, "the end of the call")
        assert tally.read() == ["started"]

    @detached("spawn", "job")
    def test_det_04_retries_are_attempts(self, apparatus: Apparatus, tally: Tally, patience: float) -> None:
        """ "a failed job raises as ERR-01…07 say"

        A failure means that the option `retries` is ignored, counts otherwise than for calls, or forgets how the
        attempts before went.
        """
        job = apparatus.w(retries=2).spawn(subjects.fail_at_first, tally, 2)
        until(lambda: job.attempt == 3 and job.wait(0), 3 * patience, "the third attempt")
        assert job.result(0) == 3
        assert [attempt.state for attempt in job.record.attempts] == [FAILED, FAILED, DONE]
        again = apparatus.w(retries=1).spawn(subjects.fail_with, 0)
        until(lambda: again.attempt == 2 and again.wait(0), 3 * patience, "the second attempt")
        with pytest.raises(LookupError):
            again.result(0)
        assert [attempt.state for attempt in again.record.attempts] == [FAILED, FAILED]

    @detached("spawn", "job")
    def test_det_04_large_and_special_values(self, apparatus: Apparatus, patience: float) -> None:
        """ "`job.result(timeout=None)` waits"

        A failure means that arguments or results that do not fit into one message or row are lost or changed.
        """
        array = np.arange(2_000_000, dtype=np.float64)
        job = apparatus.spawn(subjects.identity, array)
        back = job.result(3 * patience)
        assert np.array_equal(back, array)
        assert back.flags.writeable
        assert apparatus.spawn(subjects.identity, None).result(3 * patience) is None

    # --- DET-05 ---

    @detached("spawn_map", "job")
    def test_det_05_cancel_pending(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, patience: float
    ) -> None:
        """ "`cancel()` ends a pending job at once […] cancelling twice is harmless."

        A failure means that a job which was cancelled before it began is run all the same.
        """
        group = apparatus.w(max_workers=1).spawn_map(
            subjects.note_and_wait, range(3), kwargs={"tally": tally, "gate": gate}
        )
        tally.wait_for(1, 3 * patience)
        began = time.monotonic()
        group[1].cancel()
        assert group[1].state is CANCELLED
        assert time.monotonic() - began < patience
        group[1].cancel()
        gate.open()
        assert group[0].result(3 * patience) == 0
        assert group[2].result(3 * patience) == 2
        assert tally.read() == ["0", "2"]
        with pytest.raises(JobCancelled, match=group[1].id):
            group[1].result(0)
        group[0].cancel()
        assert group.counts() == {DONE: 2, CANCELLED: 1}

    @pytest.mark.parametrize("what", ["sleeps", "computes"])
    @detached("spawn", "job")
    def test_det_05_cancel_running(
        self, apparatus: Apparatus, tally: Tally, shared_dir: Path, patience: float, what: str
    ) -> None:
        """ "a running one within 10 s; cancelling twice is harmless."

        A failure means that a job which runs cannot be ended, or that it is only said to be.
        """
        held = Held(str(shared_dir / "held"))
        job = apparatus.spawn(subjects.hang, held, what, 20 * patience, tally)
        tally.wait_for(1, 3 * patience)
        until(lambda: not held.free(), patience, "its lock")
        began = time.monotonic()
        job.cancel()
        until(held.free, CANCEL_SECONDS, "the end of the call")
        assert time.monotonic() - began < CANCEL_SECONDS
        job.cancel()
        assert job.state is CANCELLED
        with pytest.raises(JobCancelled):
            job.result(0)
        assert tally.read() == ["started"]
        assert apparatus.spawn(subjects.double, 2).result(3 * patience) == 4

    @detached("spawn_map", "group")
    def test_det_05_cancel_a_group(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, patience: float
    ) -> None:
        """ "`cancel()` ends a pending job at once and a running one within 10 s"

        A failure means that cancelling many is not cancelling each.
        """
        group = apparatus.spawn_map(subjects.note_and_wait, range(20), kwargs={"tally": tally, "gate": gate})
        tally.wait_for(1, 3 * patience)
        group.cancel()
        assert group.counts() == {CANCELLED: 20}
        group.cancel()
        assert group.wait(0)
        began = len(tally.read())
        gate.open()
        assert apparatus.spawn(subjects.double, 2).result(3 * patience) == 4
        assert len(tally.read()) <= began + 2

    # --- DET-06 ---

    @detached("spawn", "jobs")
    def test_det_06_lost_jobs_are_seen(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        gate: Gate,
        gate2: Gate,
        kill_worker_of: Callable[[Job], None],
        patience: float,
    ) -> None:
        """ "A job whose worker or host vanished is seen as LOST by a reader, never as RUNNING for ever."

        A failure means that nobody notices when what runs a job is killed.
        """
        job = fresh(unused_name).spawn(subjects.pass_gate, gate, gate2)
        gate.wait(3 * patience)
        assert job.state is RUNNING
        kill_worker_of(job)
        reader = fresh(unused_name).job(job.id)
        until(lambda: reader.state is not RUNNING, 3 * patience, "the loss")
        assert reader.state is LOST
        error = reader.exception(0)
        assert isinstance(error, WorkerLost)
        assert job.id in str(error) or "pass_gate" in str(error)
        assert [each.state for each in fresh(unused_name).jobs()] == [LOST]
        gate2.open()
        assert reader.state is LOST

    @detached("spawn_map", "jobs")
    def test_det_06_jobs_that_nobody_will_start(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        gate: Gate,
        tally: Tally,
        kill_worker_of: Callable[[Job], None],
        patience: float,
    ) -> None:
        """ "A job whose worker or host vanished is seen as LOST by a reader, never as RUNNING for ever."

        A failure means that a pending job waits for ever for a worker which is gone, or that one which was lost is run.
        """
        group = (
            fresh(unused_name)
            .w(max_workers=1)
            .spawn_map(subjects.note_and_wait, range(4), kwargs={"tally": tally, "gate": gate})
        )
        tally.wait_for(1, 3 * patience)
        running = next(job for job in group if job.state is RUNNING)
        kill_worker_of(running)
        gate.open()
        assert group.wait(6 * patience)  # whether others take up the rest is the backend's affair
        counts = group.counts()
        assert counts[LOST] >= 1
        assert counts[LOST] + counts[DONE] == 4
        assert running.state is LOST
        for record in group.records():
            assert record.current.number == 1
            if record.state is DONE:
                assert group[record.index].result(0) == record.index
        assert len(tally.read()) == len(set(tally.read())), "a job was run twice"

    # --- DET-07 ---

    @pytest.mark.parametrize("act", ["retry", "cancel"])
    @detached("spawn_map", "jobs")
    def test_det_07_no_update_is_lost(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        scripts: Scripts,
        tally: Tally,
        gate: Gate,
        gate2: Gate,
        patience: float,
        act: str,
    ) -> None:
        """ "Two processes that write to the same record at once lose no update"

        A failure means that a record is read, changed and written back, so that the last who writes wins, or that two
        who act at once both count.
        """
        apparatus = fresh(unused_name)
        group = apparatus.w(max_workers=1).spawn_map(
            subjects.note_and_wait, range(6), kwargs={"tally": tally, "gate": gate2}
        )
        tally.wait_for(1, 3 * patience)
        if act == "retry":
            group.cancel()
            gate2.open()
        ids = [job.id for job in group]
        actors = [scripts.start(ACT_AT_ONCE, gate.path, 3 * patience, act, *ids) for _ in range(2)]
        for actor in actors:
            actor.wait_for_line("ready", 3 * patience)
        gate.open()
        for actor in actors:
            assert actor.wait(3 * patience) == 0, actor.words()
        if act == "cancel":
            assert group.counts() == {CANCELLED: 6}
            assert {record.current.number for record in group.records()} == {1}
            gate2.open()
            return
        assert list(group.results(timeout=6 * patience)) == list(range(6))
        for record in group.records():
            assert [attempt.state for attempt in record.attempts] == [CANCELLED, DONE]
        assert sorted(tally.read()[1:]) == list("012345"), "a job was run by both, or by neither"

    @detached("spawn", "job")
    def test_det_07_a_worker_that_was_given_up_on(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "a worker that was given up on cannot overwrite a newer attempt"

        A failure means that a worker which was only asleep, and wakes after its attempt has ended and another is made,
        changes what is known of the job.
        """
        job = apparatus.spawn(subjects.pass_gate, gate, gate2)
        gate.wait(3 * patience)
        job.cancel()
        gate2.open()
        job.retry()
        assert job.result(3 * patience) == "through"
        record, value = job.record, job.result(0)
        # What the first one would write now.
        board, stale = job._board, (job.id, 1)
        me = Worker("asleep", 1, "asleep")
        assert board.claim(stale, me) is None
        board.store.put_report(stale, Report(metrics={"loss": "stale"}))
        board.store.put_curves(stale, b'{"loss":[[1],[0],[2]]}')
        board.store.put_outcome(stale, b"stale")
        assert (
            board.store.put_once(
                [(stale, Created(1.0)), (stale, Claimed(1.0, me)), (stale, Ended(1.0, DONE))]
            )
            == [False] * 3
        )
        assert not board.end(stale, FAILED)
        assert not board.end((job.id, 2), FAILED), "an attempt ended twice"
        again = apparatus.job(job.id)
        assert (again.state, again.attempt, again.result(0), again.metrics) == (DONE, 2, value, {})
        assert again.curves() == {}
        assert again.record.current == record.current
        assert [attempt.state for attempt in again.record.attempts] == [CANCELLED, DONE]

    # --- DET-08 ---

    @detached("job", "spawn")
    def test_det_08_retry_what_failed(self, apparatus: Apparatus, tally: Tally, patience: float) -> None:
        """ "`retry(job)` runs a FAILED, LOST or CANCELLED job again under the same id, with attempt + 1."

        A failure means that a job cannot be run again, or that what is known of the attempts before is lost with it.
        """
        job = apparatus.spawn(subjects.fail_at_first, tally, 1)
        with pytest.raises(LookupError, match="attempt 1"):
            job.result(3 * patience)
        job.retry()
        assert job.result(3 * patience) == 2
        assert (job.state, job.attempt) == (DONE, 2)
        first, second = job.record.attempts
        assert (first.state, first.number, second.number) == (FAILED, 1, 2)
        assert first.ended is not None
        assert first.ended.failure is not None
        assert first.ended.failure.message == "attempt 1"
        assert tally.read() == ["called", "called"]

    @detached("job", "spawn")
    def test_det_08_retry_what_was_cancelled_or_lost(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        gate: Gate,
        gate2: Gate,
        kill_worker_of: Callable[[Job], None],
        patience: float,
    ) -> None:
        """ "`retry(job)` runs a FAILED, LOST or CANCELLED job again under the same id, with attempt + 1."

        A failure means that a job whose worker is gone or was ended cannot be run again.
        """
        job = fresh(unused_name).spawn(subjects.pass_gate, gate, gate2)
        gate.wait(3 * patience)
        kill_worker_of(job)
        until(lambda: job.state is LOST, 3 * patience, "the loss")
        job.retry()
        until(lambda: job.state is RUNNING, 3 * patience, "the second attempt")
        job.cancel()
        assert (job.state, job.attempt) == (CANCELLED, 2)
        gate2.open()
        fresh(unused_name).job(job.id).retry()
        assert job.result(3 * patience) == "through"
        assert [attempt.state for attempt in job.record.attempts] == [LOST, CANCELLED, DONE]

    @detached("job", "spawn")
    def test_det_08_only_what_has_failed_is_retried(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`retry(job)` runs a FAILED, LOST or CANCELLED job again"

        A failure means that a job which is done or still at work is run a second time.
        """
        job = apparatus.spawn(subjects.pass_gate, gate, gate2)
        gate.wait(3 * patience)
        with pytest.raises(JobStateError, match="RUNNING"):
            job.retry()
        gate2.open()
        assert job.result(3 * patience) == "through"
        with pytest.raises(JobStateError, match="DONE"):
            job.retry()
        assert (job.attempt, job.state) == (1, DONE)

    @detached("group", "spawn_map")
    def test_det_08_retry_what_failed_of_a_group(
        self, apparatus: Apparatus, tally: Tally, patience: float
    ) -> None:
        """ "runs a FAILED, LOST or CANCELLED job again under the same id, with attempt + 1"

        A failure means that retrying a group runs again what was done, or leaves out what was not.
        """

        def fails_once(x: int, tally: Tally) -> int:
            tally.add(x)
            if x % 2 and tally.read().count(str(x)) == 1:
                raise LookupError(x)
            return x

        group = apparatus.spawn_map(fails_once, range(6), kwargs={"tally": tally})
        assert group.wait(3 * patience)
        assert group.counts() == {DONE: 3, FAILED: 3}
        assert group.retry() == 3
        assert list(group.results(timeout=3 * patience)) == list(range(6))
        assert [record.current.number for record in group.records()] == [1, 2, 1, 2, 1, 2]
        assert group.retry() == 0
