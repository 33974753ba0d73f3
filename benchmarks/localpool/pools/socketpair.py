"""No pool, but a child process that sends back what it receives: the floor under a single call."""

from __future__ import annotations

import os
import socket

from .. import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MESSAGE = bytes(100)
"""As large as a call is: the name of a function and a number."""


class Pool(pools.Pool):
    def __init__(self) -> None:
        self.here, there = socket.socketpair()
        self.child = os.fork()
        if not self.child:
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
        os.waitpid(self.child, 0)
