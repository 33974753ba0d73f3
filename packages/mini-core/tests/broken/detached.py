"""DET: detached jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mini import LocalApparatus
from mini.jobboard import Job, JobBoard, JobState, JobStatus, Select
from mini.jobrecord import Fact, Key
from mini.local.jobs import LocalHost
from mini.local.jobstore import SqliteStore

from .registry import breaks


class Keeping(LocalApparatus):
    """Has its jobs kept and looked after by what a subclass says; the runner goes by its own."""

    board: type[JobBoard] = JobBoard
    store: type[SqliteStore] = SqliteStore
    host: type[LocalHost] = LocalHost

    def _open_jobs(self) -> JobBoard:
        store = self.store(self.data_root / "jobs" / self.name, self.data_root / "source")
        return self.board(store, self.host(self.data_root, self.name))


@breaks("test_det_01_spawn_returns_at_once", says="DID NOT RAISE")
class SpawnsWhileItLives(LocalApparatus):
    """Takes a job as if it had them, and starts what ends with the process."""

    def spawn(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.executor().submit(fn, *args, **kwargs)


@breaks("test_det_01_spawn_map_returns_a_group", says="TimeoutError", workers="process", patience=1)
class SpawnsNobody(Keeping):
    """Keeps jobs, and starts nobody to run them."""

    class Host(LocalHost):
        def start(self, jobs: Sequence[JobStatus]) -> None:
            pass

        def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
            return set()

    host = Host


@breaks("test_det_02_a_name_without_jobs", says="children", workers="process")
class StartsToRead(LocalApparatus):
    """Starts a worker to see which jobs there are."""

    def jobs(self) -> list[Job]:
        self.run(abs, -1)
        return super().jobs()


@breaks("test_det_02_the_history_of_metrics", says="several at once are not", workers="process")
class AnswersInItsOwnOrder(Keeping):
    """Gets what several jobs emitted with one question, and gives it as the answer has it."""

    class Store(SqliteStore):
        def curves(self, keys: Sequence[Key]) -> Iterator[bytes | None]:
            return super().curves(sorted(keys))

    store = Store


@breaks("test_det_03_states_never_go_backwards", says="PENDING after RUNNING", workers="process")
class ReadsOldStates(Keeping):
    """Reads of copies, not all of which are up to date."""

    class Store(SqliteStore):
        looks = 0

        def states(self, select: Select) -> list[JobStatus]:
            states = super().states(select)
            running = [job for job in states if job.state is JobState.RUNNING]
            self.looks += bool(running)
            if running and self.looks % 2 == 0:
                return [_as_it_was(job) for job in states]
            return states

    store = Store


def _as_it_was(job: JobStatus) -> JobStatus:
    return JobStatus(job.id, job.group, job.index, job.attempt, JobState.PENDING, job.created)


@breaks("test_det_04_result_waits", says="assert not", workers="process")
class DoesNotWait(LocalApparatus):
    """Takes the answer that it gets first for the last."""

    def spawn(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        job = super().spawn(fn, *args, **kwargs)
        job.wait = lambda timeout=None: True  # type: ignore[method-assign]
        return job


@breaks("test_det_05_cancel_pending", says="CANCELLED", workers="process")
class CancelsInVain(Keeping):
    """Tells the worker of a job that is cancelled, if there is one, and nobody else."""

    class Board(JobBoard):
        def cancel(self, jobs: Sequence[JobStatus]) -> None:
            self.host.stop(jobs)

    board = Board


@breaks("test_det_06_lost_jobs_are_seen", says="the loss did not happen", workers="process", patience=1)
class NeverGivesUp(Keeping):
    """Believes that a worker which said that it runs still does."""

    class Host(LocalHost):
        def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
            return set()

    host = Host


@breaks("test_det_07_a_worker_that_was_given_up_on", says=r"\[True", workers="process")
class LastOneWins(Keeping):
    """Believes whoever writes."""

    class Store(SqliteStore):
        def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
            super().put_once(facts)
            return [True] * len(facts)

    store = Store


@breaks("test_det_08_retry_what_failed", says="attempt 1", workers="process")
class NeverTriesAgain(Keeping):
    """Looks at whether a job may be retried, and that is all."""

    class Board(JobBoard):
        def retry(self, jobs: Sequence[JobStatus]) -> None:
            pass

    board = Board
