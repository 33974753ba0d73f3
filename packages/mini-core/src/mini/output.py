"""What calls print and emit, on its way from a worker to the caller.

Reports are gathered and sent a few times per second, so that a call which emits in its inner loop neither blocks nor
floods. Printed lines are kept in order and complete; of progress and metrics the latest values travel, and of a
detached job's metrics a few more: see `mini.curves`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from .context import RunningGroup, running_group

if TYPE_CHECKING:
    from .curves import Recorder

__all__ = ["Outbox", "Report"]

Report = tuple[str, int, int, str, Any]
"""flow, input index, attempt, kind ("progress", "metrics", "curves", "stdout" or "stderr"), and what was reported."""

REPORT_EVERY = 0.1
"""Seconds between two reports of a worker; the first one after a pause goes at once."""
MOST_WAITING = 64 << 10
"""Characters of printed text that may wait to be sent."""


class Outbox:
    """Gathers a worker's reports and sends them in batches.

    Args:
        send: carries reports to the caller; may be called from any thread.
        shared: the worker shares its process with the caller. `sys.stdout` is then replaced only while calls run, and
            what they print appears where it would have appeared too.
    """

    def __init__(self, send: Callable[[list[Report]], None], *, shared: bool = False) -> None:
        self._send = send
        self._shared = shared
        self.tee = shared
        self._lock = threading.RLock()
        self._latest: dict[tuple[str, int, int, str], Any] = {}
        self._recorders: dict[tuple[str, int, int], Recorder] = {}
        self._printed: list[Report] = []
        self._waiting = 0
        self._sent = 0.0
        self._wanted = threading.Event()
        self._flusher: threading.Thread | None = None
        self._closed = False

    def emitter(self, attempt: int, flow: str, *, curves: bool = False) -> Callable[[str, int, Any], None]:
        """The `emit` function for a group of calls; with `curves`, the history of their metrics travels too."""
        began = time.monotonic()

        def emit(kind: str, index: int, data: Any) -> None:
            key = (flow, index, attempt, kind)
            with self._lock:
                if curves:
                    self._record(key, began, data)
                if kind == "metrics":
                    data = {**self._latest.get(key, {}), **data}
                self._latest[key] = data
                self._soon()

        return emit

    def _record(self, key: tuple[str, int, int, str], began: float, data: Any) -> None:
        from .curves import Recorder  # not before it is needed: workers start sooner

        flow, index, attempt, kind = key
        recorder = self._recorders.get((flow, index, attempt))
        if recorder is None:
            recorder = self._recorders[flow, index, attempt] = Recorder(began)
        if kind == "metrics":
            recorder.emit(data)
        else:
            recorder.progress(data[0])

    def printed(self, group: RunningGroup, index: int, stream: str, lines: list[str]) -> None:
        with self._lock:
            self._printed.append((group.flow, index, group.attempt, stream, lines))
            self._waiting += sum(map(len, lines))
            self._soon()

    @contextlib.contextmanager
    def capture(self, group: RunningGroup) -> Iterator[None]:
        """Within it, what `group`'s calls print comes here."""
        # A call may have put another stream there and left it.
        if self._shared or not isinstance(sys.stdout, LineStream):
            install()
        _captured[id(group)] = self
        try:
            yield
        finally:
            _captured.pop(id(group), None)
            if self._shared:
                uninstall()

    def finish(self, group: RunningGroup) -> None:
        """The group has run its last call: send everything that it printed and emitted."""
        for stream in _streams:
            stream.end_line(group, self)
        self.flush()
        if self._recorders:
            self._recorders = {}

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
            for call, recorder in self._recorders.items():
                if news := recorder.news():
                    reports.append((*call, "curves", news))
            self._printed = []
            self._latest = {}
            self._waiting = 0
            self._sent = time.monotonic()
            self._wanted.clear()
            if reports:
                self._send(reports)

    def forked(self) -> None:
        """This process is a forked copy: what waits is the original's to send, and so is the helper thread."""
        self._lock = threading.RLock()
        self._wanted = threading.Event()
        self._flusher = None
        self._latest, self._printed, self._recorders = {}, [], {}
        _captured.clear()  # what the copy prints goes where the worker's own prints go

    def close(self) -> None:
        """Send what waits and let the helper thread end."""
        self.flush()
        self._closed = True
        self._wanted.set()


class LineStream(io.TextIOBase):
    """Takes the place of `sys.stdout` or `sys.stderr` where calls run.

    What a call prints goes to its outbox; what is printed outside a call goes where it always went.
    """

    def __init__(self, name: str, outside: TextIO | None) -> None:
        self._name = name
        self.outside = outside
        self._rest: dict[int, tuple[int, str]] = {}
        """For each group, the input index and the text of a line that has no end yet."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        if self.outside is None:
            raise io.UnsupportedOperation("fileno")
        return self.outside.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        group = running_group()
        outbox = _captured.get(id(group))
        if group is None or outbox is None:
            return self.outside.write(text) if self.outside is not None else len(text)
        if outbox.tee and self.outside is not None:
            self.outside.write(text)
        index = group.index
        held = self._rest.pop(id(group), None)
        if held is not None and held[0] != index:  # a line ends with its call
            outbox.printed(group, held[0], self._name, [held[1]])
            held = None
        *lines, rest = ((held[1] if held else "") + text).split("\n")
        if rest:
            self._rest[id(group)] = (index, rest)
        if lines:
            outbox.printed(group, index, self._name, lines)
        return len(text)

    def end_line(self, group: RunningGroup, outbox: Outbox) -> None:
        """A line without an end is a line too, once its group is over."""
        if self._rest and (held := self._rest.pop(id(group), None)) is not None:
            outbox.printed(group, held[0], self._name, [held[1]])

    def flush(self) -> None:
        if self.outside is not None and not self.outside.closed:
            self.outside.flush()


_captured: dict[int, Outbox] = {}
_streams: list[LineStream] = []
_installing = threading.Lock()
_users = 0


def install() -> None:
    """Put line streams in the place of `sys.stdout` and `sys.stderr`; `uninstall` undoes it when called as often."""
    global _users
    with _installing:
        for name in ("stdout", "stderr"):
            outside = getattr(sys, name)
            if not isinstance(outside, LineStream):
                stream = LineStream(name, outside)
                _streams.append(stream)
                setattr(sys, name, stream)
        _users += 1


def uninstall() -> None:
    global _users
    with _installing:
        _users -= 1
        if not _users:
            for stream in _streams:
                if getattr(sys, stream._name) is stream:
                    setattr(sys, stream._name, stream.outside)
            _streams.clear()
