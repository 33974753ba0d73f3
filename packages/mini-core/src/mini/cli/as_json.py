"""What all commands have in common that can answer in JSON, also those that adapters add."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ._names import Named

__all__ = ["SCHEMA", "json_option", "print_json"]

F = TypeVar("F", bound=Callable[..., Any])

SCHEMA = 1
"""Version of what --json prints. Fields may be added to it; one that is removed or changes its meaning makes it 2."""


def json_option(function: F) -> F:
    """The option --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON (docs/reference/cli.md has the schema)."
    )(function)


def print_json(named: Named | None, **fields: Any) -> None:
    """Print one object: the schema's number, name and backend, then what the command says."""
    about = {} if named is None else {"name": named.name, "app": named.app}
    click.echo(json.dumps({"schema": SCHEMA, **about, **fields}, indent=2, allow_nan=False))
