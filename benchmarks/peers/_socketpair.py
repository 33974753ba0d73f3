"""No pool: a child process that sends back what it gets over a socketpair. The floor of a single call."""

from __future__ import annotations

import os
import socket

import peers

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MESSAGE = bytes(100)  # about the size of a call: a short function's name, an integer


class Peer(peers.Peer):
    chunks = ()

    def __init__(self, workers: int) -> None:
        self.here, there = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self.here.close()
            while data := there.recv(4096):
                there.sendall(data)
            os._exit(0)
        there.close()

    def call(self, fn: Callable[[Any], Any], x: Any) -> Any:
        self.here.sendall(MESSAGE)
        self.here.recv(4096)
        return x

    def close(self) -> None:
        self.here.close()
        os.waitpid(self.pid, 0)
