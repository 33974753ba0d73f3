"""Live progress of calls: bars on a terminal, an HTML table in a notebook, a line now and then anywhere else.

The engine hands over a flow's `FlowStatus` with `show` and takes it back with `hide`. In between one daemon thread,
shared by all flows and gone with the last of them, reads what the engine counts at a pace of its own. Everything goes
to stderr, and a display that cannot write any more stops displaying; it never fails or holds up the calls it is about.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Protocol, TextIO

from ..context import running_group
from .meter import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..status import FlowStatus, LogLine

__all__ = ["enabled", "hide", "show", "tell"]

log = logging.getLogger("mini")

# How long `hide` waits for the last line to be out. Only a terminal that was stopped (Ctrl-S) takes longer.
_PATIENCE = 2.0


class View(Protocol):
    """A place where progress is shown. One thread makes, updates and closes it."""

    pause: float
    """Seconds between two updates."""

    def update(self, running: Sequence[Meter], ended: Sequence[Meter], logged: Sequence[LogLine]) -> None:
        """Show the running flows, leave the last word on the ended ones, and pass on what calls printed."""
        ...

    def close(self) -> None:
        """Leave the place as it was found. Nothing is running any more."""
        ...


class _Nowhere:
    pause = 0.5

    def update(self, running: Sequence[Meter], ended: Sequence[Meter], logged: Sequence[LogLine]) -> None:
        pass

    def close(self) -> None:
        pass


# Reentrant, because the garbage collector may close an abandoned map, and so call `hide`, at any allocation.
_lock = threading.RLock()
_wake = threading.Event()
_shown: dict[int, Meter] = {}
_thread: threading.Thread | None = None


def enabled(option: bool | None) -> bool:
    """Whether a flow with this `progress` option shows progress.

    `MINI_PROGRESS=0` forbids it everywhere, and an option that is set decides for its call. Left to itself, a map
    shows its progress unless it was started by a call of another, whose caller shows that call.
    """
    if option is False or os.environ.get("MINI_PROGRESS", "1").strip().lower() in ("0", "false", "no", "off"):
        return False
    return option is True or running_group() is None


def show(status: FlowStatus, *, bars: bool = True) -> None:
    """Show a flow until `hide`; without `bars` only what its calls print (`status.log`) is shown.

    Returns at once and may be called from any thread. A flow that is shown already stays as it is.
    """
    global _thread
    with _lock:
        if id(status) in _shown:
            return
        if _thread is None:
            # The context goes along because a notebook finds in it the cell that the output belongs to.
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(_serve, _last), name="mini-display", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the interpreter is on its way out
                return
            _thread = thread
        _shown[id(status)] = Meter(status, bars, _thread)
    _wake.set()


def hide(status: FlowStatus) -> None:
    """Take a flow off the display. When this returns its last line is out, and with the last flow the thread is gone.

    To be called when `status.state` has its final value. A flow that is not shown is none of its business.
    """
    with _lock:
        meter = _shown.get(id(status))
    if meter is None:
        return
    meter.ended = True
    _wake.set()
    if meter.thread is threading.current_thread():  # the garbage collector brought us here
        return
    meter.gone.wait(_PATIENCE)
    if meter.thread is not _thread:
        meter.thread.join(_PATIENCE)


def tell(text: str, option: bool | None = None) -> None:
    """Print a line of a backend's on stderr, unless a flow with this `progress` option would show nothing.

    For what is worth knowing once, such as where to look at what runs. Bars that are on the terminal stay.
    """
    if enabled(option) and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"mini: {text}\n")
            sys.stderr.flush()


_last: threading.Thread | None = None


def _serve(before: threading.Thread | None) -> None:
    """The display's thread: update the view until no flow is left."""
    global _thread, _last
    if before is not None:  # the previous one may be at its last line
        before.join()
    view: View = _Nowhere()
    try:
        view = _choose()
    except Exception:
        log.debug("progress cannot be shown", exc_info=True)
    over = False
    while not over:
        _wake.wait(view.pause)
        _wake.clear()
        with _lock:
            meters = list(_shown.values())
            ended = [meter for meter in meters if meter.ended]
            for meter in ended:
                del _shown[id(meter.status)]
            if not _shown:  # a flow that comes from now on gets a thread of its own
                over, _thread, _last = True, None, threading.current_thread()
        try:
            logged = [line for meter in meters for line in meter.take_log()]
            view.update([m for m in meters if m.bars and not m.ended], [m for m in ended if m.bars], logged)
            if over:
                view.close()
        except Exception:  # whatever is wrong with the place, the calls go on
            log.debug("progress is no longer shown", exc_info=True)
            view = _Nowhere()
        for meter in ended:
            meter.gone.set()


def _choose() -> View:
    """The view for where stderr goes right now. What the view needs is imported here, off the caller's thread."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from .notebook import NotebookView

        return NotebookView(shell)
    stream = sys.stderr
    if stream is None:
        return _Nowhere()
    fd = _terminal(stream)
    if fd is None:
        from .lines import LinesView

        return LinesView(stream)
    from .terminal import TerminalView

    return TerminalView(fd, stream.encoding)


def _terminal(stream: TextIO) -> int | None:
    """The file descriptor of a terminal that has room for bars and can move its cursor, else None."""
    try:
        fd = stream.fileno()
        size = os.get_terminal_size(fd)
    except (OSError, ValueError, AttributeError):
        return None
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return None if dumb or size.lines < 5 or size.columns < 20 else fd


def _end() -> None:
    """At the end of the process: give the terminal back, whatever was still running."""
    with _lock:
        thread = _thread
        for meter in _shown.values():
            meter.ended = True
    _wake.set()
    if thread is not None and thread is not threading.current_thread():
        thread.join(_PATIENCE)


def _forget() -> None:
    """In a forked child: the thread stayed with the parent, and so does the terminal."""
    global _lock, _wake, _thread, _last
    _lock = threading.RLock()
    _wake = threading.Event()
    _thread = _last = None
    _shown.clear()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)
