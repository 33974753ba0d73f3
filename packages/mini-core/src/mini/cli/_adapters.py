"""The commands that adapters add, through entry points that name click commands.

`mini.commands` has commands of `mini` itself, `mini.auth` those of `mini auth`, each by the name that a user types.
"""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import click

from mini.registry import KNOWN

__all__ = ["commands", "load", "remedy", "summary"]


def commands(group: str) -> dict[str, EntryPoint]:
    """What is installed in a group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def load(point: EntryPoint) -> click.Command:
    """Import a command."""
    try:
        command: click.Command = point.load()
    except (ImportError, AttributeError) as exc:
        package = point.dist.name if point.dist else "its package"
        raise click.ClickException(f"{point.name} cannot be imported ({exc}); reinstall {package}") from exc
    return command


def remedy(name: str) -> str:
    """How to get what goes by a backend's name, to be put behind a complaint; "" if that is not known."""
    return f"\n{name} comes with {KNOWN[name]}: uv add {KNOWN[name]}" if name in KNOWN else ""


def summary(point: EntryPoint) -> str:
    """A command's help in one line: the first of its function's docstring, which is read and not imported."""
    try:
        spec = find_spec(point.module)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.parse(Path(spec.origin).read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == point.attr:
                return (ast.get_docstring(node) or "").partition("\n")[0]
    except (AssertionError, ImportError, OSError, SyntaxError, ValueError):
        pass  # it is made in some other way, or broken: the others are listed all the same
    return f"From {point.dist.name}." if point.dist else ""
