"""Workers that are threads of the calling process, or the calling thread itself: for debugging, and for functions
that release the GIL. Calls are packed and unpacked as on every backend, so arguments and results are still values."""

from __future__ import annotations

import threading
import time
from collections import deque

from ..carrier import Broken, Carrier, Event, Group, Outcomes, Reports, Returned, Task
from ..journal import OwnMemory, Peek
from ..output import Outbox, Report
from ..wire import Frames
from ..worker import Program, Worker

__all__ = ["InlineCarrier", "ThreadCarrier"]


SLOW_SECONDS = 0.01
"""A group that takes longer has what is finished of it handed out, and what has not started given to idle threads."""


class _Station:
    """One worker in this process, and the host it talks to."""

    def __init__(self, carrier: _InProcess, label: str) -> None:
        self.label = label
        self.group: Group | None = None
        self.since = 0.0
        self._carrier = carrier
        self._programs: dict[str, Program] = {}
        memory = OwnMemory()
        outbox = Outbox(self._report, shared=True)
        self.worker = Worker(self, outbox, memory.words, memory.column, memory.file, process_wide=False)
        self.peek = Peek(memory.words, memory.cells, memory.file)

    def run(self, group: Group) -> None:
        task = group.task
        program = self._programs.get(task.id)
        if program is None:
            # Constants are copied for each worker, as if they had travelled.
            frames: Frames = [bytearray(f) if isinstance(f, bytearray) else f for f in task.program.frames]
            program = Program(task.head, frames)
            if not task.single:
                self._programs[task.id] = program
        payload: Frames = [
            bytearray(f) if isinstance(f, bytearray | memoryview) else f for f in group.payload
        ]
        self.worker.run_group(program, group.head(), payload)

    def forget(self, task: Task) -> None:
        self._programs.pop(task.id, None)

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        # Copied, because an array in a result may be one that later calls go on writing to.
        kept: Frames = [bytearray(f) if isinstance(f, memoryview) else f for f in frames]
        self._carrier.arrived(self, kept, elapsed)

    def take_credit(self, flow: str) -> bool:
        return self._carrier.take_credit(flow)

    def _report(self, reports: list[Report]) -> None:
        self._carrier.reported(reports)


class _InProcess(Carrier):
    """What threads and the inline worker have in common: a queue of groups, one of events, and credit for streams."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._queue: deque[Group] = deque()
        self._events: deque[Event] = deque()
        self._credit: dict[str, int] = {}
        # Not the engine's lock: calls report while somebody else holds that.
        self._own = threading.Lock()
        self._arrived = threading.Condition(self._own)
        self._woken = False
        self._closed = False

    def reported(self, reports: list[Report]) -> None:
        with self._own:
            self._events.append(Reports(reports))
            self._arrived.notify_all()

    def arrived(self, station: _Station, frames: Frames, elapsed: int | None) -> None:
        with self._own:
            assert station.group is not None
            self._events.append(Outcomes(station.group, frames, elapsed))
            if elapsed is not None:
                station.group = None  # together: whoever sees the end of the group sees a free worker
            self._arrived.notify_all()

    def take_credit(self, flow: str) -> bool:
        with self._own:
            self._arrived.wait_for(lambda: self._credit.get(flow, 0) != 0 or self._closed)
            if self._closed or self._credit[flow] < 0:
                return False
            self._credit[flow] -= 1
            return True

    def credit(self, task: Task, count: int) -> None:
        with self._own:
            self._credit[task.id] = self._credit.get(task.id, 0) + count if count else -1
            self._arrived.notify_all()

    def forget(self, task: Task) -> None:
        with self._own:
            if self._credit.get(task.id) != -1:
                self._credit.pop(task.id, None)

    def _enqueue(self, group: Group) -> None:
        with self._own:
            if group.task.head.mode == "stream":
                self._credit[group.task.id] = group.task.head.credit
            self._queue.append(group)
            self._arrived.notify_all()

    def retract(self, task: Task) -> None:
        with self._own:
            mine = [group for group in self._queue if group.task is task]
            for group in mine:
                self._queue.remove(group)
                self._events.append(Returned(group, group.count))
            self._arrived.notify_all()

    def wake(self) -> None:
        with self._own:
            self._woken = True
            self._arrived.notify_all()

    def _take_events(self) -> list[Event]:
        events = list(self._events)
        self._events.clear()
        self._woken = False
        return events


class ThreadCarrier(_InProcess):
    """Carries groups to threads of this process."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._stations: list[_Station] = []
        self._threads: list[threading.Thread] = []
        self._inside = threading.local()
        self._lent = 0

    def room(self, task: Task) -> int:
        with self._own:
            busy = sum(station.group is not None for station in self._stations) + len(self._queue)
            return (2 if task.quick else 1) * self.width + self._lent - busy

    def start(self, group: Group) -> str:
        self._enqueue(group)
        with self._own:
            self._staff()
        return "threads" if self.width > 1 else "thread 1"

    def _staff(self) -> None:
        """Start a thread if groups wait for one and there may be one more."""
        idle = sum(station.group is None for station in self._stations)
        if len(self._queue) > idle and len(self._stations) < self.width + self._lent:
            station = _Station(self, f"thread {len(self._stations) + 1}")
            self._stations.append(station)
            name = f"mini-{station.label}"
            thread = threading.Thread(target=self._serve, args=(station,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, station: _Station) -> None:
        self._inside.yes = True
        while True:
            with self._own:
                self._arrived.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    break
                group = station.group = self._queue.popleft()
                station.since = time.monotonic()
            try:
                station.run(group)
            except BaseException as exc:  # a defect of ours; nobody must wait for this group
                with self._own:
                    self._events.append(Broken(exc))
                    station.group = None
                    self._arrived.notify_all()
        station.worker.outbox.close()

    def retract(self, task: Task) -> None:
        super().retract(task)
        for station in self._stations:
            if station.group is not None and station.group.task is task:
                list(station.worker.rows)  # what has not started, does not

    def forget(self, task: Task) -> None:
        super().forget(task)
        for station in self._stations:
            station.forget(task)

    def inside(self) -> bool:
        return getattr(self._inside, "yes", False)

    def lend(self, count: int) -> None:
        with self._own:
            self._lent += count
            self._staff()  # for groups that wait already: what the lender waits for may be behind them

    def poll(self, timeout: float | None) -> list[Event]:
        with self._own:
            if any(station.group is not None and station.group.count > 1 for station in self._stations):
                timeout = SLOW_SECONDS if timeout is None else min(timeout, SLOW_SECONDS)
            if not self._arrived.wait_for(lambda: self._events or self._woken, timeout):
                for station in self._stations:
                    group = station.group
                    if group is not None and (part := station.peek.read(group.id, group.received)):
                        self._events.append(Outcomes(group, part, None))
            return self._take_events()

    def steal(self) -> None:
        with self._own:
            idle = len(self._stations) < self.width or any(s.group is None for s in self._stations)
            if not idle or self._queue:
                return
            for station in self._stations:
                group = station.group
                if group is None or time.monotonic() - station.since < SLOW_SECONDS:
                    continue
                # One step of the interpreter: a row is either taken by the call loop or taken back here.
                if station.peek.left(group.id, group.count) and (rest := list(station.worker.rows)):
                    self._events.append(Returned(group, len(rest)))
                    self._arrived.notify_all()
                    return

    def close(self, *, kill: bool) -> None:
        with self._own:
            self._closed = True
            self._queue.clear()
            self._arrived.notify_all()
        # A call that runs cannot be ended; its thread ends with it.
        deadline = time.monotonic() + (0 if kill else 1)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        self._stations.clear()
        self._events.clear()
        self._closed = not kill


class InlineCarrier(_InProcess):
    """Runs groups in the thread that waits for them, so that a breakpoint stops where one expects it."""

    background = False

    def __init__(self) -> None:
        super().__init__(1)
        self._idle: list[_Station] = []

    def room(self, task: Task) -> int:
        with self._own:
            return 1 - len(self._queue)

    def start(self, group: Group) -> str:
        if group.task.head.mode == "stream":
            # A generator has to stop between items until the consumer wants more, which a thread can.
            self._credit[group.task.id] = group.task.head.credit
            threading.Thread(target=self._run, args=(group,), name="mini-stream", daemon=True).start()
        else:
            self._enqueue(group)
        return "inline"

    def _run(self, group: Group) -> None:
        with self._own:
            # A call may use the apparatus itself, so one station is not enough.
            station = self._idle.pop() if self._idle else _Station(self, "inline")
        try:
            station.group = group
            station.run(group)
        finally:
            with self._own:
                station.group = None
                self._idle.append(station)

    def poll(self, timeout: float | None) -> list[Event]:
        with self._own:
            if not self._events and not self._queue and not self._woken:
                self._arrived.wait_for(lambda: self._events or self._queue or self._woken, timeout)
            group = self._queue.popleft() if self._queue and not self._events else None
        if group is not None:
            self._run(group)
        with self._own:
            return self._take_events()

    def reported(self, reports: list[Report]) -> None:
        assert self.on_reports is not None
        self.on_reports(reports)  # `poll` is busy running the call

    def forget(self, task: Task) -> None:
        super().forget(task)
        with self._own:
            for station in self._idle:
                station.forget(task)

    def close(self, *, kill: bool) -> None:
        with self._own:
            self._closed = not kill
            self._queue.clear()
            self._events.clear()
            stations, self._idle = self._idle, []
            self._arrived.notify_all()
        for station in stations:
            station.worker.outbox.close()
