"""The command `mini`. A subcommand's module is imported when it is asked for, so that starting is quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

__all__ = ["main"]

# Each command's one-line help is here too, because listing the commands must not import them.
_COMMANDS = {
    "auth": ("mini.cli.auth", "Log in to a backend that wants to know who you are."),
    "check": ("mini.cli.check", "Say what would travel with a function, and what would fail on a worker."),
}


class _Group(click.Group):
    """Finds its commands in `_COMMANDS`, and those of adapters under the entry point group `mini.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ._adapters import commands

        return [*_COMMANDS, *(name for name in sorted(commands("mini.commands")) if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            command: click.Command = import_module(_COMMANDS[name][0]).command
            return command
        from ._adapters import commands, load, remedy

        point = commands("mini.commands").get(name)
        if point is None:
            ctx.fail(f"no command {name!r}; there is {', '.join(self.list_commands(ctx))}{remedy(name)}")
        return load(point)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ._adapters import commands, summary

        points = commands("mini.commands")
        rows = [
            (name, _COMMANDS[name][1] if name in _COMMANDS else summary(points[name]))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from mini import __version__

        click.echo(f"mini {__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def main(**_: Any) -> None:
    """Run a function over many inputs, on this machine or on somebody else's."""
