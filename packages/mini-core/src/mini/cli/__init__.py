"""The command `mini`. A subcommand's module is imported when it is asked for, so that starting is quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

__all__ = ["main"]

# Each command's one-line help is here too, because listing the commands must not import them.
_COMMANDS = {
    "check": ("mini.cli.check", "Say what would travel with a function, and what would fail on a worker."),
}


class _Group(click.Group):
    """Finds its commands in `_COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            ctx.fail(f"no command {name!r}; there is {', '.join(_COMMANDS)}")
        command: click.Command = import_module(_COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


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
