"""`mini status` and `mini ls`: what there is, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from mini import launched

from ._names import Named, app_option, group_option, name_argument
from ._say import counted, counts_json, exit_status, styled
from ._wait import waiting
from .as_json import json_option, print_json

if TYPE_CHECKING:
    from mini.jobboard import JobBoard
    from mini.jobrecord import GroupRecord, JobState

__all__ = ["list_command", "status_command"]

MOST_LAUNCHES = 10
MOST_SHOWN = 5
"""Running and failed jobs of which more is said than that they are there."""


@click.command("status")
@name_argument
@app_option
@group_option
@json_option
@click.pass_context
def status_command(ctx: click.Context, name: str, app: str | None, group: str | None, as_json: bool) -> None:
    """Say how far the jobs of NAME are. Starts nothing.

    Exit status: 0 if all are done, 1 if some failed, 4 while some are unfinished.

    \b
    Example:
        mini status digits
    """
    named = Named.find(name, app)
    board = named.board()
    with waiting(f"reading {named.name}"):
        groups = named.groups(board, group)
        by_group = board.counts()
    counts = _sum(by_group, groups)
    if as_json:
        launches = [_group_json(one, by_group.get(one.id, Counter())) for one in groups]
        print_json(named, counts=counts_json(counts), launches=launches)
    else:
        click.echo(f"{click.style(named.name, bold=True)} on {named.app}: {counted(counts)}")
        if len(groups) > 1:
            for one in groups[-MOST_LAUNCHES:]:
                these = by_group.get(one.id, Counter())
                click.echo(f"  {one.id}  {when(one.origin.launched)}  {one.function}: {counted(these)}")
        _tell(board, groups, counts)
    ctx.exit(exit_status(counts))


def _sum(by_group: Mapping[str, Counter[JobState]], groups: Sequence[GroupRecord]) -> Counter[JobState]:
    total: Counter[JobState] = Counter()
    for one in groups:
        total.update(by_group.get(one.id, ()))
    return total


def _tell(board: JobBoard, groups: Sequence[GroupRecord], counts: Counter[JobState]) -> None:
    """A few words about jobs that run and jobs that failed."""
    from mini.display.meter import describe, one_line
    from mini.jobboard import Select
    from mini.jobrecord import JobState

    ids = {one.id for one in groups}
    for states in ((JobState.RUNNING,), (JobState.FAILED, JobState.LOST)):
        count = sum(counts[state] for state in states)
        if not count:
            continue
        found = [job.id for job in board.store.states(Select(states=states)) if job.group in ids]
        for record in board.store.read(Select(found[:MOST_SHOWN])):
            now = record.current
            words = describe(now.report.progress, now.report.metrics)
            if now.ended is not None:
                failure = now.ended.failure
                words = "its worker vanished" if failure is None else f"{failure.type}: {failure.message}"
            line = f"  {styled(record.state)}  {record.id} ({one_line(record.input)})  {one_line(words)}"
            click.echo(line.rstrip())
        if count > MOST_SHOWN:
            click.echo(f"  {styled(states[0])}  and {count - MOST_SHOWN} more")
    if counts[JobState.CANCELLED]:
        # A person who cancels knows why; a budget that does it says so.
        found = [j.id for j in board.store.states(Select(states={JobState.CANCELLED})) if j.group in ids]
        for record in board.store.read(Select(found[:1])):
            ended = record.current.ended
            if ended is not None and ended.failure is not None:
                click.echo(f"  {styled('CANCELLED')}  {one_line(ended.failure.message)}")


def _group_json(group: GroupRecord, counts: Counter[JobState]) -> dict[str, Any]:
    return {
        "id": group.id,
        "function": group.function,
        "launched": group.origin.launched,
        "launched_by": group.origin.launched_by,
        "jobs": group.size,
        "counts": counts_json(counts),
    }


def when(seconds: float) -> str:
    """A moment in local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@click.command("ls")
@click.option("--app", metavar="BACKEND", help="Only names of this backend.")
@json_option
def list_command(app: str | None, as_json: bool) -> None:
    """List the names that jobs were launched under from this project.

    \b
    Example:
        mini ls
    """
    from mini.errors import MiniError

    rows: list[dict[str, Any]] = []
    for name, backend in launched.names().items():
        if app not in (None, backend):
            continue
        named = Named(name, backend, "where it was launched")
        row: dict[str, Any] = {"name": name, "app": backend, "error": None}
        try:
            with waiting(f"reading {name}"):
                board = named.board()
                groups = board.store.groups()
                counts = _sum(board.counts(), groups)
            if not groups:
                continue
        except (MiniError, ImportError) as exc:  # of one backend: the others have something to say
            row["error"] = str(exc)
        else:
            row |= {"counts": counts, "launches": len(groups), "launched": groups[-1].origin.launched}
        rows.append(row)
    if as_json:
        for row in rows:
            row["counts"] = counts_json(row.get("counts") or {})
        print_json(None, folder=str(launched.data_root()), names=rows)
        return
    if not rows:
        click.echo(
            f"nothing was launched from here{f' on {app}' if app else ''}: there is none in {launched.data_root()}\n"
            "launch something: mini run FILE:FUNCTION --detach"
        )
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        what = click.style(row["error"], fg="red") if row["error"] else counted(row["counts"])
        launch = when(row["launched"]) if "launched" in row else " " * 19
        click.echo(f"{click.style(row['name'].ljust(width), bold=True)}  {row['app']:<6} {launch}  {what}")
