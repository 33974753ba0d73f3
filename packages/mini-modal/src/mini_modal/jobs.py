"""Detached jobs on Modal: who runs them, and whether anybody still will.

Each launch, and each retry, is a detached app with one call, whose inputs are the attempts that it is to run. The app
goes on without its client, and Modal ends it when the last input is over. What is alive is what Modal says:

- An attempt that was claimed is its worker's, whose id is an input of a call. If that input is over and the attempt
  is not, it is lost.
- One that is still to be claimed is in the record of a call, and waits for its input likewise.
- Before that it is whose who launches it: an app of its own, without functions, is there meanwhile. Modal ends that one
  when its client is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mini import OptionError
from mini.jobboard import Bill, JobHost, Select
from mini.jobrecord import Claimed, GroupRecord, JobStatus, Worker, from_json
from mini.options import Options

from .asking import Missing, are_running, ask, gather, in_client, our_error, this_client
from .jobstore import STARTERS, CallRecord, ModalJobStore

if TYPE_CHECKING:
    from .session import Definition

__all__ = ["ModalJobHost"]

Input = tuple[str, int]
"""Of a call at Modal: its id, and the place among its inputs."""

MOST_SPAN, MOST_SPAN_WITH_GAPS = 1000, 49
"""How many inputs of a call are asked about at once. Modal's client asks about 49, and might be told of no more; where
all of them are waited for, as few answers as may be had are enough."""
NOT_PLAIN = frozenset({"image", "mounts", "network_file_systems", "proxy", "secrets", "volumes"})
"""Options of Modal's own that are made of objects, which the record of a group does not have."""
PAIRS = frozenset({"cpu", "memory"})
"""Those that may be two numbers."""
RESOURCES = ("cpu", "memory", "gpu", "max_workers")
"""Options that an app is made with, of those that the record of a group has. `env` comes with the group's program."""


class ModalJobHost(JobHost):
    """Starts apps for jobs, and asks Modal about them.

    Args:
        name: of the apparatus.
        store: where its jobs are.
        options: of the apparatus.
        define: what an app with some options is made of.
    """

    def __init__(
        self,
        name: str,
        store: ModalJobStore,
        options: Options,
        define: Callable[[Options], Definition],
    ) -> None:
        self._name = name
        self._store = store
        self._options = options
        self._define = define

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        # In a thread of its own: who launches jobs may be in an event loop.
        with ThreadPoolExecutor(1, thread_name_prefix="mini-modal-launch") as thread:
            stack = contextlib.ExitStack()
            thread.submit(ask, lambda: stack.enter_context(self._starter())).result()
            try:
                yield
            finally:
                thread.submit(ask, stack.close).result()

    @contextlib.contextmanager
    def _starter(self) -> Iterator[None]:
        """Let others see that somebody is about to start jobs."""
        import modal

        app = modal.App(f"mini-{self._name}-launching")
        with app.run(client=this_client()):
            mark = f"{STARTERS}{app.app_id}"
            self._store.index.put({mark: str(time.time())}, create=True)
            try:
                yield
            finally:
                self._store.index.pop(mark)

    # --- starting ---

    def start(self, jobs: Sequence[JobStatus]) -> None:
        from .connect import run

        records = {group.id: group for group in self._store.groups()}
        for id, some in itertools.groupby(sorted(jobs, key=_place), key=lambda job: job.group):
            members = list(some)
            record = records.get(id)
            if record is None:
                continue  # it was removed
            options = self._options
            if any(job.attempt > 1 for job in members):
                options = options_of(record, options)
            definition = self._define(options)
            run(partial(self._start, definition, members))

    async def _start(self, definition: Definition, jobs: Sequence[JobStatus]) -> None:
        """Start an app for jobs of a group."""
        try:
            await self._start_app(definition, jobs)
        except Exception as exc:
            known = await asyncio.to_thread(our_error, exc)
            if known is None or known is exc:
                raise
            raise known from known.__cause__ or exc

    async def _start_app(self, definition: Definition, jobs: Sequence[JobStatus]) -> None:
        import modal
        from mini.display import tell

        from .building import check_python, explain_image, python_of
        from .connect import client as connect
        from .containers import page_of
        from .jobcontainer import JobSetup, make_jobs_app

        client = await connect()
        volume = modal.Volume.from_name(definition.volume, create_if_missing=True, client=client)
        await volume.hydrate.aio()
        setup = JobSetup(self._name, volume.object_id, definition.mount)
        image = await asyncio.to_thread(definition.image)  # it asks uv
        app, worker = make_jobs_app(definition, image, setup, volume)
        keys = tuple((job.index, job.attempt) for job in jobs)
        try:
            async with app.run.aio(client=client, detach=True):
                check_python(python_of(image))
                inputs = ([job.id for job in jobs], [job.attempt for job in jobs], range(len(jobs)))
                call = await worker().run.experimental_spawn_map.aio(*inputs)
                tell(f"the app is at {await page_of(app)}", definition.progress)
                await asyncio.to_thread(
                    self._store.put_call, jobs[0].group, CallRecord(call.object_id, keys, app.app_id or "")
                )
        except modal.exception.Error as exc:
            known = await explain_image(exc, image, client)
            if known is None:
                raise
            raise known from exc

    # --- ending ---

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        """A worker finds out by itself; a call of which nothing is wanted any more is cancelled as a whole."""
        over: list[str] = []
        for group in {job.group for job in jobs}:
            left = {
                (job.index, job.attempt)
                for job in self._store.states(Select(group=group))
                if not job.state.is_final
            }
            stopped = {(job.index, job.attempt) for job in jobs if job.group == group}
            over += [
                call.id
                for call in self._store.calls(group)
                if stopped.intersection(call.keys) and not _may_run(call, left)
            ]
        if over:
            ask(lambda: in_client(_cancel)(this_client() or _from_env(), over))

    # --- what it costs ---

    def bill(self, groups: Sequence[GroupRecord]) -> Bill | None:
        from .billing import bill

        calls = [call for group in groups for call in self._store.calls(group.id)]
        return bill({call.app for call in calls if call.app}, min(group.origin.launched for group in groups))

    # --- looking ---

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        inputs = {job.id: _input_of(job.worker) for job in jobs if job.worker is not None}
        pending = [job for job in jobs if job.worker is None]
        lost: set[str] = set()
        unknown = self._find(pending, inputs)
        if unknown and not self._anybody_starts():
            # Who has started them meanwhile has left a record before it went.
            lost = {job.id for job in self._find(unknown, inputs)}
        over = self._over(set(inputs.values()))
        return lost | {id for id, place in inputs.items() if place in over}

    def _find(self, pending: Sequence[JobStatus], inputs: dict[str, Input]) -> list[JobStatus]:
        """Add the inputs that pending jobs wait for to `inputs`; those jobs that nobody has started."""
        started: dict[str, dict[tuple[int, int], Input]] = {}
        unknown: list[JobStatus] = []
        before: dict[str, Input] = {}
        for job in pending:
            if job.group not in started:
                started[job.group] = {
                    key: (call.id, position)
                    for call in self._store.calls(job.group)
                    for position, key in enumerate(call.keys)
                }
            if (found := started[job.group].get((job.index, job.attempt))) is not None:
                inputs[job.id] = found
                continue
            unknown.append(job)
            # It may have followed by itself: then it is the input's that had the one before, if that is not over.
            facts = self._store.facts(job.id).get(job.attempt - 1, {})
            if "claimed" in facts:
                before[job.id] = _input_of(from_json(Claimed, facts["claimed"]).worker)
        over = self._over(set(before.values()))
        by_itself = {id: place for id, place in before.items() if place not in over}
        inputs.update(by_itself)
        return [job for job in unknown if job.id not in by_itself]

    def _anybody_starts(self) -> bool:
        """Whether somebody is about to start jobs of this name, as far as Modal says."""
        marks = [key for key in self._store.index.all() if key.startswith(STARTERS)]
        apps = [mark.removeprefix(STARTERS) for mark in marks]
        if not apps:
            return False
        running = ask(lambda: in_client(are_running)(this_client() or _from_env(), apps))
        for mark, runs in zip(marks, running, strict=True):
            if not runs:
                self._store.index.pop(mark)
        return any(running)

    def _over(self, inputs: set[Input]) -> set[Input]:
        """Which inputs have ended, as Modal says."""
        if not inputs:
            return set()
        wanted: dict[str, list[int]] = defaultdict(list)
        for call, position in sorted(inputs):
            wanted[call].append(position)
        spans = [(call, *span) for call, positions in wanted.items() for span in _spans(positions)]
        answers = ask(lambda: in_client(_ended)(this_client() or _from_env(), spans))
        over: set[Input] = set()
        for (call, first, last), ended in zip(spans, answers, strict=True):
            over |= {(call, position) for position in (range(first, last + 1) if ended is None else ended)}
        return over & inputs


def options_of(group: GroupRecord, given: Options) -> Options:
    """The options of a group that was launched before, with those that are `given` now over them.

    Raises:
        OptionError: some of them are not in its record.
    """
    recorded = group.origin.options
    wanted = {name: recorded.get(name) for name in RESOURCES}
    wanted |= {name: value for name in RESOURCES if (value := getattr(given, name)) is not None}
    own = given.native.get("modal", {})
    kept = {
        # A record has lists for tuples, which Modal tells apart: (request, limit).
        name: tuple(value) if name in PAIRS and isinstance(value, list) else value
        for name, value in recorded.get("native", {}).get("modal", {}).items()
        if name not in RESOURCES or getattr(given, name) is None  # else it would hide what is given now
    }
    native = {**kept, **own}
    missing = [f"modal={{{name!r}: …}}" for name in sorted(NOT_PLAIN) if name in native and name not in own]
    if "image" in recorded and given.image is None:
        missing.append("image=…")
    if missing:
        raise OptionError(
            f"the jobs of {group.id} were launched with objects of Modal's, which nobody has kept: "
            f"retry them with app.w({', '.join(missing)}).group({group.id!r}).retry()"
        )
    return replace(Options(), **wanted, image=given.image, progress=given.progress, native={"modal": native})


def _may_run(call: CallRecord, left: set[tuple[int, int]]) -> bool:
    """Whether a call still has something to do, of the attempts that are `left` of a group."""
    numbers = dict(left)
    # An attempt that follows another by itself is run by the same input.
    return any(numbers.get(index, 0) >= number for index, number in call.keys)


def _place(job: JobStatus) -> tuple[str, int]:
    return job.group, job.index


def _input_of(worker: Worker) -> Input:
    """What a worker runs: see `mini_modal.jobcontainer.worker_id`."""
    call, _, position = worker.id.partition("/")
    return call, int(position)


def _spans(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of so many at once that they can be asked about."""
    first = last = -1
    gaps = False
    for position in positions:
        gap = gaps or position > last + 1
        if first >= 0 and position - first < (MOST_SPAN_WITH_GAPS if gap else MOST_SPAN):
            gaps = gap
        else:
            if first >= 0:
                yield first, last
            first, gaps = position, False
        last = position
    if first >= 0:
        yield first, last


# --- in the thread of Modal's client ---------------------------------------------------------------------------------


def _from_env() -> Any:
    import modal

    return modal.Client.from_env()


async def _cancel(client: Any, calls: Sequence[str]) -> None:
    from modal_proto import api_pb2

    requests = [api_pb2.FunctionCallCancelRequest(function_call_id=call) for call in calls]
    with contextlib.suppress(Missing):
        await gather(client._stub.FunctionCallCancel(request) for request in requests)


async def _ended(client: Any, spans: Sequence[tuple[str, int, int]]) -> list[list[int] | None]:
    """Of the inputs of a call from one to another, those that have ended; None for all of them."""
    from modal.exception import NotFoundError
    from modal_proto import api_pb2

    async def one(call: str, first: int, last: int) -> list[int] | None:
        request = api_pb2.FunctionGetOutputsRequest(
            function_call_id=call,
            timeout=0,
            last_entry_id="0-0",
            clear_on_success=False,
            requested_at=time.time(),
            start_idx=first,
            end_idx=last,
        )
        try:
            answer = await client._stub.FunctionGetOutputs(request)
        except NotFoundError:
            return None
        # What has ended long ago Modal has forgotten.
        return None if answer.num_unfinished_inputs == 0 else list(answer.idxs)

    return await gather(one(*span) for span in spans)
