"""`mini results`: what jobs returned, as a table, as CSV or JSON, or as files."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._names import Named, app_option, group_option, name_argument
from ._say import columns, exit_status, job_json, seconds_of
from ._wait import waiting
from .as_json import json_option, print_json

if TYPE_CHECKING:
    from mini.jobboard import JobBoard
    from mini.jobrecord import JobRecord

__all__ = ["Row", "as_data", "cells", "command", "read_rows", "row_json"]

MOST_LEVELS = 100
"""Lists in lists that JSON has of a result: one may have itself in it, and programs that read JSON have limits too."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job and what came of it.

    Attributes:
        value: what its function returned; None if it did not, or if that cannot be had.
        error: why there is no value, in a line; "" if there is one, or may still be.
    """

    record: JobRecord
    value: Any = None
    error: str = ""


@click.command("results")
@name_argument
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print CSV: a line for each job, with its inputs and metrics."
)
@json_option
@click.option("--curves", is_flag=True, help="With --csv or --json: also the metrics as they were emitted.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write a file for each result, and results.csv, into this folder.",
)
@app_option
@group_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    as_csv: bool,
    as_json: bool,
    curves: bool,
    out: str | None,
    app: str | None,
    group: str | None,
) -> None:
    """Show what the jobs of NAME returned, beside their inputs and metrics.

    With --out a result is written as text if it is a string, as it is if it is bytes, as JSON if JSON can have it, and
    else as a pickle. With --curves CSV has a line for each point instead of one for each job.

    Exit status: 0 if all are done, 1 if some failed, 4 while some are unfinished.

    \b
    Examples:
        mini results digits
        mini results digits --csv > digits.csv
        mini results digits --csv --curves > curves.csv
    """
    if as_csv + as_json + (out is not None) > 1:
        raise click.UsageError("--csv, --json and --out are three ways to answer: choose one")
    if curves and not (as_csv or as_json):
        raise click.UsageError("--curves goes with --csv or --json; mini report draws them")
    named = Named.find(name, app)
    board = named.board()
    from mini.jobboard import Select

    with waiting(f"reading {named.name}"):
        groups = {one.id for one in named.groups(board, group)}
        records = [record for record in board.read(Select()) if record.group in groups]
    if as_csv and curves:
        sys.stdout.write(curves_csv(records, board))
        ctx.exit(exit_status(Counter(record.state for record in records)))
    rows = read_rows(board, records)
    if as_csv:
        sys.stdout.write(to_csv(rows))
    elif as_json:
        from mini.report.data import cell

        jobs = [row_json(row) for row in rows]
        for job, found in zip(
            jobs, board.curves([record.key for record in records]) if curves else (), strict=False
        ):
            job["curves"] = {
                metric: [{"step": cell(p.step), "seconds": p.seconds, "value": cell(p.value)} for p in points]
                for metric, points in found.items()
            }
        print_json(named, jobs=jobs)
    elif out is not None:
        _write(rows, Path(out))
        click.echo(f"{out}: {sum(row.record.state == 'DONE' for row in rows)} results and results.csv")
    else:
        from ._table import show_table

        show_table(rows, f"mini results {named.name} --csv")
    ctx.exit(exit_status(Counter(record.state for record in records)))


def read_rows(board: JobBoard, records: list[JobRecord]) -> list[Row]:
    """The records with their outcomes. What cannot be unpickled here costs itself."""
    with waiting("reading results", len(records)) as say:
        rows = []
        for done, record in enumerate(records):
            rows.append(_row(board, record))
            say(done + 1)
    return rows


def _row(board: JobBoard, record: JobRecord) -> Row:
    from mini.display.meter import one_line

    ended = record.current.ended
    if ended is None:
        return Row(record)
    if record.state != "DONE":
        failure = ended.failure
        if failure is None:
            return Row(record, error="its worker vanished" if record.state == "LOST" else "it was cancelled")
        return Row(record, error=one_line(f"{failure.type.rpartition('.')[2]}: {failure.message}"))
    try:
        error, value = board.outcome(record)
    except Exception as exc:  # whatever the classes of the result do when they are unpickled
        return Row(record, error=one_line(f"the result cannot be read here: {type(exc).__name__}: {exc}"))
    return Row(record, value, "" if error is None else one_line(_repr(error)))


# --- as data --------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A result as JSON can have it: numpy's scalars and arrays as numbers and lists, dataclasses as objects.

    Raises:
        TypeError: JSON cannot have it.
    """
    try:
        return _plain(value, MOST_LEVELS)
    except Exception as exc:  # whatever the classes of the result do when they are looked into
        raise TypeError(f"JSON has no such {type(value).__name__}") from exc


def _plain(value: Any, levels: int) -> Any:
    import math
    from dataclasses import fields, is_dataclass

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        int.__repr__(value)  # ValueError: it has more digits than Python turns into text
        return value
    if isinstance(value, float):
        return (
            value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
        )
    if not levels:
        raise TypeError("it is too deep")
    levels -= 1
    if isinstance(value, dict):
        return {str(key): _plain(inner, levels) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, levels) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), levels) for field in fields(value)}
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return _plain(value.tolist(), levels)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as exc:
        return f"<{type(value).__name__}: its repr raised {type(exc).__name__}>"


def as_data(name: str, value: Any) -> dict[str, Any]:
    """A value as a field of JSON; if JSON cannot have it, null, and its repr in a field beside it."""
    try:
        return {name: plain(value)}
    except TypeError:
        return {name: None, f"{name}_repr": _repr(value)}


def row_json(row: Row) -> dict[str, Any]:
    """A job and what came of it, as --json has it."""
    return {**job_json(row.record), **as_data("result", row.value), "error": row.error or None}


def cells(row: Row) -> dict[str, Any]:
    """What a result says in a table: a cell, or one for each of its parts if they have names."""
    if row.error or row.record.state != "DONE":
        return {}
    try:
        value = plain(row.value)
    except TypeError:
        return {"result": _repr(row.value)}
    if isinstance(value, dict) and value:
        return {f"result.{name}": inner for name, inner in value.items()}
    return {"result": value}


def to_csv(rows: list[Row]) -> str:
    """A line for each job: what it is, its inputs and metrics, its result, and what went wrong."""
    from mini.report.data import inputs_of, metrics_of

    inputs, metrics = [inputs_of(row.record) for row in rows], [metrics_of(row.record) for row in rows]
    results = [cells(row) for row in rows]
    names = [(f"input.{key}", key, inputs) for key in columns(inputs)]
    names += [(f"metric.{key}", key, metrics) for key in columns(metrics)]
    names += [(key, key, results) for key in columns(results)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "index", "state", "attempt", "seconds", *(head for head, _, _ in names), "error"])
    now = time.time()
    for place, row in enumerate(rows):
        record = row.record
        parts = [_cell(values[place].get(key)) for _, key, values in names]
        seconds = seconds_of(record, now)
        taken = "" if seconds is None else f"{seconds:.3f}"
        writer.writerow(
            [record.id, record.index, record.state, record.current.number, taken, *parts, row.error]
        )
    return file.getvalue()


def curves_csv(records: list[JobRecord], board: JobBoard) -> str:
    """A line for each point of each metric of each job."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "index", "metric", "step", "seconds", "value"])
    for record, curves in zip(records, board.curves([record.key for record in records]), strict=True):
        for metric, points in curves.items():
            writer.writerows((record.id, record.index, metric, *point) for point in points)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


# --- as files -------------------------------------------------------------------------------------------------------


def _write(rows: list[Row], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            if row.record.state == "DONE" and not row.error:
                suffix, data = _file_of(row.value)
                (folder / f"{row.record.id}{suffix}").write_bytes(data)
        (folder / "results.csv").write_text(to_csv(rows), encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise click.BadParameter(f"cannot write into {str(folder)!r}: {exc}", param_hint="--out") from exc


def _file_of(value: Any) -> tuple[str, bytes]:
    if isinstance(value, bytes | bytearray):
        return ".bin", bytes(value)
    if isinstance(value, str):
        return ".txt", value.encode("utf-8", "surrogatepass")
    # An array is too large for JSON sooner than it cannot be had as such.
    if not hasattr(value, "dtype"):
        with suppress(TypeError):
            return ".json", f"{json.dumps(plain(value))}\n".encode()
    import cloudpickle

    return ".pickle", cloudpickle.dumps(value)
