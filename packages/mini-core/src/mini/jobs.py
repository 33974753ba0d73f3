"""Detached jobs: calls that outlive whoever made them. What a job is, and what all backends share of it.

A job is not a record that is updated but a set of *facts* about its attempts, written once, by whoever is first: see
`mini.jobrecord`. Any store that can insert if absent will do: a table, a folder, a dictionary.

A backend adds a `JobStore`, which keeps facts and bytes, and a `JobHost`, which starts, ends and looks after workers.
The rest is here, in `JobBoard`, and in what users hold: `Job` and `JobGroup`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import JobCancelled, JobStateError, JobTimeout, MiniError, RemoteError, WorkerLost
from .jobrecord import Claimed, Created, Ended, Fact, JobRecord, JobState, Key, Outcome, Report, Worker
from .status import FailureRecord, LogLine, Progress
from .twins import in_thread, pause

if TYPE_CHECKING:
    from .wire import Frames

__all__ = ["Job", "JobBoard", "JobGroup", "JobHost", "JobRecord", "JobState", "JobStore", "Select"]

# --- what a backend adds --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Select:
    """Which jobs to read; None means all."""

    ids: Collection[str] | None = None
    group: str | None = None
    states: Collection[JobState] | None = None

    def takes(self, record: JobRecord) -> bool:
        return (
            (self.ids is None or record.id in self.ids)
            and (self.group is None or record.group == self.group)
            and (self.states is None or record.state in self.states)
        )


class JobStore(ABC):
    """Keeps the jobs of one apparatus name. Each method is one round trip or few, however many jobs it is about."""

    @abstractmethod
    def create(self, records: Sequence[JobRecord], program: bytes, inputs: Sequence[bytes]) -> None:
        """Add a group of new jobs whole or not at all: their records, what they share, and the input of each."""

    @abstractmethod
    def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
        """Add each fact unless the attempt has one of its kind already; say for each whether it was added."""

    @abstractmethod
    def put_report(self, key: Key, report: Report) -> None:
        """Replace the report of an attempt."""

    @abstractmethod
    def read(self, select: Select) -> Iterable[JobRecord]:
        """The records of the jobs selected, by group and index, without their outcomes."""

    @abstractmethod
    def call(self, id: str) -> tuple[bytes, bytes]:
        """The program and the input of a job, as they were created."""

    @abstractmethod
    def put_outcome(self, key: Key, frames: Frames) -> Outcome:
        """Keep the outcome of an attempt. Nobody looks at it before an Ended names it."""

    @abstractmethod
    def outcome(self, key: Key) -> Frames:
        """The outcome of an attempt as it was put, for `wire.unpack_part`."""

    @abstractmethod
    def add_log(self, key: Key, lines: Sequence[LogLine]) -> None:
        """Add lines that an attempt printed."""

    @abstractmethod
    def log(self, key: Key, start: int = 0) -> list[LogLine]:
        """What an attempt printed, from its line number `start` on."""

    @abstractmethod
    def remove(self, group: str) -> None:
        """Forget a group and all that is kept of it."""


class JobHost(ABC):
    """Runs the attempts that a store holds."""

    @abstractmethod
    def start(self, records: Sequence[JobRecord]) -> None:
        """See to it that these pending jobs are run, now or when there is room. Returns at once."""

    @abstractmethod
    def stop(self, records: Sequence[JobRecord]) -> None:
        """End the workers of these jobs' current attempts, where they still run, within 10 s."""

    @abstractmethod
    def lost(self, records: Sequence[JobRecord]) -> set[str]:
        """The ids of those unfinished jobs that nobody will finish: their worker, or who should start it, is gone.

        Starts nothing.
        """


# --- what is the same everywhere ------------------------------------------------------------------------------------


class JobBoard:
    """The jobs of one apparatus name: what callers and workers do with them."""

    def __init__(self, store: JobStore, host: JobHost) -> None:
        self.store = store
        self.host = host

    # for workers

    def claim(self, key: Key, worker: Worker) -> bool:
        """Take an attempt up. False: another worker has, or it was cancelled before; then it must not be run."""
        if not self.store.put_once([(key, Claimed(time.time(), worker))])[0]:
            return False
        # Somebody may have ended it between its creation and the claim; who comes later finds the claim.
        record = self._one(key[0])
        return record.key == key and record.state is JobState.RUNNING

    def end(
        self,
        key: Key,
        state: JobState,
        frames: Frames | None = None,
        failure: FailureRecord | None = None,
    ) -> bool:
        """End an attempt. False: it had ended already, and nothing has changed."""
        outcome = None if frames is None else self.store.put_outcome(key, frames)
        return self.store.put_once([(key, Ended(time.time(), state, outcome, failure))])[0]

    # for callers

    def read(self, select: Select) -> list[JobRecord]:
        """The records selected, as they are; jobs found to be lost are recorded as such first (DET-06)."""
        records = list(self.store.read(Select(select.ids, select.group)))
        lost = self.host.lost([r for r in records if not r.state.is_final])
        if lost:
            # A worker that has ended its attempt meanwhile was faster; what the store says then holds.
            self._end_all([r for r in records if r.id in lost], JobState.LOST)
            records = list(self.store.read(Select(select.ids, select.group)))
        return [record for record in records if select.takes(record)]

    def cancel(self, records: Sequence[JobRecord]) -> None:
        """Cancel those that have not ended; the others stay as they are."""
        ended = self._end_all([r for r in records if not r.state.is_final], JobState.CANCELLED)
        if ended:
            self.host.stop(ended)

    def retry(self, records: Sequence[JobRecord]) -> None:
        """Make one more attempt at each.

        Raises:
            JobStateError: one of them is not FAILED, CANCELLED or LOST; then none is retried.
        """
        for record in records:
            if not record.state.can_retry:
                raise JobStateError(
                    f"job {record.id} is {record.state}; only jobs that are FAILED, CANCELLED or LOST are retried"
                )
        new = [((r.id, r.current.number + 1), Created(time.time())) for r in records]
        added = self.store.put_once(new)
        # Of two that retry at once, the first starts it; to the other the new attempt is just as welcome.
        ids = {key[0] for (key, _), first in zip(new, added, strict=True) if first}
        if ids:
            self.host.start(list(self.store.read(Select(ids))))

    def job(self, id: str) -> Job:
        """The job of this id.

        Raises:
            LookupError: there is none.
        """
        self._one(id)
        return Job(self, id)

    def _one(self, id: str) -> JobRecord:
        for record in self.store.read(Select([id])):
            return record
        raise LookupError(f"there is no job {id!r}")

    def _end_all(self, records: Sequence[JobRecord], state: JobState) -> list[JobRecord]:
        facts: list[tuple[Key, Fact]] = [(r.key, Ended(time.time(), state)) for r in records]
        added = self.store.put_once(facts)
        return [record for record, first in zip(records, added, strict=True) if first]


class Job:
    """A detached call. All that it says is read when it is asked, and is of the current attempt."""

    def __init__(self, board: JobBoard, id: str) -> None:
        self._board = board
        self.id = id

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    @property
    def record(self) -> JobRecord:
        """All that is known of it now."""
        for record in self._board.read(Select([self.id])):
            return record
        raise LookupError(f"there is no job {self.id!r}; it was removed")

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def attempt(self) -> int:
        return self.record.current.number

    @property
    def progress(self) -> Progress | None:
        return self.record.current.report.progress

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record.current.report.metrics

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; say whether it has."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for seconds in _pauses(deadline):
            if self.state.is_final:
                return True
            pause(seconds)
        return self.state.is_final

    def result(self, timeout: float | None = None) -> Any:
        """Wait for it and return what its function returned.

        Raises:
            whatever the function raised, as itself.
            TimeoutError: it has not ended within `timeout` seconds; it runs on.
            JobCancelled, WorkerLost, JobTimeout, RemoteError: it ended in that way.
        """
        error, value = self._outcome(timeout)
        if error is not None:
            raise error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for it and return what `result` would raise, or None. Raises TimeoutError as `result` does."""
        return self._outcome(timeout)[0]

    def _outcome(self, timeout: float | None) -> tuple[BaseException | None, Any]:
        if not self.wait(timeout):
            raise TimeoutError(f"job {self.id} has not ended within {timeout} s; it runs on")
        record = self.record
        ended = record.current.ended
        if ended is None:  # retried since
            return self._outcome(timeout)
        if ended.outcome is None:
            return _error(record, ended), None
        # Only a result needs these.
        from . import wire
        from .failure import Failure

        value = wire.unpack_part(self._board.store.outcome(record.key))[0][0]
        if not isinstance(value, Failure):
            return None, value
        error = value.exception()
        with suppress(Exception):
            error.__mini_failure__ = ended.failure  # type: ignore[attr-defined]
        return error, None

    def logs(self, follow: bool = False) -> Iterator[LogLine]:
        """What the current attempt printed; with `follow`, on until it has ended."""
        key, seen = self.record.key, 0
        for seconds in _pauses():
            record = self.record
            over = not follow or record.key != key or record.state.is_final
            lines = self._board.store.log(key, seen)
            yield from lines
            seen += len(lines)
            if over:
                return
            pause(seconds)

    def cancel(self) -> None:
        """End it. A job that has ended stays as it is."""
        self._board.cancel([self.record])

    def retry(self) -> None:
        """Run it again, under the same id.

        Raises:
            JobStateError: it is not FAILED, CANCELLED or LOST.
        """
        self._board.retry([self.record])

    async def await_(self) -> bool:
        """`wait` without blocking the event loop; `asyncio.timeout` limits it, as it does the other twins."""
        return await in_thread(self.wait)

    async def aresult(self) -> Any:
        """`result` without blocking the event loop. Cancelling it leaves the job alone."""
        return await in_thread(self.result)

    async def aexception(self) -> BaseException | None:
        """`exception` without blocking the event loop."""
        return await in_thread(self.exception)

    async def acancel(self) -> None:
        """`cancel` without blocking the event loop."""
        await in_thread(self.cancel)

    async def aretry(self) -> None:
        """`retry` without blocking the event loop."""
        await in_thread(self.retry)


class JobGroup:
    """The jobs of one `spawn_map`, in the order of their inputs."""

    def __init__(self, board: JobBoard, id: str, size: int) -> None:
        self._board = board
        self.id = id
        self._size = size

    def __repr__(self) -> str:
        return f"<JobGroup {self.id} of {self._size}>"

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Job]:
        return (self[index] for index in range(self._size))

    def __getitem__(self, index: int) -> Job:
        return Job(self._board, f"{self.id}-{range(self._size)[index]}")

    def records(self) -> list[JobRecord]:
        """All that is known of its jobs now."""
        return self._board.read(Select(group=self.id))

    def counts(self) -> Counter[JobState]:
        """How many jobs are in each state now."""
        return Counter(record.state for record in self.records())

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Its jobs as they end, those that have ended already first.

        Raises:
            TimeoutError: not all have ended within `timeout` seconds of the first request.
        """
        seen: set[str] = set()
        deadline = None if timeout is None else time.monotonic() + timeout
        for seconds in _pauses(deadline):
            ended = [r.id for r in self.records() if r.state.is_final and r.id not in seen]
            seen.update(ended)
            yield from (Job(self._board, id) for id in ended)
            if len(seen) >= self._size:
                return
            pause(seconds)
        raise TimeoutError(f"{self._size - len(seen)} of {self._size} jobs have not ended; they run on")

    def results(self, return_exceptions: bool = False, timeout: float | None = None) -> Iterator[Any]:
        """What its jobs returned, in the order of the inputs; read one at a time, as each has ended.

        With `return_exceptions` the exception of a job that failed takes the place of its result.
        """
        for job in self:
            error, value = job._outcome(timeout)
            if error is not None and not return_exceptions:
                raise error
            yield value if error is None else error

    def retry(self, failed: bool = True) -> int:
        """Run those again that are FAILED or LOST, without `failed` also those CANCELLED; say how many."""
        states = {JobState.FAILED, JobState.LOST} if failed else {s for s in JobState if s.can_retry}
        records = self._board.read(Select(group=self.id, states=states))
        self._board.retry(records)
        return len(records)

    def cancel(self) -> None:
        """End all that have not ended."""
        self._board.cancel(self.records())


def _pauses(deadline: float | None = None) -> Iterator[float]:
    """Seconds between looks at what somebody else changes: short at first, a second in the end, none after that."""
    seconds = 0.02
    while deadline is None or time.monotonic() < deadline:
        yield seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))
        seconds = min(1.0, seconds * 1.5)


def _error(record: JobRecord, ended: Ended) -> MiniError:
    """The exception for an attempt that left nothing but its end."""
    what = f"job {record.id} ({record.function} of {record.input})"
    failure = ended.failure
    error: MiniError
    if ended.state is JobState.CANCELLED:
        error = JobCancelled(f"{what} was cancelled")
    elif ended.state is JobState.LOST:
        claimed = record.current.claimed
        where = f" on {claimed.worker.host}, process {claimed.worker.pid}," if claimed else ""
        error = WorkerLost(f"the worker{where} of {what} vanished; job.retry() runs it again")
    elif failure is not None and failure.kind == "timeout":
        error = JobTimeout(failure.message)
    elif failure is not None and failure.kind in ("lost", "out-of-memory"):
        error = WorkerLost(failure.message)
    elif failure is not None:
        error = RemoteError(failure.type, failure.message, failure.traceback)
    else:
        error = RemoteError("RuntimeError", f"{what} is {ended.state} without an outcome")
    error.__mini_failure__ = failure  # type: ignore[union-attr]
    return error
