"""`mini check`: a preflight of one function."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ._preflight import Preflight, Problem

__all__ = ["command"]


@click.command("check")
@click.argument("target", metavar="FILE:FUNCTION")
@click.option("--input", "value", metavar="JSON", help="A first input, as JSON: one positional argument.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object (docs/reference/cli.md has the schema)."
)
@click.pass_context
def command(ctx: click.Context, target: str, value: str | None, as_json: bool) -> None:
    """Say what would travel with FUNCTION of FILE, and name what would fail on a worker elsewhere.

    Imports FILE (whose `if __name__ == "__main__":` part does not run), pickles the function and a first input, and
    compares what they import with uv.lock. Calls nothing and starts nothing.

    Exit status: 0 if nothing would fail, 1 if something would, 2 for a wrong command line.
    """
    file, function = _parse_target(target)
    arguments: list[Any] = []
    if value is not None:
        try:
            arguments.append(json.loads(value))
        except ValueError as exc:
            raise click.BadParameter(f"not JSON: {exc}", param_hint="--input") from exc

    from ._preflight import TargetError, preflight

    # What the file prints when it is imported is not part of the report.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result = preflight(file, function, *arguments)
        except TargetError as exc:
            raise click.BadParameter(str(exc), param_hint="FILE:FUNCTION") from exc
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)
    ctx.exit(0 if result.ok else 1)


def _parse_target(target: str) -> tuple[Path, str]:
    name, colon, function = target.rpartition(":")
    file = Path(name)
    if not colon or not function:
        raise click.BadParameter(
            f"{target!r} is not FILE:FUNCTION, such as train.py:fit", param_hint="FILE:FUNCTION"
        )
    if not file.is_file():
        raise click.BadParameter(f"there is no file {name!r}", param_hint="FILE:FUNCTION")
    if file.suffix != ".py":
        raise click.BadParameter(f"{name!r} is not a Python file (.py)", param_hint="FILE:FUNCTION")
    return file, function


_TRAVELS = {
    "script": "by value, as it is defined in a script",
    "module": "by name, as it is in a package that travels",
}


def _show(result: Preflight) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 10_000  # whoever reads this line by line wants whole lines
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    if result.function_bytes is not None:
        table.add_row(
            "function",
            _bytes(result.function_bytes),
            _plain(f"{result.function}, {_TRAVELS[result.loaded_as]}"),
        )
    for path, kind, size in result.captures[:10]:
        table.add_row("  with", _bytes(size), _plain(f"{path} ({kind})"))
    if result.input_bytes is not None:
        table.add_row("first input", _bytes(result.input_bytes), "")
    for package, files, size in result.package_sizes():
        table.add_row(
            "package",
            _bytes(size),
            _plain(f"{package.name}: {files} file{'s' * (files != 1)} in {package.path}"),
        )
    if result.requirements is not None:
        pinned = result.requirements.requirements
        table.add_row("requirements", str(len(pinned)), _plain(", ".join(pinned)))
    console.print(_plain(f"{result.file.name}:{result.function}"), style="bold")
    console.print(table)
    for note in result.notes:
        _show_problem(console, "note", note, "yellow")
    for problem in result.problems:
        _show_problem(console, "FAILS", problem, "bold red")
    count = len(result.problems)
    if count:
        console.print(f"{count} thing{'s' * (count > 1)} would fail on a worker elsewhere", style="bold red")
    else:
        console.print("nothing found that would fail on a worker elsewhere", style="green")


def _show_problem(console: Console, label: str, problem: Problem, style: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((f"{label} ", style), (f"{problem.subject}: ", "bold"), problem.message))
    for line in problem.hint.splitlines():
        console.print(Text(f"      {line}"))


def _plain(text: str) -> Any:
    """Text in which brackets are brackets."""
    from rich.text import Text

    return Text(text)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
