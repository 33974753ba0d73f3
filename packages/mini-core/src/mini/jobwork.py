"""What a worker does with a detached job, on every backend: claim an attempt, run its call, say how it goes, end it.

The call runs in a process beside the worker's own. So one that dies, runs too long or is cancelled costs itself and
nothing else, and the worker is there to say what became of it.
"""

from __future__ import annotations

import itertools
import marshal
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import snapshot, wire
from .carrier import Broken, Carrier, Event, Group, Lost, Outcomes, Reports, Returned, Task
from .curves import Curves, follow, pack
from .errors import FailureKind, WorkerLost
from .failure import Failure
from .jobboard import JobBoard, Select
from .joblaunch import JobProgram
from .jobrecord import JobState, JobStatus, Key, Report, Worker
from .local.pool import ProcessPool
from .status import FailureRecord, LogLine, Progress
from .wire import Frames
from .worker import ProgramHead

__all__ = ["JobWorker", "this_worker"]

TICK = 0.1
"""Seconds after which a worker looks at the time while a call runs."""
CURVES = 4
MOST_STARTS = 3
"""How often a process for a call is started before its worker gives up."""


def this_worker(id: str = "") -> Worker:
    """This process as a worker."""
    return Worker(socket.gethostname(), os.getpid(), id)


@dataclass(slots=True)
class _Attempt:
    """What is known of the attempt that runs.

    Attributes:
        parts: its outcome, once there is one.
        lost: how it was lost.
        over: its call has ended, whichever way.
    """

    job: JobStatus
    parts: list[Frames] = field(default_factory=list)
    lost: Lost | None = None
    over: bool = False
    progress: Progress | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    changed: bool = False
    curves: Curves = field(default_factory=dict)
    curves_changed: bool = False
    lines: list[LogLine] = field(default_factory=list)


class JobWorker:
    """Runs attempts, one at a time. Its process for calls stays warm between jobs that need the same.

    Not thread-safe, except for `stop`.

    Args:
        board: where the jobs are.
        worker: as whom it claims them; a `JobHost` has to find out from it whether this worker is alive.
        scratch: where source code is unpacked, a folder for each digest, so that several workers of a machine share it.
            By default a folder of this worker's own, removed by `close`.
        here: jobs were launched on this machine, so that their working directory and import path hold here too.
        env: further variables for processes that run calls; what the launch has set comes before.
        report_every: seconds between two reports of progress, metrics and printed lines; the curves of metrics, which
            are more, wait `CURVES` times as long.
        watch_every: seconds between two looks at whether somebody else has ended the attempt.
    """

    def __init__(
        self,
        board: JobBoard,
        worker: Worker,
        *,
        scratch: Path | None = None,
        here: bool = False,
        env: Mapping[str, str] | None = None,
        report_every: float = 0.5,
        watch_every: float = 1.0,
    ) -> None:
        self.board = board
        self.worker = worker
        self._own_scratch = None if scratch else tempfile.TemporaryDirectory(prefix="mini-jobs-")
        self._scratch = scratch or Path(self._own_scratch.name)  # type: ignore[union-attr]
        self._here = here
        self._env = dict(env or {})
        self._report_every = report_every
        self._watch_every = watch_every
        self._numbers = itertools.count(1)
        self._carrier: Carrier | None = None
        self._made_for: object = None
        """What the carrier's process was made for."""
        self._group: tuple[str, JobProgram, Task] | None = None
        """The group whose program is at hand."""
        self._look_at_budget = 0.0
        self._stopping = False
        self._dead: Worker | None = None
        """As whom it was taken for dead."""

    def run(self, key: Key) -> bool:
        """Run an attempt to its end, and those that follow it by themselves (the option `retries`).

        What the call raises is recorded. False: the attempt is not this worker's to run, and nothing was done.

        Raises:
            WorkerLost: somebody has ended an attempt of this worker's as lost, and will do so with whatever it claims.
                It is of no more use, unless as another worker.
        """
        if self._dead == self.worker:
            raise WorkerLost(f"this worker ({self.worker.id or self.worker.pid}) was taken for dead")
        job = self.board.claim(key, self.worker)
        if job is None:
            return False
        while job is not None and not self._stopping:
            failed = self._run(job)
            again = self.board.again(job) if failed else None
            job = None if again is None else self.board.claim(again, self.worker)
        return True

    def stop(self) -> None:
        """End the call that runs, as lost, and run no more. From any thread."""
        self._stopping = True
        if (carrier := self._carrier) is not None:
            carrier.wake()

    def close(self) -> None:
        """End the process for calls, and remove what was unpacked for it. No more jobs may be run."""
        self._drop_carrier()
        if self._own_scratch is not None:
            self._own_scratch.cleanup()

    # --- one attempt ---

    def _run(self, job: JobStatus) -> bool:
        """Run an attempt that is claimed; whether it has failed in a way that another may not."""
        attempt = _Attempt(job)
        try:
            program, task = self._program(job)
            payload = wire.split_frames(self.board.store.input(job.id))
        except Exception as exc:
            if self.board.status(job.id) is None:
                return False  # it was removed
            return self._fail(attempt, "lost", f"it could not be prepared: {type(exc).__name__}: {exc}")
        if self._is_spent(job, program):
            return False
        for _ in range(MOST_STARTS):
            try:
                known = self._call(attempt, program, task, payload)
            except Exception as exc:
                self._drop_carrier()
                return self._fail(attempt, "lost", f"it could not be run: {exc}")
            if not known:
                return False
            if attempt.over:
                try:
                    return self._end(attempt, program)
                except Exception as exc:
                    reason = f"what came of it could not be kept: {type(exc).__name__}: {exc}"
                    return self._fail(attempt, "lost", f"{program.function}: {reason}", JobState.FAILED)
        return self._fail(attempt, "lost", f"its process died {MOST_STARTS} times before the call began")

    def _is_spent(self, job: JobStatus, program: JobProgram) -> bool:
        """Whether the budget of a job's group is used up; all of it is cancelled then. Not looked at too often."""
        now = time.monotonic()
        if program.budget is None or now < self._look_at_budget:
            return False
        self._look_at_budget = now + self._watch_every
        return self.board.stop_spending(job.group, program.budget)

    def _call(self, attempt: _Attempt, program: JobProgram, task: Task, payload: Frames) -> bool:
        """Have the call run once. False: somebody else has ended the attempt meanwhile."""
        job = attempt.job
        carrier = self._carrier
        assert carrier is not None
        group = Group(next(self._numbers), task, job.index, 1, job.attempt, payload)
        with carrier.lock:
            carrier.start(group)
        now = time.monotonic()
        report, watch = now + self._report_every / 5, now + self._watch_every
        draw = now + self._report_every * CURVES
        ended = False
        while not ended:
            for event in carrier.poll(TICK):
                ended = self._take(attempt, group, event) or ended
            now = time.monotonic()
            if self._stopping and not ended:
                attempt.lost = Lost(group, 0, "its worker was stopped")
                attempt.over = ended = True
                self._drop_carrier()
            elif ended or now >= report:
                self._tell(attempt, curves=ended or now >= draw)
                report = now + self._report_every
                draw = report + self._report_every * CURVES if now >= draw else draw
            if not ended and now >= watch:
                self._is_spent(job, program)
                status = self.board.status(job.id)
                if status is None or status.key != job.key or status.state.is_final:
                    self._drop_carrier()
                    self._note_end(job)
                    return False
                watch = now + self._watch_every
        return True

    def _take(self, attempt: _Attempt, group: Group, event: Event) -> bool:
        """Note what has happened; whether that is the end of the group."""
        match event:
            case Outcomes(_, frames, elapsed):
                if frames:  # copied, because their memory may be used for what comes next
                    attempt.parts.append([bytes(frame) for frame in frames])
                attempt.over = elapsed is not None
                return attempt.over
            case Lost(_, running, _, _):
                if running is None or running >= 0:
                    attempt.lost, attempt.over = event, True
                elif attempt.parts:
                    attempt.over = True
                return True
            case Returned():
                return True
            case Broken(error):
                attempt.lost, attempt.over = Lost(group, 0, str(error)), True
                self._drop_carrier()
                return True
            case Reports(reports):
                for _, index, number, kind, data in reports:
                    if (index, number) == (attempt.job.index, attempt.job.attempt):
                        _note(attempt, kind, data)
        return False

    def _tell(self, attempt: _Attempt, *, curves: bool) -> None:
        key = attempt.job.key
        if attempt.lines:
            lines, attempt.lines = attempt.lines, []
            self.board.store.add_log(key, lines)
        if attempt.changed:
            attempt.changed = False
            self.board.store.put_report(key, Report(attempt.progress, attempt.metrics))
        if curves and attempt.curves_changed:
            attempt.curves_changed = False
            self.board.store.put_curves(key, pack(attempt.curves))

    def _end(self, attempt: _Attempt, program: JobProgram) -> bool:
        """Record how the call has ended; whether another attempt may fare better."""
        if attempt.parts:
            (frames, *_) = attempt.parts
            if not marshal.loads(frames[0])[3]:
                self._record(attempt.job, JobState.DONE, frames)
                return False
            failure = wire.unpack_part(frames)[0][0]
            assert isinstance(failure, Failure)
            record = FailureRecord(
                attempt.job.index,
                attempt.job.attempt,
                failure.kind,
                failure.type_name,
                failure.message,
                failure.text,
            )
            ended = self._record(attempt.job, JobState.FAILED, frames, record)
            return ended and failure.kind == "user"
        lost = attempt.lost
        assert lost is not None
        return self._fail(attempt, lost.kind, f"{program.function}: {lost.reason}")

    def _fail(
        self, attempt: _Attempt, kind: FailureKind, message: str, state: JobState = JobState.LOST
    ) -> bool:
        """Record that the call has ended without an outcome; whether another attempt may fare better."""
        state = JobState.FAILED if kind == "timeout" else state
        name = "mini.errors.JobTimeout" if kind == "timeout" else "mini.errors.WorkerLost"
        job = attempt.job
        record = FailureRecord(job.index, job.attempt, kind, name, message, "")
        return self._record(job, state, failure=record) and not self._stopping

    def _record(
        self,
        job: JobStatus,
        state: JobState,
        frames: Frames | None = None,
        failure: FailureRecord | None = None,
    ) -> bool:
        """End an attempt, unless somebody else was faster; whether nobody was."""
        first = self.board.end(job.key, state, frames, failure)
        if not first:
            self._note_end(job)
        return first

    def _note_end(self, job: JobStatus) -> None:
        """Find out whether somebody who has ended an attempt that ran here takes this worker for dead.

        A worker on a node that has lost its cluster, for instance: it is there, but nobody can see it any more.
        """
        for record in self.board.store.read(Select([job.id])):
            ended = record.attempts[job.attempt - 1].ended
            if ended is not None and ended.state is JobState.LOST:
                self._dead = self.worker

    # --- what a group needs ---

    def _program(self, job: JobStatus) -> tuple[JobProgram, Task]:
        """The program of a job's group; from now on the carrier is one that runs it as it wants."""
        if self._group is None or self._group[0] != job.group:
            self._forget()
            program = JobProgram.unpack(self.board.store.program(job.group))
            wanted = (program.source, program.path, program.cwd, program.env)
            if self._carrier is None or self._made_for != wanted:
                self._drop_carrier()
                self._carrier, self._made_for = self._make_carrier(program), wanted
            # The flow is the group, because that makes `current_job()` give the job's own id.
            head = ProgramHead(
                job.group, "call", program.timeout, program.apparatus, program.data_dir, 0, True
            )
            task = Task(head, wire.Program(program.function, program.frames))
            self._carrier.keep(task)
            self._group = (job.group, program, task)
        _, program, task = self._group
        return program, task

    def _make_carrier(self, program: JobProgram) -> Carrier:
        place = self._scratch / (program.source or "none")
        if program.source and not place.is_dir():
            snapshot.unpack(self.board.store.source(program.source), place)
        return ProcessPool(
            1,
            {**self._env, **program.env},
            path=snapshot.import_path(program.path, place, here=self._here),
            cwd=Path(program.cwd) if self._here else None,
        )

    def _forget(self) -> None:
        """Let go of the program at hand."""
        if self._group is not None and self._carrier is not None:
            with self._carrier.lock:
                self._carrier.forget(self._group[2])
        self._group = None

    def _drop_carrier(self) -> None:
        """End the process for calls and what it runs."""
        carrier, self._carrier, self._group = self._carrier, None, None
        if carrier is not None:
            with carrier.lock:
                carrier.close(kill=True)


def _note(attempt: _Attempt, kind: str, data: Any) -> None:
    """Note what a call has reported."""
    if kind == "progress":
        attempt.progress, attempt.changed = Progress(*data), True
    elif kind == "metrics":
        attempt.metrics.update(data)
        attempt.changed = True
    elif kind == "curves":
        follow(attempt.curves, data)
        attempt.curves_changed = True
    else:
        job = attempt.job
        stream: Any = kind
        attempt.lines += [LogLine(job.id, job.index, stream, text) for text in data]
