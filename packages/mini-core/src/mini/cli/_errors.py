"""What goes wrong in a command, with the exit status that it ends with."""

from __future__ import annotations

import click

from mini.errors import BackendNotFound, BackendUnavailable, MiniError

from ._say import BACKEND, FAILED, USAGE

__all__ = ["as_click"]


class _Failed(click.ClickException):
    exit_code = FAILED


class _Wrong(click.ClickException):
    exit_code = USAGE


class _Unreachable(click.ClickException):
    exit_code = BACKEND


def as_click(exc: Exception) -> Exception:
    """The error as click shows it; one that is not mini's own is a defect, or the user's own, and stays what it is."""
    if not isinstance(exc, MiniError):
        return exc
    if isinstance(exc, BackendUnavailable | BackendNotFound):
        return _Unreachable(str(exc))
    # An option, a name, a job or a state that the command line got wrong is one of these as well.
    wrong = isinstance(exc, TypeError | LookupError | ValueError | NotImplementedError | RuntimeError)
    return (_Wrong if wrong else _Failed)(str(exc))
