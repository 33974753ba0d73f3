"""The worker's end of an adapter's wire where calls run in processes of their own.

A `Station` runs calls in its own process, so a call that dies takes it along, and only the backend can tell. A `Relay`
stands beside the calls: it hands groups on to a carrier on its own machine and passes on what that says. So a call
that is killed, runs too long or is cancelled costs itself and nothing else, whatever the backend makes of its own
processes.
"""

from __future__ import annotations

import marshal
import threading
from collections import deque
from collections.abc import Callable
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


class Relay:
    """Takes groups as messages, as a `Station` does, and has a carrier run them.

    `run` may be called by several threads, one for each group that the carrier is to have; the other methods from any
    thread at any time.

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
        self._running: dict[int, Group] = {}
        self._early: set[int] = set()
        """Groups that are to be given back and do not run: they wait for room, or have not come."""
        self._over: deque[int] = deque(maxlen=256)
        """The last groups that have ended."""
        self._driver: threading.Thread | None = None
        self._broken: BaseException | None = None
        self._closed = False

    def run(self, message: Frames) -> None:
        """Run the group that `message` is; returns when all of it has been said.

        Raises:
            BackendUnavailable: no process can be started for it here, or its program does not come.
        """
        packed, program_head, count, keep = marshal.loads(message[0])
        head = GroupHead(*packed)
        with self._lock:
            if program_head is not None:
                self._load(ProgramHead(*program_head), message[1 : 1 + count], single=not keep)
            # The group that brings it along may be the other thread's, and overtaken.
            self._changed.wait_for(lambda: self._closed or head.flow in self._tasks, PROGRAM_SECONDS)
            task = self._tasks.get(head.flow)
            if task is None:
                raise BackendUnavailable(f"the program of group {head.group} has not come")
            group = Group(head.group, task, head.start, head.count, head.attempt, message[1 + count :])
            try:
                self._changed.wait_for(
                    lambda: self._closed or group.id in self._early or self._carrier.room(task) > 0
                )
                if self._closed:
                    return
                if group.id in self._early:
                    self._early.discard(group.id)
                    self._say(RETURNED, group.id, group.count, [])
                    return
                self._running[group.id] = group
                self._carrier.start(group)
                self._drive()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._broken or group.id not in self._running)
                if self._broken is not None and group.id in self._running:
                    raise self._broken
            finally:
                self._running.pop(group.id, None)
                self._over.append(group.id)
                if not keep:
                    self._drop(head.flow)

    def give_back(self, group: int) -> None:
        """Drop those calls of a group that have not started, and tell the caller how many they are."""
        with self._lock:
            running = self._running.get(group)
            if group in self._over:
                return
            if running is None:
                self._early.add(group)
                self._changed.notify_all()
            elif group in self._carrier.groups:  # else it has ended, and the driver is about to say so
                self._carrier.give_back(running)

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
            self._carrier.wake()
        if self._driver is not None and self._driver is not threading.current_thread():
            self._driver.join()
        with self._lock:
            self._carrier.close(kill=True)

    # --- inside, with the lock held ---

    def _load(self, head: ProgramHead, frames: Frames, *, single: bool) -> None:
        if head.flow not in self._tasks:
            task = Task(head, wire.Program("", frames, head.mode), single)
            self._carrier.keep(task)
            self._tasks[head.flow] = task
            self._changed.notify_all()

    def _drop(self, flow: str) -> None:
        if not any(group.task.id == flow for group in self._running.values()):
            task = self._tasks.pop(flow, None)
            if task is not None:
                self._carrier.forget(task)

    def _drive(self) -> None:
        """Have a thread that waits for what the carrier says, as long as there are groups."""
        if self._driver is None:
            self._driver = threading.Thread(target=self._listen, name="mini-relay", daemon=True)
            self._driver.start()

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
                self._changed.notify_all()

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
                self._broken = error
                return
        if over:
            self._running.pop(group.id, None)

    def _say(self, kind: int, group: int, number: Any, frames: Frames) -> None:
        self._send(group, [marshal.dumps((kind, group, number)), *frames])
