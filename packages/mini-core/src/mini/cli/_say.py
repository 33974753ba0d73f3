"""How commands answer: exit statuses, jobs as JSON, words for states. Rich is imported by those who draw a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mini.jobrecord import JobRecord, JobState


__all__ = [
    "BACKEND",
    "COLOURS",
    "DONE",
    "FAILED",
    "RUNNING",
    "USAGE",
    "columns",
    "counted",
    "counts_json",
    "exit_status",
    "job_json",
    "seconds_of",
    "styled",
]

# Exit statuses. They are part of the interface: docs/reference/cli.md has them.
DONE = 0
FAILED = 1
USAGE = 2
BACKEND = 3
RUNNING = 4

COLOURS = {
    "DONE": "green",
    "RUNNING": "blue",
    "PENDING": "bright_black",
    "FAILED": "red",
    "LOST": "magenta",
    "CANCELLED": "yellow",
}


def exit_status(counts: Mapping[JobState, int]) -> int:
    """4 while something is unfinished, else 1 if something is not DONE, else 0."""
    if any(count for state, count in counts.items() if not state.is_final):
        return RUNNING
    return FAILED if any(count for state, count in counts.items() if state != "DONE") else DONE


def styled(state: str, text: str | None = None) -> str:
    """A state, or what is said of it, in its colour where there are colours."""
    return click.style(state if text is None else text, fg=COLOURS[state])


def counted(counts: Mapping[JobState, int]) -> str:
    """3 DONE, 1 FAILED."""
    return ", ".join(styled(state, f"{counts[state]} {state}") for state in _ordered(counts)) or "no jobs"


def _ordered(counts: Mapping[JobState, int]) -> list[JobState]:
    return sorted((s for s in counts if counts[s]), key=list(COLOURS).index)


def counts_json(counts: Mapping[JobState, int]) -> dict[str, int]:
    """How many jobs are in each state, all states."""
    return {state: sum(n for s, n in counts.items() if s == state) for state in COLOURS}


def job_json(record: JobRecord) -> dict[str, Any]:
    """A job as --json has it, of its current attempt."""
    from dataclasses import asdict

    from mini.report.data import cell, inputs_of, metrics_of

    now = record.current
    failure = now.ended.failure if now.ended else None
    progress = now.report.progress
    return {
        "id": record.id,
        "launch": record.group,
        "index": record.index,
        "function": record.function,
        "state": record.state,
        "attempt": now.number,
        "input": record.input,
        "inputs": inputs_of(record),
        "metrics": metrics_of(record),
        "progress": progress
        and {"step": cell(progress.step), "total": cell(progress.total), "message": progress.message},
        "created": now.created.time,
        "started": now.claimed and now.claimed.time,
        "ended": now.ended and now.ended.time,
        "worker": now.claimed and asdict(now.claimed.worker),
        "failure": failure
        and {
            "kind": failure.kind,
            "type": failure.type,
            "message": failure.message,
            "traceback": failure.traceback,
        },
    }


def seconds_of(record: JobRecord, now: float) -> float | None:
    """How long the current attempt has run, or did; None if it has not begun."""
    claimed, ended = record.current.claimed, record.current.ended
    if claimed is None:
        return None
    return max(0.0, (now if ended is None else ended.time) - claimed.time)


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in the order in which they first come."""
    return list(dict.fromkeys(key for row in rows for key in row))
