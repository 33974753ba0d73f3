"""The command that mini-ray adds to `mini`. What it needs is imported when it runs."""

from __future__ import annotations

import click
from mini.cli.as_json import json_option, print_json

__all__ = ["ray"]


@click.group("ray")
def ray() -> None:
    """Have a Ray instance on this machine that stays, for detached jobs where there is no cluster."""


@ray.command("start")
@json_option
def start(*, as_json: bool) -> None:
    """Start an instance that stays until `mini ray stop`, unless there is one.

    It is this project's, on loopback and with a token of its own. From then on what runs on Ray from this project runs
    there, if neither an address nor RAY_ADDRESS says where else.

    \b
    Example:
        mini ray start
    """
    from mini.errors import BackendUnavailable

    from .standing import place_of
    from .standing import start as start_standing

    try:
        standing, now = start_standing()
    except BackendUnavailable as exc:
        raise click.ClickException(str(exc)) from exc
    begun = "has been started" if now else "is there already"
    place = place_of().parent.parent
    if as_json:
        print_json(None, address=standing.address, place=str(place), started=now)
    else:
        click.echo(f"a Ray instance {begun} at {standing.address}, for {place}; to end it: mini ray stop")


@ray.command("stop")
@json_option
def stop(*, as_json: bool) -> None:
    """End the instance that stays for this project, with what runs there. Its jobs are lost, and can be retried.

    \b
    Example:
        mini ray stop
    """
    from mini.errors import BackendUnavailable

    from .standing import stop as stop_standing

    try:
        ended = stop_standing()
    except BackendUnavailable as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        print_json(None, ended=ended)
    else:
        click.echo(
            "the Ray instance has ended" if ended else "there is no Ray instance that stays for this project"
        )
