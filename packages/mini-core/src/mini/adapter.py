"""Both ends of an adapter's wire: a `Station` where calls run, a `MessageCarrier` where the caller is.

Between the two go messages. A message is a list of frames, bytes-like objects whose order and lengths have to survive;
`mini.wire.join_frames` and `split_frames` are for transports that take one piece of bytes. An adapter brings messages
over and looks into none of them. docs/how-to/write-an-adapter.md builds one.
"""

from __future__ import annotations

import marshal
import os
import pickle
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from . import wire
from .carrier import Carrier, Event, Group, Lost, Outcomes, Reports, Returned, Task
from .context import running_group
from .journal import Memory, OwnMemory, Peek
from .output import Outbox, Report
from .wire import Frames
from .worker import GroupHead, Program, ProgramHead, Worker

__all__ = ["MessageCarrier", "Station"]

SLOW_SECONDS = 0.01
"""Of a group that takes longer, what is finished is sent at once, and what has not started may go to another worker."""

# What a station says: marshal of (kind, group, number), then frames.
_PART = 1  # number: nanoseconds that the group took, or None if it goes on; frames: the part
_RETURNED = 2  # number: calls at the end of the group that will not be run
_REPORTS = 3  # frames: pickle and buffers of a list of reports


class Station:
    """A worker and all that it needs: takes groups of calls as messages, and sends messages with what comes of them.

    `run` is called once for each group, by a thread that may run it. The other methods may be called from any thread at
    any time, also before the group or flow that they are about has come; they do not wait for calls.

    Args:
        send: brings a message to the caller, where it is for `MessageCarrier.post`. It is called by one thread at a
            time, not always the one that called `run`. The frames may change once it has returned.
        alone: the station has its process to itself, so that whatever threads print or emit there belongs to its call.
            Of a call that forks, only the original answers; the copy ends with the call. Otherwise it shares its
            process with other stations or with the caller.
        memory: of the journal, for a caller who reads that itself. What is finished of slow groups is then not sent.
    """

    def __init__(self, send: Callable[[Frames], None], *, alone: bool, memory: Memory | None = None) -> None:
        self._send = send
        self._memory = memory or OwnMemory()
        self._watched = memory is None
        self._outbox = Outbox(self._report, shared=not alone)
        self._worker = Worker(self, self._outbox, self._memory, process_wide=alone)
        self._turn = threading.Lock()
        # Reentrant: the garbage collector, which runs anywhere, may close a map that has calls here.
        self._sending = threading.RLock()
        # The rest is guarded by `_lock`, which costs less to take than by way of the condition.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._programs: dict[str, Program] = {}
        self._running: GroupHead | None = None
        self._begun = 0
        self._given_back: set[int] = set()
        self._credit = 0
        self._ended: set[str] = set()
        self._forgotten: set[str] = set()
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._is_copy = False
        if alone:
            os.register_at_fork(after_in_child=self._become_copy)

    def run(self, message: Frames) -> None:
        """Run the group that `message` is and send all its outcomes. Raises nothing that a call raises."""
        group, program_head, count, keep = marshal.loads(message[0])
        head = GroupHead(*group)
        # A group all of whose calls were given back is over for the caller, who may send another before it is here.
        with self._turn:
            if program_head is not None:
                self.load(program_head, message[1 : 1 + count])
            program = self._begin(head)
            try:
                if program is not None:
                    self._worker.run_group(program, head, message[1 + count :])
            except BaseException:
                if self._is_copy:
                    os._exit(0)
                raise
            finally:
                with self._lock:
                    self._running = None
                    if not keep or head.flow in self._forgotten:
                        self._forgotten.discard(head.flow)
                        self._programs.pop(head.flow, None)

    def load(self, program_head: tuple[Any, ...], frames: Frames) -> None:
        """Take the program of a flow whose groups will come without it.

        Args:
            program_head: what `pack` made of the `ProgramHead`.
            frames: of the program; they must not change.
        """
        head = ProgramHead(*program_head)
        self._programs[head.flow] = Program(head, frames)

    def give_back(self, group: int) -> None:
        """Drop those calls of a group that have not started, and tell the caller how many they are."""
        with self._lock:
            if group > self._begun:
                self._given_back.add(group)
                count = 2**32  # all there are
            elif self._running is not None and self._running.group == group:
                # One step of the interpreter: a row is either taken by the call loop or taken back here.
                count = len(list(self._worker.rows))
            else:
                count = 0
        self._say(_RETURNED, group, count, [])

    def credit(self, flow: str, count: int) -> None:
        """Let a stream send `count` more items; 0 ends it."""
        with self._lock:
            if not count:
                self._ended.add(flow)
            elif self._running is not None and self._running.flow == flow:
                self._credit += count
            self._changed.notify_all()

    def forget(self, flow: str) -> None:
        """Let go of a flow's program, which this station was sent: no more groups of it will be sent.

        Those that were sent already may still run.
        """
        with self._lock:
            running = self._running is not None and self._running.flow == flow
            if running or self._programs.pop(flow, None) is None:
                self._forgotten.add(flow)  # as soon as it has run, or has come

    def close(self) -> None:
        """Run no more groups, end streams and helper threads. A call that runs goes on, as nothing can stop it."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        self._outbox.close()

    # --- what the worker needs of its host ---

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        if self._is_copy:
            os._exit(0)
        self._say(_PART, group, elapsed, frames)

    def take_credit(self, flow: str) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._credit > 0 or flow in self._ended or self._closed)
            if flow in self._ended or self._closed:
                return False
            self._credit -= 1
            return True

    # --- inside ---

    def _say(self, kind: int, group: int, number: int | None, frames: Frames) -> None:
        if self._is_copy:
            return
        with self._sending:
            self._send([marshal.dumps((kind, group, number)), *frames])

    def _report(self, reports: list[Report]) -> None:
        try:
            data, buffers = wire.dumps(reports, returning=True)
        except Exception:  # a metric that cannot be pickled is still something to read
            data, buffers = wire.dumps([(*report[:4], _as_text(report[4])) for report in reports])
        self._say(_REPORTS, 0, None, [data, *wire.raw(buffers, copy=False)])

    def _begin(self, head: GroupHead) -> Program | None:
        """What to run for a group that has come; None if it is not wanted any more."""
        with self._lock:
            self._begun = max(self._begun, head.group)
            self._ended &= {head.flow}  # streams that were ended before they began do not begin at all
            if head.group in self._given_back or self._closed:
                self._given_back.discard(head.group)
                return None
            program = self._programs[head.flow]
            self._running, self._credit = head, program.head.credit
            if self._watched and program.head.mode != "stream" and head.count > 1:
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._look, name="mini-station", daemon=True)
                    self._watcher.start()
                self._changed.notify_all()
            return program

    def _look(self) -> None:
        """Send what is finished of slow groups."""
        peek, sent = Peek(self._memory), (0, 0)  # of which group, and how many of its outcomes
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._is_grouped() or self._closed)
                if self._closed:
                    return
                head = self._running
                if head is None or self._changed.wait_for(lambda: self._closed, SLOW_SECONDS):
                    continue
                if self._running is not head:
                    continue
                part = peek.read(head.group, sent[1] if sent[0] == head.group else 0)
            if part:
                _, position, count, _ = marshal.loads(part[0])
                sent = head.group, position + count
                self._say(_PART, head.group, None, part)

    def _is_grouped(self) -> bool:
        return self._running is not None and self._running.count > 1

    def _become_copy(self) -> None:
        """A call has forked, and this is the copy: it may go on with the call, but only the original answers.

        The journal's memory may be shared with the original. Without it, the copy cannot get past the end of the call.
        """
        if (group := running_group()) is not None:
            index = group.position()
            group.position = lambda: index
        self._is_copy = True
        self._sending = threading.RLock()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._outbox.forked()
        self._worker.words.release()
        self._worker.column.release()


class MessageCarrier(Carrier):
    """A carrier whose workers are stations. It puts groups into messages and takes events out of them.

    An adapter fills in `room`, `start`, `ended`, `give_back`, `credit`, `forget` and `close`. It brings what stations
    send to `post`, from whichever threads its transport has. Nothing else needs a lock, because all that an adapter
    fills in is called with `lock` held.

    Attributes:
        groups: those on their way, by id.
        unanswered: ids of those that were asked for calls for idle workers and have not answered.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.groups: dict[int, Group] = {}
        self._since: dict[int, float] = {}
        self.unanswered: set[int] = set()
        self._arrived = threading.Condition()
        self._mail: deque[Frames | Event] = deque()
        self._woken = False

    @abstractmethod
    def ended(self, group: Group) -> None:
        """Nothing more will come of `group`, so its worker is free. Called once for each group that was packed."""

    @abstractmethod
    def give_back(self, group: Group) -> None:
        """Have `Station.give_back` called for `group`, which is on its way."""

    def pack(self, group: Group, *, program: bool) -> Frames:
        """The message with which a station runs `group`; from now on the group is on its way.

        Args:
            program: bring the program of `group.task` along, which a station needs with the first of the task's groups.
        """
        self.groups[group.id] = group
        self._since[group.id] = time.monotonic()
        task = group.task
        head = task.head.pack() if program else None
        frames = task.program.frames if program else []
        first = marshal.dumps((group.head().pack(), head, len(frames), not task.single))
        return [first, *frames, *group.payload]

    def post(self, message: Frames | Event) -> None:
        """Take what a station has sent, or something that happened to it, such as `Lost`. From any thread."""
        with self._arrived:
            self._mail.append(message)
            self._arrived.notify_all()

    def wake(self) -> None:
        with self._arrived:
            self._woken = True
            self._arrived.notify_all()

    def retract(self, task: Task) -> None:
        for group in self.groups.values():
            if group.task is task:
                self.give_back(group)

    def steal(self) -> None:
        if self.unanswered:
            return
        late = time.monotonic() - SLOW_SECONDS
        for group in self.groups.values():
            left = group.count - group.received - 1  # one runs
            if left > 0 and self._since[group.id] < late:
                if self.room(group.task) > 0:
                    self.ask(group)
                return

    def poll(self, timeout: float | None) -> list[Event]:
        with self.lock:
            if any(group.count > 1 for group in self.groups.values()):  # perhaps there is something to steal
                timeout = SLOW_SECONDS if timeout is None else min(timeout, SLOW_SECONDS)
        with self._arrived:
            self._arrived.wait_for(lambda: self._mail or self._woken, timeout)
            mail = list(self._mail)
            self._mail.clear()
            self._woken = False
        with self.lock:
            return [event for message in mail if (event := self.read(message)) is not None]

    @abstractmethod
    def close(self, *, kill: bool) -> None:
        """As `Carrier.close`; this part of it drops the groups that are on their way and what has arrived."""
        self.groups.clear()
        self._since.clear()
        self.unanswered.clear()
        with self._arrived:
            self._mail.clear()

    def ask(self, group: Group) -> None:
        """Have `group`, which is on its way, give calls back because workers are idle."""
        self.unanswered.add(group.id)
        self.give_back(group)

    def read(self, message: Frames | Event) -> Event | None:
        """The event that a message is; what it says of its group is noted. None if that has ended already."""
        event = self.decode(message) if isinstance(message, list) else message
        if isinstance(event, Outcomes):
            over = event.elapsed is not None
        elif isinstance(event, Returned):
            self.unanswered.discard(event.group.id)
            over = event.count >= event.group.count
        elif isinstance(event, Lost):
            over = True
        else:
            return event
        group = event.group
        if group.id not in self.groups:
            return None  # it has ended, or was dropped
        if over:
            del self.groups[group.id], self._since[group.id]
            self.unanswered.discard(group.id)
            self.ended(group)
        return event

    def decode(self, message: Frames) -> Event | None:
        """The event that a station's message is, and nothing is noted. None if its group has ended. From any thread."""
        kind, number, value = marshal.loads(message[0])
        if kind == _REPORTS:
            return Reports(pickle.loads(message[1], buffers=message[2:]))
        group = self.groups.get(number)
        if group is None:
            return None
        return Outcomes(group, message[1:], value) if kind == _PART else Returned(group, value)


def _as_text(data: object) -> object:
    if isinstance(data, dict):
        return {
            str(key): value if isinstance(value, int | float | str | bool | None) else repr(value)
            for key, value in data.items()
        }
    return data
