"""The command `mini`. A subcommand's module is imported when it is asked for, so that starting is quick."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

__all__ = ["main"]

# Each command's one-line help is here too, because listing the commands must not import them.
_COMMANDS = {
    "run": ("run", "command", "Call a function for each row of inputs, and show what came of it."),
    "ls": ("status", "list_command", "List the names that jobs were launched under."),
    "status": ("status", "status_command", "Say how far the jobs of a name are."),
    "watch": ("watch", "command", "Show how far they are until all have ended."),
    "results": ("results", "command", "Show what they returned, as a table, CSV, JSON or files."),
    "logs": ("logs", "command", "Print what they printed."),
    "report": ("report", "command", "Write a report on them, as one HTML file."),
    "retry": ("control", "retry_command", "Run those that failed again."),
    "cancel": ("control", "cancel_command", "End those that have not ended."),
    "rm": ("control", "remove_command", "Forget them."),
    "cost": ("cost", "command", "Say how long workers were busy, times what each was given."),
    "volume": ("volume", "command", "List, fetch, store and remove files of a name's volume."),
    "check": ("check", "command", "Say what would travel with a function, and what would fail on a worker."),
    "apps": ("apps", "command", "List the backends, and say whether each can be reached."),
    "auth": ("auth", "command", "Log in to a backend that wants to know who you are."),
}


class _Group(click.Group):
    """Finds its commands in `_COMMANDS`, and those of adapters under the entry point group `mini.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ._adapters import commands

        return [*_COMMANDS, *(name for name in sorted(commands("mini.commands")) if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module, attribute, _ = _COMMANDS[name]
            command: click.Command = getattr(import_module(f"{__name__}.{module}"), attribute)
            return command
        from ._adapters import commands, load, remedy

        point = commands("mini.commands").get(name)
        if point is None:
            ctx.fail(f"no command {name!r}; there is {', '.join(self.list_commands(ctx))}{remedy(name)}")
        return load(point)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What mini itself raises is said in a line, with the exit status of its kind."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False  # and that of all commands; rich knows by itself
        if isinstance(sys.stdout, TextIOWrapper):
            # What jobs say may be beyond what a terminal or a pipe can take.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            # Only now: a command that goes well need not know about errors.
            from ._errors import as_click

            raise as_click(exc) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ._adapters import commands, summary

        points = commands("mini.commands")
        rows = [
            (name, _COMMANDS[name][2] if name in _COMMANDS else summary(points[name]))
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
