"""Workers that are threads of the calling process, or the calling thread itself: for debugging, and for functions
that release the GIL. Calls are packed and unpacked as on every backend, so arguments and results are still values."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from ..adapter import MessageCarrier, Station
from ..carrier import Event, Group, Lost, Reports, Task
from ..journal import Memory, OwnMemory
from ..wire import Frames

__all__ = ["InlineCarrier", "ThreadCarrier"]

CLOSING_SECONDS = 1.0
"""How long `close` waits for calls that run."""


class _Worker:
    """A station in this process, which programs it was sent, and the group that it is to run with its message."""

    def __init__(self, label: str, post: Callable[[Frames], None], memory: Memory | None = None) -> None:
        self.label = label
        self.station = Station(lambda message: post(_copied(message)), alone=False, memory=memory)
        self.programs: set[str] = set()
        self.orders: SimpleQueue[tuple[Group, Frames] | None] = SimpleQueue()


def _copied(message: Frames) -> Frames:
    """The message as if it had travelled: whoever has the memory of an array in it may go on writing to that."""
    return [bytearray(f) if isinstance(f, bytearray | memoryview) else f for f in message]


class _InProcess(MessageCarrier):
    """What threads and the inline worker have in common: one group at a time for each worker."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._workers: list[_Worker] = []
        self._free: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}  # by the id of the group that it is at

    @abstractmethod
    def _hire(self) -> _Worker:
        """Make another worker."""

    def start(self, group: Group) -> str:
        if not self._free:
            worker = self._hire()
            self._workers.append(worker)
            self._free.append(worker)
        worker = self._busy[group.id] = self._free.pop()
        task = group.task
        message = self.pack(group, program=task.id not in worker.programs)
        if not task.single:
            worker.programs.add(task.id)
        worker.orders.put((group, _copied(message)))
        return worker.label

    def _serve(self, worker: _Worker) -> None:
        """Run what is ordered until there is no more."""
        while (order := worker.orders.get()) is not None:
            group, message = order
            try:
                worker.station.run(message)
            except BaseException as exc:  # a defect of ours; nobody must wait for this group
                self.post(Lost(group, None, f"its thread ended with {exc!r}"))

    def ended(self, group: Group) -> None:
        self._free.append(self._busy.pop(group.id))

    def give_back(self, group: Group) -> None:
        self._busy[group.id].station.give_back(group.id)

    def credit(self, task: Task, count: int) -> None:
        for group in self.groups.values():
            if group.task is task:
                self._busy[group.id].station.credit(task.id, count)

    def forget(self, task: Task) -> None:
        for worker in self._workers:
            if task.id in worker.programs:
                worker.programs.remove(task.id)
                worker.station.forget(task.id)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        for worker in self._workers:
            worker.station.close()
            worker.orders.put(None)
        self._workers.clear()
        self._free.clear()
        self._busy.clear()


class ThreadCarrier(_InProcess):
    """Carries groups to threads of this process."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._threads: list[threading.Thread] = []
        self._lent = 0

    def room(self, task: Task) -> int:
        return self.width + self._lent - len(self._busy)

    def _hire(self) -> _Worker:
        worker = _Worker(f"thread {len(self._workers) + 1}", self.post)
        name = f"mini-{worker.label}"
        thread = threading.Thread(target=self._serve, args=(worker,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
        return worker

    def inside(self) -> bool:
        return threading.current_thread() in self._threads

    def lend(self, count: int) -> None:
        self._lent += count

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        threads, self._threads = self._threads, []
        # A call that runs cannot be ended; its thread ends with it.
        deadline = time.monotonic() + (0 if kill else CLOSING_SECONDS)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


class InlineCarrier(_InProcess):
    """Runs groups in the thread that waits for them, so that a breakpoint stops where one expects it."""

    background = False

    def __init__(self) -> None:
        super().__init__(1)
        self._queue: deque[_Worker] = deque()
        self._unwanted: set[int] = set()
        """Groups that are to be given back instead of being run."""

    def room(self, task: Task) -> int:
        # A call may use the apparatus itself, so there is no limit to how many groups have begun.
        return 1 - len(self._queue)

    def _hire(self) -> _Worker:
        return _Worker("inline", self.post, OwnMemory())  # nobody could take what a slow group has finished

    def start(self, group: Group) -> str:
        label = super().start(group)
        worker = self._busy[group.id]
        if group.task.head.mode == "stream":
            # A generator has to stop between items until the consumer wants more, which a thread can.
            worker.orders.put(None)
            threading.Thread(target=self._serve, args=(worker,), name="mini-stream", daemon=True).start()
        else:
            self._queue.append(worker)
            self.wake()
        return label

    def give_back(self, group: Group) -> None:
        # By `poll`: while a call reports, which needs the lock, its station can say nothing else.
        if self._busy[group.id] in self._queue:
            self._unwanted.add(group.id)

    def poll(self, timeout: float | None) -> list[Event]:
        with self._arrived:
            self._arrived.wait_for(lambda: self._mail or self._queue or self._woken, timeout)
            worker = self._queue.popleft() if self._queue and not self._mail else None
        if worker is not None and (order := worker.orders.get()) is not None:
            group, message = order
            if group.id in self._unwanted:
                self._unwanted.remove(group.id)
                worker.station.give_back(group.id)
            worker.station.run(message)
        return super().poll(0)

    def post(self, message: Frames | Event) -> None:
        event = self.decode(message) if isinstance(message, list) else message
        if isinstance(event, Reports):
            assert self.on_reports is not None
            self.on_reports(event.reports)  # `poll` is busy running the call
        elif event is not None:
            super().post(event)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        self._queue.clear()
        self._unwanted.clear()
