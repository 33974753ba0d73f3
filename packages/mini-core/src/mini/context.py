"""What a function can ask for while it runs on a worker: its data directory, its job, and a way to report.

Nothing here needs an apparatus in hand: the worker sets the running call, the functions below look it up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .status import JobInfo

__all__ = [
    "DATA_DIR_GATE",
    "DATA_DIR_PLACE",
    "GATE_SHUT",
    "RunningGroup",
    "ask_at_gate",
    "current_job",
    "emit_metrics",
    "emit_progress",
    "get_data_dir",
    "pass_data_dir_gate",
]

DATA_DIR_GATE = "MINI_DATA_DIR_GATE"
"""A variable of workers that an adapter may set: the path of a Unix socket, or "@" and its abstract name.

The socket closes each connection when the data directory is up to date, so what it costs to have it so is spared where
no call asks for the directory. What it says before is why it cannot be."""
GATE_SHUT = ".shut"
"""What follows the path of a gate in the name of a file that an adapter makes when it cannot keep the data directory up
to date any more. While it is there, calls ask again."""
DATA_DIR_PLACE = "MINI_DATA_DIR_PLACE"
"""A variable of workers that an adapter may set: the data directory as the apparatus names it, a newline, and the path
that this worker has it at."""


class RunningGroup:
    """The group of calls that a worker is at; which call of it, only `position` knows.

    One object per group, not per call: tiny calls cannot afford one each.
    """

    __slots__ = ("apparatus", "attempt", "data_dir", "emit", "flow", "position", "start")

    def __init__(
        self,
        flow: str,
        start: int,
        attempt: int,
        apparatus: str,
        data_dir: str | None,
        position: Callable[[], int],
        emit: Callable[[str, int, Any], None],
    ) -> None:
        self.flow = flow
        self.start = start
        self.attempt = attempt
        self.apparatus = apparatus
        self.data_dir = data_dir
        self.position = position
        self.emit = emit

    @property
    def index(self) -> int:
        return self.start + self.position()


_running: ContextVar[RunningGroup | None] = ContextVar("mini_running", default=None)

# A worker process runs one group at a time. Threads that a call starts do not inherit its context variables,
# and what they print or emit belongs to that call all the same.
_process_wide: RunningGroup | None = None


def enter_group(group: RunningGroup | None, *, process_wide: bool) -> RunningGroup | None:
    """Make `group` the running one in this context; return the one before it, to be entered again afterwards."""
    global _process_wide
    before = _running.get()
    _running.set(group)
    if process_wide:
        _process_wide = group
    return before


def running_group() -> RunningGroup | None:
    return _running.get() or _process_wide


def current_job() -> JobInfo | None:
    """The job that this code runs in, or None outside a call."""
    group = running_group()
    if group is None:
        return None
    from .status import JobInfo  # not before it is needed: workers start sooner

    index = group.index
    return JobInfo(f"{group.flow}-{index}", index, group.attempt, group.apparatus)


def get_data_dir() -> Path:
    """The directory of the apparatus's volume, for the call that is running; it exists.

    What is written there is read by later calls on the same apparatus name, and by the caller through
    `apparatus.volume`.

    Raises:
        RuntimeError: outside a call.
        OSError: the directory cannot be made, or brought up to date; names it and the fix.
    """
    group = running_group()
    if group is None or group.data_dir is None:
        raise RuntimeError(
            "get_data_dir() has a meaning only inside a function that an apparatus runs; "
            "outside, read and write through apparatus.volume"
        )
    from pathlib import Path  # likewise

    pass_data_dir_gate()
    name, _, place = os.environ.get(DATA_DIR_PLACE, "").partition("\n")
    path = Path(place if name == group.data_dir else group.data_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        from .staging import telling

        with telling(path, fix="choose another data_dir", writing=True):
            raise
    return path


_passed = False


def pass_data_dir_gate() -> None:
    """Wait until the data directory is up to date, for the first time that this process uses it.

    Raises:
        OSError: it cannot be.
    """
    global _passed
    gate = os.environ.get(DATA_DIR_GATE)
    if gate is None or (_passed and not os.path.exists(f"{gate}{GATE_SHUT}")):  # noqa: PTH110  # a path takes longer
        return
    if reason := ask_at_gate(gate):
        raise OSError(reason)
    _passed = True


def ask_at_gate(gate: str, timeout: float | None = None) -> str:
    """Have the data directory brought up to date by whoever keeps the gate; see `DATA_DIR_GATE`.

    Returns:
        why it cannot be, or nothing.

    Raises:
        OSError: nobody keeps it, or there is no answer within `timeout` seconds.
    """
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(f"\0{gate[1:]}" if gate.startswith("@") else gate)
        with connection.makefile("rb") as file:
            return file.read().decode(errors="replace")


def emit_progress(step: float, total: float | None = None, message: str = "") -> None:
    """Report that this call has done `step` of `total`. Outside a call it does nothing.

    Cheap enough for an inner loop: only the latest report travels, a few times per second.

    Raises:
        ValueError: a number has more digits than Python turns into text (`sys.set_int_max_str_digits`).
    """
    group = running_group()
    if group is not None:
        _refuse_endless({"step": step, "total": total})
        group.emit("progress", group.index, (step, total, message))


def emit_metrics(**values: Any) -> None:
    """Report named values of this call, such as `loss=0.1`; later values of a name win. Outside a call: nothing.

    Raises:
        ValueError: one is a number of more digits than Python turns into text (`sys.set_int_max_str_digits`).
    """
    group = running_group()
    if group is not None:
        _refuse_endless(values)
        group.emit("metrics", group.index, values)


def _refuse_endless(values: dict[str, Any]) -> None:
    """Raise ValueError for a number that neither a record nor a display can hold, where it can still be told whose."""
    for name, value in values.items():
        if isinstance(value, int) and value.bit_length() > 64:
            try:
                int.__repr__(value)
            except ValueError as exc:
                raise ValueError(f"{name} is too long a number to be reported: {exc}") from None
