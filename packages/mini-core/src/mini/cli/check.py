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
    "--app",
    metavar="BACKEND",
    help="The backend that it is meant for. Default: MINI_APP, else [tool.mini] app, else local.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object (docs/reference/cli.md has the schema)."
)
@click.pass_context
def command(ctx: click.Context, target: str, value: str | None, app: str | None, as_json: bool) -> None:
    """Say what would travel with FUNCTION of FILE, and name what would fail on a worker elsewhere.

    Imports FILE (whose `if __name__ == "__main__":` part does not run), pickles the function and a first input, and
    compares what they import with uv.lock. Calls nothing and starts nothing.

    Exit status: 0 if nothing would fail, 1 if something would, 2 for a wrong command line.

    \b
    Example:
        mini check train.py:fit --input 0.1 --app modal
    """
    file, function = _parse_target(target)
    arguments: list[Any] = []
    if value is not None:
        try:
            arguments.append(json.loads(value))
        except ValueError as exc:
            raise click.BadParameter(f"not JSON: {exc}", param_hint="--input") from exc

    from ..registry import default_backend
    from ._load import TargetError
    from ._preflight import preflight

    # What the file prints when it is imported is not part of the report.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result = preflight(file, function, *arguments, app=app or default_backend())
        except TargetError as exc:
            raise click.BadParameter(str(exc), param_hint="FILE:FUNCTION") from exc
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)
    ctx.exit(0 if result.ok else 1)


def _parse_target(target: str) -> tuple[Path, str]:
    name, colon, function = target.rpartition(":")
    if not colon or not function:
        raise click.BadParameter(
            f"{target!r} is not FILE:FUNCTION, such as train.py:fit", param_hint="FILE:FUNCTION"
        )
    from ._load import parse_file

    return parse_file(name, "FILE:FUNCTION"), function


_TRAVELS = {
    "script": "by value: it is defined in a script",
    "module": "by name: it is in a package that travels",
}


def _show(result: Preflight) -> None:
    from rich.console import Console
    from rich.text import Text

    # Lines are not broken, so that paths can be copied and whoever reads this by program gets whole lines.
    console = Console(highlight=False, soft_wrap=True)

    def row(label: str, size: str, text: str = "") -> None:
        console.print(Text(f"{label:<13}{size:>9}  {text}".rstrip()))

    console.print(Text(f"{result.file.name}:{result.function}"), style="bold")
    if result.function_bytes is not None:
        row("function", _bytes(result.function_bytes), _TRAVELS[result.loaded_as])
    for path, kind, size in result.captures[:10]:
        row("  with", _bytes(size), f"{path} ({kind})")
    if result.input_bytes is not None:
        row("first input", _bytes(result.input_bytes))
    for package, files, size in result.package_sizes():
        row("package", _bytes(size), f"{package.name}: {files} file{'s' * (files != 1)} in {package.path}")
    for name, archive, size in result.archives():
        row("archive", _bytes(size), f"{name}: {archive}")
    if result.requirements is not None:
        pinned = result.requirements.requirements
        row("requirements", str(len(pinned)), ", ".join(pinned))
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


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
