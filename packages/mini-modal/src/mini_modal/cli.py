"""The commands that mini-modal adds to `mini`. What they need is imported when they run."""

from __future__ import annotations

import os
import sys

import click

__all__ = ["auth", "modal"]


@click.command("modal")
@click.option("--check", is_flag=True, help="Only say how things are: ask nothing, change nothing.")
@click.option(
    "--stdin", is_flag=True, help="Read a token's id and secret from standard input, verify it and store it."
)
@click.option(
    "--no-input", is_flag=True, help="Ask nothing and write nothing, as without a terminal or with CI set."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the browser.",
)
@click.pass_context
def auth(ctx: click.Context, *, check: bool, stdin: bool, no_input: bool, timeout: float) -> None:
    """Log in to Modal, or say by which token one is.

    Exit status: 0 if there is a token that works, 2 for a wrong command line, 3 if there is no token, 4 if Modal
    rejects it, 5 if Modal cannot be reached, 6 if its certificate is not trusted, 7 if a proxy is in the way, 8 if
    Modal's file of profiles is broken, 124 if nobody has logged in in time.

    \b
    Examples:
        mini auth modal
        mini auth modal --check
    """
    from .auth import Failed, authenticate

    try:
        authenticate(check=check, stdin=stdin, no_input=no_input, seconds=timeout)
    except Failed as exc:
        click.echo(f"mini auth modal: {exc}", err=True)
        ctx.exit(exc.status)


@click.command(
    "modal",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def modal(arguments: tuple[str, ...]) -> None:
    """Modal's own command line, behind proxies that inspect TLS as well."""
    # A process whose main module is the one below: what `modal serve` starts imports that again.
    command = [sys.executable, "-P", "-m", "mini_modal.modal_command", *arguments]
    if sys.platform == "win32":  # which has no exec that its shells wait for
        import subprocess

        sys.exit(subprocess.call(command))
    sys.stdout.flush()
    os.execv(sys.executable, command)
