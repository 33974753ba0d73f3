"""The inputs of a sweep as a command line or a file has them: rows of arguments by name."""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import click

__all__ = ["Row", "rows"]

Row = dict[str, Any]

MOST_ROWS = 1_000_000
"""A grid of more is a slip of the keyboard."""


def rows(fn: Callable[..., Any], maps: Sequence[str], grid: str | None) -> list[Row]:
    """Arguments for each call of `fn`: the product of all `maps` ("key=a,b,c") with the rows of `grid`.

    A value is what it is as JSON, or else a string; for a parameter that is annotated as `str` it is always that.

    Raises:
        click.BadParameter: one of them cannot be read, or `fn` does not take it; says what it takes.
    """
    signature = _signature(fn)
    name = getattr(fn, "__name__", type(fn).__name__)
    found = [{}] if grid is None else _read_grid(grid, signature)
    axes: dict[str, list[Any]] = {}
    for text in maps:
        key, values = _read_map(text, signature)
        if key in axes:
            raise click.BadParameter(f"{key!r} is given twice", param_hint="--map")
        axes[key] = values
    _limit(len(found) * math.prod(map(len, axes.values())), "--map" if axes else "--grid")
    product = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    made: list[Row] = []
    for row in found:
        if twice := row.keys() & axes.keys():
            raise click.BadParameter(f"{min(twice)!r} is in --map and in --grid", param_hint="--map")
        made += [{**row, **more} for more in product]
    if signature is not None:
        # A row differs from the next one in its values, and it is by their names that rows are wrong.
        for keys in dict.fromkeys(tuple(row) for row in made):
            _check(name, signature, keys)
    return made


def _limit(count: int, option: str) -> None:
    if count > MOST_ROWS:
        raise click.BadParameter(
            f"that makes {count:,} calls, and at most {MOST_ROWS:,} go", param_hint=option
        )


# --- what the function takes ----------------------------------------------------------------------------------------


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except ValueError:  # some callables have none
        return None


_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _check(name: str, signature: inspect.Signature, keys: Sequence[str]) -> None:
    parameters = signature.parameters
    takes = [p.name for p in parameters.values() if p.kind in _KEYWORD]
    whatever = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in keys:
        if key not in takes and not whatever:
            has = f"it has {', '.join(takes)}" if takes else "it has none that can be named"
            raise click.BadParameter(f"{name} has no parameter {key!r}; {has}", param_hint="--map/--grid")
    for parameter in parameters.values():
        if parameter.default is not inspect.Parameter.empty or parameter.name in keys:
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise click.BadParameter(
                f"{name} takes {parameter.name!r} by its place only; give it a name that callers may use",
                param_hint="FILE:FUNCTION",
            )
        if parameter.kind in _KEYWORD:
            raise click.BadParameter(
                f"{name} needs {parameter.name!r}: give it with --map {parameter.name}=VALUE[,VALUE…] or in --grid",
                param_hint="--map/--grid",
            )


def _is_text(signature: inspect.Signature | None, key: str) -> bool:
    parameter = None if signature is None else signature.parameters.get(key)
    return parameter is not None and parameter.annotation in (str, "str")


# --- reading --------------------------------------------------------------------------------------------------------


_NO_JSON = (ValueError, RecursionError)
"""The second if lists are nested too deeply."""


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except _NO_JSON:
        return text


def _read_map(text: str, signature: inspect.Signature | None) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise click.BadParameter(
            f"{text!r} is not KEY=VALUE[,VALUE…], such as rate=0.1,0.3", param_hint="--map"
        )
    if _is_text(signature, key):
        return key, values.split(",")
    if not values.strip():
        raise click.BadParameter(
            f"{key!r} has no values: give some, as in {key}=1,2, or {key}='\"\"' for the empty string",
            param_hint="--map",
        )
    try:  # as one, so that commas within brackets and quotes part nothing
        return key, list(json.loads(f"[{values}]"))
    except _NO_JSON:
        return key, [_value(part) for part in values.split(",")]


def _read_grid(text: str, signature: inspect.Signature | None) -> list[Row]:
    if text.lstrip().startswith(("[", "{")):
        return _from_json(text, "--grid")
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"{text!r} cannot be read: {exc}", param_hint="--grid") from exc
    match path.suffix:
        case ".csv":
            return list(_from_csv(content, path.name, signature))
        case ".jsonl":
            return list(_from_lines(content, path.name))
        case ".json":
            return _from_json(content, path.name)
    raise click.BadParameter(
        f"{text!r} is neither JSON nor a file .csv, .jsonl or .json", param_hint="--grid"
    )


def _from_json(text: str, where: str) -> list[Row]:
    try:
        data = json.loads(text)
    except _NO_JSON as exc:
        raise click.BadParameter(f"{where} is not JSON: {exc}", param_hint="--grid") from exc
    if isinstance(data, dict):
        # An object says for each key which values there are.
        lists = [value if isinstance(value, list) else [value] for value in data.values()]
        _limit(math.prod(map(len, lists)), "--grid")  # before all of them take memory
        return [dict(zip(data, values, strict=True)) for values in itertools.product(*lists)]
    if not isinstance(data, list):
        raise click.BadParameter(
            f"{where} is neither a list of objects, one for each row, nor an object of lists",
            param_hint="--grid",
        )
    return list(_objects(((f"row {i}", row) for i, row in enumerate(data, 1)), where))


def _from_lines(text: str, where: str) -> Iterator[Row]:
    def parsed() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except _NO_JSON as exc:
                    raise click.BadParameter(
                        f"{where}: line {number} is not JSON: {exc}", param_hint="--grid"
                    ) from exc

    return _objects(parsed(), where)


def _objects(items: Iterable[tuple[str, Any]], where: str) -> Iterator[Row]:
    for place, item in items:
        if not isinstance(item, Mapping):
            raise click.BadParameter(f"{where}: {place} is no object", param_hint="--grid")
        yield dict(item)


def _from_csv(text: str, where: str, signature: inspect.Signature | None) -> Iterator[Row]:
    lines = _csv_lines(text, where)
    _, names = next(lines, (0, []))
    names = [name.strip() for name in names]
    if not all(names) or len(set(names)) < len(names):
        raise click.BadParameter(f"{where}: the first line has to name each column once", param_hint="--grid")
    for number, line in lines:
        if not line:
            continue
        if len(line) != len(names):
            message = f"{where}: line {number} has {len(line)} cells, and there are {len(names)} columns"
            raise click.BadParameter(message, param_hint="--grid")
        # An empty cell leaves the argument out.
        yield {
            name: cell if _is_text(signature, name) else _value(cell)
            for name, cell in zip(names, line, strict=True)
            if cell != ""
        }


def _csv_lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, and the number of the line."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # Not strict, it takes whatever follows a quote that nobody closes for one cell.
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    while True:
        begins = lines.line_num + 1
        try:
            line = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            message = f"{where}: line {begins} cannot be read: {exc}; close each quote, and double those within a cell"
            raise click.BadParameter(message, param_hint="--grid") from exc
        yield begins, line
