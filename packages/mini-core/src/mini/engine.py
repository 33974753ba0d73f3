"""The engine: window, order, grouping, retries, timeouts and cancellation, one implementation for all backends.

An engine has one carrier. Whoever waits for results drives it: one of the waiting threads polls the carrier for all
of them, the others sleep until something has changed. So a single call costs no thread switch. When nobody waits and
calls run, for instance because the consumer of a map is busy with the last result, a helper thread (the *steward*)
takes over until somebody does.
"""

from __future__ import annotations

import itertools
import marshal
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from . import wire
from .carrier import Broken, Carrier, Event, Group, Lost, Outcomes, Reports, Returned, Task
from .errors import (
    JobCancelled,
    JobTimeout,
    MiniError,
    WorkerLost,
)
from .failure import Failure
from .inputs import PULL_SECONDS, Source
from .output import Report
from .status import CallRecord, FailureRecord, FlowStatus, LogLine, Progress, WorkerStatus
from .wire import Frames

__all__ = ["Engine", "Flow", "Part", "Records"]

GROUP_SECONDS = 0.03
"""Calls are grouped until a group takes about this long: many times a round trip, too short to wait for."""
GROUP_BYTES = 1 << 20
MOST_CHUNK = 2048
CHUNK_GROWTH = 8
FIRST_WINDOW, LAST_WINDOW = 2048, 8192
"""Inputs in flight or waiting to be consumed, unless `window` says otherwise: the more results the consumer has taken,
the surer it is that it wants more of them, and calls that are tiny are faster with more."""
STEWARD_DELAY = 0.02
"""Seconds that nobody must have driven before the steward does."""
STEWARD_LINGERS = 0.25
SHOW_AFTER = 0.5
CANCEL_GRACE = 0.1

_group_ids = itertools.count(1)  # 0 is what a worker that has not begun is at
_flow_ids = itertools.count()
_id_prefix = os.urandom(4).hex() + "-"


@dataclass(slots=True, repr=False)
class Part:
    """Outcomes of `count` consecutive calls from `start` on: values once unpacked, with Failures among them."""

    start: int
    count: int
    frames: Frames
    values: list[Any] | None = None
    failed: bool = False

    def unpack(self) -> list[Any]:
        if self.values is None:
            self.values, self.failed = wire.unpack_part(self.frames)
            self.frames = []
        return self.values


@dataclass(eq=False, repr=False)
class Flow:
    """One `run`, `map` or `stream` on its way."""

    task: Task
    source: Source
    status: FlowStatus
    ordered: bool = True
    return_exceptions: bool = False
    retries: int = 0
    window: int | None = None
    chunk: int = MOST_CHUNK
    progress: bool | None = None
    live_logs: bool = False
    on_change: Callable[[], None] | None = None
    """Called, with the lock held, when parts have arrived or the flow has ended; makes the steward drive it."""
    on_start: Callable[[], bool] | None = None
    """Called, with the lock held, before a group starts; False drops the flow."""
    inline_driver: bool = True

    pulled: int = 0
    handed: int = 0
    owed: int = 0
    """Items of a stream that were taken and that its worker has not been credited for."""
    backlog: deque[Group] = field(default_factory=deque)
    running: dict[int, Group] = field(default_factory=dict)
    ready: deque[Part] = field(default_factory=deque)
    waiting: dict[int, Part] = field(default_factory=dict)
    next: int = 0
    stop_at: int | None = None
    """Index of a call that failed for good; calls after it are not started any more."""
    attempts: dict[int, int] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)
    """Short reprs of the inputs of failed calls."""
    failures: dict[int, FailureRecord] = field(default_factory=dict)
    pulling: bool = False
    abandoned: bool = False
    broken: BaseException | None = None
    mean: float | None = None
    """Seconds that a call takes, as far as is known."""
    size: float = 0.0
    """Bytes that a call takes, input or outcome, whichever is larger."""
    last_chunk: int = 1
    shown: bool = False
    recorded: bool = False
    """Whether there is a record of one of its calls."""
    lent: bool = False
    """Whether a worker that waits for it has made room for another."""

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def complete(self) -> bool:
        """All outcomes there will be are in `ready` or were handed out."""
        if self.running or self.backlog or self.pulling:
            return False
        return self.source.empty or self.stop_at is not None

    def total_is_known(self, total: int | None) -> None:
        self.status.total = total

    def deliver(self, part: Part) -> None:
        if not self.ordered:
            self.ready.append(part)
            return
        self.waiting[part.start] = part
        while (arrived := self.waiting.pop(self.next, None)) is not None:
            self.ready.append(arrived)
            self.next = arrived.start + arrived.count


class Records:
    """What calls emitted, printed and failed with, for an apparatus in this process; the oldest are dropped."""

    MOST = 1000
    MOST_LINES = 10_000

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[str, int], CallRecord] = OrderedDict()
        self._lines = 0

    def of(self, flow: Flow, index: int, attempt: int) -> CallRecord:
        key = (flow.id, index)
        flow.recorded = True
        record = self._records.get(key)
        if record is None:
            record = CallRecord(f"{flow.id}-{index}", index, attempt, flow.status.function)
            self._records[key] = record
            if len(self._records) > self.MOST:
                self._lines -= len(self._records.popitem(last=False)[1].log)
        record.attempt = max(record.attempt, attempt)
        return record

    def get(self, flow: Flow, index: int) -> CallRecord | None:
        return self._records.get((flow.id, index))

    def note_lines(self, count: int) -> None:
        self._lines += count
        while self._lines > self.MOST_LINES:
            oldest = next((r for r in self._records.values() if r.log), None)
            if oldest is None:
                break
            dropped = len(oldest.log) if len(self._records) > 1 else self._lines - self.MOST_LINES
            del oldest.log[: max(1, dropped)]
            self._lines -= max(1, dropped)

    def all(self) -> list[CallRecord]:
        return list(self._records.values())

    def settle(self, flow: Flow) -> None:
        """The flow has ended: what still counts as running ended with it."""
        for (flow_id, index), record in self._records.items():
            if flow_id == flow.id and record.state == "RUNNING":
                record.state = "FAILED" if index in flow.failures else "DONE"


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

_running_calls: ContextVar[tuple[Engine, ...]] = ContextVar("mini_running_calls", default=())
"""The engines in whose `poll` this is a call: a coroutine, for instance, may be in a thread of its own."""


class Engine:
    """Runs flows over one carrier. Thread-safe."""

    def __init__(self, carrier: Carrier, records: Records) -> None:
        self.carrier = carrier
        self.records = records
        self._lock = carrier.lock
        self._changed = threading.Condition(self._lock)
        self._flows: dict[str, Flow] = {}
        self._turn: deque[Flow] = deque()
        self._by_group: dict[int, Flow] = {}
        self._driver: int | None = None
        self._waiting = 0
        self._driven = 0.0
        self._steward: threading.Thread | None = None
        self._doomed_until = 0.0
        self._closed: str | None = None
        self._later: deque[Callable[[], None]] = deque()
        carrier.on_reports = self._report_now
        _engines.add(self)

    # --- for the apparatus ---

    def begin(self, flow: Flow) -> None:
        """Start to work on `flow`. Raises RuntimeError if the engine is closed."""
        with self._lock:
            self._check_open()
            self._driven = time.monotonic()  # whoever begins it may be about to wait for it
            self._flows[flow.id] = flow
            self._turn.append(flow)
            if flow.live_logs:
                self._show(flow)
            if flow.on_change is not None and self.carrier.inside():
                flow.lent = True
                self.carrier.lend(+1)
            self._feed(flow)
            if flow.on_change is not None:
                if flow in self._turn:
                    self._ensure_steward()  # whoever drives now may be gone when there is room
                self._drive_within(flow)
            if self._driver is not None:
                self.carrier.wake()

    def next_part(self, flow: Flow) -> Part | None:
        """The next outcomes of `flow`, as soon as there are some; None after the last.

        Raises what the input iterator raised, after the outcomes of the inputs before.
        """
        inside = self.carrier.inside()
        with self._lock:
            if inside:
                self.carrier.lend(+1)
            try:
                while (part := self._take(flow)) is None:
                    if self._finished(flow):
                        return None
                    if self._driver is None or self._drives():
                        self._drive(None)
                    else:
                        self._waiting += 1
                        try:
                            self._changed.wait()
                        finally:
                            self._waiting -= 1
                return part
            finally:
                if inside:
                    self.carrier.lend(-1)

    def try_next_part(self, flow: Flow) -> tuple[Part | None, bool]:
        """As `next_part`, but at once: (part or None, whether the flow has ended)."""
        with self._lock:
            self._drive_within(flow)
            part = self._take(flow)
            return part, part is None and self._finished(flow)

    def consumed(self, flow: Flow, count: int) -> None:
        """The consumer is done with `count` outcomes that it was given."""
        flow.handed += count
        if flow.task.head.mode == "stream" and not flow.complete:
            flow.owed += count
            if 2 * flow.owed >= flow.task.head.credit:  # not an order for each item, and none too late
                with self._lock:
                    self.carrier.credit(flow.task, flow.owed)
                flow.owed = 0

    def abandon(self, flow: Flow, *, cancel: bool) -> None:
        """Nobody wants more of `flow`: drop what has not started and, with `cancel`, end what runs."""
        with self._lock:
            if flow.abandoned:
                return
            flow.abandoned = True
            self._let_go(flow)
            finished = flow.complete
            flow.backlog.clear()
            flow.ready.clear()
            flow.waiting.clear()
            if flow.status.state == "RUNNING":
                flow.status.state = "DONE" if finished else "CANCELLED"
            if not self._closed:
                if flow.running:
                    if flow.task.head.mode == "stream":
                        self.carrier.credit(flow.task, 0)
                    self.carrier.retract(flow.task)
                    if cancel:
                        self.carrier.doom(flow.task, CANCEL_GRACE)
                        self._doomed_until = time.monotonic() + CANCEL_GRACE
                    self._ensure_steward()
                self.carrier.forget(flow.task)
            if flow.recorded:
                self.records.settle(flow)
            shown, flow.shown = flow.shown, False
            self._changed.notify_all()
            if flow.on_change is not None and self._driver is not None:
                self.carrier.wake()  # the steward may have driven for this flow alone
        if shown:  # without the lock, because a slow terminal makes it wait
            from . import display

            display.hide(flow.status)
        flow.source.close()

    def interrupt(self) -> None:
        """Ctrl-C: end all workers now. The next call starts new ones."""
        with self._lock:
            for flow in list(self._flows.values()):
                flow.broken = JobCancelled("cancelled by Ctrl-C in the calling process")
                self._announce(flow)
            self._by_group.clear()
            self._turn.clear()  # nothing of them is started any more
            self.carrier.close(kill=True)
            self._changed.notify_all()
            self._run_later()  # there may be nobody left to drive

    def close(self, *, kill: bool = False) -> None:
        """End everything; flows that still run fail with RuntimeError. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = "the apparatus is closed; make a new one"
            shown = [flow for flow in self._flows.values() if flow.shown]
            for flow in list(self._flows.values()):
                flow.shown = False
                if flow.on_change is not None:
                    flow.on_change()
            self._flows.clear()
            self._turn.clear()
            self.carrier.wake()
            self._changed.notify_all()
            # Whoever polls right now must be out before its descriptors go away.
            deadline = time.monotonic() + 5
            while self._driver is not None and not self._drives() and time.monotonic() < deadline:
                self.carrier.wake()
                self._changed.wait(0.1)
            self.carrier.close(kill=kill)
            self._run_later()
            steward = self._steward
        if steward is not None and steward is not threading.current_thread():
            steward.join(5)
        for flow in shown:
            from . import display

            flow.status.state = "CANCELLED"
            display.hide(flow.status)

    def later(self, job: Callable[[], None]) -> None:
        """Have `job` run soon, in the thread that drives, without the lock."""
        self._later.append(job)

    # --- inside, with the lock held ---

    def _run_later(self) -> None:
        while self._later:
            job = self._later.popleft()
            self._lock.release()
            try:
                job()
            finally:
                self._lock.acquire()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(self._closed)

    def _take(self, flow: Flow) -> Part | None:
        if flow.ready and (flow.task.single or flow.source.seconds > PULL_SECONDS):
            return flow.ready.popleft()
        if flow.broken is None and not flow.abandoned:
            self._check_open()
            self._feed(flow)
        return flow.ready.popleft() if flow.ready else None

    def _finished(self, flow: Flow) -> bool:
        if flow.broken is not None:
            raise flow.broken
        if flow.complete:
            if flow.source.error is not None and flow.stop_at is None:
                error, flow.source.error = flow.source.error, None
                raise error
            return True
        self._check_open()
        return flow.abandoned

    def _feed(self, own: Flow | None) -> None:
        """Start groups while there is room and work. Inputs of the user's own iterators are pulled only for `own`."""
        turn = self._turn
        if not turn:
            if self._by_group:
                self.carrier.steal()
            return
        until = time.monotonic() + PULL_SECONDS
        idle = 0
        while idle < len(turn):
            flow = turn[0]
            turn.rotate(-1)
            group = None
            if self.carrier.room(flow.task) > 0:
                # The results that have come meanwhile do not wait for more inputs of a slow iterator.
                mine = flow is own and not (flow.ready and time.monotonic() > until)
                group = self._next_group(flow, pull=mine or flow.source.anywhere)
            if group is None:
                if not flow.backlog and flow.source.empty and not flow.pulling:
                    self._out_of_turn(flow)  # nothing left to start; `_put_back` brings it back
                else:
                    idle += 1
                continue
            idle = 0
            # While the inputs were pulled, without the lock, the flow may have been abandoned or the room been taken.
            if flow.abandoned:
                continue
            if self.carrier.room(flow.task) <= 0:
                flow.backlog.append(group)
                continue
            if flow.on_start is not None and not flow.on_start():
                self._drop(flow)
                continue
            if not flow.task.single or flow.on_change is not None or not self.carrier.background:
                self._ensure_steward()
            flow.running[group.id] = group
            self._by_group[group.id] = flow
            label = group.worker = self.carrier.start(group)
            worker = flow.status.workers.get(label)
            if worker is None:
                worker = flow.status.workers[label] = WorkerStatus(label)
            worker.index = group.start
            worker.since = time.monotonic()
            worker.progress, worker.metrics = None, {}
        if self._by_group:
            self.carrier.steal()

    def _drop(self, flow: Flow) -> None:
        """A future was cancelled before its call started."""
        flow.abandoned = True
        self._let_go(flow)
        self.carrier.forget(flow.task)

    def _let_go(self, flow: Flow) -> None:
        self._flows.pop(flow.id, None)
        self._out_of_turn(flow)
        if flow.lent:
            flow.lent = False
            self.carrier.lend(-1)

    def _out_of_turn(self, flow: Flow) -> None:
        # Most have left it already; the error that `remove` then raises would have a repr of all that they carry.
        if flow in self._turn:
            self._turn.remove(flow)

    def _next_group(self, flow: Flow, *, pull: bool) -> Group | None:
        while flow.backlog:
            group = flow.backlog.popleft()
            if flow.stop_at is None or group.start < flow.stop_at or not flow.ordered:
                return group
        while pull and not (flow.pulling or flow.source.empty or flow.abandoned) and flow.stop_at is None:
            count = self._chunk(flow)
            if count < 1:
                return None
            pulled = self._pull(flow, count)
            if pulled is not None:
                return pulled
        return None

    def _chunk(self, flow: Flow) -> int:
        """How many calls the next group should have; 0 if the window is full."""
        window = flow.window or min(LAST_WINDOW, FIRST_WINDOW + flow.handed)
        left = window - (flow.pulled - flow.handed)
        if flow.mean is None or flow.chunk == 1:
            return min(left, 1)
        count = GROUP_SECONDS / max(flow.mean, 1e-9)
        if 2 * flow.mean <= self.carrier.pair_seconds:
            count = max(2, count)
        count = min(count, flow.last_chunk * CHUNK_GROWTH, flow.chunk)
        if flow.size:
            count = min(count, GROUP_BYTES / flow.size)
        if (
            total := flow.status.total
        ) is not None:  # towards the end smaller ones, so that all workers end together
            count = min(count, (total - flow.pulled) / (2 * self.carrier.width))
        # Groups for every worker to have one, to have one at hand, and one that is being consumed.
        count = min(count, window / (2 * self.carrier.width + 1), left)
        return min(max(1, int(count)), left)

    def _pull(self, flow: Flow, count: int) -> Group | None:
        """Pull and pack inputs, without the lock; None if there were none."""
        flow.pulling = True
        self._lock.release()
        try:
            packed = flow.source.take(count)
        finally:
            self._lock.acquire()
            flow.pulling = False
        start = flow.pulled
        flow.pulled += packed.count
        if packed.error is not None:
            flow.pulled += 1
            index = start + packed.count
            flow.inputs[index] = ", ".join(map(wire.BRIEF.repr, packed.bad))
            self._fail(flow, index, 1, Failure.of(packed.error, "serialization"))
        if packed.error is not None or not packed.count:
            # The flow may be complete with this, and its consumer may be another thread, which found it pulling.
            self._announce(flow)
            self._changed.notify_all()
            if self._driver is not None:
                self.carrier.wake()
        if not packed.count:
            return None
        flow.last_chunk = packed.count
        payload_size = sum(memoryview(f).nbytes for f in packed.frames) / packed.count
        flow.size = max(payload_size, flow.size * 0.9)
        return Group(next(_group_ids), flow.task, start, packed.count, 1, packed.frames)

    def _drive(self, timeout: float | None) -> None:
        """Poll the carrier once and deal with what comes."""
        before, self._driver = self._driver, threading.get_ident()
        events: list[Event] = []
        inside = None if self.carrier.background else _running_calls.set((*_running_calls.get(), self))
        try:
            timeout = self._poll_time(timeout)
            self._lock.release()
            try:
                events = self.carrier.poll(timeout)
            finally:
                self._lock.acquire()
                if inside is not None:
                    _running_calls.reset(inside)
        finally:
            self._driver = before
            self._driven = time.monotonic()
            try:
                for event in events:
                    self._handle(event)
                if events:
                    self._announce_room()
            finally:
                if self._waiting or self._closed:
                    self._changed.notify_all()
        self._run_later()

    def _drives(self) -> bool:
        """Whether this is the thread that drives, or a call that it runs."""
        driver = self._driver
        return driver == threading.get_ident() or (driver is not None and self in _running_calls.get())

    def _drive_within(self, flow: Flow) -> None:
        """Drive for a call that runs in the thread that drives, and waits in a way that leaves nobody else to do it."""
        while self._drives():
            if flow.ready or flow.complete or flow.broken is not None or flow.abandoned or self._closed:
                return
            self._feed(flow)
            if not flow.ready and not flow.complete:
                self._drive(None)

    def _poll_time(self, timeout: float | None) -> float | None:
        now = time.monotonic()
        for flow in list(self._flows.values()):  # a copy: the garbage collector may close a flow at any time
            if not flow.shown and flow.progress is not False:
                left = flow.status.started + SHOW_AFTER - now
                if left <= 0:
                    self._show(flow)
                elif timeout is None or left < timeout:
                    timeout = left
        return timeout

    def _show(self, flow: Flow) -> None:
        with wire.importing:
            from . import display  # only now: most calls never show anything

        bars = display.enabled(flow.progress)
        if bars or flow.live_logs:
            flow.shown = True
            display.show(flow.status, bars=bars)
        else:
            flow.progress = False

    # --- events ---

    def _handle(self, event: Event) -> None:
        if isinstance(event, Outcomes):
            self._on_outcomes(event)
        elif isinstance(event, Reports):
            self._on_reports(event.reports)
        elif isinstance(event, Returned):
            self._on_returned(event)
        elif isinstance(event, Lost):
            self._on_lost(event)
        elif isinstance(event, Broken):
            for flow in list(self._flows.values()):
                if flow.running or flow.backlog or not flow.source.empty:
                    flow.broken = event.error
                    self._announce(flow)

    def _announce_room(self) -> None:
        """Workers may have become free for flows whose inputs only their consumers may pull."""
        for flow in list(self._turn):
            if flow.on_change is not None and not flow.source.anywhere and self.carrier.room(flow.task) > 0:
                flow.on_change()

    def _announce(self, flow: Flow) -> None:
        if flow.on_change is not None:
            flow.on_change()

    def _on_outcomes(self, event: Outcomes) -> None:
        group = event.group
        flow = self._by_group.get(group.id)
        if flow is None:
            return
        if event.frames and not flow.abandoned:
            self._receive(flow, group, event.frames)
        if event.elapsed is not None:
            self._end_group(flow, group)
            if group.received < group.count and flow.task.head.mode != "stream":
                # The others were given back, and the end of the group has overtaken the word of it.
                self._requeue(flow, group, group.received, group.count, spread=True)
            if group.received and not flow.task.single:
                latest = event.elapsed / 1e9 / group.received
                mean = flow.mean
                flow.mean = latest if mean is None or latest < mean else (mean + latest) / 2
                flow.task.quick = flow.mean * max(flow.last_chunk, 1) < self.carrier.quick_seconds
        self._announce(flow)

    def _end_group(self, flow: Flow, group: Group) -> None:
        self._by_group.pop(group.id, None)
        flow.running.pop(group.id, None)
        worker = flow.status.workers.get(group.worker)
        if worker is not None and not any(g.worker == group.worker for g in flow.running.values()):
            worker.index = worker.progress = None

    def _receive(self, flow: Flow, group: Group, frames: Frames) -> None:
        """Deliver a part; outcomes that had arrived before (saved from the journal) are skipped."""
        _, position, count, failed = marshal.loads(frames[0])
        start = group.start + position
        part = Part(start, count, frames, failed=bool(failed))
        if flow.task.head.mode == "stream":
            start = part.start = position
        elif position < group.received:
            known = group.received - position
            if known >= count:
                return
            part = Part(start + known, count - known, [], part.unpack()[known:], part.failed)
        size = sum(memoryview(f).nbytes for f in frames) / count
        flow.size = max(flow.size, size)
        group.received = max(group.received, position + count)
        if part.failed:
            self._sort_out(flow, group, part)
        else:
            flow.status.done += count
            flow.deliver(part)

    def _sort_out(self, flow: Flow, group: Group, part: Part) -> None:
        """Deliver a part that has failures among its outcomes: retry those that may be, record the others."""
        values = part.unpack()
        good: list[Any] = []
        begin = part.start
        for index, value in enumerate(values, part.start):
            if type(value) is not Failure:
                good.append(value)
                continue
            if good:
                flow.status.done += len(good)
                flow.deliver(Part(begin, len(good), [], good))
            good, begin = [], index + 1
            self._failed(flow, group, index, value)
        if good:
            flow.status.done += len(good)
            flow.deliver(Part(begin, len(good), [], good))

    def _failed(self, flow: Flow, group: Group, index: int, failure: Failure) -> None:
        """A call failed: run it again if it has retries left, else deliver the failure."""
        retriable = (
            failure.kind in ("user", "lost", "out-of-memory", "timeout") and flow.task.head.mode != "stream"
        )
        if retriable and group.attempt <= flow.retries and not flow.abandoned:
            flow.status.retried += 1
            flow.attempts[index] = group.attempt + 1
            payload = wire.slice_payload(group.payload, index - group.start, index - group.start + 1)
            again = Group(next(_group_ids), flow.task, index, 1, group.attempt + 1, payload)
            self._put_back(flow, [again])
            return
        position = 0 if flow.task.head.mode == "stream" else index - group.start
        died = failure.kind in ("lost", "out-of-memory")
        flow.inputs[index] = wire.brief_input(group.payload, position, careful=died)
        self._fail(flow, index, group.attempt, failure)

    def _fail(self, flow: Flow, index: int, attempt: int, failure: Failure) -> None:
        record = FailureRecord(index, attempt, failure.kind, failure.type_name, failure.message, failure.text)
        call = self.records.of(flow, index, attempt)
        call.failure, call.state = record, "FAILED"
        flow.failures[index] = record
        flow.status.failed += 1
        flow.status.done += 1
        if not flow.return_exceptions:
            flow.stop_at = index if flow.stop_at is None else min(index, flow.stop_at)
        flow.deliver(Part(index, 1, [], [failure], failed=True))

    def _on_returned(self, event: Returned) -> None:
        group = event.group
        flow = self._by_group.get(group.id)
        if flow is None or not event.count:
            return
        count = min(event.count, group.count)
        if count == group.count:
            self._end_group(flow, group)
        self._requeue(flow, group, group.count - count, group.count, spread=True)
        group.count -= count

    def _requeue(self, flow: Flow, group: Group, begin: int, end: int, *, spread: bool = False) -> None:
        """Put calls of a group that did not start back in front; `spread` them over groups for all workers."""
        if flow.abandoned or begin >= end:
            return
        step = max(1, (end - begin) // (2 * self.carrier.width)) if spread else end - begin
        pieces = []
        for at in range(begin, end, step):
            stop = min(at + step, end)
            payload = wire.slice_payload(group.payload, at, stop)
            pieces.append(
                Group(next(_group_ids), flow.task, group.start + at, stop - at, group.attempt, payload)
            )
        self._put_back(flow, pieces)

    def _put_back(self, flow: Flow, groups: list[Group]) -> None:
        flow.backlog.extendleft(reversed(groups))
        if flow not in self._turn:
            self._turn.append(flow)

    def _on_lost(self, event: Lost) -> None:
        group = event.group
        flow = self._by_group.get(group.id)
        if flow is None:
            return
        self._end_group(flow, group)
        if flow.abandoned:
            return
        if event.running is not None and event.running < group.received:
            event.running = -1  # its outcome had arrived
        if flow.task.head.mode == "stream":
            # Items that arrived count; the stream itself cannot go on elsewhere.
            if event.running == -1:
                self._requeue(flow, group, 0, 1)
            else:
                self._fail(flow, flow.next, group.attempt, self._lost_failure(flow, group, 0, event))
        elif event.running is None:
            # Which call killed the worker is not known. One by one, the others come through.
            if group.count - group.received == 1:
                self._failed_lost(flow, group, group.received, event)
            else:
                for at in range(group.received, group.count):
                    self._requeue(flow, group, at, at + 1)
        elif event.running < 0:
            self._requeue(flow, group, group.received, group.count)
        else:
            self._requeue(flow, group, event.running + 1, group.count)
            self._failed_lost(flow, group, event.running, event)
        self._announce(flow)

    def _failed_lost(self, flow: Flow, group: Group, position: int, event: Lost) -> None:
        failure = self._lost_failure(flow, group, position, event)
        self._failed(flow, group, group.start + position, failure)

    def _lost_failure(self, flow: Flow, group: Group, position: int, event: Lost) -> Failure:
        if event.kind == "timeout":
            error: MiniError = JobTimeout(f"{flow.status.function}: {event.reason}")
        elif event.kind == "cancelled":
            error = JobCancelled(f"{flow.status.function}: {event.reason}")
        else:
            error = WorkerLost(f"{flow.status.function}: {event.reason}")
        return Failure.of(error, event.kind)

    def _on_reports(self, reports: list[Report]) -> None:
        for flow_id, index, attempt, kind, data in reports:
            flow = self._flows.get(flow_id)
            if flow is None:
                continue
            record = self.records.of(flow, index, attempt)
            worker = self._worker_of(flow, index)
            if worker is not None and worker.index != index:
                worker.index, worker.progress, worker.metrics = index, None, {}
            if kind == "progress":
                record.progress = Progress(*data)
                if worker is not None:
                    worker.progress = record.progress
            elif kind == "metrics":
                record.metrics.update(data)
                if worker is not None:
                    worker.metrics = dict(record.metrics)
            else:
                lines = [LogLine(record.id, index, kind, text) for text in data]  # type: ignore[arg-type]
                record.log.extend(lines)
                self.records.note_lines(len(lines))
                if flow.live_logs:
                    flow.status.log.extend(lines)

    def _report_now(self, reports: list[Report]) -> None:
        with self._lock:
            self._on_reports(reports)

    def _worker_of(self, flow: Flow, index: int) -> WorkerStatus | None:
        for group in flow.running.values():
            if group.start <= index < group.start + group.count:
                return flow.status.workers.get(group.worker)
        return None

    # --- the steward ---

    def _ensure_steward(self) -> None:
        if self._steward is None and not self._closed:
            self._steward = threading.Thread(target=self._serve, name="mini-steward", daemon=True)
            self._steward.start()

    def _serve(self) -> None:
        """Drive while flows run and nobody else does; end when there is nothing left to drive."""
        with self._lock:
            try:
                self._drive_for_others()
            except BaseException as exc:
                # A defect, of the carrier or of ours. Whoever waits must hear of it instead of waiting for ever.
                for flow in list(self._flows.values()):
                    flow.broken = exc
                    self._announce(flow)
                raise
            finally:
                self._steward = None
                self._changed.notify_all()

    def _drive_for_others(self) -> None:
        idle_since = None
        while not self._closed:
            urgent = any(flow.on_change is not None for flow in list(self._flows.values()))
            busy = bool(self._by_group) and (urgent or self.carrier.background)
            if not busy and not (urgent and self._turn):
                now = time.monotonic()
                idle_since = idle_since or now
                if not self._flows and now > max(self._doomed_until, idle_since + STEWARD_LINGERS):
                    return
                self._poll_time(
                    None
                )  # a carrier that runs calls itself leaves nobody else to look at the time
                self._changed.wait(STEWARD_DELAY)
                continue
            idle_since = None
            taken = self._driver is not None or (self._waiting and not urgent)
            if taken or not (urgent or time.monotonic() - self._driven >= STEWARD_DELAY):
                self._changed.wait(STEWARD_DELAY)
            else:
                self._feed(None)
                self._drive(None if urgent else 0.05)
                self._feed(None)

    # --- fork ---

    def forked(self) -> None:
        """This process is a forked copy. Nothing here may be waited for; the workers are the parent's."""
        self.carrier.lock = self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = "this apparatus was in use when the process was forked; its calls stay with the parent"
        self._flows.clear()
        self._turn.clear()
        self._by_group.clear()
        self._driver = None
        self._steward = None
        self.carrier.abandon()


def _after_fork() -> None:
    global _id_prefix
    _id_prefix = os.urandom(4).hex() + "-"
    for engine in list(_engines):
        engine.forked()


def after_fork(callback: Callable[[], None]) -> None:
    """Have `callback` run in forked children, after the engines have let go of what is the parent's."""
    os.register_at_fork(after_in_child=callback)


os.register_at_fork(after_in_child=_after_fork)


def single_group(flow: Flow, payload: Frames) -> Group:
    """The one group of a flow of one call."""
    flow.pulled = 1
    flow.source.exhausted = True
    return Group(next(_group_ids), flow.task, 0, 1, 1, payload)


def new_flow_id() -> str:
    """Unique among processes and machines, and short enough for a control message."""
    return f"{_id_prefix}{next(_flow_ids):x}"
