"""The live state of calls, as the engine keeps it and the display reads it.

The engine only adds to counters here; whoever shows them reads at a pace of its own. So a map of a million calls
costs the display nothing, and a slow terminal costs the map nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import FailureKind

__all__ = [
    "CallRecord",
    "CallState",
    "FailureRecord",
    "FlowStatus",
    "JobInfo",
    "LogLine",
    "Progress",
    "WorkerStatus",
    "failure_record",
]

CallState = Literal["RUNNING", "DONE", "FAILED", "CANCELLED"]


@dataclass(frozen=True, slots=True)
class JobInfo:
    """The call that is running: `id` is unique, `index` is its input's place in the map, `attempt` counts from 1."""

    id: str
    index: int
    attempt: int
    apparatus: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a call printed, without its line end."""

    job: str
    index: int
    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest `emit_progress` of a call; `total` may be None where it is not known."""

    step: float
    total: float | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """What is kept of a failed call, the same on every backend.

    Attributes:
        index: position of the call's input in its map; 0 for a single call.
        attempt: 1 for the first execution, one more for each retry.
        kind: what ended the call.
        type: qualified name of the exception's type.
        message: the exception's `str()`.
        traceback: the formatted traceback as text, the worker's frames included.
    """

    index: int
    attempt: int
    kind: FailureKind
    type: str
    message: str
    traceback: str


@dataclass(slots=True)
class CallRecord:
    """What is kept, in the calling process, of a call that emitted, printed or failed."""

    id: str
    index: int
    attempt: int
    function: str
    state: CallState = "RUNNING"
    progress: Progress | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    log: list[LogLine] = field(default_factory=list)
    failure: FailureRecord | None = None


@dataclass(slots=True)
class WorkerStatus:
    """What one worker is doing for one map."""

    label: str
    index: int | None = None
    """Input index of the call (or first call of the group) that it runs; None when idle."""
    since: float = 0.0
    """`time.monotonic()` at which it took that call up."""
    progress: Progress | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class FlowStatus:
    """One `run`, `map` or `stream` from its start to its end."""

    id: str
    function: str
    total: int | None
    """Number of calls; None when the inputs are a generator."""
    started: float
    """`time.monotonic()` at the start."""
    done: int = 0
    """Calls that have ended, failed ones included."""
    failed: int = 0
    retried: int = 0
    state: CallState = "RUNNING"
    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=10_000))
    """Lines printed by calls and not yet shown; filled only when live output was asked for."""


def failure_record(exc: BaseException) -> FailureRecord | None:
    """The record of the failed call that raised `exc`, or None if `exc` did not come out of a call."""
    record = getattr(exc, "__mini_failure__", None)
    return record if isinstance(record, FailureRecord) else None
