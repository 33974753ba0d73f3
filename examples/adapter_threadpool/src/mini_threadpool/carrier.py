"""The carrier: which worker gets which group, and what happens to workers."""

from __future__ import annotations

from concurrent.futures import Future, wait

from mini import BackendUnavailable
from mini.adapter import MessageCarrier
from mini.carrier import Broken, Group, Lost, Task

from .worker import ThreadWorker

__all__ = ["ThreadPoolCarrier"]

CLOSING_SECONDS = 1.0
"""How long `close` waits for calls that run."""


class ThreadPoolCarrier(MessageCarrier):
    """Carries groups to threads of this process, one at a time to each.

    Args:
        width: the most threads that run calls at the same time.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._workers: list[ThreadWorker] = []
        self._free: list[ThreadWorker] = []
        self._busy: dict[int, ThreadWorker] = {}  # by the id of the group that it is at
        self._lent = 0

    def room(self, task: Task) -> int:
        return self.width + self._lent - len(self._busy)

    def start(self, group: Group) -> str:
        worker = self._free.pop() if self._free else self._hire()
        self._busy[group.id] = worker
        task = group.task
        message = self.pack(group, program=task.id not in worker.programs)
        if not task.single:
            worker.programs.add(task.id)
        try:
            future = worker.submit(message)
        except RuntimeError as exc:
            error = BackendUnavailable(f"no thread can be started: {exc}; make calls before the program ends")
            error.__cause__ = exc
            self.post(Broken(error))
        else:
            future.add_done_callback(lambda done: self._is_done(group, done))
        return worker.label

    def _hire(self) -> ThreadWorker:
        worker = ThreadWorker(f"thread {len(self._workers) + 1}", self.post)
        self._workers.append(worker)
        return worker

    def ended(self, group: Group) -> None:
        self._free.append(self._busy.pop(group.id))

    def _is_done(self, group: Group, done: Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self.post(Lost(group, None, f"its thread ended with {error!r}"))

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

    def inside(self) -> bool:
        return ThreadWorker.current() in self._workers

    def lend(self, count: int) -> None:
        self._lent += count

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        workers, self._workers = self._workers, []
        self._free.clear()
        self._busy.clear()
        for worker in workers:
            worker.close()
        if not kill:
            wait([worker.last for worker in workers if worker.last is not None], CLOSING_SECONDS)
