"""What is known of a detached job: write-once facts about its attempts, and the record that follows from them.

Facts are never changed. From that follows what the contract asks: the state of an attempt cannot go backwards, two
writers lose nothing, and a worker that was given up on changes nothing.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from .errors import MiniError
from .status import FailureRecord, Progress

__all__ = [
    "Attempt",
    "Claimed",
    "Created",
    "Ended",
    "Fact",
    "GroupRecord",
    "JobRecord",
    "JobState",
    "JobStatus",
    "Key",
    "Origin",
    "Outcome",
    "Report",
    "Worker",
    "fold",
    "from_json",
    "to_json",
]

SCHEMA = 1
"""Version of the JSON form of a record. It grows when a reader of the old form would misread the new one."""


class JobState(StrEnum):
    """The state of one attempt at a job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    """Its worker or host vanished."""

    @property
    def is_final(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING)

    @property
    def can_retry(self) -> bool:
        return self in (JobState.FAILED, JobState.CANCELLED, JobState.LOST)

    @property
    def allowed(self) -> frozenset[JobState]:
        """The states that may come after this one within an attempt."""
        if self is JobState.PENDING:
            return frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.LOST})
        if self is JobState.RUNNING:
            return frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.LOST})
        return frozenset()


@dataclass(frozen=True, slots=True)
class Worker:
    """Where an attempt runs. `id` is the backend's own name for it: a runner, an actor, a function call."""

    host: str
    pid: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of the bytes of an outcome without reading them: how many, and their SHA-256."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Created:
    """The attempt is there to be claimed. Times are in seconds since the epoch, by the clock of who writes.

    `left` is how many more attempts its worker makes by itself if this one fails (the option `retries`).
    """

    time: float
    left: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A worker has taken the attempt up, and no other may."""

    time: float
    worker: Worker


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt is over."""

    time: float
    state: JobState
    outcome: Outcome | None = None
    failure: FailureRecord | None = None

    def __post_init__(self) -> None:
        if not self.state.is_final:
            raise ValueError(f"an attempt does not end {self.state}")


Fact = Created | Claimed | Ended
Key = tuple[str, int]
"""A job's id and the number of an attempt at it, from 1."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker of an attempt last said of it; only that worker writes it, and later ones replace it."""

    progress: Progress | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", _plain(self.metrics))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job: its facts, if they are known already, and its report."""

    number: int
    created: Created
    claimed: Claimed | None = None
    ended: Ended | None = None
    report: Report = field(default_factory=Report)

    @property
    def state(self) -> JobState:
        if self.ended is not None:
            return self.ended.state
        return JobState.PENDING if self.claimed is None else JobState.RUNNING

    def seconds(self, now: float) -> float:
        """How long it has run, until its end or `now`; 0 if nobody has claimed it."""
        if self.claimed is None:
            return 0.0
        return max(0.0, (now if self.ended is None else self.ended.time) - self.claimed.time)


def fold(number: int, facts: Iterable[Fact], report: Report | None = None) -> Attempt:
    """The attempt that facts, in any order, amount to: for stores that keep them as they come."""
    parts: dict[type, Any] = {type(fact): fact for fact in facts}
    return Attempt(number, parts[Created], parts.get(Claimed), parts.get(Ended), report or Report())


@dataclass(frozen=True, slots=True)
class Origin:
    """What a group of jobs was launched from; the same for all of them, so a store keeps it once per group."""

    launched: float
    """Seconds since the epoch."""
    launched_by: str
    """user@host"""
    lock_digest: str | None
    """SHA-256 of `uv.lock`."""
    source_digest: str | None
    """SHA-256 over the project's own packages, as they were shipped."""
    git_commit: str | None
    git_dirty: bool | None
    python: str
    packages: dict[str, str]
    """Versions by name."""
    backend: str = ""
    apparatus: str = ""
    """The apparatus's name."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options that were set, as plain data; of `env` only the names, because values may be secret. And `budget`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _plain(self.options))


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """What the jobs of one `spawn` or `spawn_map` have in common.

    Attributes:
        id: unique among all groups; ids sort by the time of launch.
        function: the function's name.
        size: how many jobs it has.
        origin: what it was launched from.
    """

    id: str
    function: str
    size: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The little of a record that is needed to wait for a job, count it, or find out whether it is lost.

    Attributes:
        attempt: the number of the current one; the rest is about it.
        created: when it was, in seconds since the epoch.
        left: how many more attempts its worker makes by itself.
        worker: who has claimed it; None if nobody has.
    """

    id: str
    group: str
    index: int
    attempt: int
    state: JobState
    created: float
    left: int = 0
    worker: Worker | None = None

    @property
    def key(self) -> Key:
        return self.id, self.attempt


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that is known of a job, the same on every backend. Reading it needs none of the user's code.

    Attributes:
        id: unique on the backend, "<group>-<index>".
        group: what `spawn` or `spawn_map` made it in.
        index: place of its input among the group's inputs.
        input: a short repr of its input.
        function: the function's name.
        origin: what it was launched from.
        attempts: from the first to the current one; there is at least one.
    """

    id: str
    group: str
    index: int
    input: str
    function: str
    origin: Origin
    attempts: tuple[Attempt, ...]

    @property
    def current(self) -> Attempt:
        return self.attempts[-1]

    @property
    def state(self) -> JobState:
        return self.current.state

    @property
    def key(self) -> Key:
        return self.id, self.current.number

    @property
    def status(self) -> JobStatus:
        now = self.current
        worker = None if now.claimed is None else now.claimed.worker
        created = now.created
        return JobStatus(
            self.id, self.group, self.index, now.number, now.state, created.time, created.left, worker
        )

    def to_json(self) -> str:
        """This record as strict JSON (no NaN: numbers that JSON lacks are `{"$float": "nan"}`)."""
        return json.dumps(_to_json({"schema": SCHEMA, **asdict(self)}), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobRecord:
        """The inverse of `to_json`. Fields that this version does not know are ignored.

        Raises:
            MiniError: the text is not a record, or was written by a version whose records this one would misread.
        """
        try:
            data = json.loads(text, object_hook=_from_json)
            schema = data["schema"]
            if schema == SCHEMA:
                return _record(data)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise MiniError(f"this is not a job's record: {type(exc).__name__}: {exc}") from exc
        raise MiniError(
            f"this job's record has schema {schema}, and this mini reads {SCHEMA}: upgrade mini-core"
        )


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: numpy's scalars as Python's, what is not data as a short repr."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:  # it has more digits than Python turns into text
            return f"an int of {value.bit_length()} bits"
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item())
    return reprlib.repr(value)


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def _from_json(pairs: dict[str, Any]) -> Any:
    return float(pairs["$float"]) if pairs.keys() == {"$float"} else pairs


def _known(cls: Any, data: dict[str, Any], **replaced: Any) -> Any:
    names = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
    return cls(**{**names, **replaced})


def _optional(build: Callable[[dict[str, Any]], Any], data: dict[str, Any] | None) -> Any:
    return None if data is None else build(data)


def _plainly(cls: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: _known(cls, data)


def _record(data: dict[str, Any]) -> JobRecord:
    attempts = tuple(_attempt(a) for a in data["attempts"])
    if not attempts:
        raise ValueError("it has no attempt")
    record: JobRecord = _known(JobRecord, data, origin=_known(Origin, data["origin"]), attempts=attempts)
    return record


def _group(data: dict[str, Any]) -> Any:
    return _known(GroupRecord, data, origin=_known(Origin, data["origin"]))


def _attempt(data: dict[str, Any]) -> Any:
    return _known(
        Attempt,
        data,
        created=_known(Created, data["created"]),
        claimed=_optional(_claimed, data["claimed"]),
        ended=_optional(_ended, data["ended"]),
        report=_report(data["report"]),
    )


def _claimed(data: dict[str, Any]) -> Any:
    return _known(Claimed, data, worker=_known(Worker, data["worker"]))


def _ended(data: dict[str, Any]) -> Any:
    return _known(
        Ended,
        data,
        state=JobState(data["state"]),
        outcome=_optional(_plainly(Outcome), data["outcome"]),
        failure=_optional(_plainly(FailureRecord), data["failure"]),
    )


def _report(data: dict[str, Any]) -> Any:
    return _known(Report, data, progress=_optional(_plainly(Progress), data["progress"]))


# --- for stores that keep text --------------------------------------------------------------------------------------

_T = TypeVar("_T", Created, Claimed, Ended, Report, GroupRecord, Origin, FailureRecord)
_READERS: dict[Any, Callable[[dict[str, Any]], Any]] = {
    Claimed: _claimed,
    Ended: _ended,
    Report: _report,
    GroupRecord: _group,
}


def to_json(part: Created | Claimed | Ended | Report | GroupRecord | Origin | FailureRecord) -> str:
    """A part of a record as strict JSON."""
    return json.dumps(_to_json(asdict(part)), allow_nan=False)


def from_json(cls: type[_T], text: str | bytes) -> _T:
    """The inverse of `to_json`. Fields that this version does not know are ignored.

    Raises:
        MiniError: the text is not such a part.
    """
    try:
        data = json.loads(text, object_hook=_from_json)
        part: _T = _READERS.get(cls, _plainly(cls))(data)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise MiniError(f"this is no {cls.__name__} of a job: {type(exc).__name__}: {exc}") from exc
    return part
