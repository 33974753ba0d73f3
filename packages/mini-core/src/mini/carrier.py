"""What an adapter implements: a carrier starts workers somewhere, brings groups of calls to them and outcomes back.

A carrier looks into nothing that it carries. Order, windows, grouping, retries, errors and cancellation are the
engine's business; how a group is run is `mini.worker`'s. All methods but `poll`, `wake` and `inside` are called with
the carrier's `lock` held and must not block; only `close` may wait a moment. `mini.adapter` has a carrier that is half
done.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .output import Report
from .wire import Frames, Program
from .worker import GroupHead, ProgramHead

if TYPE_CHECKING:
    from .errors import FailureKind

__all__ = ["Broken", "Carrier", "Event", "Group", "Lost", "Outcomes", "Reports", "Returned", "Task"]


@dataclass(slots=True, eq=False)
class Task:
    """What the groups of one map have in common, for a carrier.

    Attributes:
        program: what to run; the worker needs `head` and `program.frames`.
        single: there is one group only, so nothing needs to be kept for another.
        quick: its groups take so little time that a worker should have the next one at hand.
    """

    head: ProgramHead
    program: Program
    single: bool = False
    quick: bool = False

    @property
    def id(self) -> str:
        return self.head.flow

    @property
    def timeout(self) -> float | None:
        """Seconds that one call may run."""
        return self.head.timeout


@dataclass(slots=True, eq=False, repr=False)
class Group:
    """Some consecutive calls of a map that travel together.

    `count` shrinks when a worker gives calls at its end back; `received` counts the outcomes that have arrived, which
    always are those of the first calls.
    """

    id: int
    task: Task
    start: int
    count: int
    attempt: int
    payload: Frames
    received: int = 0
    worker: str = ""

    def head(self) -> GroupHead:
        return GroupHead(self.id, self.task.id, self.start, self.count, self.attempt)


@dataclass(slots=True)
class Outcomes:
    """Outcomes of calls of `group` have arrived.

    `frames` is a part as `mini.worker` made it, empty where there is nothing new. `elapsed`, nanoseconds, is set when
    the group has ended.
    """

    group: Group
    frames: Frames
    elapsed: int | None


@dataclass(slots=True)
class Returned:
    """`count` calls at the end of `group` were taken back before they started."""

    group: Group
    count: int


@dataclass(slots=True)
class Lost:
    """The worker of `group` is gone.

    Attributes:
        group: the group; outcomes that could be saved have been reported before.
        running: position in the group of the call that ran; -1 if none did; None if that is not known.
        reason: what happened to the worker.
        kind: "lost", "timeout", "out-of-memory" or "cancelled".
    """

    group: Group
    running: int | None
    reason: str
    kind: FailureKind = "lost"


@dataclass(slots=True)
class Reports:
    """What calls printed and emitted."""

    reports: list[Report]


@dataclass(slots=True)
class Broken:
    """No worker can be started; every call that waits for one gets `error`."""

    error: BaseException


Event = Outcomes | Returned | Lost | Reports | Broken


class Carrier(ABC):
    """Base of what moves bytes.

    Attributes:
        width: how many workers there may be at the same time.
        lock: guards carrier and engine; shared between them.
        pair_seconds: calls that are too long to be grouped go in pairs as long as a pair takes no more than this, where
            a worker gets groups, but no lone calls, ahead of time.
        quick_seconds: tasks whose groups take less than this are `quick`: a worker gets its next group ahead of time.
        background: whether calls may make progress while nobody waits for them.
        on_reports: set by the engine; takes reports at once, from any thread that does not hold the lock. For carriers
            whose `poll` runs calls itself; the others return `Reports` from it.
    """

    pair_seconds = 0.0
    quick_seconds = 0.06
    background = True

    def __init__(self, width: int) -> None:
        self.width = width
        self.lock = threading.RLock()
        self.on_reports: Callable[[list[Report]], None] | None = None

    def keep(self, task: Task) -> None:
        """Copy what the frames of `task.program` have in common with the caller, who goes on and may change it.

        Called without the lock, before any group of `task`, unless the caller waits for its end. `forget` follows.

        Raises:
            BackendUnavailable: there is no room for it.
        """
        program = task.program
        program.frames = [bytearray(f) if isinstance(f, memoryview) else f for f in program.frames]

    @abstractmethod
    def room(self, task: Task) -> int:
        """How many more groups of `task` it would take now."""

    @abstractmethod
    def start(self, group: Group) -> str:
        """Take `group` and return a label of its worker, such as "worker 1". Only called when there is room."""

    @abstractmethod
    def poll(self, timeout: float | None) -> list[Event]:
        """Wait for events, at most `timeout` seconds (None: until one comes), and return them in their order.

        Called without the lock, by one thread at a time. An early return without events is fine.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make a `poll` that waits return soon. Called from any thread."""

    def steal(self) -> None:  # noqa: B027
        """There is nothing left to start: if workers are idle, take calls that have not started back from busy ones."""

    @abstractmethod
    def retract(self, task: Task) -> None:
        """Take back or drop the calls of `task` that have not started; their outcomes are not wanted."""

    def doom(self, task: Task, grace: float) -> None:  # noqa: B027
        """End the calls of `task` that still run after `grace` seconds, where that can be done."""

    def forget(self, task: Task) -> None:  # noqa: B027
        """No more groups of `task` will come."""

    def credit(self, task: Task, count: int) -> None:
        """A stream may send `count` more items; 0 ends it."""
        raise NotImplementedError

    def inside(self) -> bool:
        """Whether the calling thread is one of this carrier's own workers."""
        return False

    def lend(self, count: int) -> None:  # noqa: B027
        """A worker that waits for calls of its own (+1) makes room for another; -1 when it goes on."""

    @abstractmethod
    def close(self, *, kill: bool) -> None:
        """End all workers; with `kill` at once, whatever they run. Afterwards nothing of it is left.

        After `kill`, which is what Ctrl-C does, the calls that were on their way are forgotten, and groups that come
        later start new workers. Without it nothing more comes.
        """

    def abandon(self) -> None:  # noqa: B027
        """This process is a forked copy: let go of everything without touching the workers."""
