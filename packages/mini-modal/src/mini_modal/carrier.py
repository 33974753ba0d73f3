"""The carrier: which group goes to Modal when, and what is made of what comes back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mini import BackendUnavailable, MiniError, OptionError
from mini.answering import Answer, News, RequestCarrier
from mini.carrier import Broken, Group, Lost, Task
from mini.wire import Frames

from .messages import Parcel
from .session import ContainerDied, Session

__all__ = ["ModalCarrier"]

CONSTANT_BYTES = 256 * 1024
"""Programs from this size on go through the volume, once, instead of with each group."""

ASK_AFTER = 0.25
"""Seconds after which a lone call may be one that waits. To ask is two requests."""

Make = Callable[
    [
        Callable[[int, Answer | BaseException], None],
        Callable[[list[News]], None],
        Callable[[int], None],
    ],
    Session,
]


class ModalCarrier(RequestCarrier):
    """Carries groups to the containers of a session, which is started when the first one comes.

    Args:
        width: how many containers there may be.
        make: makes the session, of what it is to call.
    """

    # The way to Modal and back may take a tenth of a second, for which a container would have nothing to do.
    pair_seconds = 0.25
    quick_seconds = 1.0

    def __init__(self, width: int, make: Make) -> None:
        super().__init__(width)
        self._make = make
        self._session: Session | None = None
        self._constants: dict[str, str] = {}
        """Names of the files that programs are in, by task."""
        self._ahead: set[int] = set()
        """Groups whose containers may take another one meanwhile."""
        self._asked: set[int] = set()
        """Lone calls that were asked for: what runs says once that it does, what waits comes back."""

    def room(self, task: Task) -> int:
        return (2 if task.quick else 1) * self.width - len(self.groups)

    def start(self, group: Group) -> str:
        if self._session is None:
            self._session = self._make(self.answered, self.heard, self.untouched)
        message = self.pack(group, program=True)
        task = group.task
        # A dead container takes along what waits in it, and nobody can tell that from what ran: lone calls wait at
        # Modal, for whichever container is free first.
        quick = task.quick and group.count > 1
        if quick:
            self._ahead.add(group.id)
        constant: Callable[[], Frames] | None = None
        parcel = Parcel(message, quick=quick)
        if not task.single and task.program.nbytes >= CONSTANT_BYTES:
            frames = task.program.frames
            name = self._constants.get(task.id)
            if name is None:
                name = self._constants[task.id] = self._session.constant_name(frames)
            parcel = Parcel([message[0], *message[1 + len(frames) :]], name, quick)
            constant = partial(list, frames)
        self._session.send(group.id, parcel, constant)
        return "modal"

    def ended(self, group: Group) -> None:
        self._ahead.discard(group.id)
        self._asked.discard(group.id)

    def waits(self, group: Group) -> bool:
        # A container that has room for a second group may get a lone call, and the first one may turn out to be slow.
        alone = group.count == 1 and group.id not in self._asked
        return alone and bool(self._ahead) and self.age(group) > ASK_AFTER

    def give_back(self, group: Group) -> None:
        self._asked.add(group.id)
        if self._session is not None:
            self._session.take_back(group.id)

    def credit(self, task: Task, count: int) -> None:
        for group in self._of(task):
            assert self._session is not None
            self._session.order(group.id, ("credit", count))

    def doom(self, task: Task, grace: float) -> None:
        for group in self._of(task):
            assert self._session is not None
            self._session.order(group.id, ("doom", float(grace)))

    def forget(self, task: Task) -> None:
        self._constants.pop(task.id, None)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        self._constants.clear()
        self._ahead.clear()
        self._asked.clear()
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def abandon(self) -> None:
        self._session = None

    def _of(self, task: Task) -> list[Group]:
        return [group for group in self.groups.values() if group.task is task]

    def event_of(self, group: Group, error: BaseException) -> Lost | Broken:
        import modal.exception as known

        if isinstance(error, ContainerDied):
            return Lost(group, None, str(error), "out-of-memory" if error.out_of_memory else "lost")
        if isinstance(error, known.FunctionTimeoutError):  # a native timeout, of Modal's own
            return Lost(group, None, str(error), "timeout")
        if isinstance(error, known.InternalFailure):
            return Lost(group, None, f"its container was lost: {error}")
        if isinstance(error, known.RemoteError) and "memory" in str(error):
            return Lost(group, None, str(error), "out-of-memory")
        broken: MiniError
        if isinstance(error, MiniError):
            broken = error
        elif isinstance(error, known.InvalidError):
            broken = OptionError(f"Modal refuses this: {error}")
        else:
            broken = BackendUnavailable(f"Modal cannot run this: {type(error).__name__}: {error}")
        if broken is not error:
            broken.__cause__ = error
        return Broken(broken)
