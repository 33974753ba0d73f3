"""What the pool and its worker processes say to each other.

The *data* connection carries calls and outcomes; the worker's main thread reads it between groups. The *control*
connection carries small fixed-size orders that a helper thread of the worker obeys while calls run. Its end of file
means that the pool is gone.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum

from ..journal import COLUMN_BYTES, FILE_BYTES, WORDS, Memory

__all__ = ["CONTROL", "FLOW_ID_SIZE", "MEMORY_BYTES", "Data", "JournalMemory", "Order", "anonymous_file"]


class Data(IntEnum):
    """Messages on the data connection; each names its frames."""

    # to the worker
    GROUP = 1  # what `MessageCarrier.pack` made of a group
    SINGLE = 2  # the same, and nothing more is expected to come soon
    PROGRAM = 3  # marshal(program head, frame sizes); the frames come as a constant
    FORGET = 4  # flow id
    STOP = 5
    # from the worker
    SAID = 6  # what its `Station` sends


class Order(IntEnum):
    """Orders on the control connection, each with a flow id and a number."""

    CONSTANT = 1  # a file descriptor comes along: the program's frames; number: bytes
    GIVE_BACK = 2  # number: a group
    CREDIT = 3  # number: how many more items of the stream may be sent; 0 ends it


FLOW_ID_SIZE = 16
CONTROL = struct.Struct(f"<B{FLOW_ID_SIZE}sQ")

_COLUMN_OFFSET = mmap.ALLOCATIONGRANULARITY
_FILE_OFFSET = _COLUMN_OFFSET + COLUMN_BYTES
MEMORY_BYTES = _FILE_OFFSET + FILE_BYTES


class JournalMemory(Memory):
    """The memory of a worker's journal, mapped from a descriptor that worker and pool share."""

    def __init__(self, fd: int) -> None:
        self._maps = mmap.mmap(fd, _FILE_OFFSET), mmap.mmap(fd, FILE_BYTES, offset=_FILE_OFFSET)
        self._whole = memoryview(self._maps[0])
        words = self._whole[: 8 * WORDS].cast("Q")
        super().__init__(words, self._whole[_COLUMN_OFFSET:], self._maps[1])

    def close(self) -> None:
        for view in (self.words, self.cells, self.column, self._whole):
            view.release()
        for memory in self._maps:
            memory.close()


def anonymous_file(name: str, size: int) -> int:
    """A file descriptor of `size` bytes of shared memory without a name, which ends with its last user.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"mini-{name}")
    else:  # macOS
        import tempfile

        with tempfile.TemporaryFile(prefix=f"mini-{name}-") as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd
