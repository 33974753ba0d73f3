"""Both ends of an adapter's wire: a `Station` or a `Relay` where calls run, a `MessageCarrier` where the caller is.

Between the two go messages. A message is a list of frames, bytes-like objects whose order and lengths have to survive;
`mini.wire.join_frames` and `split_frames` are for transports that take one piece of bytes. An adapter brings messages
over and looks into none of them. docs/how-to/write-an-adapter.md builds one.
"""

from __future__ import annotations

import marshal
import pickle
import threading
import time
from abc import abstractmethod
from collections import deque

from .carrier import Carrier, Event, Group, Lost, Outcomes, Reports, Returned, Task
from .relay import Relay
from .station import LOST, PART, REPORTS, STEAL_SECONDS, Station
from .wire import Frames

__all__ = ["MessageCarrier", "Relay", "Station"]


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

    def age(self, group: Group) -> float:
        """For how many seconds `group` has been on its way."""
        return time.monotonic() - self._since[group.id]

    def waits(self, group: Group) -> bool:
        """Whether `group`, which is on its way, may wait at its worker for another one to end; see `steal`."""
        return False

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
        late = time.monotonic() - STEAL_SECONDS
        for group in self.groups.values():
            left = group.count - group.received
            if not self.waits(group):
                left -= 1  # one runs
            if left > 0 and self._since[group.id] < late:
                if self.room(group.task) > 0:
                    self.ask(group)
                return

    def poll(self, timeout: float | None) -> list[Event]:
        with self.lock:
            if any(
                g.count > 1 or self.waits(g) for g in self.groups.values()
            ):  # perhaps there is something to steal
                timeout = STEAL_SECONDS if timeout is None else min(timeout, STEAL_SECONDS)
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
        if kind == REPORTS:
            try:
                return Reports(pickle.loads(message[1], buffers=message[2:]))
            except Exception:  # a metric is of a class that is not here: nothing that a call may fail for
                return None
        group = self.groups.get(number)
        if group is None:
            return None
        if kind == LOST:
            return Lost(group, *value)
        return Outcomes(group, message[1:], value) if kind == PART else Returned(group, value)
