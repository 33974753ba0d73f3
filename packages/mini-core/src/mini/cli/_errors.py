"""What goes wrong in a command, with the exit status that it ends with."""

from __future__ import annotations

import click

from ._say import BACKEND, FAILED, USAGE

__all__ = ["Failed", "Unreachable", "Wrong", "as_click"]


class Failed(click.ClickException):
    """It went wrong."""

    exit_code = FAILED


class Wrong(click.ClickException):
    """The command line asks for what is not there, or cannot be; which options there are would not help."""

    exit_code = USAGE


class Unreachable(click.ClickException):
    """The backend is not there."""

    exit_code = BACKEND


def as_click(exc: Exception) -> Exception:
    """The error as click shows it; one that is not mini's own is a defect, or the user's own, and stays what it is."""
    from mini.errors import BackendNotFound, BackendUnavailable, MiniError

    if not isinstance(exc, MiniError):
        return exc
    if isinstance(exc, BackendUnavailable | BackendNotFound):
        return Unreachable(str(exc))
    # An option, a name, a job or a state that the command line got wrong is one of these as well.
    wrong = isinstance(exc, TypeError | LookupError | ValueError | NotImplementedError | RuntimeError)
    return (Wrong if wrong else Failed)(str(exc))
