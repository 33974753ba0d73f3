"""`mini report`: the jobs of a name as one HTML file."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ._names import Named, app_option, group_option, name_argument
from ._wait import waiting
from .as_json import json_option, print_json

__all__ = ["command"]


@click.command("report")
@name_argument
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Where to. Default: NAME.html.")
@click.option("--open", "show", is_flag=True, help="Open it in a browser.")
@app_option
@group_option
@json_option
def command(
    name: str, out: str | None, show: bool, app: str | None, group: str | None, as_json: bool
) -> None:
    """Write a report on the jobs of NAME: one HTML file, to be opened in any browser, offline too.

    It has a table of jobs to sort and filter, inputs against metrics, curves, failures, workers over time, and where
    the jobs came from.

    \b
    Example:
        mini report digits --open
    """
    named = Named.find(name, app)
    board = named.board()
    from mini.jobboard import Select
    from mini.report import curves_of, render

    with waiting("making the report"):
        groups = {one.id for one in named.groups(board, group)}
        records = [record for record in board.read(Select()) if record.group in groups]
        curves = curves_of(records, board.curves)
        text = render(records, named.name, named.app, now=time.time(), curves=curves)
    file = Path(out or f"{named.name}.html")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise click.BadParameter(
            f"{str(file)!r} cannot be written: {exc.strerror}", param_hint="--out"
        ) from exc
    if as_json:
        print_json(named, file=str(file.absolute()), jobs=len(records))
    else:
        click.echo(f"{file}: {len(records)} jobs, {len(text.encode()) / 1e6:.1f} MB")
    if show:
        click.launch(file.absolute().as_uri())
