"""The local pool: worker processes of our own, each with one connection for calls and one for orders.

Workers are started on demand, stay warm, and are killed without ceremony: each keeps the journal of its group in memory
that it shares with the pool, so that a dead worker costs the call it was running and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .. import wire
from ..adapter import MessageCarrier
from ..carrier import Broken, Event, Group, Lost, Outcomes, Task
from ..errors import BackendUnavailable, FailureKind
from ..journal import GROUP, IDLE, READY, STARTED, Peek, reached, saved_parts
from ..station import PEEK_SECONDS, STEAL_SECONDS
from .channel import Channel
from .messages import CONTROL, Data, Order
from .shared import MEMORY_BYTES, JournalMemory, anonymous_file, offsets, write_frames
from .slots import PoolSlots
from .wait import Wait

__all__ = ["ProcessPool"]

CONSTANT_BYTES = 256 << 10
"""Programs from this size on are put into shared memory once instead of being sent to each worker."""
START_FAILURES = 3
START_SECONDS = 60.0
"""How long a worker may take to start, with whatever the environment's site packages do then."""
STOP_SECONDS = 1.0
"""Grace for workers that are asked to stop, for instance to run exit handlers."""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class ProcessWorker:
    """One worker process, as the pool sees it."""

    def __init__(
        self, number: int, env: Mapping[str, str], path: Sequence[str] | None = None, cwd: Path | None = None
    ) -> None:
        self.label = f"worker {number}"
        self.groups: deque[Group] = deque()
        """In the order in which it runs them."""
        self.since = 0.0
        """When the first of `groups` became the first."""
        self.known: set[str] = set()
        self.born = time.monotonic()
        self.orders: deque[tuple[bytes, int]] = deque()
        """Orders that the control connection could not take yet, each with a descriptor to send or -1."""
        self.slots = PoolSlots()
        self.verdict: tuple[FailureKind, str] | None = None
        """Why the pool killed it."""
        self.watched = _READ

        with contextlib.ExitStack() as undo:
            memory = anonymous_file("worker", MEMORY_BYTES)
            undo.callback(os.close, memory)
            self.memory = JournalMemory(memory)
            self.words = self.memory.words
            self.peek = Peek(self.memory)
            ours, theirs = socket.socketpair()
            undo.callback(theirs.close)
            control, their_control = socket.socketpair()
            undo.callback(their_control.close)
            self.channel = Channel(ours)
            self.control = control
            fds = (theirs.fileno(), their_control.fileno(), memory)
            try:
                self.process = subprocess.Popen(
                    _command(fds, path),
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    env=env,
                    cwd=cwd,
                    process_group=0,
                )
            except BaseException:
                self.close()
                raise
        for end in (ours, control):
            end.setblocking(False)

    def order(self, order: Order, flow: str = "", number: int = 0, fd: int = -1) -> None:
        """Send an order; one that the connection cannot take now is sent later. Takes `fd` over."""
        self.orders.append((CONTROL.pack(order, flow.encode(), number), fd))
        self.send_orders()

    def send_orders(self) -> None:
        while self.orders:
            data, fd = self.orders[0]
            try:
                sent = socket.send_fds(self.control, [data], [fd] if fd >= 0 else [])
            except BlockingIOError:
                return
            except OSError:  # it is gone; the data connection will say so
                sent = len(data)
            if fd >= 0:
                os.close(fd)
            if sent < len(data):
                self.orders[0] = (data[sent:], -1)
            else:
                self.orders.popleft()

    def receive_fd(self) -> int:
        """The descriptor that the worker has sent."""
        _, fds, _, _ = socket.recv_fds(self.control, 1, 1)
        if not fds:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fds[0]

    def is_at(self, group: Group) -> bool:
        """Whether it runs a call of `group` right now. Only sure while it is stopped."""
        return self.words[GROUP] == group.id and reached(self.words, self.memory.cells) < group.count

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of connections and memory; the process sees that and ends."""
        for _, fd in self.orders:
            if fd >= 0:
                os.close(fd)
        self.orders.clear()
        self.channel.close()
        self.control.close()
        self.memory.close()


def _command(fds: tuple[int, int, int], given: Sequence[str] | None) -> list[str]:
    # Not `-m`: the import path must be the caller's before anything of mini is imported.
    path = [entry or str(Path.cwd()) for entry in sys.path] if given is None else [*given]
    code = f"import sys; sys.path[:] = {path!r}; from mini.local.child import main; main{fds!r}"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", code]


class ProcessPool(MessageCarrier):
    """Carries groups to worker processes on this machine, and reads their journals.

    Args:
        width: the most workers at the same time.
        env: variables for the workers, on top of this process's environment.
        path: their import path; by default this process's.
        cwd: their working directory; by default this process's.
    """

    def __init__(
        self,
        width: int,
        env: Mapping[str, str],
        *,
        path: Sequence[str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        super().__init__(width)
        self._env = env
        self._path = path
        self._cwd = cwd
        self._workers: list[ProcessWorker] = []
        self._at: dict[int, ProcessWorker] = {}
        """Who has which group, by its id."""
        self._selector: selectors.BaseSelector | None = None
        self._wake_ends: tuple[socket.socket, socket.socket] | None = None
        self._constants: dict[str, tuple[int, list[int]]] = {}
        """Files with the frames of large programs, and the sizes of these, by flow."""
        self._doomed: dict[str, float] = {}
        self._failed_starts = 0
        self._started = 0
        self._wait = Wait()
        self._events: list[Event] = []
        """Events that came up outside `poll`."""
        self._oom_kills = _oom_kills()

    # --- carrying groups out ---

    def keep(self, task: Task) -> None:
        program = task.program
        if task.single or program.nbytes < CONSTANT_BYTES:
            super().keep(task)
            return
        try:
            self._constants[task.id] = write_frames("constant", program.frames)
        except OSError as exc:
            message = f"no room for {program.nbytes / 1e6:.0f} MB that all calls share: {exc}"
            raise BackendUnavailable(
                f"{message}; free memory, or have the calls read it from a file"
            ) from exc
        program.frames = []

    def room(self, task: Task) -> int:
        depth = 2 if task.quick else 1
        workers = self._workers
        return depth * (self.width - len(workers)) + sum(max(0, depth - len(w.groups)) for w in workers)

    def start(self, group: Group) -> str:
        worker = min(self._workers, key=lambda w: len(w.groups), default=None)
        if worker is None or (worker.groups and len(self._workers) < self.width):
            try:
                worker = self._spawn()
            except OSError as exc:
                self._break(_cannot_start(exc))
                return "worker"
        if not worker.groups:
            worker.since = time.monotonic()
        worker.groups.append(group)
        self._at[group.id] = worker
        task = group.task
        kind, program, constant = Data.SINGLE, True, False
        if not task.single:
            kind, program = Data.GROUP, task.id not in worker.known
            worker.known.add(task.id)
            constant = program and task.id in self._constants
        message = self.pack(group, program=program and not constant)
        try:
            if constant:
                fd, sizes = self._constants[task.id]
                try:
                    fd = os.dup(fd)
                except OSError as exc:
                    self._break(_no_memory(exc))
                    return worker.label
                worker.order(Order.CONSTANT, number=offsets(sizes)[-1], fd=fd)
                worker.channel.send(Data.PROGRAM, [marshal.dumps((task.head.pack(), sizes))])
            done = worker.channel.send(kind, message)
        except OSError:
            return worker.label  # it is gone: the next poll reads the end of file and returns the group
        if not done:
            self._watch(worker, _READ | _WRITE)
        return worker.label

    def _break(self, error: BackendUnavailable) -> None:
        self._events.append(Broken(error))
        self.wake()

    def _spawn(self) -> ProcessWorker:
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            self._wake_ends = socket.socketpair()
            for end in self._wake_ends:
                end.setblocking(False)
            self._selector.register(self._wake_ends[0], _READ, None)
        self._started += 1
        taken = {w.label for w in self._workers}
        number = next(n for n in range(1, len(taken) + 2) if f"worker {n}" not in taken)
        worker = ProcessWorker(number, {**os.environ, **self._env}, self._path, self._cwd)
        self._workers.append(worker)
        self._selector.register(worker.channel.sock, _READ, worker)
        return worker

    def _watch(self, worker: ProcessWorker, events: int) -> None:
        if worker.watched != events and self._selector is not None:
            worker.watched = events
            self._selector.modify(worker.channel.sock, events, worker)

    # --- bringing outcomes back ---

    def poll(self, timeout: float | None) -> list[Event]:
        with self.lock:
            selector = self._selector
            busy = sum(bool(worker.groups) for worker in self._workers)
            bound = 0.0 if self._events else self._bound()
        if bound is not None and (timeout is None or bound < timeout):
            timeout = bound
        if selector is None:
            time.sleep(min(timeout or 0.01, 0.01))
            ready = []
        else:
            look = partial(selector.select, 0)
            ready = (
                look()
                if timeout == 0
                else self._wait.until(look, partial(selector.select, timeout), busy=busy)
            )
        with self.lock:
            events, self._events = self._events, []
            for key, mask in ready:
                worker = key.data
                if worker is None:
                    self._drain_wake()
                elif worker in self._workers:
                    self._serve(worker, mask, events)
            self._look_after(events)
        return events

    def _serve(self, worker: ProcessWorker, mask: int, events: list[Event]) -> None:
        if mask & _WRITE:
            try:
                if worker.channel.flush():
                    self._watch(worker, _READ)
            except OSError:
                mask |= _READ
        if mask & _READ:
            try:
                messages = worker.channel.receive()
            except EOFError:
                self._bury(worker, events)
                return
            for kind, frames in messages:
                if kind == Data.PLACED:
                    try:
                        frames = worker.slots.take(marshal.loads(frames[0]), frames[1:], worker.receive_fd)
                    except OSError as exc:
                        worker.kill()
                        events.append(Broken(_no_memory(exc)))
                        continue
                self._add(events, frames)

    def _add(self, events: list[Event], message: wire.Frames | Event) -> None:
        if (event := self.read(message)) is not None:
            events.append(event)

    def ended(self, group: Group) -> None:
        worker = self._at.pop(group.id)
        worker.groups.remove(group)
        worker.since = time.monotonic()

    def _bound(self) -> float | None:
        """Seconds until something has to be looked after even if nothing arrives."""
        now = time.monotonic()
        idle = len(self._workers) < self.width or not all(worker.groups for worker in self._workers)
        bound: float | None = None
        for worker in self._workers:
            if not worker.groups:
                continue
            group = worker.groups[0]
            due = []
            if not worker.words[READY]:
                due.append(max(0.01, worker.born + START_SECONDS - now))
            if group.count > 1:
                due.append(PEEK_SECONDS)
            if idle and (len(worker.groups) > 1 or group.count > 1):
                due.append(STEAL_SECONDS)
            if group.task.timeout is not None:
                started = worker.words[STARTED] / 1e9
                due.append(max(0.001, started + group.task.timeout - now) if started else 0.02)
            if group.task.id in self._doomed:
                due.append(max(0.001, self._doomed[group.task.id] - now))
            if worker.orders:
                due.append(STEAL_SECONDS)
            bound = min([*due, bound] if bound is not None else due, default=bound)
        return bound

    def _look_after(self, events: list[Event]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            while worker.slots.released:
                worker.order(Order.RELEASE, number=worker.slots.released.popleft())
            if worker.orders:
                worker.send_orders()
            if not worker.groups:
                continue
            if not worker.words[READY] and now > worker.born + START_SECONDS:
                worker.verdict = ("lost", f"it did not start within {START_SECONDS:g} s")
                worker.kill()
                events.append(Broken(_no_start(f"a worker process did not start within {START_SECONDS:g} s")))
                continue
            group = worker.groups[0]
            timeout = group.task.timeout
            if timeout is not None and worker.words[GROUP] == group.id:
                started = worker.words[STARTED]
                if started and time.monotonic_ns() - started > timeout * 1e9:
                    self._execute(
                        worker, group, started, "timeout", f"ran longer than its timeout of {timeout:g} s"
                    )
            if self._doomed.get(group.task.id, now) < now:
                self._execute(worker, group, None, "cancelled", "cancelled while it ran")
            if group.count > 1 and now - worker.since > PEEK_SECONDS:
                self._peek(worker, group, events)

    def _execute(
        self, worker: ProcessWorker, group: Group, started: int | None, kind: FailureKind, reason: str
    ) -> None:
        """Kill `worker` if it is still at that call of `group`; look at it only while it is stopped."""
        if worker.verdict is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGSTOP)
            _await_stop(worker.process.pid)
            if worker.is_at(group) and (started is None or worker.words[STARTED] == started):
                worker.verdict = (kind, reason)
                worker.kill()
            else:
                worker.process.send_signal(signal.SIGCONT)

    def _peek(self, worker: ProcessWorker, group: Group, events: list[Event]) -> None:
        """Hand out what a slow group has finished so far."""
        if part := worker.peek.read(group.id, group.received):
            events.append(Outcomes(group, part, None))

    def _bury(self, worker: ProcessWorker, events: list[Event]) -> None:
        """A worker is gone: save what it had finished and give back the rest."""
        self._remove(worker)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(0.2)
        if worker.process.returncode is None:  # it closed its end without dying
            worker.kill()
            worker.process.wait()
        kind, reason = worker.verdict or self._cause(worker)
        begun, at = worker.words[GROUP], reached(worker.words, worker.memory.cells)
        groups = list(worker.groups)
        for place, group in enumerate(groups):
            running = -1
            if place == 0 and begun == group.id and at != IDLE:
                if part := saved_parts(worker.memory):
                    events.append(Outcomes(group, part, None))
                running = at if at < group.count else -1
            self._add(events, Lost(group, running, reason, kind))
        if worker.words[READY] or worker.verdict is not None or not groups:
            self._failed_starts = 0
        else:
            self._failed_starts += 1
            if self._failed_starts >= START_FAILURES:
                self._failed_starts = 0
                what = (
                    f"{START_FAILURES} worker processes in a row died while they started; the last: {reason}"
                )
                events.append(Broken(_no_start(what)))
        worker.close()

    def _remove(self, worker: ProcessWorker) -> None:
        self._workers.remove(worker)
        if self._selector is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(worker.channel.sock)

    def _cause(self, worker: ProcessWorker) -> tuple[FailureKind, str]:
        code = worker.process.returncode
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            kills = _oom_kills()
            if -code == signal.SIGKILL and kills > self._oom_kills:
                self._oom_kills = kills
                return (
                    "out-of-memory",
                    f"its worker was killed by the system (pid {worker.process.pid}): out of memory",
                )
            return "lost", f"its worker was killed by {name} (pid {worker.process.pid})"
        return "lost", f"its worker exited with code {code} (pid {worker.process.pid})"

    # --- orders ---

    def wake(self) -> None:
        if self._wake_ends is not None:
            with contextlib.suppress(OSError):
                self._wake_ends[1].send(b"!")

    def _drain_wake(self) -> None:
        if self._wake_ends is not None:
            with contextlib.suppress(BlockingIOError):
                while len(self._wake_ends[0].recv(4096)) == 4096:
                    pass

    def steal(self) -> None:
        workers = self._workers
        if self.unanswered or (len(workers) == self.width and all(w.groups for w in workers)):
            return
        now = time.monotonic()
        busiest = None
        for worker in self._workers:
            if not worker.groups or now - worker.since < STEAL_SECONDS:
                continue
            group = worker.groups[-1]
            left = group.count if len(worker.groups) > 1 else worker.peek.left(group.id, group.count)
            if left > 0 and (busiest is None or left > busiest[0]):
                busiest = (left, group)
        if busiest is not None:
            self.ask(busiest[1])

    def give_back(self, group: Group) -> None:
        self._at[group.id].order(Order.GIVE_BACK, number=group.id)

    def doom(self, task: Task, grace: float) -> None:
        if any(group.task is task for worker in self._workers for group in worker.groups):
            self._doomed[task.id] = time.monotonic() + grace
            self.wake()

    def forget(self, task: Task) -> None:
        if task.id in self._constants:
            os.close(self._constants.pop(task.id)[0])
        for worker in self._workers:
            if task.id in worker.known:
                worker.known.discard(task.id)
                with contextlib.suppress(OSError):
                    if not worker.channel.send(Data.FORGET, [task.id.encode()]):
                        self._watch(worker, _READ | _WRITE)

    def credit(self, task: Task, count: int) -> None:
        for worker in self._workers:
            if any(group.task is task for group in worker.groups):
                worker.order(Order.CREDIT, task.id, count)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        workers, self._workers = self._workers, []
        for worker in workers:
            if kill or worker.groups:
                worker.kill()
            else:
                with contextlib.suppress(OSError):
                    worker.channel.send(Data.STOP, [])
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.process.wait()
            worker.close()
        self._let_go()

    def abandon(self) -> None:
        for worker in self._workers:
            worker.process.returncode = 0  # not our child: nothing to wait for
            worker.close()
        self._workers = []
        self._let_go()

    def _let_go(self) -> None:
        """Close what there is besides workers."""
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        for end in self._wake_ends or ():
            end.close()
        self._wake_ends = None
        for fd, _ in self._constants.values():
            os.close(fd)
        self._constants.clear()
        self._at.clear()
        self._doomed.clear()
        self._events.clear()


def _await_stop(pid: int) -> None:
    """Wait until a process that was sent SIGSTOP has stopped (or ended)."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    try:
        with Path("/proc/vmstat").open("rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _no_start(what: str) -> BackendUnavailable:
    return BackendUnavailable(f"{what}. Try it by hand: {sys.executable} -c 'import mini.local.child'")


def _no_memory(exc: OSError) -> BackendUnavailable:
    error = BackendUnavailable(f"memory cannot be shared with a worker process: {exc}")
    error.__cause__ = exc
    return error


def _cannot_start(exc: OSError) -> BackendUnavailable:
    error = BackendUnavailable(f"a worker process cannot be started with {sys.executable!r}: {exc}")
    error.__cause__ = exc
    return error
