"""CTX: what a function can ask for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from ..context import current_job, emit_metrics, emit_progress, get_data_dir
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite
from .map import as_map, both_maps
from .probes import Gate, Tally
from .scripts import Scripts

__all__ = ["CtxSuite"]


def records_of(apparatus: Apparatus, function: str) -> list[Any]:
    return [record for record in apparatus.records() if record.function.endswith(function)]


class CtxSuite(Suite):
    """CTX: what a function can ask for."""

    # --- CTX-01 ---

    def test_ctx_01_the_volumes_directory(self, apparatus: Apparatus) -> None:
        """ "`get_data_dir()` in a call is the volume's directory"

        A failure means that workers have another directory than the one the volume shows, or none.
        """

        def write(name: str) -> tuple[bool, bool]:
            directory = get_data_dir()
            (directory / name).write_text("written by a call")
            return directory.is_absolute(), directory.is_dir()

        assert apparatus.run(write, "ctx-01.txt") == (True, True)
        assert apparatus.volume.read_bytes("ctx-01.txt") == b"written by a call"
        assert list(apparatus.map(write, ["ctx-01-a.txt", "ctx-01-b.txt"])) == [(True, True)] * 2
        assert apparatus.run(subjects.in_a_thread, write, "ctx-01-c.txt") == (True, True)
        assert apparatus.volume.exists("ctx-01-c.txt")

    def test_ctx_01_outside_of_a_call(self, apparatus: Apparatus) -> None:
        """ "outside one it raises `RuntimeError`"

        A failure means that the caller is taken for a worker; perhaps the context of a call was not left.
        """
        with pytest.raises(RuntimeError, match="get_data_dir"):
            get_data_dir()
        apparatus.run(get_data_dir)
        list(apparatus.map(lambda _: get_data_dir(), range(3)))
        with pytest.raises(RuntimeError, match="get_data_dir"):
            get_data_dir()

    # --- CTX-02 ---

    def test_ctx_02_reaches_the_record(self, apparatus: Apparatus) -> None:
        """ "`emit_progress(step, total, message="")` and `emit_metrics(**values)` reach the caller's display and the
        job's record"

        A failure means that what calls emit does not travel, or arrives at the wrong call.
        """

        def ctx_02_emitter(number: int) -> None:
            emit_progress(1, 10)
            emit_metrics(loss=1.0, number=number)
            emit_progress(number, 10, f"message {number}")
            emit_metrics(loss=number / 4)

        list(apparatus.map(ctx_02_emitter, range(6)))
        records = {record.index: record for record in records_of(apparatus, "ctx_02_emitter")}
        assert sorted(records) == list(range(6))
        for number, record in records.items():
            progress = record.progress
            assert (progress.step, progress.total, progress.message) == (number, 10, f"message {number}")
            assert record.metrics == {"loss": number / 4, "number": number}
            assert record.state == "DONE"

    def test_ctx_02_while_the_call_runs(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "reach the caller's display and the job's record"

        A failure means that reports are kept until the call has ended.
        """

        def ctx_02_live(started: Gate, gate: Gate) -> str:
            emit_progress(3, 7, "half way")
            emit_metrics(loss=0.5)
            return subjects.pass_gate(started, gate)

        call = probes.in_background(apparatus.run, ctx_02_live, gate, gate2)
        gate.wait()
        probes.until(
            lambda: any(
                record.progress is not None and record.metrics == {"loss": 0.5}
                for record in records_of(apparatus, "ctx_02_live")
            ),
            patience,
            "the arrival of the report",
        )
        (record,) = records_of(apparatus, "ctx_02_live")
        assert (record.progress.step, record.state) == (3, "RUNNING")
        gate2.open()
        assert call.result(patience) == "through"

    def test_ctx_02_reaches_the_display(self, scripts: Scripts, patience: float) -> None:
        """ "reach the caller's display"

        A failure means that a call which takes long shows nothing, or that switching progress off does not.
        """
        source = (
            "import sys\n"
            "from mini import emit_progress\n"
            "from mini.conformance.subjects import sleep_then\n"
            "def train(seconds):\n"
            "    emit_progress(17, 23, 'epoch')\n"
            "    return sleep_then(seconds, 1)\n"
            "options = {'progress': False} if 'off' in sys.argv else {}\n"
            "assert app.w(**options).run(train, 3.7) == 1\n"
            "app.close()\n"
        )
        shown, hidden, off = (
            scripts.start(source, argument, env={"MINI_PROGRESS": value})
            for argument, value in (("on", "1"), ("on", "0"), ("off", "1"))
        )
        for script in (shown, hidden, off):
            assert script.wait(3 * patience) == 0, script.words()
            assert script.out == ""
        assert "train" in shown.err, shown.words()
        assert "17" in shown.err
        assert "23" in shown.err
        assert hidden.err == off.err == ""

    def test_ctx_02_a_million_times(self, apparatus: Apparatus, patience: float) -> None:
        """ "a call that emits a million times neither blocks nor floods"

        A failure means that every report travels by itself: only the latest values should, a few times per second.
        """

        def ctx_02_many(times: int) -> tuple[float, float]:
            began = time.perf_counter()
            for step in range(times):
                emit_progress(step, times)
            halfway = time.perf_counter()
            for step in range(times):
                emit_metrics(step=step)
            return halfway - began, time.perf_counter() - halfway

        times = 500_000
        assert sum(apparatus.run(ctx_02_many, times)) < 2 * patience
        (record,) = records_of(apparatus, "ctx_02_many")
        assert record.progress.step == times - 1
        assert record.metrics == {"step": times - 1}

    # --- CTX-03 ---

    def test_ctx_03_id_attempt_and_name(self, apparatus: Apparatus) -> None:
        """ "`current_job()` gives the job's id, attempt, and the apparatus name"

        A failure means that a worker does not know which call it runs: within a group this changes with every call.
        """

        def look(_: int = 0) -> tuple[str, int, int, str]:
            job = current_job()
            assert job is not None
            return job.id, job.attempt, job.index, job.apparatus

        id, attempt, index, name = apparatus.run(look)
        assert id
        assert (attempt, index, name) == (1, 0, apparatus.name)
        for app in (apparatus, apparatus.w(chunk=1)):
            jobs = list(app.map(look, range(300)))
            assert len({id for id, *_ in jobs}) == 300
            assert [rest for _, *rest in jobs] == [[1, n, apparatus.name] for n in range(300)]
        assert apparatus.run(subjects.in_a_thread, look)[1:] == (1, 0, apparatus.name)

    def test_ctx_03_attempts_are_counted(self, apparatus: Apparatus) -> None:
        """ "`current_job()` gives the job's id, attempt"

        A failure means that a call that is retried does not know it, or gets another id.
        """

        def succeed_at_third() -> tuple[str, int]:
            job = current_job()
            assert job is not None
            if job.attempt < 3:
                raise LookupError(job.id)
            return job.id, job.attempt

        retrying = apparatus.w(retries=4)
        assert retrying.run(succeed_at_third)[1] == 3
        with pytest.raises(LookupError) as raised:
            apparatus.w(retries=1).run(succeed_at_third)
        assert raised.value.args[0]

    def test_ctx_03_outside_of_a_call(self, apparatus: Apparatus) -> None:
        """ "outside one it returns `None`"

        A failure means that the caller is taken for a worker; perhaps the context of a call was not left.
        """
        assert current_job() is None
        apparatus.run(current_job)
        list(apparatus.map(lambda _: current_job(), range(3)))
        list(apparatus.stream(subjects.count_up, 3))
        assert current_job() is None

    # --- CTX-04 ---

    @both_maps
    def test_ctx_04_prints_are_kept_with_their_job(self, apparatus: Apparatus, how: str) -> None:
        """ "What a call prints or logs is kept with its job and shown by `logs`"

        A failure means that output is lost, or kept with another call of the same group.
        """

        def ctx_04_printer(number: int) -> str:
            job = current_job()
            assert job is not None
            print(f"out {number}")
            print(f"err {number}", file=sys.stderr)
            print("no end", number, end="")
            return job.id

        ids = list(as_map(apparatus, how)(ctx_04_printer, range(40)))
        for number, id in enumerate(ids):
            lines = [(line.index, line.stream, line.text) for line in apparatus.logs(id)]
            assert [text for _, stream, text in lines if stream == "stdout"] == [
                f"out {number}",
                f"no end {number}",
            ]
            assert [text for _, stream, text in lines if stream == "stderr"] == [f"err {number}"]
            assert {index for index, _, _ in lines} == {number}
        assert {line.text for line in apparatus.logs()} >= {f"out {number}" for number in range(40)}

    def test_ctx_04_what_it_logs(self, scripts: Scripts) -> None:
        """ "What a call prints or logs is kept with its job"

        A failure means that the standard library's logging does not reach stderr on a worker, or not the captured one.
        """
        scripts.run(
            """
import logging
from mini import current_job
def speak(number):
    logging.getLogger("mine").warning("logged %d", number)
    return current_job().id
ids = list(app.map(speak, range(5)))
for number, id in enumerate(ids):
    assert f"logged {number}" in "".join(line.text for line in app.logs(id)), app.logs(id)
app.close()
"""
        )

    def test_ctx_04_also_of_calls_that_fail(self, apparatus: Apparatus) -> None:
        """ "What a call prints or logs is kept with its job"

        A failure means that the last words of a call that failed are lost, which is when they are needed.
        """

        def ctx_04_failing() -> None:
            print("before the end")
            raise LookupError

        with pytest.raises(LookupError):
            apparatus.run(ctx_04_failing)
        (record,) = records_of(apparatus, "ctx_04_failing")
        assert [line.text for line in record.log] == ["before the end"]
        assert record.failure is not None
        assert record.failure.type == "LookupError"

    def test_ctx_04_live_when_asked_for(
        self, scripts: Scripts, gate: Gate, tally: Tally, patience: float
    ) -> None:
        """ "it appears live when asked for"

        A failure means that with `logs=True` nothing is shown until the call has ended, or without it everything is.
        """
        source = (
            "import sys\n"
            "from mini.conformance.probes import Gate\n"
            "gate = Gate(sys.argv[1], 60)\n"
            "def speak(number):\n"
            "    print('spoken', number, flush=True)\n"
            "    gate.wait()\n"
            "    return number\n"
            "logs = 'quiet' not in sys.argv\n"
            "assert app.w(logs=logs, progress=False).run(speak, 5) == 5\n"
            "assert [line.text for line in app.logs()] == ['spoken 5']\n"
            "app.close()\n"
        )
        script = scripts.start(source, gate.path)
        probes.until(
            lambda: "spoken 5" in script.out + script.err or script.process.poll() is not None, patience
        )
        assert not gate.is_open
        assert "spoken 5" in script.out + script.err, script.words()
        gate.open()
        assert script.wait(patience) == 0, script.words()

    # --- CTX-05 ---

    @pytest.mark.parametrize("workers", [1, 2])
    def test_ctx_05_nested_calls(self, fresh: MakeApparatus, unused_name: str, workers: int) -> None:
        """ "A call may itself use an apparatus (nested `run`/`map`) without deadlock."

        A failure by timeout means that a call which waits for others keeps the worker that they need.
        """
        apparatus = fresh(unused_name).w(max_workers=workers)

        def leaf(x: int) -> int:
            return x + 1

        def branch(x: int) -> int:
            return apparatus.run(leaf, x) + sum(apparatus.map(leaf, range(x)))

        def trunk(x: int) -> list[int]:
            return list(apparatus.map(branch, range(x)))

        expected = [x + 1 + sum(range(1, x + 1)) for x in range(6)]
        assert apparatus.run(branch, 3) == expected[3]
        assert list(apparatus.map(branch, range(6))) == expected
        assert list(apparatus.map(trunk, [3, 4])) == [expected[:3], expected[:4]]

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("nested", [subjects.nested, subjects.nested_async, subjects.nested_futures])
    def test_ctx_05_by_the_very_same_object(
        self,
        fresh: MakeApparatus,
        unused_name: str,
        monkeypatch: pytest.MonkeyPatch,
        workers: int,
        nested: Callable[..., Any],
    ) -> None:
        """ "A call may itself use an apparatus (nested `run`/`map`) without deadlock."

        A failure by timeout means that a worker in the calling process, which comes by the caller's own object and not
        by a copy of it, keeps the place that the calls it waits for need. `Carrier.lend` is for this.
        """
        apparatus = fresh(unused_name).w(max_workers=workers)
        monkeypatch.setitem(subjects.HERE, unused_name, apparatus)
        passed: dict[str, Any] = {"name": unused_name, "otherwise": apparatus}
        assert apparatus.run(nested, 3, **passed) == 12
        results = apparatus.w(chunk=1).map(nested, range(30), kwargs=passed)
        assert list(results) == [x + x * x for x in range(30)]

    def test_ctx_05_a_nested_error(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "A call may itself use an apparatus"

        A failure means that an error of an inner call does not come through the outer one as itself.
        """
        apparatus = fresh(unused_name)

        def outer() -> None:
            apparatus.run(subjects.raise_two_arguments)

        with pytest.raises(subjects.TwoArguments, match="because"):
            apparatus.run(outer)
