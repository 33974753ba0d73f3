"""Detached jobs: calls that outlive whoever made them. What a job is, and what all backends share of it.

A job is not a record that is updated but a set of *facts* about its attempts, written once, by whoever is first: see
`mini.jobrecord`. Any store that can insert if absent will do: a table, a folder, a dictionary.

A backend adds a `JobStore`, which keeps facts and bytes, and a `JobHost`, which starts, ends and looks after workers.
The rest is here, in `JobBoard`, and in what users hold: `Job` and `JobGroup`. How jobs are launched is in
`mini.joblaunch`, and what a worker does with one in `mini.jobwork`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import (
    JobCancelled,
    JobStateError,
    JobTimeout,
    MiniError,
    RemoteError,
    WorkerLost,
)
from .jobrecord import (
    Claimed,
    Created,
    Ended,
    Fact,
    GroupRecord,
    JobRecord,
    JobState,
    JobStatus,
    Key,
    Outcome,
    Report,
    Worker,
)
from .status import FailureRecord, LogLine, Progress
from .twins import in_thread, pause

if TYPE_CHECKING:
    from .curves import Point
    from .wire import Frames

__all__ = [
    "Bill",
    "GroupRecord",
    "Job",
    "JobBoard",
    "JobGroup",
    "JobHost",
    "JobRecord",
    "JobState",
    "JobStatus",
    "JobStore",
    "Select",
]

UNFINISHED = frozenset({JobState.PENDING, JobState.RUNNING})
FETCH = 64
"""Outcomes that `JobGroup.results` asks a store for at once."""

# --- what a backend adds --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Select:
    """Which jobs to read; None means all."""

    ids: Collection[str] | None = None
    group: str | None = None
    states: Collection[JobState] | None = None

    def takes(self, job: JobRecord | JobStatus) -> bool:
        return (
            (self.ids is None or job.id in self.ids)
            and (self.group is None or job.group == self.group)
            and (self.states is None or job.state in self.states)
        )


class JobStore(ABC):
    """Keeps the jobs of one apparatus name. Each method is one round trip or few, however many jobs it is about.

    Used by callers, readers and workers at the same time, from several processes and threads. What is read of a name
    that has no jobs is empty, and reading makes nothing.
    """

    @abstractmethod
    def create(
        self, group: GroupRecord, records: Sequence[JobRecord], program: bytes, inputs: Sequence[bytes]
    ) -> None:
        """Add a group of new jobs whole or not at all: their records, what they share, and the input of each."""

    @abstractmethod
    def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
        """Add each fact unless the attempt has one of its kind already; say for each whether it was added.

        False, too, if the job is not there: it was removed.
        """

    @abstractmethod
    def put_report(self, key: Key, report: Report) -> None:
        """Replace the report of an attempt."""

    @abstractmethod
    def put_curves(self, key: Key, data: bytes) -> None:
        """Replace the curves of an attempt. They are kept apart from its record, which is read more often."""

    @abstractmethod
    def curves(self, keys: Sequence[Key]) -> Iterator[bytes | None]:
        """The curves of some attempts as they were put, in the order of `keys`; None where there are none."""

    @abstractmethod
    def groups(self) -> list[GroupRecord]:
        """All groups, in the order of their ids."""

    @abstractmethod
    def read(self, select: Select) -> Iterable[JobRecord]:
        """The records of the jobs selected, by group and index, without their outcomes."""

    def states(self, select: Select) -> list[JobStatus]:
        """As `read`, but only the little that waiting and counting need; a store that has it at hand is faster."""
        return [record.status for record in self.read(select)]

    def counts(self) -> dict[str, Counter[JobState]]:
        """How many jobs are in each state, by group; a store that can count need not list them."""
        found: dict[str, Counter[JobState]] = {}
        for job in self.states(Select()):
            found.setdefault(job.group, Counter())[job.state] += 1
        return found

    def spent(self, group: str) -> float:
        """Seconds that all attempts of a group have run until now; a store that can add them up is faster."""
        now = time.time()
        records = self.read(Select(group=group))
        return sum(attempt.seconds(now) for record in records for attempt in record.attempts)

    @abstractmethod
    def program(self, group: str) -> bytes:
        """What the jobs of a group share, as it was created. LookupError: it was removed."""

    @abstractmethod
    def input(self, id: str) -> bytes:
        """The input of a job, as it was created. LookupError: it was removed."""

    @abstractmethod
    def put_source(self, digest: str, archive: bytes) -> None:
        """Keep an archive of source code, unless one of this digest is kept already."""

    @abstractmethod
    def source(self, digest: str) -> bytes:
        """The archive of this digest. LookupError: there is none."""

    @abstractmethod
    def put_outcome(self, key: Key, data: bytes) -> None:
        """Keep the outcome of an attempt, unless one is kept already. Nobody looks at it before an Ended names it."""

    @abstractmethod
    def outcome(self, key: Key) -> bytes:
        """The outcome of an attempt as it was put. LookupError: there is none."""

    def outcomes(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """Several outcomes, in the order of `keys`; a store that is far away gets them side by side."""
        return map(self.outcome, keys)

    @abstractmethod
    def add_log(self, key: Key, lines: Sequence[LogLine]) -> None:
        """Add lines that an attempt printed."""

    @abstractmethod
    def log(self, key: Key, start: int = 0) -> list[LogLine]:
        """What an attempt printed, from its line number `start` on."""

    @abstractmethod
    def remove(self, group: str) -> None:
        """Forget a group and all that is kept of it. Harmless when repeated."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a backend itself says that jobs cost.

    Attributes:
        amount: all together; None if it does not say.
        currency: of all amounts, such as "USD".
        objects: what it charges for, by its own ids.
        says: of how much this is, or why it does not say, in a line.
    """

    amount: float | None
    currency: str
    objects: Mapping[str, float]
    says: str


class JobHost(ABC):
    """Runs the attempts that a store holds."""

    def bill(self, groups: Sequence[GroupRecord]) -> Bill | None:
        """What the backend charges for groups, as far as it tells within seconds; None where nothing is charged.

        Raises nothing of the backend's: that it does not say is an answer.
        """
        return None

    def launching(self) -> AbstractContextManager[None]:
        """Entered before attempts are created and left after `start`.

        In between a reader finds attempts that nobody has been told to run yet, and must not take them for lost.
        """
        return nullcontext()

    @abstractmethod
    def start(self, jobs: Sequence[JobStatus]) -> None:
        """See to it that these pending jobs are run, now or when there is room. Returns at once.

        Raises:
            BackendUnavailable: they cannot be; what has not been started is then lost.
        """

    @abstractmethod
    def stop(self, jobs: Sequence[JobStatus]) -> None:
        """The current attempts of these jobs have just been ended: end what still runs of them, within 10 s.

        A `mini.jobwork.JobWorker` finds out by itself.
        """

    @abstractmethod
    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        """The ids of those unfinished jobs that nobody will finish: their worker, or who should start it, is gone.

        Starts nothing. A pending attempt that follows a failed one by itself is its worker's.
        """


# --- what is the same everywhere ------------------------------------------------------------------------------------


class JobBoard:
    """The jobs of one apparatus name: what callers and workers do with them."""

    def __init__(self, store: JobStore, host: JobHost) -> None:
        self.store = store
        self.host = host

    # for workers

    def claim(self, key: Key, worker: Worker) -> JobStatus | None:
        """Take an attempt up. None: another worker has, or it was cancelled before; then it must not be run."""
        if not self.store.put_once([(key, Claimed(time.time(), worker))])[0]:
            return None
        # Somebody may have ended it between its creation and the claim; who comes later finds the claim.
        status = self.status(key[0])
        mine = status is not None and status.key == key and status.state is JobState.RUNNING
        return status if mine else None

    def end(
        self,
        key: Key,
        state: JobState,
        frames: Frames | None = None,
        failure: FailureRecord | None = None,
    ) -> bool:
        """End an attempt. False: it had ended already, and nothing has changed."""
        outcome = None
        if frames is not None:
            from .wire import join_frames

            data = join_frames(frames)
            outcome = Outcome(len(data), hashlib.sha256(data).hexdigest())
            self.store.put_outcome(key, data)
        return self.store.put_once([(key, Ended(time.time(), state, outcome, failure))])[0]

    def again(self, job: JobStatus) -> Key | None:
        """Create the attempt that follows a failed one by itself; None if that has no more left, or somebody has."""
        if job.left < 1:
            return None
        key = (job.id, job.attempt + 1)
        return key if self.store.put_once([(key, Created(time.time(), job.left - 1))])[0] else None

    def stop_spending(self, group: str, budget: float) -> bool:
        """Cancel all of a group that has not ended if its attempts have run for `budget` seconds; whether they have."""
        if self.store.spent(group) < budget:
            return False
        message = f"the budget of {budget:g} s is used up"
        jobs = self.store.states(Select(group=group, states=UNFINISHED))
        self._end_all(
            jobs,
            JobState.CANCELLED,
            lambda job: FailureRecord(
                job.index, job.attempt, "cancelled", "mini.errors.JobCancelled", message, ""
            ),
        )
        return True

    # for callers

    def read(self, select: Select) -> list[JobRecord]:
        """The records selected, as they are; jobs found to be lost are recorded as such first (DET-06)."""
        self._note_lost(self.store.states(Select(select.ids, select.group, UNFINISHED)))
        return list(self.store.read(select))

    def states(self, select: Select) -> list[JobStatus]:
        """As `read`, but only what is needed to wait and to count: quick for large groups."""
        everything = Select(select.ids, select.group)
        jobs = self.store.states(everything)
        if self._note_lost([job for job in jobs if not job.state.is_final]):
            jobs = self.store.states(everything)
        return [job for job in jobs if select.takes(job)]

    def counts(self) -> dict[str, Counter[JobState]]:
        """How many jobs are in each state, by group: quick for large ones."""
        self._note_lost(self.store.states(Select(states=UNFINISHED)))
        return self.store.counts()

    def _note_lost(self, unfinished: list[JobStatus]) -> bool:
        """Find out which of these nobody will finish, and record it; whether there were any."""
        lost = self.host.lost(unfinished) if unfinished else set()
        # A worker that has ended its attempt meanwhile was faster; what the store says then holds.
        self._end_all([job for job in unfinished if job.id in lost], JobState.LOST)
        return bool(lost)

    def cancel(self, jobs: Sequence[JobStatus]) -> None:
        """Cancel those that have not ended; the others stay as they are."""
        ended = self._end_all([job for job in jobs if not job.state.is_final], JobState.CANCELLED)
        if ended:
            self.host.stop(ended)

    def retry(self, jobs: Sequence[JobStatus]) -> None:
        """Make one more attempt at each.

        Raises:
            JobStateError: one of them is not FAILED, CANCELLED or LOST; then none is retried.
            BackendUnavailable: as `JobHost.start`.
        """
        for job in jobs:
            if not job.state.can_retry:
                raise JobStateError(
                    f"job {job.id} is {job.state}; only jobs that are FAILED, CANCELLED or LOST are retried"
                )
        if not jobs:
            return
        retries = {group.id: group.origin.options.get("retries") or 0 for group in self.store.groups()}
        new: list[tuple[Key, Fact]] = [
            ((job.id, job.attempt + 1), Created(time.time(), retries.get(job.group, 0))) for job in jobs
        ]
        with self.host.launching():
            added = self.store.put_once(new)
            # Of two that retry at once, the first starts it; to the other the new attempt is just as welcome.
            ids = {key[0] for (key, _), first in zip(new, added, strict=True) if first}
            if ids:
                self.host.start(self.store.states(Select(ids)))

    def job(self, id: str) -> Job:
        """The job of this id.

        Raises:
            LookupError: there is none.
        """
        if self.status(id) is None:
            raise LookupError(f"there is no job {id!r}")
        return Job(self, id)

    def jobs(self) -> list[Job]:
        """All jobs, by group and index; groups in the order in which they were launched."""
        return [Job(self, job.id) for job in self.store.states(Select())]

    def group(self, id: str) -> JobGroup:
        """The group of this id.

        Raises:
            LookupError: there is none.
        """
        for group in self.store.groups():
            if group.id == id:
                return JobGroup(self, id, group.size)
        raise LookupError(f"there is no group of jobs {id!r}")

    def groups(self) -> list[JobGroup]:
        """All groups, in the order in which they were launched."""
        return [JobGroup(self, group.id, group.size) for group in self.store.groups()]

    def status(self, id: str) -> JobStatus | None:
        """What the store has of a job now, lost or not; None if it has no such job."""
        return next(iter(self.store.states(Select([id]))), None)

    def curves(self, keys: Sequence[Key]) -> Iterator[dict[str, list[Point]]]:
        """The history of the metrics of some attempts, in the order of `keys`; see `mini.curves`."""
        from .curves import unpack

        return map(unpack, self.store.curves(keys))

    def outcome(self, job: JobRecord) -> tuple[BaseException | None, Any]:
        """What a record's attempt, which has ended, came to: the exception to raise, or else the result."""
        ended = job.current.ended
        assert ended is not None
        if ended.outcome is None:
            return _error(job, ended), None
        return self.unpack(job, ended, self.store.outcome(job.key))

    def unpack(self, job: JobRecord, ended: Ended, data: bytes) -> tuple[BaseException | None, Any]:
        """What `data`, the outcome of a record's attempt, is: the exception to raise, or else the result."""
        assert ended.outcome is not None
        if hashlib.sha256(data).hexdigest() != ended.outcome.digest:
            raise MiniError(
                f"what is kept as the outcome of job {job.id} is not what its worker put there; run it anew"
            )
        # Only a result needs these.
        from . import wire
        from .failure import Failure
        from .pickling import bringing

        with bringing(lambda: self._sent(job)):
            value = wire.unpack_part(wire.split_frames(data))[0][0]
            if not isinstance(value, Failure):
                return None, value
            error = value.exception()
        with suppress(Exception):
            error.__mini_failure__ = ended.failure  # type: ignore[attr-defined]
        return error, None

    def _sent(self, job: JobRecord) -> object:
        """What was sent to run a job, unpickled; the classes that it brings along are here as long as it is kept."""
        from . import wire
        from .joblaunch import JobProgram

        program = JobProgram.unpack(self.store.program(job.group))
        kind, rows = wire.unpack_rows(wire.split_frames(self.store.input(job.id)))
        before = list(sys.path)
        # What lies beside the launching script, if it is there, is not where this process looks for modules.
        sys.path += [entry for entry in program.path if entry not in before and Path(entry).is_dir()]
        try:
            fn = wire.loads(program.frames[0], buffers=program.frames[1:])
            return fn, [wire.arguments(kind, row) for row in rows]
        finally:
            sys.path[:] = before

    def _end_all(
        self,
        jobs: Sequence[JobStatus],
        state: JobState,
        why: Callable[[JobStatus], FailureRecord | None] = lambda job: None,
    ) -> list[JobStatus]:
        if not jobs:
            return []
        facts: list[tuple[Key, Fact]] = [
            (job.key, Ended(time.time(), state, failure=why(job))) for job in jobs
        ]
        added = self.store.put_once(facts)
        return [job for job, first in zip(jobs, added, strict=True) if first]


class Job:
    """A detached call. All that it says is read when it is asked, and is of the current attempt.

    Any of its methods raises LookupError once the job was removed.
    """

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
        raise self._removed()

    @property
    def status(self) -> JobStatus:
        """The little that is needed to wait for it."""
        for status in self._board.states(Select([self.id])):
            return status
        raise self._removed()

    def _removed(self) -> LookupError:
        return LookupError(f"there is no job {self.id!r}; it was removed")

    @property
    def state(self) -> JobState:
        return self.status.state

    @property
    def attempt(self) -> int:
        return self.status.attempt

    @property
    def progress(self) -> Progress | None:
        return self.record.current.report.progress

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record.current.report.metrics

    def curves(self) -> dict[str, list[Point]]:
        """What the current attempt emitted so far, by metric, in the order in which it came.

        A point is (step, seconds, value): the step is that of the latest `emit_progress`, or else 1, 2, 3, …; the
        seconds are from the begin of the call. Of many points 256 are kept, evenly spread, with the first and the last.
        A metric in a dict is called "outer.inner"; one that is no number has no curve.
        """
        return next(self._board.curves([self.status.key]))

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
            MiniError: its result is not there, or not as it was put.
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
        if record.current.ended is None:  # retried since
            return self._outcome(timeout)
        return self._board.outcome(record)

    def logs(self, follow: bool = False) -> Iterator[LogLine]:
        """What the current attempt printed; with `follow`, on until it has ended."""
        key, seen = self.status.key, 0
        for seconds in _pauses():
            now = self.status
            over = not follow or now.key != key or now.state.is_final
            lines = self._board.store.log(key, seen)
            yield from lines
            seen += len(lines)
            if over:
                return
            pause(seconds)

    def cancel(self) -> None:
        """End it. A job that has ended stays as it is."""
        self._board.cancel([self.status])

    def retry(self) -> None:
        """Run it again, under the same id.

        Raises:
            JobStateError: it is not FAILED, CANCELLED or LOST.
        """
        self._board.retry([self.status])

    async def await_(self) -> bool:
        """`wait` without blocking the event loop; `asyncio.timeout` limits it, as it does the other twins."""
        return await in_thread(self.wait)

    async def aresult(self) -> Any:
        """`result` without blocking the event loop. Cancelling it leaves the job alone."""
        return await in_thread(self.result)

    async def aexception(self) -> BaseException | None:
        """`exception` without blocking the event loop."""
        return await in_thread(self.exception)

    async def acurves(self) -> dict[str, list[Point]]:
        """`curves` without blocking the event loop."""
        return await in_thread(self.curves)

    async def alogs(self, follow: bool = False) -> AsyncIterator[LogLine]:
        """`logs` without blocking the event loop."""
        async for line in _in_threads(self.logs(follow)):
            yield line

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

    def records(self, states: Collection[JobState] | None = None) -> list[JobRecord]:
        """All that is known of its jobs now, or of those in `states`."""
        return self._board.read(Select(group=self.id, states=states))

    def states(self) -> list[JobStatus]:
        """The little of its records that is quick to read."""
        return self._board.states(Select(group=self.id))

    def counts(self) -> Counter[JobState]:
        """How many jobs are in each state now."""
        return Counter(job.state for job in self.states())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, at most `timeout` seconds; say whether they have."""
        try:
            for _ in self.as_completed(timeout):
                pass
        except TimeoutError:
            return False
        return True

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Its jobs as they end, those that have ended already first.

        Raises:
            TimeoutError: not all have ended within `timeout` seconds of the first request.
            LookupError: the group was removed.
        """
        seen: set[str] = set()
        deadline = None if timeout is None else time.monotonic() + timeout
        for seconds in _pauses(deadline):
            yield from self._ended(seen)
            if len(seen) >= self._size:
                return
            pause(seconds)
        yield from self._ended(seen)
        if len(seen) < self._size:
            raise TimeoutError(f"{self._size - len(seen)} of {self._size} jobs have not ended; they run on")

    def _ended(self, seen: set[str]) -> list[Job]:
        """Those that have ended and are not in `seen`, which they are from now on."""
        states = self.states()
        if not states and self._size:
            raise LookupError(f"there is no group of jobs {self.id!r}; it was removed")
        ended = [job.id for job in states if job.state.is_final and job.id not in seen]
        seen.update(ended)
        return [Job(self._board, id) for id in ended]

    def results(self, return_exceptions: bool = False, timeout: float | None = None) -> Iterator[Any]:
        """What its jobs returned, in the order of the inputs; read a few at a time, as they have ended.

        With `return_exceptions` the exception of a job that failed takes the place of its result.

        Raises:
            whatever the first job that failed raises, in the order of the inputs, as `Job.result` does.
            TimeoutError: one has not ended within `timeout` seconds of being asked for.
        """
        at = 0
        while at < self._size:
            if not self[at].wait(timeout):
                raise TimeoutError(f"job {self[at].id} has not ended within {timeout} s; it runs on")
            for error, value in self._fetch(at):
                if error is not None and not return_exceptions:
                    raise error
                yield value if error is None else error
                at += 1

    def _fetch(self, start: int) -> Iterator[tuple[BaseException | None, Any]]:
        """The outcomes of those from `start` on that have ended, as far as there is no gap, and not too many."""
        ids = [self[index].id for index in range(start, min(start + FETCH, self._size))]
        records: list[JobRecord] = []
        for record in self._board.store.read(Select(ids)):
            if record.index != start + len(records) or record.current.ended is None:
                break
            records.append(record)
        with_outcome = [r for r in records if r.current.ended is not None and r.current.ended.outcome]
        outcomes = self._board.store.outcomes([record.key for record in with_outcome])
        for record in records:
            ended = record.current.ended
            assert ended is not None
            yield (
                self._board.unpack(record, ended, next(outcomes))
                if ended.outcome
                else (_error(record, ended), None)
            )

    def retry(self, failed: bool = True) -> int:
        """Run those again that are FAILED or LOST, without `failed` also those CANCELLED; say how many."""
        states = {JobState.FAILED, JobState.LOST} if failed else {s for s in JobState if s.can_retry}
        jobs = self._board.states(Select(group=self.id, states=states))
        self._board.retry(jobs)
        return len(jobs)

    def cancel(self) -> None:
        """End all that have not ended."""
        self._board.cancel(self.states())

    def remove(self) -> None:
        """End all that have not ended, and forget the group, its results and its logs."""
        self.cancel()
        self._board.store.remove(self.id)

    async def await_(self) -> bool:
        """`wait` without blocking the event loop."""
        return await in_thread(self.wait)

    async def acounts(self) -> Counter[JobState]:
        """`counts` without blocking the event loop."""
        return await in_thread(self.counts)

    async def aas_completed(self) -> AsyncIterator[Job]:
        """`as_completed` without blocking the event loop."""
        async for job in _in_threads(self.as_completed()):
            yield job

    async def aresults(self, return_exceptions: bool = False) -> AsyncIterator[Any]:
        """`results` without blocking the event loop."""
        async for value in _in_threads(self.results(return_exceptions)):
            yield value

    async def aretry(self, failed: bool = True) -> int:
        """`retry` without blocking the event loop."""
        return await in_thread(self.retry, failed)

    async def acancel(self) -> None:
        """`cancel` without blocking the event loop."""
        await in_thread(self.cancel)


_END = object()


async def _in_threads(items: Iterator[Any]) -> AsyncIterator[Any]:
    """What a blocking iterator yields, without blocking the event loop."""
    while (item := await in_thread(next, items, _END)) is not _END:
        yield item


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
        why = f": {failure.message}" if failure is not None else ""
        error = JobCancelled(f"{what} was cancelled{why}")
    elif ended.state is JobState.LOST and failure is not None:
        error = WorkerLost(failure.message)
    elif ended.state is JobState.LOST and (claimed := record.current.claimed) is None:
        error = WorkerLost(f"nobody was left to start {what}; job.retry() runs it")
    elif ended.state is JobState.LOST and claimed is not None:
        where = f"on {claimed.worker.host}, process {claimed.worker.pid},"
        error = WorkerLost(f"the worker {where} of {what} vanished; job.retry() runs it again")
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
