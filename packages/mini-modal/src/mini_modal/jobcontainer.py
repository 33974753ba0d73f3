"""The Modal app that runs detached jobs, and what runs in its containers.

A module of its own, because it needs `modal` when it is imported, here and in the container.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal
from mini.errors import FailureKind, MiniError
from mini.jobboard import JobBoard, JobHost
from mini.jobrecord import JobState, JobStatus, Worker
from mini.jobwork import JobWorker
from mini.status import FailureRecord

from .containers import class_options, task_result
from .gate import VolumeGate
from .jobfiles import MountedFiles, RemoteFiles
from .jobstore import ModalJobStore, place_of
from .messages import INSIDE

if TYPE_CHECKING:
    from .session import Definition

__all__ = ["JobSetup", "make_jobs_app", "worker_id"]

REPORT_EVERY = 1.0
WATCH_EVERY = 2.0
"""Seconds between two looks at whether somebody has ended the attempt: a question to Modal each."""


@dataclass(frozen=True, slots=True)
class JobSetup:
    """What a container has to know: the apparatus's name, its volume's id, and where that is mounted."""

    name: str
    volume: str
    mount: str


def worker_id(call: str, position: int) -> str:
    """As whom a worker claims: the input of a call at Modal, of which Modal can say whether it is being run."""
    return f"{call}/{position}"


def make_jobs_app(
    definition: Definition, image: modal.Image, setup: JobSetup, volume: modal.Volume
) -> tuple[modal.App, Any]:
    """An app with one class, and that class. An input of its method `run` is an attempt at a job."""

    class JobContainer:
        @modal.enter()
        async def begin(self) -> None:
            self.host = Container(setup)
            await self.host.begin()

        @modal.exit()
        async def end(self) -> None:
            await self.host.end()

        @modal.method()
        async def run(self, id: str, number: int, position: int) -> None:
            await self.host.run(id, number, position)

    app = modal.App(definition.name)
    return app, app.cls(**class_options(definition, image, volume))(JobContainer)


class _NoHost(JobHost):
    """A worker starts, stops and looks after nobody."""

    def start(self, jobs: Any) -> None:
        raise NotImplementedError

    def stop(self, jobs: Any) -> None:
        raise NotImplementedError

    def lost(self, jobs: Any) -> set[str]:
        return set()


class Container:
    """What runs in a container: one attempt at a time, whose process stays warm for the next.

    Args:
        setup: what it has to know.
    """

    def __init__(self, setup: JobSetup) -> None:
        os.environ[INSIDE] = "1"
        self._loop = asyncio.get_running_loop()
        mount = Path(setup.mount)
        self._gate = VolumeGate(modal.Volume.from_id(setup.volume), mount)
        files = MountedFiles(mount, self._commit, RemoteFiles(f"mini-{setup.name}"))
        self._store = ModalJobStore(setup.name, files, patient=True)
        self._board = JobBoard(self._store, _NoHost())
        self._groups: set[str] = set()
        """Those that jobs were run of."""
        self._worker: JobWorker | None = None
        self._running: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        await self._gate.open()

    async def end(self) -> None:
        """Modal ends the container; a job that runs is lost."""
        await self._drop_worker()
        self._gate.close()
        await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        """See to it that what is known of groups that have ended lasts, whether or not anybody looks at them."""
        for group in self._groups:
            with suppress(MiniError, OSError):  # whoever looks does it too
                self._store.keep(group)

    async def _drop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
            if self._running is not None:
                await asyncio.wait([self._running])
            await asyncio.to_thread(worker.close)

    async def run(self, id: str, number: int, position: int) -> None:
        """Run an attempt, unless it was claimed before or has ended."""
        self._groups.add(place_of(id)[0])
        if self._gate.passed:
            await self._gate.reload()
        if self._worker is None:
            self._worker = JobWorker(
                self._board,
                Worker("", 0),
                env=self._gate.variables,
                report_every=REPORT_EVERY,
                watch_every=WATCH_EVERY,
            )
        worker = self._worker
        me = worker_id(modal.current_function_call_id() or "", position)
        worker.worker = Worker(os.environ.get("MODAL_TASK_ID", ""), os.getpid(), me)
        self._running = asyncio.ensure_future(asyncio.to_thread(self._run, worker, id, number, me))
        try:
            await asyncio.shield(self._running)
        except asyncio.CancelledError:
            # Nobody wants the attempt any more. Its process must be gone before this container gets another.
            await self._drop_worker()
            raise

    def _run(self, worker: JobWorker, id: str, number: int, me: str) -> None:
        if worker.run((id, number)):
            return
        # Modal gives an input to another container when the one that had it has ended: then that has claimed the
        # attempt, or one that has followed by itself.
        job = self._board.status(id)
        if job is None or job.worker is None or job.worker.id != me:
            return
        lost = job.state is JobState.LOST
        if job.state is JobState.RUNNING:
            lost = self._board.end(job.key, JobState.LOST, failure=_death(job))
        again = self._board.again(job) if lost else None
        if again is not None:
            worker.run(again)

    def _commit(self) -> None:
        asyncio.run_coroutine_threadsafe(self._gate.commit(), self._loop).result()


def _death(job: JobStatus) -> FailureRecord:
    """How the container of an attempt has ended, as far as Modal says."""
    from modal_proto import api_pb2

    kind: FailureKind = "lost"
    message = f"job {job.id}: its container died"
    assert job.worker is not None
    container = job.worker.host
    with suppress(Exception):  # it is for an error message, which must not be replaced by another
        result = asyncio.run(_asked(task_result, container))
        message = f"{message}: {result.exception}" if result.exception else message
        if result.status == api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL:
            kind = "out-of-memory"
    return FailureRecord(job.index, job.attempt, kind, "mini.errors.WorkerLost", message, "")


async def _asked(question: Any, container: str) -> Any:
    return await question(await modal.Client.from_env.aio(), container)
