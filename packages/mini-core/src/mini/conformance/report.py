"""The report of the conformance kit: clauses against columns, from the fragments that sessions of pytest have left.

A column is a backend in one variant on one Python, and every clause has one cell in it. docs/reference/conformance.md
describes what is written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .clauses import CLAUSES, GROUPS
from .plugin import FRAGMENT_SCHEMA, mini_version

__all__ = [
    "OUTCOMES",
    "SCHEMA",
    "Cell",
    "Column",
    "Fragment",
    "Report",
    "ReportError",
    "Row",
    "Test",
    "as_json",
    "merge",
    "read",
]

SCHEMA = 1
"""The version of conformance.json; it changes when a field is taken away or comes to mean something else."""

OUTCOMES = ("passed", "declined", "skipped", "failed")
"""From good to bad: a cell is as bad as the worst of its tests."""


class ReportError(Exception):
    """There is nothing to report on, or what there is cannot be read. The message says what to do."""


@dataclass(frozen=True)
class Test:
    """A test of a clause, in one column."""

    __test__ = False  # not one of pytest's

    test: str
    suite: str
    outcome: str
    seconds: float
    reason: str | None
    """Why it is not passed: the capability that was declined, or what pytest said; None if it passed."""
    overridden: str | None
    """Why the adapter replaced the kit's test; None if it did not."""

    def sort_key(self) -> tuple[Any, ...]:
        return self.test, self.suite, self.outcome, self.seconds, self.reason or "", self.overridden or ""


@dataclass(frozen=True)
class Column:
    """What a table's column is about."""

    backend: str
    variant: str
    """Empty for an adapter that has but one."""
    python: str
    platform: str
    mini: str
    """The version of mini-core that the tests are of."""
    adapter: str | None
    """The distribution that registers the backend, and its version; None if no installed one does."""

    @property
    def minor(self) -> str:
        """The Python, such as 3.12."""
        return ".".join(self.python.split(".")[:2])

    def sort_key(self) -> tuple[Any, ...]:
        python = tuple(map(int, self.python.split(".")))
        return self.backend, self.variant, python, self.mini, self.adapter or "", self.platform


@dataclass(frozen=True)
class Cell:
    """A clause in a column."""

    tests: tuple[Test, ...]

    @property
    def outcome(self) -> str:
        """The worst outcome of a test; "skipped" if there is none."""
        return max((test.outcome for test in self.tests), key=OUTCOMES.index, default="skipped")

    @property
    def partly(self) -> bool:
        """Whether it is declined, but some of its tests passed."""
        return self.outcome == "declined" and any(test.outcome == "passed" for test in self.tests)

    @property
    def reason(self) -> str | None:
        """Why it is not passed."""
        if not self.tests:
            return "no test was run"
        outcome = self.outcome
        reasons = (test.reason for test in self.tests if test.outcome == outcome)
        return "; ".join(dict.fromkeys(filter(None, reasons))) or None

    @property
    def seconds(self) -> float:
        return round(sum(test.seconds for test in self.tests), 3)

    @property
    def overridden(self) -> list[str]:
        """Why tests of it were replaced by the adapter's own."""
        return list(dict.fromkeys(test.overridden for test in self.tests if test.overridden is not None))


@dataclass(frozen=True)
class Row:
    """A clause with its cells, one for each of the report's columns and in their order."""

    clause: str
    text: str
    cells: tuple[Cell, ...]

    @property
    def group(self) -> str:
        return self.clause.rpartition("-")[0]


@dataclass(frozen=True)
class Report:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    others: tuple[tuple[Test, ...], ...]
    """For each column the tests of its suites that are about no clause: an adapter's own."""
    mini: str
    """The version of mini-core that made the report."""

    @property
    def failed(self) -> bool:
        cells = (cell for row in self.rows for cell in row.cells)
        others = (test for tests in self.others for test in tests)
        return any(cell.outcome == "failed" for cell in cells) or any(t.outcome == "failed" for t in others)

    def groups(self) -> Iterator[tuple[str, str, list[Row]]]:
        """The groups of clauses in the contract's order: the id, what it is about, the rows."""
        ids = dict.fromkeys(row.group for row in self.rows)
        for id in ids:
            yield id, GROUPS.get(id, ""), [row for row in self.rows if row.group == id]

    def counts(self, column: int) -> dict[str, int]:
        """How many cells of a column have each outcome, and how many are declined only in part."""
        cells = [row.cells[column] for row in self.rows]
        counted = Counter(cell.outcome for cell in cells)
        return {outcome: counted[outcome] for outcome in OUTCOMES} | {
            "partly": sum(cell.partly for cell in cells)
        }


# --- reading ---


@dataclass(frozen=True)
class Fragment:
    """What one session of pytest has to say about one column."""

    column: Column
    tests: tuple[tuple[str | None, Test], ...]
    """Each with the clause that it is about."""


def read(directory: Path) -> list[Fragment]:
    """Read the fragments that are in a directory.

    Raises:
        ReportError: there is none, or one is not what the kit writes.
    """
    files = sorted(directory.glob("*.fragment.json"))
    if not files:
        raise ReportError(
            f"there is no *.fragment.json in {directory}: "
            f"run the suites first, with `pytest --conformance-report={directory}`"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Fragment:
    try:
        return _fragment(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError) as exc:
        raise ReportError(
            f"{file} cannot be read as a fragment of a conformance report: {exc}. "
            f"Delete it, or write it anew with `pytest --conformance-report={file.parent}`"
        ) from exc


def _fragment(data: Any) -> Fragment:
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    if data.get("schema") != FRAGMENT_SCHEMA:
        raise ValueError(f"its schema is {data.get('schema')!r}, and this mini-core reads {FRAGMENT_SCHEMA}")
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", python := _text(data, "python"), re.ASCII):
        raise ValueError(f"{python!r} is no version of Python")
    tests = data.get("tests")
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise ValueError("'tests' is no list of objects")
    return Fragment(
        Column(
            backend=_text(data, "backend"),
            variant=_text(data, "variant"),
            python=python,
            platform=_text(data, "platform"),
            mini=_text(data, "mini"),
            adapter=_text_or_none(data, "adapter"),
        ),
        tuple((_text_or_none(test, "clause"), _test(test)) for test in tests),
    )


def _test(data: dict[str, Any]) -> Test:
    outcome, seconds = _text(data, "outcome"), data.get("seconds")
    if outcome not in OUTCOMES:
        raise ValueError(f"{outcome!r} is no outcome")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError(f"{seconds!r} is no number of seconds")
    return Test(
        test=_text(data, "test"),
        suite=_text(data, "suite"),
        outcome=outcome,
        seconds=round(float(seconds), 3),
        reason=_text_or_none(data, "reason"),
        overridden=_text_or_none(data, "overridden"),
    )


def _text_or_none(data: dict[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key) or None


def _text(data: dict[str, Any], key: str) -> str:
    """A string as one line that can be printed: what made a test fail may hold anything, escape sequences included."""
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {value!r}, and not a string")
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in value)


# --- merging ---


def merge(fragments: Iterable[Fragment]) -> Report:
    """Put fragments together; those that are about the same column, in every respect, share it."""
    tests: dict[Column, dict[str | None, list[Test]]] = {}
    for fragment in fragments:
        of_column = tests.setdefault(fragment.column, {})
        for clause, test in fragment.tests:
            of_column.setdefault(clause, []).append(test)
    columns = tuple(sorted(tests, key=Column.sort_key))
    unknown = {clause for of_column in tests.values() for clause in of_column if clause} - CLAUSES.keys()
    texts = CLAUSES | dict.fromkeys(unknown, f"(This is no clause of mini-core {mini_version()}.)")
    return Report(
        columns=columns,
        rows=tuple(
            Row(clause, texts[clause], tuple(Cell(_sorted(tests[c].get(clause, ()))) for c in columns))
            for clause in sorted(texts, key=_place)
        ),
        others=tuple(_sorted(tests[column].get(None, ())) for column in columns),
        mini=mini_version(),
    )


def _sorted(tests: Iterable[Test]) -> tuple[Test, ...]:
    return tuple(sorted(tests, key=Test.sort_key))


def _place(clause: str) -> tuple[int, str, int, str]:
    """Where a clause belongs: in the contract's order, and after it what the contract does not know."""
    group = clause.rpartition("-")[0]
    groups, clauses = list(GROUPS), list(CLAUSES)
    return (
        groups.index(group) if group in groups else len(groups),
        group,
        clauses.index(clause) if clause in clauses else len(clauses),
        clause,
    )


# --- writing ---


def as_json(report: Report) -> dict[str, Any]:
    """What conformance.json holds."""
    return {
        "schema": SCHEMA,
        "mini": report.mini,
        "columns": [
            asdict(column) | {"counts": report.counts(index)} for index, column in enumerate(report.columns)
        ],
        "groups": [{"id": id, "text": text} for id, text, _ in report.groups()],
        "clauses": [
            {
                "id": row.clause,
                "group": row.group,
                "text": row.text,
                "cells": [
                    {
                        "outcome": cell.outcome,
                        "partly": cell.partly,
                        "reason": cell.reason,
                        "seconds": cell.seconds,
                        "overridden": cell.overridden,
                        "tests": [asdict(test) for test in cell.tests],
                    }
                    for cell in row.cells
                ],
            }
            for row in report.rows
        ],
        "others": [[asdict(test) for test in tests] for tests in report.others],
    }
