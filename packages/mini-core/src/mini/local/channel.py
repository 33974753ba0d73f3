"""Messages over a stream socket: a kind and a list of frames, of any size, without copying the large ones.

On the wire: kind (1 byte), number of frames (4 bytes), the length of each (8 bytes), then the frames.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Sequence

from ..wire import Frame, Frames

__all__ = ["Channel", "Message"]

Message = tuple[int, Frames]

_HEAD = struct.Struct("<BI")
_CHUNK = 256 << 10
_LARGE = 64 << 10
"""Frames from here on (bytes) are received into memory of their own instead of through the buffer."""
_MOST_PIECES = 512


class Channel:
    """One end of a connection. Not thread-safe.

    A blocking socket makes `send` wait; with a non-blocking one `send` queues what does not fit, and `flush` goes on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray(_CHUNK)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._queue: deque[memoryview] = deque()
        # A message that is being received: its kind, frames so far, sizes of the frames to come.
        self._kind = -1
        self._frames: Frames = []
        self._sizes: list[int] = []
        self._large: memoryview | None = None

    def send(self, kind: int, frames: Sequence[Frame]) -> bool:
        """Send a message; return whether all of it is on its way (else call `flush` when the socket is writable)."""
        sizes = [f.nbytes if isinstance(f, memoryview) else len(f) for f in frames]
        head = _HEAD.pack(kind, len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        pieces: Sequence[Frame] = [head, *frames]
        total = len(head) + sum(sizes)
        if total <= _LARGE or len(pieces) > _MOST_PIECES:
            pieces = [b"".join(pieces)] if total <= _LARGE else _joined(pieces)
        if self._queue:
            self._queue.extend(memoryview(p).cast("B") for p in pieces if len(p))
            return False
        try:
            sent = self.sock.send(pieces[0]) if len(pieces) == 1 else self.sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        if sent == total:
            return True
        for piece in pieces:
            view = memoryview(piece).cast("B")
            if sent >= view.nbytes:
                sent -= view.nbytes
            else:
                self._queue.append(view[sent:])
                sent = 0
        return self.flush()

    def flush(self) -> bool:
        """Send what is queued as far as the socket takes it; return whether nothing is left."""
        queue = self._queue
        while queue:
            try:
                sent = self.sock.sendmsg([queue[k] for k in range(min(len(queue), _MOST_PIECES))])
            except BlockingIOError:
                return False
            while queue and sent >= queue[0].nbytes:
                sent -= queue.popleft().nbytes
            if sent:
                queue[0] = queue[0][sent:]
        return True

    def receive(self, *, wait: bool = True) -> list[Message]:
        """Read what is there and return the messages that are complete, perhaps none.

        A blocking socket makes it wait until something is there, unless `wait` is false.

        Raises:
            EOFError: the other end is gone; a message that had not arrived whole is dropped.
        """
        if self._large is not None:
            count = self._recv(self._large, wait)
            self._large = self._large[count:]
            if self._large.nbytes:
                return []
            self._large = None
        else:
            if self._end == _CHUNK:
                self._view[: self._end - self._begin] = self._view[self._begin : self._end]
                self._end -= self._begin
                self._begin = 0
            self._end += self._recv(self._view[self._end :], wait)
        messages: list[Message] = []
        while self._parse():
            messages.append((self._kind, self._frames))
            self._kind = -1
            self._frames = []
        if self._begin == self._end:
            self._begin = self._end = 0
        return messages

    def _recv(self, into: memoryview, wait: bool) -> int:
        try:
            count = self.sock.recv_into(into, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except ConnectionError as exc:
            raise EOFError from exc
        if not count:
            raise EOFError
        return count

    def _parse(self) -> bool:
        """Take the next message out of the buffer as far as it is there; True when it is whole."""
        begin, end = self._begin, self._end
        if self._kind < 0:
            if end - begin < _HEAD.size:
                return False
            kind, count = _HEAD.unpack_from(self._buffer, begin)
            if end - begin < _HEAD.size + 8 * count:
                if 8 * count > _CHUNK - _HEAD.size:
                    raise ValueError(f"a message of {count} frames is too long")
                return False
            self._sizes = list(struct.unpack_from(f"<{count}Q", self._buffer, begin + _HEAD.size))
            self._kind = kind
            self._begin = begin = begin + _HEAD.size + 8 * count
        while len(self._frames) < len(self._sizes):
            size = self._sizes[len(self._frames)]
            there = end - begin
            if size >= _LARGE:
                frame = bytearray(size)
                self._frames.append(frame)
                taken = min(there, size)
                frame[:taken] = self._view[begin : begin + taken]
                self._begin = begin = begin + taken
                if taken < size:
                    self._large = memoryview(frame)[taken:]
                    return False
            elif there < size:
                return False
            else:
                self._frames.append(bytes(self._view[begin : begin + size]))
                self._begin = begin = begin + size
        return True

    def close(self) -> None:
        self._queue.clear()
        self.sock.close()


def _joined(pieces: Sequence[Frame]) -> list[Frame]:
    """The same bytes in few enough pieces for one system call."""
    step = -(-len(pieces) // _MOST_PIECES)
    return [b"".join(pieces[k : k + step]) for k in range(0, len(pieces), step)]
