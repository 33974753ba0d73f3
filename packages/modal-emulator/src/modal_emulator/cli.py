"""The command `modal-emulator`."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .emulator import Emulator, EmulatorError
from .serving import CannotServe, Ready, serve, variables

if TYPE_CHECKING:
    from .settings import Isolation, Settings

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)


cache_option = click.option(
    "--cache", type=FOLDER, help="Keep images in this folder instead of the user's cache."
)


def parse_prices(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> dict[str, float]:
    prices = {}
    for text in value:
        name, _, amount = text.partition("=")
        try:
            prices[name] = float(amount)
        except ValueError:
            prices[name] = -1.0
        if name not in ("cpu", "memory", "gpu") or not 0 <= prices[name] < float("inf"):
            raise click.BadParameter(f"{text!r} is no price, such as cpu=0.05, memory=0.01 or gpu=2")
    return prices


def server_options(function: F) -> F:
    """The options that `serve` and `run` share."""
    for option in reversed(
        [
            click.option(
                "--port",
                default=0,
                type=click.IntRange(0, 65535),
                help="On loopback; a free one if not given.",
            ),
            click.option(
                "--state", type=FOLDER, help="Keep volumes, dicts, apps and finished calls in this folder."
            ),
            click.option(
                "--cache", type=FOLDER, help="Keep images in this folder instead of the user's cache."
            ),
            click.option("--tls", is_flag=True, help="Speak TLS, with a private authority's certificate."),
            click.option(
                "--lenient", is_flag=True, help="Ignore what has no effect here, instead of refusing it."
            ),
            click.option(
                "--isolation",
                type=click.Choice(["auto", "namespaces", "directories"]),
                default="auto",
                show_default=True,
                help="How containers are kept apart.",
            ),
            click.option(
                "--skip-apt", is_flag=True, help="Go on without Debian packages that cannot be had."
            ),
            click.option(
                "--share",
                type=FOLDER,
                multiple=True,
                help="Have every container see this folder, and write to it, under the path that it has here.",
            ),
            click.option(
                "--price",
                "prices",
                multiple=True,
                callback=parse_prices,
                metavar="NAME=AMOUNT",
                help="What an hour of a core (cpu), a GiB (memory) or a GPU (gpu) costs in reports. Default: 0.",
            ),
            click.option(
                "--pending-limit",
                default=2000,
                type=click.IntRange(1),
                show_default=True,
                metavar="N",
                help="Refuse inputs of a function of which so many wait for a container, as Modal does.",
            ),
            click.option(
                "--heartbeat-limit",
                default=60.0,
                type=click.FloatRange(0.1),
                show_default=True,
                metavar="SECONDS",
                help="End the apps of clients that have been silent for so long; they say something every 15 s.",
            ),
        ]
    ):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modal-emulator")
def main() -> None:
    """Modal's control plane on this machine: the unmodified modal client runs its programs here."""


@main.command(context_settings={"allow_interspersed_args": False})
@server_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], **options: Any) -> None:
    """Start a server, run COMMAND with it, and end with COMMAND's exit code.

    \b
        modal-emulator run -- modal run hello.py
    """
    from .running import run_command

    try:
        with Emulator(**options) as emulator:
            code = run_command(command, emulator.environ)
            if not emulator.running:
                click.echo(f"modal-emulator: the server ended before the command\n{emulator.log}", err=True)
            elif emulator.log:
                click.echo(emulator.log, err=True, nl=False)
    except EmulatorError as exc:
        raise click.ClickException(str(exc)) from exc
    sys.exit(code)


def emulator_options(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments of `Emulator` that options of `run` stand for. ValueError says what is wrong with them."""
    try:
        parsed: dict[str, Any] = run.make_context("modal-emulator", [*arguments, "--", "true"]).params
    except click.ClickException as exc:
        raise ValueError(exc.format_message()) from None
    return {name: value for name, value in parsed.items() if name != "command"}


def parse_token(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, str] | None:
    if value is None:
        return None
    token_id, _, secret = value.partition(":")
    if not all(re.fullmatch(r"[\w-]+", part, re.ASCII) for part in (token_id, secret)):
        raise click.BadParameter("a token is its id and its secret, ID:SECRET, of letters, digits, _ and -")
    return token_id, secret


@main.command("serve")
@server_options
@click.option(
    "--token",
    envvar="MODAL_EMULATOR_TOKEN",
    callback=parse_token,
    metavar="ID:SECRET",
    help="What clients have to present; random if not given. Better given as MODAL_EMULATOR_TOKEN, which others"
    " on this machine cannot see.",
)
@click.option("--url-seconds", type=click.FloatRange(min=0), default=3600.0, hidden=True)
@click.option("--reload-seconds", type=click.FloatRange(min=0), default=0.0, hidden=True)
@click.option("--commits-reload", is_flag=True, hidden=True)
@click.option("--lost-answer", "lost_answers", multiple=True, hidden=True)
# How the class Emulator uses this command: a JSON line when it is ready, and the end when standard input ends.
@click.option("--attached", is_flag=True, hidden=True)
@click.option("--work", type=FOLDER, hidden=True)
def serve_command(
    *,
    port: int,
    state: Path | None,
    cache: Path | None,
    tls: bool,
    lenient: bool,
    isolation: Isolation,
    skip_apt: bool,
    share: tuple[Path, ...],
    url_seconds: float,
    reload_seconds: float,
    commits_reload: bool,
    lost_answers: tuple[str, ...],
    prices: dict[str, float],
    pending_limit: int,
    heartbeat_limit: float,
    token: tuple[str, str] | None,
    attached: bool,
    work: Path | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; print what a shell has to set.

    What is printed on standard output is for a shell to evaluate, and standard output is closed after it:

    \b
        eval "$(modal-emulator serve &)"
        modal run hello.py
        kill $MODAL_EMULATOR_PID
    """

    def make_settings(folder: Path) -> Settings:
        from .ids import new_id
        from .settings import Settings

        token_id, token_secret = token or (new_id("ak"), new_id("as"))
        settings = Settings(
            work=folder,
            state=None if state is None else state.absolute(),
            token_id=token_id,
            token_secret=token_secret,
            port=port,
            tls=tls,
            lenient=lenient,
            isolation=isolation,
            skip_apt=skip_apt,
            share=tuple(folder.absolute() for folder in share),
            url_seconds=url_seconds,
            reload_seconds=reload_seconds,
            commits_reload=commits_reload,
            lost_answers=lost_answers,
            prices=prices,
            pending_limit=pending_limit,
            heartbeat_limit=heartbeat_limit,
        )
        return settings if cache is None else replace(settings, cache=cache.absolute())

    logging.basicConfig(format="modal-emulator: %(message)s", level=logging.WARNING)
    # Only its own: what the libraries beneath write then has the headers of requests, and with them tokens.
    logging.getLogger(__package__).setLevel(os.environ.get("MODAL_EMULATOR_LOG_LEVEL", "WARNING"))
    try:
        serve(make_settings, work, print_json if attached else print_exports, attached=attached)
    except CannotServe as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@click.argument("app", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the app has ended.")
def logs(app: str | None, follow: bool) -> None:
    """Show what APP has printed, or what all have, on the server that MODAL_SERVER_URL names.

    The logs are the running server's: they are not kept for another one.
    """
    import asyncio

    from .following import NoLogs
    from .following import logs as lines

    if follow and app is None:
        raise click.UsageError("--follow needs an APP to follow")

    async def show() -> None:
        at_start, last = True, None
        async for piece in lines(os.environ, app, follow=follow):
            if app is not None:
                click.echo(piece.text, nl=False, err=piece.descriptor == 2)
                continue
            if piece.app != last and not at_start:
                click.echo()
                at_start = True
            last = piece.app
            for text in piece.text.splitlines(keepends=True):
                click.echo(f"[{piece.app}] {text}" if at_start else text, nl=False, err=piece.descriptor == 2)
                at_start = text.endswith("\n")

    try:
        asyncio.run(show())
    except NoLogs as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@cache_option
def images(cache: Path | None) -> None:
    """List the images in the cache, the least recently used first."""
    from .runtime.cache import list_images

    rows = [("KEY", "PYTHON", "SIZE", "LAST USED", "LAST LINE")]
    for image in sorted(list_images(cache_folder(cache)), key=lambda each: each.used):
        used = datetime.fromtimestamp(image.used).astimezone()
        rows.append(
            (
                image.key[:16],
                image.python,
                size(image.size),
                f"{used:%Y-%m-%d %H:%M}",
                image.lines[-1][:60] if image.lines else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@main.command()
@cache_option
@click.option(
    "--older-than",
    metavar="DAYS",
    type=click.FloatRange(0),
    help="Remove what has not been used for so long.",
)
@click.option("--all", "everything", is_flag=True, help="Remove all images that no running server uses.")
def prune(cache: Path | None, older_than: float | None, everything: bool) -> None:
    """Remove images from the cache; what is removed is built again when it is wanted."""
    from .runtime.cache import prune as remove

    if everything == (older_than is not None):
        raise click.UsageError("say --older-than DAYS, or --all")
    removed = remove(cache_folder(cache), None if older_than is None else older_than * 86400)
    click.echo(f"removed {len(removed)} images, {size(sum(image.size for image in removed))}")


def cache_folder(given: Path | None) -> Path:
    from .settings import Settings

    return given or Settings(work=Path()).cache


def size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def print_json(ready: Ready) -> None:
    click.echo(json.dumps(asdict(ready)))
    close_output()


def print_exports(ready: Ready) -> None:
    for name, value in {**variables(ready), "MODAL_EMULATOR_PID": str(ready.pid)}.items():
        click.echo(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    click.echo(f"modal-emulator serves at {ready.url}; Ctrl-C ends it", err=True)
    close_output()


def close_output() -> None:
    """Let whoever reads standard output to its end go on."""
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
