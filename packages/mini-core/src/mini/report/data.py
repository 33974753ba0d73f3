"""Job records as the report's page wants them: by column, with failures grouped and inputs taken apart."""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from ..curves import Point, thin
from ..jobrecord import Attempt, JobRecord, JobState, Key, Worker

__all__ = ["CurvesOf", "cell", "curves_of", "describe", "inputs_of", "metrics_of"]

T = TypeVar("T")

SCHEMA = 1
MOST_POINTS = 100_000
"""Of curves, of all jobs and metrics together: a few megabytes."""
MOST_TEXT = 20_000
"""Characters of a traceback or a message that are kept: whoever raised it may have put an array into it."""
_STATES_OF_FAILURES = (JobState.FAILED, JobState.LOST)


CurvesOf = Mapping[str, Mapping[str, Sequence[Point]]]
"""The curves of jobs, by id and metric."""


def describe(
    records: Sequence[JobRecord], name: str, backend: str, now: float, curves: CurvesOf | None = None
) -> dict[str, Any]:
    """What the page's script reads, as strict JSON: numbers that JSON lacks are the strings "NaN" and "Infinity"."""
    records = sorted(records, key=lambda record: (record.origin.launched, record.group, record.index))
    counts = Counter(record.state for record in records)
    launches = _Numbered(lambda record: record.group, records)
    workers: _Numbered[Worker] = _Numbered(lambda worker: worker, ())
    failures = _Failures()
    attempts: list[list[Any]] = []
    for place, record in enumerate(records):
        for attempt in record.attempts:
            claimed, ended = attempt.claimed, attempt.ended
            attempts.append(
                [
                    place,
                    attempt.number,
                    str(attempt.state),
                    None if claimed is None else workers.number(claimed.worker),
                    attempt.created.time,
                    None if claimed is None else claimed.time,
                    None if ended is None else ended.time,
                    failures.add(place, attempt, current=attempt is record.current),
                ]
            )
    return {
        "schema": SCHEMA,
        "name": name,
        "backend": backend,
        "now": now,
        "counts": {str(state): counts[state] for state in JobState if counts[state]},
        "id": [record.id for record in records],
        "index": [record.index for record in records],
        "launch": [launches.number(record) for record in records],
        "state": [str(record.state) for record in records],
        "input": [record.input for record in records],
        "progress": [_progress(record.current) for record in records],
        "size": [_size(record.current) for record in records],
        "inputs": _columns([inputs_of(record) for record in records]),
        "metrics": _columns([metrics_of(record) for record in records]),
        "series": _curve_columns([{**(curves or {}).get(r.id, {}), **_series(r)} for r in records]),
        "attempts": attempts,
        "workers": [asdict(worker) for worker in workers.items],
        "failures": failures.groups,
        "launches": [
            {
                "group": record.group,
                "function": record.function,
                "jobs": launches.counts[number],
                **asdict(record.origin),
                "options": {name: cell(value) for name, value in record.origin.options.items()},
            }
            for number, record in enumerate(launches.items)
        ],
    }


# --- inputs and metrics ---------------------------------------------------------------------------------------------


def inputs_of(record: JobRecord) -> dict[str, Any]:
    """A job's inputs by name, as far as the short repr that its record has of them tells.

    What is called by keyword, a dict and a dataclass name their parts; of others there are only the places. A value
    that is no plain one is its text. Where a dict was cut short, it has "..." as its last key. A repr that is no Python
    is one input, `input`.
    """
    text = f"f({record.input}\n)"
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # ast has all of these for a strange text
        return {"input": record.input}
    if not isinstance(call, ast.Call) or not (call.args or call.keywords):
        return {"input": record.input} if record.input else {}
    found: dict[str, Any] = {}
    for place, node in enumerate(call.args):
        _take_apart(node, "input" if len(call.args) == 1 else f"input {place + 1}", found, text)
    for keyword in call.keywords:
        found[keyword.arg or "**"] = _value(keyword.value, text)
    return found


def _take_apart(node: ast.expr, name: str, found: dict[str, Any], text: str) -> None:
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        for key, value in zip(node.keys, node.values, strict=True):
            assert isinstance(key, ast.Constant)
            found[str(key.value)] = _value(value, text)
    elif isinstance(node, ast.Call) and node.keywords and not node.args:
        for keyword in node.keywords:
            found[keyword.arg or "**"] = _value(keyword.value, text)
    else:
        found[name] = _value(node, text)


def _value(node: ast.expr, text: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.get_source_segment(text, node)
    return cell(value if value is not ... else "...")


def metrics_of(record: JobRecord) -> dict[str, Any]:
    """The metrics that the current attempt last reported, dicts in them taken apart as `outer.inner`."""
    flat: dict[str, Any] = {}
    _flatten("", record.current.report.metrics, flat)
    return {name: cell(value) for name, value in flat.items() if not _is_series(value)}


def _series(record: JobRecord) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten("", record.current.report.metrics, flat)
    series = {name: value for name, value in flat.items() if _is_series(value)}
    return {name: [Point(at, 0, v) for at, v in enumerate(value, 1)] for name, value in series.items()}


def curves_of(
    records: Sequence[JobRecord], read: Callable[[Sequence[Key]], Iterable[Mapping[str, Sequence[Point]]]]
) -> CurvesOf:
    """The curves of those jobs that have emitted something, with so few points of each that a page can show them all.

    Args:
        records: of the jobs.
        read: gets them for some attempts, one after the other.
    """
    emitted = [record for record in records if record.current.report.metrics]
    room = MOST_POINTS // max(1, len(emitted))
    found: dict[str, Mapping[str, Sequence[Point]]] = {}
    for record, curves in zip(emitted, read([record.key for record in emitted]), strict=True):
        names = [name for name, points in curves.items() if len(points) > 1][: max(1, room // 2)]
        if names:
            found[record.id] = {name: thin(curves[name], max(2, room // len(names))) for name in names}
    return found


def _curve_columns(rows: Sequence[Mapping[str, Sequence[Point]]]) -> list[dict[str, Any]]:
    """Curves by metric: of each job the steps and the values, None where it has none."""
    return [
        {
            "name": column["name"],
            "steps": [points and [cell(point.step) for point in points] for points in column["values"]],
            "values": [points and [_short(point.value) for point in points] for points in column["values"]],
        }
        for column in _columns(rows)
    ]


def _short(value: Any) -> Any:
    """A number as exactly as a picture has it."""
    return cell(float(f"{value:.6g}") if isinstance(value, float) else value)


def _flatten(prefix: str, metrics: Mapping[str, Any], flat: dict[str, Any]) -> None:
    for name, value in metrics.items():
        if isinstance(value, dict) and value:
            _flatten(f"{prefix}{name}.", value, flat)
        else:
            flat[f"{prefix}{name}"] = value


def _is_series(value: Any) -> bool:
    """A metric that is a list of numbers is a curve."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def cell(value: Any) -> Any:
    """A value for a table: a number, a string, true, false or null."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)  # what JavaScript counts to
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as columns, in the order in which their names first come; None where a row lacks one."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{"name": name, "values": [row.get(name) for row in rows]} for name in names]


def _progress(attempt: Attempt) -> list[Any] | None:
    progress = attempt.report.progress
    return None if progress is None else [cell(progress.step), cell(progress.total), progress.message]


def _size(attempt: Attempt) -> int | None:
    return attempt.ended.outcome.size if attempt.ended and attempt.ended.outcome else None


# --- what many have in common ---------------------------------------------------------------------------------------


class _Numbered(Generic[T]):
    """Things that are said once and meant by their number."""

    def __init__(self, key: Callable[[T], Hashable], things: Sequence[T]) -> None:
        self.items: list[T] = []
        self.counts: list[int] = []
        self._key = key
        self._numbers: dict[Hashable, int] = {}
        for thing in things:
            self.counts[self.number(thing)] += 1

    def number(self, thing: T) -> int:
        key = self._key(thing)
        if key not in self._numbers:
            self._numbers[key] = len(self.items)
            self.items.append(thing)
            self.counts.append(0)
        return self._numbers[key]


class _Failures:
    """Attempts that failed, those of one type and one traceback together, whatever their messages say."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []
        self._numbers: dict[Hashable, int] = {}

    def add(self, place: int, attempt: Attempt, *, current: bool) -> int | None:
        """Note that the attempt at the job at `place` failed, if it did; return the number of its group."""
        ended = attempt.ended
        if ended is None or ended.state not in _STATES_OF_FAILURES:
            return None
        failure = ended.failure
        if failure is None:
            kind, type_name, message, trace = "lost", "WorkerLost", "its worker vanished", ""
        else:
            kind, type_name, message, trace = failure.kind, failure.type, failure.message, failure.traceback
        key = (kind, type_name, _frames(trace))
        if key not in self._numbers:
            self._numbers[key] = len(self.groups)
            new = {"kind": kind, "type": type_name, "message": _cut(message), "traceback": _cut(trace)}
            self.groups.append({**new, "jobs": [], "earlier": []})
        number = self._numbers[key]
        self.groups[number]["jobs" if current else "earlier"].append(place)
        return number


def _frames(traceback: str) -> str:
    """The places that a traceback goes through, without what the exceptions say."""
    return "\n".join(re.findall(r'^ *\|? *File ".*", line \d+(?:, in .*)?$', traceback, re.MULTILINE))


def _cut(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - MOST_TEXT} characters left out …\n{text[-half:]}"
