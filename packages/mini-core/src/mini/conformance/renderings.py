"""The report of the conformance kit as text for a terminal, as Markdown and as a page of HTML.

All of them come from the same fragments byte for byte the same: nothing in them is of the day or the machine.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import click

from .clauses import CLAUSES
from .report import Cell, Report, Test

__all__ = ["as_html", "as_markdown", "as_text"]

TITLE = "Conformance to the Apparatus contract"

LEGEND = {
    "passed": "every test of the clause passed",
    "declined": (
        "the backend says that it cannot do this, and refuses it as the contract says; "
        "partly: other tests of the clause passed"
    ),
    "skipped": "no test, or not every test, of the clause was run: nothing is known",
    "failed": "a test of the clause failed, or a capability is declared and missing, or declined and there",
}


def label(cell: Cell) -> str:
    """What a cell is called: its outcome, but "partly" if it is declined only in part."""
    return "partly" if cell.partly else cell.outcome


# --- what is common to them ---


@dataclass(frozen=True)
class Note:
    """Something that wants a word, with all the clauses and columns of which it is true."""

    clauses: str
    what: str
    reason: str
    where: str


def heads(report: Report) -> list[tuple[str, ...]]:
    """The lines above each column. Versions are in them only where columns differ by nothing else, or from mini's."""
    columns = report.columns
    short = [
        (
            *(line for line in (column.backend, column.variant, column.minor) if line),
            *([f"mini {column.mini}"] if column.mini != report.mini else []),
        )
        for column in columns
    ]
    many = Counter(short)
    return [
        lines
        if many[lines] == 1
        else (
            *(line for line in (column.backend, column.variant, column.python) if line),
            f"mini {column.mini}",
            *([column.adapter] if column.adapter else []),
            column.platform,
        )
        for column, lines in zip(columns, short, strict=True)
    ]


def notes(report: Report) -> list[tuple[str, list[Note]]]:
    """What failed, was skipped, was declined and was overridden, each under its title; a title without notes is left
    out."""
    found: dict[str, dict[tuple[str, str], dict[str, list[int]]]] = {
        title: {} for title in ("Failed", "Skipped", "Declined", "Declined in part", "Overridden")
    }

    def add(title: str, clause: str, what: str, reason: str | None, column: int) -> None:
        columns = found[title].setdefault((what, reason or ""), {}).setdefault(clause, [])
        if column not in columns:
            columns.append(column)

    def add_test(clause: str, test: Test, column: int) -> None:
        if test.outcome == "failed":
            add("Failed", clause, test.test, test.reason, column)
        if test.outcome == "skipped":
            add("Skipped", clause, "", test.reason, column)
        if test.overridden is not None:
            add("Overridden", clause, test.test, test.overridden, column)

    for row in report.rows:
        for column, cell in enumerate(row.cells):
            if cell.outcome == "declined":
                add("Declined in part" if cell.partly else "Declined", row.clause, "", cell.reason, column)
            elif not cell.tests:
                add("Skipped", row.clause, "", cell.reason, column)
            for test in cell.tests:
                add_test(row.clause, test, column)
    for column, tests in enumerate(report.others):
        for test in tests:
            add_test("of no clause", test, column)

    sections = []
    for title, of_title in found.items():
        section = []
        for (what, reason), columns_of in of_title.items():
            by_columns: dict[tuple[int, ...], list[str]] = {}
            for clause, columns in columns_of.items():
                by_columns.setdefault(tuple(columns), []).append(clause)
            section += [
                Note(_spans(clauses), what, reason, _where(report, columns))
                for columns, clauses in by_columns.items()
            ]
        if section:
            sections.append((title, section))
    return sections


def _spans(clauses: Iterable[str]) -> str:
    """Ids of clauses, those that follow each other as one: "DET-01…08, CAP-01"."""
    ids = list(CLAUSES)
    spans: list[list[str]] = []
    for clause in clauses:
        last = spans[-1][-1] if spans else ""
        group = clause.rpartition("-")[0]
        follows = last in CLAUSES and clause in ids[ids.index(last) + 1 :][:1]
        if follows and group == last.rpartition("-")[0]:
            spans[-1].append(clause)
        else:
            spans.append([clause])
    return ", ".join(
        span[0] if len(span) == 1 else f"{span[0]}…{span[-1].rpartition('-')[2]}" for span in spans
    )


def _where(report: Report, columns: Iterable[int]) -> str:
    """Names columns: "local process 3.11, 3.12; local thread 3.11"."""
    wanted = list(columns)
    if len(wanted) == len(report.columns):
        return "everywhere"
    lines = heads(report)
    named: dict[str, list[str]] = {}
    for column in wanted:
        *first, last = lines[column]
        named.setdefault(" ".join(first), []).append(last)
    return "; ".join(f"{first} {', '.join(last)}".strip() for first, last in named.items())


def _summary(report: Report, column: int) -> str:
    counts = report.counts(column)
    partly = f" ({counts['partly']} partly)" if counts["partly"] else ""
    return (
        f"{counts['passed']} passed, {counts['declined']} declined{partly}, "
        f"{counts['skipped']} skipped, {counts['failed']} failed"
    )


# --- text ---

_COLORS = {"passed": "green", "declined": "cyan", "partly": "cyan", "skipped": "yellow", "failed": "red"}


def as_text(report: Report, width: int | None = None) -> str:
    """The table for a terminal, in colour.

    Args:
        report: what to show.
        width: how many characters fit beside each other. A table that is wider is cut into several that have a part
            of the columns each, and the clauses' sentences are cut to what is left. Default: no table is cut.
    """
    lines = heads(report)
    sizes = [max(8, *(len(line) for line in head)) for head in lines]
    left = max(len(row.clause) for row in report.rows)
    blocks: list[list[int]] = [[]]
    for column, size in enumerate(sizes):
        used = left + sum(2 + sizes[other] for other in blocks[-1])
        if blocks[-1] and width is not None and used + 2 + size > width:
            blocks.append([])
        blocks[-1].append(column)

    out = [click.style(TITLE, bold=True), ""]
    for block in blocks:
        for height in range(max(len(lines[column]) for column in block)):
            cells = [(lines[c][height] if height < len(lines[c]) else "").ljust(sizes[c]) for c in block]
            out.append(f"{'':{left}}  {'  '.join(cells)}".rstrip())
        for id, about, rows in report.groups():
            out.append(click.style(f"{id}: {about}" if about else id, bold=True))
            for row in rows:
                cells = [_cell_as_text(row.cells[c], sizes[c]) for c in block]
                room = (width or 120) - left - sum(2 + sizes[c] for c in block) - 2
                text = textwrap.shorten(row.text, room, placeholder="…") if room >= 30 else ""
                out.append(f"{row.clause:{left}}  {'  '.join(cells)}  {text}".rstrip())
        out.append("")
    for head, column in zip(lines, range(len(lines)), strict=True):
        out.append(f"{' '.join(head)}: {_summary(report, column)}")
    for title, section in notes(report):
        out += ["", click.style(f"{title}{_MARK if title == 'Overridden' else ''}:", bold=True)]
        for note in section:
            what = "  ".join(filter(None, [note.clauses, note.what]))
            out.append(f"  {what}: {note.reason} ({note.where})")
    return "\n".join(out) + "\n"


_MARK = "*"
"""Is beside the outcome of a cell of which tests are overridden."""


def _cell_as_text(cell: Cell, size: int) -> str:
    name = label(cell)
    text = name.upper() if name == "failed" else name
    marked = f"{text}{_MARK if cell.overridden else ''}"
    return click.style(text, fg=_COLORS[name]) + marked[len(text) :] + " " * (size - len(marked))


# --- Markdown ---


def as_markdown(report: Report) -> str:
    """The report as Markdown with tables, as GitHub shows them."""
    lines = heads(report)
    out = [f"# {TITLE}", "", f"By mini-core {report.mini}.", ""]
    out += [f"- **{outcome}**: {meaning}" for outcome, meaning in LEGEND.items()]
    out += [
        "",
        "| column | Python | mini-core | adapter | platform | passed | declined | partly | skipped | failed |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for index, (head, column) in enumerate(zip(lines, report.columns, strict=True)):
        counts = report.counts(index)
        cells = [
            *(
                _code(text, in_table=True)
                for text in (
                    " ".join(head),
                    column.python,
                    column.mini,
                    column.adapter or "",
                    column.platform,
                )
            ),
            *(str(counts[key]) for key in ("passed", "declined", "partly", "skipped", "failed")),
        ]
        out.append(f"| {' | '.join(cells)} |")
    for id, about, rows in report.groups():
        titles = ["<br>".join(_code(line, in_table=True) for line in head) for head in lines]
        out += [
            "",
            f"## {id}: {about}" if about else f"## {_code(id)}",
            "",
            f"| clause | | {' | '.join(titles)} |",
            f"| --- | --- | {' | '.join('---' for _ in titles)} |",
        ]
        for row in rows:
            clause = row.clause if row.clause in CLAUSES else _code(row.clause, in_table=True)
            cells = [_cell_as_markdown(cell) for cell in row.cells]
            out.append(f"| {clause} | {row.text.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    for title, section in notes(report):
        out += ["", f"## {title}", ""]
        for note in section:
            parts = [note.clauses if note.clauses.startswith(tuple(CLAUSES)) else _code(note.clauses)]
            parts += [_code(note.what)] if note.what else []
            reason = f": {_code(note.reason)}" if note.reason else ""
            out.append(f"- {' '.join(parts)}{reason} ({_code(note.where)})")
    return "\n".join(out) + "\n"


def _cell_as_markdown(cell: Cell) -> str:
    name = label(cell)
    text = f"**{name}**" if name == "failed" else name
    return f"{text} (overridden)" if cell.overridden else text


def _code(text: str, in_table: bool = False) -> str:
    """A text from a fragment, in which nothing is markup."""
    if not text.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[0], text[-1]) else ""
    code = f"{fence}{pad}{text}{pad}{fence}"
    return code.replace("|", "\\|") if in_table else code


# --- HTML ---


def as_html(report: Report) -> str:
    """The report as one page that needs nothing else."""
    lines = heads(report)
    middle = len(lines) / 2
    out = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{TITLE}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{TITLE}</h1>",
        f"<p>By mini-core {escape(report.mini)}. A cell opens on its tests and reasons.</p>",
        "<dl>",
        *(f'<dt class="{name}">{name}</dt><dd>{meaning}</dd>' for name, meaning in LEGEND.items()),
        "</dl>",
        "<table>",
        "<thead><tr>"
        + "".join(f'<th scope="col">{name}</th>' for name in ["column", "Python", "mini-core", "adapter"])
        + "".join(
            f'<th scope="col">{name}</th>'
            for name in ["platform", "passed", "declined", "partly", "skipped", "failed"]
        )
        + "</tr></thead>",
        "<tbody>",
    ]
    for index, (head, column) in enumerate(zip(lines, report.columns, strict=True)):
        counts = report.counts(index)
        texts = [column.python, column.mini, column.adapter or "", column.platform]
        numbers = [counts[key] for key in ("passed", "declined", "partly", "skipped", "failed")]
        out.append(
            f'<tr><th scope="row">{escape(" ".join(head))}</th>'
            + "".join(f"<td>{escape(text)}</td>" for text in texts)
            + "".join(f'<td class="number">{number}</td>' for number in numbers)
            + "</tr>"
        )
    out += [
        "</tbody>",
        "</table>",
        '<table class="clauses">',
        '<thead><tr><th scope="col">clause</th>'
        + "".join(f'<th scope="col">{"<br>".join(map(escape, head))}</th>' for head in lines)
        + "</tr></thead>",
    ]
    for id, about, rows in report.groups():
        heading = escape(f"{id}: {about}" if about else id)
        out += [
            "<tbody>",
            f'<tr class="group"><th scope="rowgroup" colspan="{1 + len(lines)}">{heading}</th></tr>',
        ]
        for row in rows:
            clause = escape(row.clause)
            sentence = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(row.text))
            out.append(
                f'<tr id="{clause}"><th scope="row"><a href="#{clause}">{clause}</a> {sentence}</th>'
                + "".join(_cell_as_html(cell, index >= middle) for index, cell in enumerate(row.cells))
                + "</tr>"
            )
        out.append("</tbody>")
    out.append("</table>")
    for title, section in notes(report):
        out += [f"<h2>{title}</h2>", "<ul>"]
        for note in section:
            what = f" {_test_name(note.what)}" if note.what else ""
            reason = f": <q>{escape(note.reason)}</q>" if note.reason else ""
            out.append(f"<li>{escape(note.clauses)}{what}{reason} ({escape(note.where)})</li>")
        out.append("</ul>")
    return "\n".join([*out, "</body>", "</html>"]) + "\n"


def _cell_as_html(cell: Cell, at_right: bool) -> str:
    name = label(cell)
    tests = "".join(_test_as_html(test) for test in cell.tests) or f"<li>{escape(cell.reason or '')}</li>"
    mark = _MARK if cell.overridden else ""
    title = f' title="{escape(cell.reason)}"' if cell.reason else ""
    # Cells of the right half open to the left, so that they stay on the page.
    return (
        f'<td class="{cell.outcome}{" right" if at_right else ""}"{title}><details name="cell">'
        f"<summary>{name}{mark}</summary><ul>{tests}</ul></details></td>"
    )


def _test_as_html(test: Test) -> str:
    reason = f"<br><q>{escape(test.reason)}</q>" if test.reason else ""
    overridden = f"<br>overridden: <q>{escape(test.overridden)}</q>" if test.overridden is not None else ""
    return (
        f'<li><b class="{test.outcome}">{test.outcome}</b> {_test_name(test.test)} '
        f"{test.seconds:g} s{reason}{overridden}</li>"
    )


def _test_name(name: str) -> str:
    return f"<code>{escape(name)}</code>"


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1d2025; --line: #d5d9de; --head: #f1f3f5; --link: #0b57d0;
  --passed: #11652e; --declined: #0b5a75; --skipped: #805000; --failed: #b3151b;
  --passed-back: #e2f4e7; --declined-back: #dff1f8; --skipped-back: #fdf0d3; --failed-back: #fde3e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --text: #e3e6ea; --line: #3a4047; --head: #22272d; --link: #8ab4f8;
    --passed: #7fd79b; --declined: #80cbe5; --skipped: #efc268; --failed: #ff9c99;
    --passed-back: #16301e; --declined-back: #11303b; --skipped-back: #3a2d10; --failed-back: #4a191b;
  }
}
body { margin: 1.5rem; background: var(--page); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
a { color: var(--link); }
dt { float: left; clear: left; min-width: 5rem; font-weight: 600; }
dd { margin: 0 0 .2rem 5.5rem; }
table { margin: 1.5rem 0; border: solid var(--line); border-width: 1px 0 0 1px; border-spacing: 0; }
th, td { padding: .3rem .6rem; border: solid var(--line); border-width: 0 1px 1px 0; text-align: left; }
th, td { vertical-align: top; }
thead th { background: var(--head); }
.number { text-align: right; }
.clauses thead th { position: sticky; top: 0; z-index: 2; }
.clauses tbody th { max-width: 34rem; font-weight: normal; }
.clauses .group th { max-width: none; background: var(--head); font-weight: 600; }
tr { scroll-margin-top: 6rem; }
td { position: relative; }
.passed { color: var(--passed); }
.declined { color: var(--declined); }
.skipped { color: var(--skipped); }
.failed { color: var(--failed); }
td.passed { background: var(--passed-back); }
td.declined { background: var(--declined-back); }
td.skipped { background: var(--skipped-back); }
td.failed { background: var(--failed-back); font-weight: 600; }
summary { cursor: pointer; white-space: nowrap; }
td ul {
  position: absolute; z-index: 1; left: 0; top: 100%; width: max-content; max-width: min(38rem, 80vw); margin: 0;
  padding: .6rem .8rem .6rem 1.8rem; border: 1px solid var(--line); background: var(--page); color: var(--text);
  font-weight: normal; overflow-wrap: anywhere; box-shadow: 0 4px 16px #0004;
}
td.right ul { left: auto; right: 0; }
@media print { td ul { position: static; width: auto; box-shadow: none; } }
"""
