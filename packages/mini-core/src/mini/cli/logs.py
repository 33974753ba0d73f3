"""`mini logs`: what jobs printed."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from ._names import Named, app_option, group_option, name_argument
from ._say import RUNNING
from .as_json import json_option, print_json

if TYPE_CHECKING:
    from mini.jobrecord import JobStatus, Key
    from mini.status import LogLine

__all__ = ["command"]

FIRST_PAUSE, LAST_PAUSE = 0.05, 0.5


@click.command("logs")
@name_argument
@click.argument("job", required=False)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until all have ended. Ctrl-C leaves the jobs alone."
)
@app_option
@group_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    job: str | None,
    follow: bool,
    app: str | None,
    group: str | None,
    as_json: bool,
) -> None:
    """Print what the current attempts of NAME's jobs, or of one JOB, printed.

    JOB is a job's id, or its index in the latest launch. Without it each line begins with the id of its job.

    \b
    Examples:
        mini logs digits 3
        mini logs digits -f
    """
    named = Named.find(name, app)
    board = named.board()
    words = () if job is None else (job,)
    from ._wait import waiting

    seen: dict[Key, int] = {}
    over: set[Key] = set()
    lines: list[LogLine] = []

    def take(one: JobStatus) -> None:
        # Nothing is printed to an attempt before its worker has it, nor after its end.
        if one.key in over or one.worker is None:
            return
        new = board.store.log(one.key, seen.get(one.key, 0))
        seen[one.key] = seen.get(one.key, 0) + len(new)
        if one.state.is_final:
            over.add(one.key)
        if as_json:
            lines.extend(new)
            return
        for line in new:
            prefix = "" if job is not None else click.style(f"{line.job}  ", fg="bright_black")
            click.echo(f"{prefix}{line.text}", err=False)

    pause = FIRST_PAUSE
    try:
        while True:
            jobs = named.jobs(board, words, group)
            with waiting("reading", len(jobs)) if as_json else nullcontext():
                for one in jobs:
                    take(one)
            if not follow or all(one.state.is_final for one in jobs):
                break
            time.sleep(pause)
            pause = min(LAST_PAUSE, pause * 1.5)
    except KeyboardInterrupt:
        if not follow:
            raise
        click.echo(
            f"\nno longer following; the jobs of {named.name} run on: mini logs {named.name} -f", err=True
        )
        ctx.exit(RUNNING)
    if as_json:
        found = [
            {"job": line.job, "index": line.index, "stream": line.stream, "text": line.text} for line in lines
        ]
        print_json(named, lines=found)
