"""Detached jobs whose workers are killed at random: what has to be true of them in the end, on every backend."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from ..context import current_job
from ..jobboard import JobState, JobStatus
from ..protocol import Apparatus
from .probes import Tally, until

__all__ = ["Ordeal"]


class Ordeal:
    """A group of jobs; what is lost of it is retried, and each retry is noted.

    The jobs are held back, so that the killing is not over before it has begun: each `advance` lets some of them go.

    Args:
        app: launches the group.
        folder: seen by the caller and by all workers under the same path.
        jobs: how many there are.
        kills: how many there will be.
        patience: seconds after which something that should happen is taken for not happening.

    Attributes:
        chance: what is random is taken from it, so that it is the same each time.
        killed: how many of which kind; for whoever kills to count.
    """

    def __init__(self, app: Apparatus, folder: Path, jobs: int, kills: int, patience: float) -> None:
        tally, pace = Tally(str(folder / "tally")), folder / "pace"
        pace.touch()

        def work(x: int) -> tuple[int, int]:
            job = current_job()
            assert job is not None
            tally.add(f"{job.index} {job.attempt}")
            while pace.stat().st_size <= x:
                time.sleep(0.005)
            time.sleep(0.01)
            return x * x, job.attempt

        self.group = app.spawn_map(work, range(jobs))
        self.chance = random.Random(0)
        self.killed: Counter[str] = Counter()
        self._patience = patience
        self._tally = tally
        self._pace = pace
        self._step = jobs // kills - 1
        self._attempts = {job.id: 1 for job in self.group}
        self._done = 0

    def advance(self) -> list[JobStatus]:
        """Let some jobs go and wait until another one is done; returns those that run."""
        self._let_go(self._step)
        until(self._got_ahead, self._patience, "another job that is done")
        return [job for job in self.group.states() if job.state is JobState.RUNNING]

    def prove(self) -> None:
        """Have all jobs end: each in one true terminal state, and no attempt is one that nobody has asked for."""
        assert not self._is_over(), "there was nothing left to kill"
        count = len(self.group)
        self._let_go(count)
        until(self._is_over, 5 * self._patience, "the end of all jobs")
        executions = self._tally.read()
        assert len(executions) == len(set(executions)), "an attempt was run twice"
        for record in self.group.records():
            number = record.current.number
            assert number == self._attempts[record.id], "an attempt that nobody has asked for"
            states = [attempt.state for attempt in record.attempts]
            assert states == [*[JobState.LOST] * (number - 1), JobState.DONE]
            assert f"{record.index} {number}" in executions
        expected = [(x * x, self._attempts[f"{self.group.id}-{x}"]) for x in range(count)]
        assert list(self.group.results()) == expected

    def _states(self) -> list[JobStatus]:
        """As they are now, with what was lost retried."""
        states = self.group.states()
        lost = [job for job in states if job.state is JobState.LOST]
        for job in lost:
            self._attempts[job.id] += 1
        self.group._board.retry(lost)
        return states

    def _let_go(self, jobs: int) -> None:
        with self._pace.open("ab") as file:
            file.write(b"x" * jobs)

    def _got_ahead(self) -> bool:
        done = sum(job.state is JobState.DONE for job in self._states())
        ahead, self._done = done > self._done, done
        return ahead

    def _is_over(self) -> bool:
        return all(job.state is JobState.DONE for job in self._states())
