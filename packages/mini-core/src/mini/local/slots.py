"""Large results in memory that worker and pool share, which saves copying them through a connection.

Filling fresh pages costs several times more than copying what goes into them, so the memory is used again and again: a
worker has a few slots, and the pool says when nobody holds the result that is in one. While all are taken, results go
through the connection like everything else, so nobody ever waits for a slot.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from ..wire import Frame, Frames
from .shared import anonymous_file, map_privately, offsets, pieces

__all__ = ["LARGE_BYTES", "Placed", "PoolSlots", "WorkerSlots"]

LARGE_BYTES = 1 << 20
"""Frames from here on are put into a slot."""
MOST_SLOTS = 4
MOST_BYTES = 64 << 20
"""Of all slots of a worker, which keeps them for as long as it lives."""

Placed = tuple[int, int, dict[int, int]]
"""Slot; its size in bytes if it is new, else 0; and the sizes of the frames in it by their places in their message."""


class WorkerSlots:
    """The worker's side: puts frames into slots. `place` is called by one thread at a time.

    Args:
        announce: brings the descriptor of a new slot to the pool, ahead of the message that uses it.
    """

    def __init__(self, announce: Callable[[int], object]) -> None:
        self._announce = announce
        self._slots: list[mmap.mmap] = []
        self._free: set[int] = set()

    def place(self, frames: Sequence[Frame]) -> tuple[Placed, Frames] | None:
        """Put the large ones among `frames` into a slot; return where they are, and the others. None: no room."""
        large = {k: size for k, frame in enumerate(frames) if (size := _nbytes(frame)) >= LARGE_BYTES}
        if not large or sys.platform != "linux":  # elsewhere MADV_DONTNEED is only a hint
            return None
        at = offsets([*large.values()])
        found = self._find(at[-1])
        if found is None:
            return None
        slot, new = found
        memory = self._slots[slot]
        for offset, (k, size) in zip(at, large.items(), strict=False):
            memory[offset : offset + size] = memoryview(frames[k]).cast("B")
        return (slot, new, large), [frame for k, frame in enumerate(frames) if k not in large]

    def release(self, slot: int) -> None:
        """What was in `slot` is not needed any more. From any thread."""
        self._free.add(slot)

    def _find(self, size: int) -> tuple[int, int] | None:
        """A slot that is free and large enough, and its size if it has just been made."""
        for slot in tuple(self._free):
            if len(self._slots[slot]) >= size:
                self._free.discard(slot)
                return slot, 0
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        # One that is free and too small makes room for a larger one.
        slot = len(self._slots) if len(self._slots) < MOST_SLOTS else min(self._free, default=-1)
        others = sum(len(memory) for k, memory in enumerate(self._slots) if k != slot)
        if slot < 0 or others + size > MOST_BYTES:
            return None
        try:
            fd = anonymous_file("results", size)
        except OSError:
            return None
        try:
            memory = mmap.mmap(fd, size)
            self._announce(fd)
        finally:
            os.close(fd)
        self._free.discard(slot)
        self._slots[slot : slot + 1] = [memory]
        return slot, size


class PoolSlots:
    """The pool's side, for one worker: takes frames out of slots without copying them.

    They are mapped privately, so whoever writes to a result changes nothing for anybody else.
    """

    def __init__(self) -> None:
        self.released: deque[int] = deque()
        """Slots that nobody holds any more and whose worker has not been told."""
        self._slots: dict[int, mmap.mmap] = {}
        self._held: dict[int, weakref.ref[object]] = {}
        _all.add(self)

    def take(self, placed: Placed, others: Frames, receive: Callable[[], int]) -> Frames:
        """The frames of a message, some of them in a slot. `receive` returns the descriptor that came for a new slot.

        The slot is released when the last of what was made of its frames is gone.
        """
        import ctypes  # not before there is something large: it takes a while to load

        slot, new, sizes = placed
        if new:
            self._slots[slot] = map_privately(receive(), new)
        memory = self._slots[slot]
        # Unlike a memoryview, it lives for exactly as long as somebody uses its memory.
        holder = (ctypes.c_char * len(memory)).from_buffer(memory)
        self._held[slot] = weakref.ref(holder, lambda _: self._release(slot))
        frames = list(others)
        for k, frame in zip(sizes, pieces(memoryview(holder).cast("B"), [*sizes.values()]), strict=True):
            frames.insert(k, frame)
        return frames

    def retire(self) -> None:
        """Never have the slots that are held used again."""
        self._held.clear()

    def _release(self, slot: int) -> None:
        # Runs wherever the last reference goes, so it only takes a note.
        self._slots[slot].madvise(
            mmap.MADV_DONTNEED
        )  # what was written to it goes, and what comes next shows
        self.released.append(slot)


_all: weakref.WeakSet[PoolSlots] = weakref.WeakSet()


def _before_fork() -> None:
    """The copy of this process has the results too, and nobody will know when it lets go of them."""
    for slots in list(_all):
        slots.retire()


os.register_at_fork(before=_before_fork)


def _nbytes(frame: Frame) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
