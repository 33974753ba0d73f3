"""`mini apps`: the backends that are installed, and whether they can be reached."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import click

from ._say import BACKEND
from .as_json import json_option, print_json

__all__ = ["command"]


@click.command("apps")
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
@click.option("--offline", is_flag=True, help="Only say what is installed; reach nothing.")
@json_option
@click.pass_context
def command(ctx: click.Context, backends: tuple[str, ...], offline: bool, as_json: bool) -> None:
    """List the backends that are installed, with their versions, and say whether each can be reached.

    Starts nothing: no cluster, no container.

    Exit status: 0, or 3 if a BACKEND that is named cannot be reached.

    \b
    Example:
        mini apps
    """
    from mini.registry import KNOWN, default_backend

    from ._adapters import commands
    from ._wait import waiting

    points = commands("mini.backends")
    unknown = [name for name in backends if name not in points and name not in KNOWN]
    if unknown:
        raise click.UsageError(f"no backend {unknown[0]!r}; there is {', '.join(sorted({*points, *KNOWN}))}")
    default = default_backend()
    rows = []
    for name in sorted({*points, *KNOWN}):
        if not backends or name in backends:
            with waiting(f"reaching {name}"):
                rows.append(
                    {"app": name, "default": name == default, **_look(name, points.get(name), offline)}
                )
    if as_json:
        print_json(None, apps=rows)
    else:
        for row in rows:
            mark = "*" if row["default"] else " "
            version = f"{row['package']} {row['version'] or 'not installed'}"
            colour = {True: "green", False: "red", None: "bright_black"}[row["reachable"]]
            click.echo(f"{mark} {click.style(row['app'].ljust(8), bold=True)} {version:<24} ", nl=False)
            click.echo(click.style(row["says"], fg=colour))
    if backends and not offline and not all(row["reachable"] for row in rows):
        ctx.exit(BACKEND)


def _look(name: str, point: EntryPoint | None, offline: bool) -> dict[str, Any]:
    from mini.registry import KNOWN

    if point is None and name != "local":
        return {
            "package": KNOWN[name],
            "version": None,
            "reachable": None if offline else False,
            "says": f"uv add {KNOWN[name]}",
        }
    dist = point.dist if point is not None else None
    about = {"package": dist.name if dist else KNOWN.get(name, name), "version": dist.version if dist else ""}
    if offline:
        return {**about, "reachable": None, "says": ""}
    from mini.errors import MiniError
    from mini.registry import apparatus

    try:
        says, reachable = apparatus(name, "mini-apps").reach(), True
    except MiniError as exc:
        says, reachable = str(exc).partition("\n")[0], False
    return {**about, "reachable": reachable, "says": says}
