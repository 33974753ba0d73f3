"""The main program of a worker process of the local pool."""

from __future__ import annotations

import faulthandler
import marshal
import mmap
import os
import signal
import socket
import sys
import threading
from collections import defaultdict
from functools import partial
from itertools import pairwise

from .. import wire
from ..journal import READY
from ..output import Outbox, Report
from ..wire import Frame, Frames
from ..worker import GroupHead, Program, ProgramHead, Worker
from .channel import Channel
from .messages import CONTROL, Data, JournalMemory, Order
from .wait import Wait

__all__ = ["main"]

ORPHAN_GRACE = 1.0
"""Seconds that the running call of a worker whose pool is gone may go on."""


def main(data_fd: int, control_fd: int, memory_fd: int) -> None:
    """Serve the pool at the other end of the given descriptors until it says stop or is gone."""
    # Ctrl-C is the caller's business; it reaches the whole process group of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    memory = JournalMemory(memory_fd)
    os.close(memory_fd)
    child = Child(socket.socket(fileno=data_fd), socket.socket(fileno=control_fd))
    child.worker = Worker(child, child.outbox, memory.words, memory.column, memory.file, process_wide=True)
    memory.words[READY] = 1
    threading.Thread(target=child.obey, name="mini-control", daemon=True).start()
    child.serve()


class Child:
    """A worker process: the host that its `Worker` talks to."""

    worker: Worker

    def __init__(self, data: socket.socket, control: socket.socket) -> None:
        self._channel = Channel(data)
        self._control = control
        self._sending = threading.Lock()
        self._programs: dict[str, Program] = {}
        self.outbox = Outbox(self._report)
        # Shared with the control thread, under `_changed`.
        self._changed = threading.Condition()
        self._constants: dict[str, tuple[int, int]] = {}
        self._begun = -1
        self._running = False
        self._stolen: set[int] = set()
        self._credit: defaultdict[str, int] = defaultdict(int)
        self._ended: set[str] = set()
        self._gone = False
        self._is_copy = False
        os.register_at_fork(after_in_child=self.become_copy)

    # --- the main thread ---

    def serve(self) -> None:
        wait = Wait()
        look = partial(self._channel.receive, wait=False)
        kind = -1
        while True:
            try:
                # After a single call only its caller works; in a map all other workers may.
                busy = 1 if kind == Data.SINGLE else sys.maxsize
                messages = wait.until(look, self._channel.receive, busy=busy)
            except EOFError:
                return
            for kind, frames in messages:
                if kind == Data.STOP:
                    self.outbox.close()
                    return
                self._handle(kind, frames)

    def _handle(self, kind: int, frames: Frames) -> None:
        if kind == Data.GROUP:
            head = GroupHead(*marshal.loads(frames[0]))
            self._run(self._programs[head.flow], head, frames[1:])
        elif kind == Data.SINGLE:
            program, group, count = marshal.loads(frames[0])
            head = GroupHead(*group)
            self._run(Program(ProgramHead(*program), frames[1 : 1 + count]), head, frames[1 + count :])
        elif kind == Data.PROGRAM:
            head_fields, sizes = marshal.loads(frames[0])
            program_head = ProgramHead(*head_fields)
            parts = self._constant(program_head.flow, sizes) if sizes else frames[1:]
            self._programs[program_head.flow] = Program(program_head, parts)
        elif kind == Data.FORGET:
            flow = bytes(frames[0]).decode()
            self._programs.pop(flow, None)
            with self._changed:
                self._credit.pop(flow, None)
                self._ended.discard(flow)

    def _run(self, program: Program, head: GroupHead, payload: Frames) -> None:
        with self._changed:
            self._begun = head.group
            if head.group in self._stolen:
                self._stolen.discard(head.group)
                return
            self._running = True
            if program.head.mode == "stream":
                self._credit[head.flow] += program.head.credit
        try:
            self.worker.run_group(program, head, payload)
        except BaseException:
            if self._is_copy:
                os._exit(0)
            raise
        finally:
            with self._changed:
                self._running = False

    def _constant(self, flow: str, sizes: list[int]) -> Frames:
        """Map the frames of a program that came as shared memory; writing to them stays in this process."""
        with self._changed:
            self._changed.wait_for(lambda: flow in self._constants or self._gone)
            if self._gone:
                raise SystemExit
            fd, size = self._constants.pop(flow)
        flags = mmap.MAP_PRIVATE
        memory = memoryview(mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE))
        os.close(fd)
        at = wire.offsets(sizes)
        return [memory[begin:end] for begin, end in pairwise(at)]

    def become_copy(self) -> None:
        """A call has forked, and this process is the copy: it may go on with the call, but only the original answers.

        The journal is shared with the original. Without it, the copy cannot get past the end of the call, and ends.
        """
        self._is_copy = True
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self.outbox.forked()
        self.worker.words.release()
        self.worker.column.release()

    # --- what the worker needs of its host ---

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        self._send(Data.PART, [marshal.dumps((group, elapsed)), *frames])

    def take_credit(self, flow: str) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._credit[flow] > 0 or flow in self._ended or self._gone)
            if flow in self._ended or self._gone:
                return False
            self._credit[flow] -= 1
            return True

    def _report(self, reports: list[Report]) -> None:
        try:
            data = wire.dumps(reports, returning=True)
        except Exception:
            data = wire.dumps([(*r[:4], _as_text(r[4])) for r in reports])
        self._send(Data.REPORTS, [data[0], *wire.raw(data[1], copy=False)])

    def _send(self, kind: Data, frames: list[Frame]) -> None:
        if self._is_copy:
            return
        try:
            with self._sending:
                self._channel.send(kind, frames)
        except OSError:  # the pool is gone; the control thread ends this process
            threading.Event().wait(2 * ORPHAN_GRACE)
            os._exit(1)

    # --- the control thread ---

    def obey(self) -> None:
        """Carry out orders until the pool is gone; then end this process, whatever it is at."""
        pending = b""
        fds: list[int] = []
        while True:
            try:
                data, new_fds, _, _ = socket.recv_fds(self._control, CONTROL.size - len(pending), 4)
            except OSError:
                data, new_fds = b"", []
            fds += new_fds
            if not data:
                break
            pending += data
            if len(pending) == CONTROL.size:
                op, flow, number = CONTROL.unpack(pending)
                pending = b""
                self._obey(Order(op), flow.rstrip(b"\0").decode(), number, fds)
                fds = []
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        threading.Event().wait(ORPHAN_GRACE)
        os._exit(1)

    def _obey(self, order: Order, flow: str, number: int, fds: list[int]) -> None:
        returned = -1
        with self._changed:
            if order is Order.CONSTANT:
                self._constants[flow] = (fds[0], number)
            elif order is Order.CREDIT:
                self._credit[flow] += number
            elif order is Order.END_STREAM:
                self._ended.add(flow)
            elif order is Order.STEAL:
                returned = 0
                if number > self._begun:
                    self._stolen.add(number)
                    returned = 2**32
                elif number == self._begun and self._running:
                    # One step of the interpreter: a row is either taken by the call loop or taken back here.
                    returned = len(list(self.worker.rows))
            self._changed.notify_all()
        if returned >= 0:
            self._send(Data.RETURNED, [marshal.dumps((number, returned))])


def _as_text(data: object) -> object:
    if isinstance(data, dict):
        return {
            str(k): v if isinstance(v, int | float | str | bool | None) else repr(v) for k, v in data.items()
        }
    return data


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
