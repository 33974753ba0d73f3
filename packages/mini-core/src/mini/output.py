"""What calls print and emit, on its way from a worker to the caller.

Reports are gathered and sent a few times per second, so that a call which emits in its inner loop neither blocks nor
floods. Printed lines are kept in order and complete; of progress and metrics only the latest values travel.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from .context import RunningGroup, running_group

__all__ = ["Outbox", "capture_output"]

Report = tuple[str, int, int, str, Any]
"""flow, input index, attempt, kind ("progress", "metrics", "stdout" or "stderr"), and what was reported."""

REPORT_EVERY = 0.1
"""Seconds between two reports of a worker; the first one after a pause goes at once."""
MOST_WAITING = 64 << 10
"""Characters of printed text that may wait to be sent."""


class Outbox:
    """Gathers a worker's reports and sends them in batches. `send` may be called from any thread."""

    def __init__(self, send: Callable[[list[Report]], None]) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._latest: dict[tuple[str, int, int, str], Any] = {}
        self._printed: list[Report] = []
        self._waiting = 0
        self._sent = 0.0
        self._wanted = threading.Event()
        self._flusher: threading.Thread | None = None
        self._closed = False

    def emitter(self, attempt: int, flow: str) -> Callable[[str, int, Any], None]:
        """The `emit` function for a group of calls."""

        def emit(kind: str, index: int, data: Any) -> None:
            key = (flow, index, attempt, kind)
            with self._lock:
                if kind == "metrics":
                    data = {**self._latest.get(key, {}), **data}
                self._latest[key] = data
                self._soon()

        return emit

    def printed(self, group: RunningGroup, stream: str, lines: list[str]) -> None:
        with self._lock:
            self._printed.append((group.flow, group.index, group.attempt, stream, lines))
            self._waiting += sum(map(len, lines))
            self._soon()

    def _soon(self) -> None:
        if self._waiting > MOST_WAITING or time.monotonic() - self._sent > REPORT_EVERY:
            self.flush()
        elif not self._wanted.is_set():
            self._wanted.set()
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_later, name="mini-reports", daemon=True)
                self._flusher.start()

    def _flush_later(self) -> None:
        while True:
            self._wanted.wait()
            if self._closed:
                return
            time.sleep(REPORT_EVERY)
            self.flush()

    def flush(self) -> None:
        """Send what waits, now."""
        if not self._latest and not self._printed:
            return
        with self._lock:
            reports = self._printed + [(*key, data) for key, data in self._latest.items()]
            self._printed = []
            self._latest = {}
            self._waiting = 0
            self._sent = time.monotonic()
            self._wanted.clear()
            if reports:
                self._send(reports)

    def close(self) -> None:
        """Send what waits and let the helper thread end."""
        self.flush()
        self._closed = True
        self._wanted.set()


class LineStream(io.TextIOBase):
    """Takes the place of `sys.stdout` or `sys.stderr` where calls run; passes on what is printed outside a call."""

    def __init__(self, name: str, outside: TextIO | None, *, tee: bool) -> None:
        self._name = name
        self._outside = outside
        self._tee = tee
        self._rest: dict[int, tuple[RunningGroup, str]] = {}
        self._outboxes: dict[int, Outbox] = {}

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def take(self, group: RunningGroup, outbox: Outbox) -> None:
        self._outboxes[id(group)] = outbox

    def leave(self, group: RunningGroup) -> None:
        self._end_line(id(group))
        self._outboxes.pop(id(group), None)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        if self._outside is None:
            raise io.UnsupportedOperation("fileno")
        return self._outside.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        group = running_group()
        outbox = self._outboxes.get(id(group)) if group is not None else None
        if group is None or outbox is None:
            return self._outside.write(text) if self._outside is not None else len(text)
        if self._tee and self._outside is not None:
            self._outside.write(text)
        key = id(group)
        held = self._rest.pop(key, None)
        *lines, rest = ((held[1] if held else "") + text).split("\n")
        if rest:
            self._rest[key] = (group, rest)
        if lines:
            outbox.printed(group, self._name, lines)
        return len(text)

    def _end_line(self, key: int) -> None:
        held = self._rest.pop(key, None)
        outbox = self._outboxes.get(key)
        if held is not None and outbox is not None:
            outbox.printed(held[0], self._name, [held[1]])

    def flush(self) -> None:
        if self._outside is not None and not self._outside.closed:
            self._outside.flush()


_capture_lock = threading.Lock()
_streams: list[LineStream] = []
_captures = 0


@contextlib.contextmanager
def capture_output(group: RunningGroup, outbox: Outbox, *, tee: bool) -> Iterator[None]:
    """Within it, what `group`'s calls print goes to `outbox`; with `tee`, also to where it would have gone.

    Captures nest and overlap across threads; when the last one ends, `sys.stdout` and `sys.stderr` are the old ones.
    """
    global _captures
    with _capture_lock:
        if not _captures:
            _streams[:] = [LineStream(name, getattr(sys, name), tee=tee) for name in ("stdout", "stderr")]
            sys.stdout, sys.stderr = cast("list[TextIO]", _streams)
        _captures += 1
        streams = list(_streams)
        for stream in streams:
            stream.take(group, outbox)
    try:
        yield
    finally:
        with _capture_lock:
            for stream in streams:
                stream.leave(group)
            _captures -= 1
            if not _captures:
                for stream, name in zip(streams, ("stdout", "stderr"), strict=True):
                    if getattr(sys, name) is stream:
                        setattr(sys, name, stream._outside)
                _streams.clear()
