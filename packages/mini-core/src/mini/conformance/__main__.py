"""`python -m mini.conformance report DIR`: the table of clauses against backends."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import click

from .renderings import as_html, as_markdown, as_text
from .report import ReportError, as_json, merge, read


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """What the conformance kit of mini has found."""


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def report(ctx: click.Context, directory: Path) -> None:
    """Print the table of clauses against backends, and write it to DIR.

    DIR has the *.fragment.json of one or more `pytest --conformance-report=DIR`. conformance.json, conformance.md and
    conformance.html are written beside them.

    Exit status: 0 if nothing failed, 1 if something did, 2 if there is nothing to report on or it cannot be read.
    """
    try:
        found = merge(read(directory))
        written = {
            "conformance.json": json.dumps(as_json(found), indent=1) + "\n",
            "conformance.md": as_markdown(found),
            "conformance.html": as_html(found),
        }
        for name, text in written.items():
            (directory / name).write_text(text, encoding="utf-8")
    except (ReportError, OSError) as exc:
        click.echo(f"Error: {exc}", err=True)
        ctx.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is no UTF-8 one gets the table too
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(as_text(found, width))
    click.echo("\n".join(str(directory / name) for name in written))
    ctx.exit(1 if found.failed else 0)


if __name__ == "__main__":
    main(prog_name="python -m mini.conformance")
