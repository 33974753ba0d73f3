"""The main program of a worker process of the local pool."""

from __future__ import annotations

import faulthandler
import marshal
import os
import signal
import socket
import sys
import threading
from functools import partial
from queue import SimpleQueue

from ..journal import READY
from ..station import Station
from ..wire import Frames
from .channel import Channel
from .messages import CONTROL, Data, Order
from .shared import JournalMemory, map_privately, pieces
from .slots import WorkerSlots
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
    child = Child(socket.socket(fileno=data_fd), socket.socket(fileno=control_fd), memory)
    memory.words[READY] = 1
    threading.Thread(target=child.obey, name="mini-control", daemon=True).start()
    child.serve()


class Child:
    """A worker process: a station, and the two ways to it."""

    def __init__(self, data: socket.socket, control: socket.socket, memory: JournalMemory) -> None:
        self._channel = Channel(data)
        self._control = control
        self._station = Station(self._send, alone=True, memory=memory)
        self._slots = WorkerSlots(lambda fd: socket.send_fds(control, [b"\0"], [fd]))
        self._constants: SimpleQueue[tuple[int, int]] = SimpleQueue()
        """Descriptors of shared memory and its sizes, from the control thread to the main thread."""

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
                    self._station.close()
                    return
                if kind == Data.FORGET:
                    self._station.forget(bytes(frames[0]).decode())
                elif kind == Data.PROGRAM:
                    head, sizes = marshal.loads(frames[0])
                    self._station.load(head, self._constant(sizes))
                else:
                    self._station.run(frames)

    def _constant(self, sizes: list[int]) -> Frames:
        """Map the frames of a program that came as shared memory; writing to them stays in this process."""
        fd, size = self._constants.get()
        return pieces(memoryview(map_privately(fd, size)), sizes)

    def _send(self, message: Frames) -> None:
        try:
            if (placed := self._slots.place(message)) is not None:
                where, others = placed
                self._channel.send(Data.PLACED, [marshal.dumps(where), *others])
            else:
                self._channel.send(Data.SAID, message)
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
                if op == Order.CONSTANT:
                    self._constants.put((fds.pop(), number))
                elif op == Order.CREDIT:
                    self._station.credit(flow.rstrip(b"\0").decode(), number)
                elif op == Order.RELEASE:
                    self._slots.release(number)
                else:
                    self._station.give_back(number)
        end = threading.Timer(ORPHAN_GRACE, os._exit, [1])
        end.daemon = True
        end.start()
        self._station.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
