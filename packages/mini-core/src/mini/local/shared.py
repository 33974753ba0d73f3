"""Memory that the pool and its worker processes share: files without a name, that end with their last user."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from itertools import accumulate

from ..journal import COLUMN_BYTES, FILE_BYTES, WORDS, Memory
from ..wire import Frame, Frames

__all__ = [
    "MEMORY_BYTES",
    "JournalMemory",
    "anonymous_file",
    "map_privately",
    "offsets",
    "pieces",
    "write_frames",
]

ALIGNMENT = 64
"""Of each of the frames in a block, as numpy's own memory has it."""


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


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where in a block of memory each of some frames starts, and where the block ends."""
    return [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]


def write_frames(name: str, frames: Sequence[Frame]) -> tuple[int, list[int]]:
    """A new anonymous file with `frames` in it, and their sizes.

    Raises:
        OSError: there is no room for it.
    """
    sizes = [memoryview(frame).nbytes for frame in frames]
    at = offsets(sizes)
    fd = anonymous_file(name, at[-1])
    try:
        # Writing to the file costs half of what it costs to fill mapped pages that nobody has touched.
        for offset, frame in zip(at, frames, strict=False):
            rest = memoryview(frame).cast("B")
            while rest.nbytes:
                done = os.pwrite(fd, rest, offset)
                offset, rest = offset + done, rest[done:]
    except BaseException:
        os.close(fd)
        raise
    return fd, sizes


def map_privately(fd: int, size: int) -> mmap.mmap:
    """The memory of a file, `size` bytes; what is written to it stays in this process. Closes `fd`."""
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)


def pieces(block: memoryview, sizes: Sequence[int]) -> Frames:
    """The frames in a block of memory."""
    return [block[at : at + size] for at, size in zip(offsets(sizes), sizes, strict=False)]


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
