"""Jobs and what came of them as a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mini.display.meter import one_line
from mini.report.data import inputs_of, metrics_of

from ._say import COLOURS, columns
from .results import cells

if TYPE_CHECKING:
    from .results import Row

__all__ = ["show_table"]

MOST_SHOWN = 50
"""Rows."""
LONGEST = 1_000
"""Characters of a cell, wherever it is shown: CSV and JSON have all of it."""
LEAST = 16
"""Characters to which a wide column is cut where there is no room; narrower ones are whole."""
GAP = 2


@dataclass(frozen=True, slots=True)
class _Column:
    """A column; `styles` has one for each cell, or one for all."""

    head: str
    texts: Sequence[str]
    right: bool = False
    styles: Sequence[str] = ("",)

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(map(cell_len, (self.head, *self.texts)))


def show_table(rows: list[Row], rest: str) -> None:
    """Print the first rows as a table. `rest` is the command that has all of them.

    On a terminal no line is longer than it is wide: columns of long texts are cut, and those that have no place even
    so are beneath the others. Elsewhere lines are as long as they are.
    """
    from rich.console import Console

    shown = rows[:MOST_SHOWN]
    fixed, others = _columns(shown, launches=len({row.record.group for row in rows}) > 1)
    console = Console()
    if sys.stdout.isatty():
        blocks = _blocks(fixed, others, console.width)
    else:
        blocks = [[*fixed, *others]]
        console.width = sum(column.width + GAP for column in blocks[0])
    for number, block in enumerate(blocks):
        if number:
            click.echo()
        console.print(_table(block, len(shown)))
    if len(rows) > len(shown):
        click.echo(f"… and {len(rows) - len(shown):,} more: {rest}")


def _columns(rows: list[Row], *, launches: bool) -> tuple[list[_Column], list[_Column]]:
    """The columns that say which job it is, and the others."""
    records = [row.record for row in rows]
    fixed = [_Column("launch", [record.group for record in records])] if launches else []
    fixed.append(_Column("#", [str(record.index) for record in records], right=True))
    colours = [COLOURS[record.state].replace("bright_black", "dim") for record in records]
    others = [_Column("state", [str(record.state) for record in records], styles=colours)]
    for source in ([*map(inputs_of, records)], [*map(metrics_of, records)], [*map(cells, rows)]):
        for key in columns(source):
            values = [row.get(key) for row in source]
            numeric = all(isinstance(value, int | float | None) for value in values)
            others.append(_Column(one_line(key), [*map(_text, values)], right=numeric))
    if any(row.error for row in rows):
        others.append(_Column("error", [_text(row.error) for row in rows], styles=["red"]))
    return fixed, others


def _blocks(fixed: list[_Column], others: list[_Column], width: int) -> list[list[_Column]]:
    """The columns as tables of at most a width, each with the fixed ones in front."""
    blocks: list[list[_Column]] = []
    room = 0
    for column in others:
        if min(column.width, LEAST) > room:
            blocks.append([*fixed])
            room = width - sum(column.width + GAP for column in fixed)
        blocks[-1].append(column)
        room -= min(column.width, LEAST) + GAP
    return blocks


def _table(block: list[_Column], rows: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    # Where there is no room, Table takes it from the widest columns. Cells are cut instead of broken into lines.
    cut: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
    for column in block:
        table.add_column(Text(column.head, **cut), justify="right" if column.right else "left")
    for place in range(rows):
        table.add_row(
            *(Text(column.texts[place], column.styles[place % len(column.styles)], **cut) for column in block)
        )
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
