"""The worker's end of an adapter's wire where calls run in processes of their own.

A `Station` runs calls in its own process, so a call that dies takes it along, and only the backend can tell. A `Relay`
stands beside the calls: it hands groups on to a carrier on its own machine and passes on what that says. So a call
that is killed, runs too long or is cancelled costs itself and nothing else, whatever the backend makes of its own
processes.
"""

from __future__ import annotations

import marshal
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import wire
from .carrier import Broken, Event, Group, Lost, Outcomes, Reports, Returned, Task
from .errors import BackendUnavailable
from .station import LOST, PART, REPORTS, RETURNED
from .wire import Frames
from .worker import GroupHead, ProgramHead

if TYPE_CHECKING:
    from .adapter import MessageCarrier

__all__ = ["Relay"]

PROGRAM_SECONDS = 60.0
"""How long a group waits for the program that another one brings."""


class _Batch:
    """Groups that have come together.

    Attributes:
        over: called once, with why each was not run, when the last one has ended.
        numbers: their ids, once all are known.
        left: ids of those that have not ended.
        faults: why some were not run, by id.
    """

    def __init__(self, over: Callable[[list[Exception | None]], None]) -> None:
        self.over: Callable[[list[Exception | None]], None] | None = over
        self.numbers: list[int] | None = None
        self.left: set[int] = set()
        self.faults: dict[int, Exception] = {}


class Relay:
    """Takes groups as messages, as a `Station` does, and has a carrier run them.

    `run` and `run_all` may be called by several threads; the other methods from any thread at any time.

    Args:
        carrier: runs the groups. The relay drives it, and closes it.
        send: brings a message to the caller, with the id of the group that it is about (0: of several). It is called by
            one thread at a time.
    """

    def __init__(self, carrier: MessageCarrier, send: Callable[[int, Frames], None]) -> None:
        self._carrier = carrier
        self._send = send
        self._lock = carrier.lock
        self._changed = threading.Condition(self._lock)
        self._tasks: dict[str, Task] = {}
        self._waiting: dict[int, Group] = {}
        """Groups for which the carrier has had no room yet, in their order."""
        self._running: dict[int, Group] = {}
        self._batches: dict[int, _Batch] = {}
        """That groups belong to which wait or run, by their ids."""
        self._early: set[int] = set()
        """Groups that are to be given back and have not come."""
        self._over: deque[int] = deque(maxlen=256)
        """The last groups that have ended."""
        self._driver: threading.Thread | None = None
        self._closed = False

    def run(self, message: Frames) -> None:
        """Run the group that `message` is; returns when all of it has been said.

        Raises:
            BackendUnavailable: no process can be started for it here, or its program does not come.
        """
        (fault,) = self.run_all([message])
        if fault is not None:
            raise fault

    def run_all(self, messages: Sequence[Frames]) -> list[Exception | None]:
        """Run several groups, in their order; returns when all has been said, with what `run` would raise of each."""
        over: queue.SimpleQueue[list[Exception | None]] = queue.SimpleQueue()
        self.start(messages, over.put)
        return over.get()

    def start(self, messages: Sequence[Frames], over: Callable[[list[Exception | None]], None]) -> None:
        """Have several groups run, in their order, and do not wait for them.

        `over` is called once, when all has been said, with what `run` would raise of each; by whichever thread, and
        with a lock held, so it may not wait for anything.
        """
        batch = _Batch(over)
        with self._lock:
            numbers = []
            for message in messages:
                numbers.append(self._take(message, batch))
                self._fill()
            batch.numbers = numbers
            self._settle(batch)

    def give_back(self, group: int) -> None:
        """Drop those calls of a group that have not started, and tell the caller how many they are."""
        with self._lock:
            if (waiting := self._waiting.get(group)) is not None:
                self._say(RETURNED, group, waiting.count, [])
                self._end(waiting)
            elif (running := self._running.get(group)) is not None:
                if group in self._carrier.groups:  # else it has ended, and the driver is about to say so
                    self._carrier.give_back(running)
            elif group not in self._over:
                self._early.add(group)
                self._changed.notify_all()

    def credit(self, flow: str, count: int) -> None:
        """Let a stream send `count` more items; 0 ends it."""
        with self._lock:
            if (task := self._tasks.get(flow)) is not None:
                self._carrier.credit(task, count)

    def doom(self, flow: str, grace: float) -> None:
        """End the calls of a flow that still run after `grace` seconds."""
        with self._lock:
            if (task := self._tasks.get(flow)) is not None:
                self._carrier.doom(task, grace)

    def forget(self, flow: str) -> None:
        """Let go of a flow's program: no more groups of it will come."""
        with self._lock:
            self._drop(flow)

    def close(self) -> None:
        """End all calls and processes."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            for batch in list(self._batches.values()):
                self._settle(batch)
            self._carrier.wake()
        if self._driver is not None and self._driver is not threading.current_thread():
            self._driver.join()
        with self._lock:
            self._carrier.close(kill=True)

    # --- inside, with the lock held ---

    def _take(self, message: Frames, batch: _Batch) -> int:
        """Have the group that `message` is wait for room; returns its id."""
        packed, program_head, count, keep = marshal.loads(message[0])
        head = GroupHead(*packed)
        if program_head is not None:
            self._load(ProgramHead(*program_head), message[1 : 1 + count], single=not keep)
        # The group that brings it along may be another thread's, and overtaken.
        self._changed.wait_for(
            lambda: self._closed or head.flow in self._tasks or head.group in self._early, PROGRAM_SECONDS
        )
        task = self._tasks.get(head.flow)
        if head.group in self._early:  # perhaps its flow is over, and there is no program any more
            self._early.discard(head.group)
            self._say(RETURNED, head.group, head.count, [])
        elif task is None:
            batch.faults[head.group] = BackendUnavailable(f"the program of group {head.group} has not come")
        else:
            group = Group(head.group, task, head.start, head.count, head.attempt, message[1 + count :])
            batch.left.add(group.id)
            self._batches[group.id] = batch
            self._waiting[group.id] = group
            return group.id
        self._over.append(head.group)
        if not keep:
            self._drop(head.flow)
        return head.group

    def _fill(self) -> None:
        """Start what waits while there is room, and have a thread that listens to what the carrier says."""
        for group in list(self._waiting.values()):
            if self._closed or self._carrier.room(group.task) <= 0:
                break
            del self._waiting[group.id]
            if not self._running:
                self._changed.notify_all()
            self._running[group.id] = group
            try:
                self._carrier.start(group)
            except Exception as exc:
                self._end(group, exc)
        if self._driver is None:
            self._driver = threading.Thread(target=self._listen, name="mini-relay", daemon=True)
            self._driver.start()

    def _end(self, group: Group, fault: Exception | None = None) -> None:
        """Nothing more is said of `group`."""
        batch = self._batches.pop(group.id, None)
        if batch is None:
            return  # it was given up before
        self._waiting.pop(group.id, None)
        self._running.pop(group.id, None)
        self._over.append(group.id)
        if fault is not None:
            batch.faults[group.id] = fault
        batch.left.discard(group.id)
        if group.task.single:
            self._drop(group.task.id)
        self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        """Say that a batch is over, if it is."""
        if batch.over is not None and batch.numbers is not None and (self._closed or not batch.left):
            over, batch.over = batch.over, None
            over([batch.faults.get(number) for number in batch.numbers])

    def _load(self, head: ProgramHead, frames: Frames, *, single: bool) -> None:
        if head.flow not in self._tasks:
            # How many groups it gets is the caller's affair: the process may have the next one at hand.
            task = Task(head, wire.Program("", frames, head.mode), single, quick=True)
            self._carrier.keep(task)
            self._tasks[head.flow] = task
            self._changed.notify_all()

    def _drop(self, flow: str) -> None:
        if not any(group.task.id == flow for group in (*self._running.values(), *self._waiting.values())):
            task = self._tasks.pop(flow, None)
            if task is not None:
                self._carrier.forget(task)

    def _listen(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._running or self._closed)
                if self._closed:
                    return
            events = self._carrier.poll(None)
            with self._lock:
                for event in events:
                    self._pass_on(event)
                self._fill()

    def _pass_on(self, event: Event) -> None:
        match event:
            case Outcomes(group, frames, elapsed):
                self._say(PART, group.id, elapsed, frames)
                if frames:
                    _, position, here, _ = marshal.loads(frames[0])
                    group.received = max(group.received, position + here)
                over = elapsed is not None
            case Returned(group, count):
                self._say(RETURNED, group.id, count, [])
                over = count >= group.count
                group.count -= min(count, group.count)
            case Lost(group, running, reason, kind):
                self._say(LOST, group.id, (running, reason, kind), [])
                over = True
            case Reports(reports):
                data, buffers = wire.dumps(reports, returning=True)
                self._say(REPORTS, 0, None, [data, *wire.raw(buffers, copy=False)])
                return
            case Broken(error):
                for each in (*self._running.values(), *self._waiting.values()):
                    self._end(each, _as_fault(error))
                return
        if over:
            self._end(group)

    def _say(self, kind: int, group: int, number: Any, frames: Frames) -> None:
        self._send(group, [marshal.dumps((kind, group, number)), *frames])


def _as_fault(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else BackendUnavailable(str(error))
