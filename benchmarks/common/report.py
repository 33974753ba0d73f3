"""The tables, in Markdown whose columns also line up as plain text."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .samples import Samples
from .targets import Verdict, number

__all__ = [
    "Figure",
    "figure_table",
    "machine",
    "markdown",
    "megabytes",
    "milliseconds",
    "seconds",
    "subject_table",
    "summary",
    "target_table",
]

Column = tuple[str, str, Callable[[float], str]]
"""A title, a measure, and how its values are shown."""
Figure = tuple[str, str, str, Callable[[float], str]]
"""A title, a measure, a subject, and how its values are shown."""


def target_table(found: list[Verdict]) -> str:
    """A row for each target, in Markdown."""
    rows = [["target", "bound", "measured", "spread", "verdict"]]
    for verdict in found:
        target = verdict.target
        unit = target.unit if target.unit in ("", "×") else " " + target.unit
        row = [target.what, f"{target.sign} {number(target.bound)}{unit}"]
        if verdict.values:
            spread = f"{number(min(verdict.values))} – {number(max(verdict.values))}"
            row += [number(verdict.median) + unit, spread if len(verdict.values) > 1 else "", verdict.word]
        else:
            row += ["", "", verdict.word]
        rows.append(row)
    return markdown(rows)


def summary(found: list[Verdict]) -> list[str]:
    """How many targets are met, and which are not."""
    missed = [verdict for verdict in found if not verdict.met]
    return [
        f"{len(found) - len(missed)} of {len(found)} are met." + (" Missed:" if missed else ""),
        "",
        *(f"- **{_full(verdict, found)}**: {_measured(verdict)}" for verdict in missed),
        *([""] if missed else []),
    ]


def subject_table(samples: Samples, columns: Iterable[Column], names: Sequence[str]) -> tuple[str, list[str]]:
    """Medians, a row for each measure and a column for each subject; and notes on what there is no figure of."""
    rows, notes, numbers = [["", *names]], [], dict[str, int]()
    for title, measure, show in columns:
        row = [title]
        for name in names:
            values = samples.of(measure, name).values()
            why = samples.why(measure.split(".")[0], name)
            text = show(statistics.median(values)) if values else "–" if why else ""
            if why:
                note = f"{name}: {why}"
                mark = numbers.setdefault(note, len(numbers) + 1)
                text += f" [{mark}]"
            row.append(text)
        if any(row[1:]):
            rows.append(row)
    notes = [f"[{mark}] {note}" for note, mark in numbers.items()]
    return markdown(rows), notes


def figure_table(samples: Samples, figures: Iterable[Figure]) -> str:
    """A row for each figure."""
    rows = [["", "median", "spread"]]
    for title, measure, subject, show in figures:
        values = list(samples.of(measure, subject).values())
        if values:
            spread = f"{show(min(values))} – {show(max(values))}" if len(values) > 1 else ""
            rows.append([title, show(statistics.median(values)), spread])
        elif why := samples.why(measure.split(".")[0], subject):
            rows.append([title, "–", why])
    return markdown(rows)


def milliseconds(value: float) -> str:
    """Of seconds."""
    return f"{value * 1000:.3g} ms"


def seconds(value: float) -> str:
    return f"{number(value)} s"


def megabytes(value: float) -> str:
    """Of MB."""
    return f"{number(value)} MB"


def machine(distributions: Iterable[str]) -> list[str]:
    """What the figures were measured on and with."""
    found = []
    for name in distributions:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    hardware = f"{_processor()}, {_cores()} cores, {platform.system()} {platform.release().split('-')[0]}"
    return [
        f"Date: {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC.",
        f"Machine: {hardware}; load average {load:.1f} when the run began.",
        f"Versions: {platform.python_implementation()} {platform.python_version()}, {', '.join(found)}.",
    ]


def _full(verdict: Verdict, found: list[Verdict]) -> str:
    """What a target is about, also where its row leans on the one above."""
    what = verdict.target.what
    if what.startswith("…"):
        before = found[: found.index(verdict)]
        head = next(v.target.what for v in reversed(before) if not v.target.what.startswith("…"))
        what = head.partition(":")[0] + what.removeprefix("…")
    return what


def _measured(verdict: Verdict) -> str:
    target = verdict.target
    if not verdict.values:
        return f"no figure: {verdict.why}"
    unit = target.unit if target.unit in ("", "×") else " " + target.unit
    return f"{number(verdict.median)}{unit}, bound {target.sign} {number(target.bound)}{unit}"


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown whose columns also line up as plain text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
