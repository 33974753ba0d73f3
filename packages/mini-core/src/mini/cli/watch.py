"""`mini watch`: live progress of jobs until all have ended."""

from __future__ import annotations

import click

from ._names import Named, app_option, group_option, name_argument
from ._say import RUNNING, counted, counts_json, exit_status
from .as_json import json_option, print_json

__all__ = ["command"]


@click.command("watch")
@name_argument
@app_option
@group_option
@json_option
@click.pass_context
def command(ctx: click.Context, name: str, app: str | None, group: str | None, as_json: bool) -> None:
    """Show how far the jobs of NAME are until all have ended. Ctrl-C leaves the jobs alone.

    Exit status: 0 if all are done, 1 if some failed, 4 if it was interrupted before they had ended.

    \b
    Example:
        mini watch digits
    """
    named = Named.find(name, app)
    board = named.board()
    groups = named.groups(board, group)
    from ._follow import follow

    try:
        counts = follow(board, groups)
    except KeyboardInterrupt:
        click.echo(
            f"\nno longer watching; the jobs of {named.name} run on: mini watch {named.name}", err=True
        )
        ctx.exit(RUNNING)
    if as_json:
        print_json(named, counts=counts_json(counts))
    else:
        click.echo(f"{named.name} on {named.app}: {counted(counts)}")
    ctx.exit(exit_status(counts))
