"""`mini auth`: the login of each backend that has one."""

from __future__ import annotations

import click

from mini.registry import KNOWN, backend_names

from ._adapters import commands, load, remedy, summary

__all__ = ["command"]

GROUP = "mini.auth"


class _Backends(click.Group):
    """Finds its commands under the entry point group `mini.auth`, by the names of backends."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(commands(GROUP))

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        point = commands(GROUP).get(name)
        if point is not None:
            return load(point)
        if name in commands("mini.backends") or name == "local":
            return click.Command(
                name, callback=lambda: click.echo(f"{name} needs no login"), help="Needs no login."
            )
        there = ", ".join(self.list_commands(ctx)) or "none that is installed"
        known = remedy(name) if name in KNOWN else f"\nbackends: {', '.join(sorted(backend_names()))}"
        raise click.UsageError(f"no backend {name!r} with a login here; there is {there}{known}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        points = commands(GROUP)
        with formatter.section("Backends"):
            formatter.write_dl(
                [(name, summary(points[name])) for name in sorted(points)]
                or [("none", "is installed that needs it")]
            )


@click.group("auth", cls=_Backends)
def command() -> None:
    """Log in to BACKEND, or say as whom one is logged in.

    \b
    Example:
        mini auth modal
    """
