"""The tables: every target with its verdict, and every pool with all that was measured."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .conduct import FLOOR, POOLS, Effort, Samples
from .pools import WORKERS
from .targets import TARGETS, Verdict, number

DISTRIBUTIONS = (
    "mini-core", "cloudpickle", "dask", "distributed", "joblib", "loky", "mpire", "numpy", "pebble", "ray",
)  # fmt: skip


METHOD = [
    "Every pool gets the same functions and the same data, each in a process of its own. In each round every pool is",
    "measured once while the others are stopped, so that whatever else the machine does hits all alike. Ratios are",
    "taken within each round; *measured* is their median over the rounds, *spread* the least and the greatest.",
]
READINGS = [
    "`import` is compared net of the bare interpreter, which is harder than with it. *At most a few thousand* inputs",
    "is read as 5000, *no growth* of memory as 5 MB. Ctrl-C is a SIGINT to the process group, as a terminal sends it.",
    "The pools that wait are stopped (SIGSTOP); Ray and dask are a dozen processes that are never quite idle.",
]
COMPARED = [
    "Medians. `socketpair` is no pool: a child process that sends back 100 bytes, and, for the efficiency, two forked",
    "processes that share nothing.",
]


def verdicts(samples: Samples, scenarios: Iterable[str]) -> list[Verdict]:
    chosen = set(scenarios)
    return [target.judge(samples) for target in TARGETS if target.scenario in chosen]


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
    return _markdown(rows)


def _rate(value: float) -> str:
    if value >= 999_500:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.3g}k" if value >= 1000 else f"{value:.3g}"


def _ms(value: float) -> str:
    return f"{value * 1000:.3g}"


COLUMNS: list[tuple[str, str, Callable[[float], str]]] = [
    ("tiny calls/s, default", "tiny.rate", _rate),
    ("… best chunk", "chunked.rate", _rate),
    ("(size)", "chunked.chunk", number),
    ("warm call ms", "latency.median", _ms),
    ("… p99 ms", "latency.p99", _ms),
    ("first result s", "cold.seconds", number),
    ("10 ms efficiency", "efficiency.efficiency", number),
    ("50 × 10 MB s", "results.seconds", number),
    ("100 MB constant s", "constant.seconds", number),
    ("(pickled)", "constant.pickles", number),
    ("stream/s", "stream.rate", _rate),
    ("first ms", "stream.first", _ms),
    ("grows MiB", "stream.grown", number),
    ("pulled for 100", "stop.pulled", number),
    ("SIGKILL: ok of 99", "kill.ok", number),
    ("others run once", "kill.once", number),
    ("s", "kill.seconds", number),
    ("Ctrl-C s, caller", "interrupt.parent", number),
    ("… all", "interrupt.all", number),
]


def pool_table(samples: Samples) -> tuple[str, list[str]]:
    """Medians, a row for each measure and a column for each pool; and notes on what there is no figure of."""
    names = [*POOLS, FLOOR]
    rows, notes, numbers = [["", *names]], [], dict[str, int]()
    for title, measure, show in COLUMNS:
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
    return _markdown(rows), notes


def machine() -> list[str]:
    """What the figures were measured on and with."""
    found = []
    for name in DISTRIBUTIONS:
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


def page(samples: Samples, scenarios: list[str], effort: Effort, where: list[str], seconds: float) -> str:
    """docs/benchmarks.md."""
    found = verdicts(samples, scenarios)
    missed = [verdict for verdict in found if not verdict.met]
    table, notes = pool_table(samples)
    lines = [
        "# Benchmarks of the local pool",
        "",
        "<!-- Written by `./go bench --write-docs`; edits are lost. -->",
        "",
        *(f"- {line}" for line in where),
        f"- {effort.rounds} rounds (half as many of what takes long), {WORKERS} workers, {seconds / 60:.0f} minutes.",
        "",
        *METHOD,
        "",
        "## Targets",
        "",
        f"{len(found) - len(missed)} of {len(found)} are met." + (" Missed:" if missed else ""),
        "",
        *(f"- **{_full(verdict, found)}**: {_measured(verdict)}" for verdict in missed),
        *(
            ["", "[Why](explanation/local-pool.md#what-it-misses-and-why), with a profile of each.", ""]
            if missed
            else []
        ),
        target_table(found),
        "",
        *READINGS,
        "",
        "## All pools",
        "",
        *COMPARED,
        "",
        table,
        "",
        *(f"{note}  " for note in notes),
        "",
    ]
    return "\n".join(lines).rstrip() + "\n"


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


def _markdown(rows: list[list[str]]) -> str:
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
