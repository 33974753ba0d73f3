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
from typing import Any

from .errors import MiniError
from .status import FailureRecord, Progress

__all__ = [
    "Attempt",
    "Claimed",
    "Created",
    "Ended",
    "Fact",
    "JobRecord",
    "JobState",
    "Key",
    "Origin",
    "Outcome",
    "Report",
    "Worker",
    "fold",
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
    """The attempt is there to be claimed. Times are in seconds since the epoch, by the clock of who writes."""

    time: float


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


def _record(data: dict[str, Any]) -> JobRecord:
    attempts = tuple(_attempt(a) for a in data["attempts"])
    if not attempts:
        raise ValueError("it has no attempt")
    record: JobRecord = _known(JobRecord, data, origin=_known(Origin, data["origin"]), attempts=attempts)
    return record


def _attempt(data: dict[str, Any]) -> Any:
    report = data["report"]
    return _known(
        Attempt,
        data,
        created=_known(Created, data["created"]),
        claimed=_optional(lambda d: _known(Claimed, d, worker=_known(Worker, d["worker"])), data["claimed"]),
        ended=_optional(_ended, data["ended"]),
        report=_known(Report, report, progress=_optional(lambda d: _known(Progress, d), report["progress"])),
    )


def _ended(data: dict[str, Any]) -> Any:
    return _known(
        Ended,
        data,
        state=JobState(data["state"]),
        outcome=_optional(lambda d: _known(Outcome, d), data["outcome"]),
        failure=_optional(lambda d: _known(FailureRecord, d), data["failure"]),
    )
