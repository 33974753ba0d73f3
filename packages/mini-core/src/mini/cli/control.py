"""`mini retry`, `mini cancel` and `mini rm`: the commands that change what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mini import launched

from ._names import Named, app_option, group_option, name_argument
from ._wait import waiting
from .as_json import json_option, print_json

if TYPE_CHECKING:
    from mini.jobrecord import JobStatus

__all__ = ["cancel_command", "remove_command", "retry_command"]


@click.command("retry")
@name_argument
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option(
    "--failed", is_flag=True, help="Those that are FAILED or LOST. That is the default without a JOB."
)
@click.option("--cancelled", is_flag=True, help="Those that were CANCELLED as well.")
@app_option
@group_option
@json_option
def retry_command(
    name: str,
    jobs: tuple[str, ...],
    failed: bool,
    cancelled: bool,
    app: str | None,
    group: str | None,
    as_json: bool,
) -> None:
    """Run jobs of NAME again, under the same ids. What runs is the code that was there when they were launched.

    JOB is a job's id, its index in the latest launch, or the id of a launch. A job that is named has to be FAILED,
    LOST or CANCELLED.

    \b
    Examples:
        mini retry digits --failed
        mini retry digits 3 7
    """
    named = Named.find(name, app)
    board = named.board()
    with waiting("starting them again"):
        found = named.jobs(board, jobs, group)
        if not jobs or failed or cancelled:
            wanted = {"FAILED", "LOST", *(["CANCELLED"] if cancelled else [])}
            found = [job for job in found if job.state in wanted]
        board.retry(found)
    _answer(
        named, found, as_json, f"runs again; mini watch {named.name}", "nothing to run again: no job failed"
    )


@click.command("cancel")
@name_argument
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@app_option
@group_option
@json_option
def cancel_command(
    name: str, jobs: tuple[str, ...], app: str | None, group: str | None, as_json: bool
) -> None:
    """End jobs of NAME that have not ended: all, or the JOBs that are named. Those that have ended stay as they are.

    JOB is a job's id, its index in the latest launch, or the id of a launch.

    \b
    Example:
        mini cancel digits
    """
    named = Named.find(name, app)
    board = named.board()
    with waiting("cancelling"):
        found = [job for job in named.jobs(board, jobs, group) if not job.state.is_final]
        board.cancel(found)
    _answer(named, found, as_json, "cancelled", "nothing to cancel: all have ended")


@click.command("rm")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@app_option
@group_option
@json_option
def remove_command(name: str, yes: bool, app: str | None, group: str | None, as_json: bool) -> None:
    """Forget the jobs of NAME: records, results and logs. Those that still run are ended. The volume stays.

    \b
    Example:
        mini rm digits --yes
    """
    named = Named.find(name, app)
    board = named.board()
    with waiting(f"reading {named.name}"):
        groups = named.groups(board, group)
        found = named.jobs(board, (), group)
    unfinished = sum(not job.state.is_final for job in found)
    if not yes:
        ends = f", {unfinished} of which have not ended" if unfinished else ""
        click.confirm(
            f"forget {len(found)} jobs of {named.name}{ends}, with their results?", abort=True, err=True
        )
    with waiting("forgetting"):
        for one in groups:
            board.group(one.id).remove()
    if not board.store.groups():
        launched.forget(named.name)
    _answer(named, found, as_json, "forgotten", "there were none")


def _answer(named: Named, jobs: list[JobStatus], as_json: bool, done: str, nothing: str) -> None:
    if as_json:
        print_json(named, jobs=[job.id for job in jobs])
    elif jobs:
        click.echo(f"{len(jobs)} job{'s' * (len(jobs) != 1)} of {named.name}: {done}")
    else:
        click.echo(nothing)
