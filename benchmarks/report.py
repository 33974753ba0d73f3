"""The tables: as text for a terminal and as docs/benchmarks.md."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from measure import Outcome
from scenarios import Scenario
from targets import Measurements, Target

PACKAGES = (
    "mini-core", "cloudpickle", "dask", "distributed", "joblib", "loky", "mpire", "numpy", "pebble", "ray",
)  # fmt: skip
QUIET = 0.03
"""Share of the processors that other programs may use without it being worth a warning."""


def show(value: float | None, unit: str) -> str:
    """A number for people, with three digits that count."""
    if value is None:
        return "–"
    if unit == "s":
        for scale, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            if abs(value) * scale >= 1 or name == "µs":
                return f"{digits(value * scale)} {name}"
    if unit == "B":
        return f"{digits(value / 1e6)} MB"
    if unit == "/s":
        for scale, name in ((1e6, "M/s"), (1e3, "k/s")):
            if value >= scale:
                return f"{digits(value / scale)} {name}"
    if unit == "×":
        return f"{digits(value)}×"
    return digits(value) + unit if unit == "/s" else digits(value)


def digits(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def spread(found: list[float], unit: str) -> str:
    return f"{show(min(found), unit)} – {show(max(found), unit)}" if len(found) > 1 else ""


def target_rows(targets: Iterable[Target]) -> list[list[str]]:
    return [
        [
            t.scenario,
            t.text,
            ("≥ " if t.at_least else "≤ ") + show(t.bound, t.unit),
            show(t.value, t.unit),
            spread(t.found, t.unit),
            t.verdict,
        ]
        for t in targets
    ]


TARGET_HEAD = ["scenario", "target", "bound", "median", "lowest – highest", "verdict"]


def case_rows(scenario: Scenario, measurements: Measurements) -> tuple[list[str], list[list[str]]]:
    """The table of a scenario: a line per case; of two cells only where all that there is is an error."""
    head = ["", *(title for _, title, _ in scenario.columns), "rounds"]
    rows = []
    for case in scenario.cases:
        outcomes = [
            o for o in measurements.outcomes.get(scenario.name, {}).get(case.name, []) if o is not None
        ]
        good = [o for o in outcomes if o.values]
        said = [o.absent or o.error or "" for o in outcomes if not o.values]
        if said and not good:
            rows.append([case.name, shorten(said[0])])
            continue
        cells = [cell(good, key, unit) for key, _, unit in scenario.columns]
        rows.append([case.name, *cells, f"{len(good)} of {len(outcomes)}" if said else str(len(good))])
    return head, rows


def cell(outcomes: list[Outcome], key: str, unit: str) -> str:
    found: list[Any] = []
    for outcome in outcomes:
        value: Any = outcome.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found.append(value)
    if not found:
        return ""
    if isinstance(found[0], str):
        return str(max(set(found), key=found.count))
    return show(median(found), unit)


def shorten(text: str, width: int = 90) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= width else text[: width - 1] + "…"


def as_text(head: list[str], rows: list[list[str]]) -> str:
    whole = [row for row in [head, *rows] if len(row) == len(head)]
    widths = [max(len(row[k]) for row in whole) for k in range(len(head))]
    widths[0] = max(len(row[0]) for row in [head, *rows])
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in lines
    )


def as_markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [text.replace("|", "\\|") for text in row] + [""] * (len(head) - len(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the machine ---


def about(root: Path, measurements: Measurements, *, began: datetime, ended: datetime) -> dict[str, Any]:
    """Where, when and with what the figures were taken."""
    outcomes = [
        o
        for cases in measurements.outcomes.values()
        for case in cases.values()
        for o in case
        if o is not None
    ]
    foreign = sorted(o.foreign for o in outcomes)
    return {
        "began": began.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit(root),
        "foreign": median(foreign) if foreign else 0.0,
        "foreign_most": foreign[-1] if foreign else 0.0,
    }


def processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit(root: Path) -> str:
    """The commit that was measured, with a note if the sources differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    found = git("rev-parse", "--short=10", "HEAD")
    return found + (" with changes" if git("status", "--porcelain", "--", "packages") else "")


def noise(facts: dict[str, Any]) -> str:
    text = (
        f"Other programs used {facts['foreign']:.0%} of the processors in the median measurement"
        f" and {facts['foreign_most']:.0%} in the worst."
    )
    if facts["foreign"] > QUIET:
        text += " That is not a quiet machine: take the figures as provisional."
    return text


def summary(targets: list[Target]) -> str:
    missed = [t for t in targets if t.met is False]
    unknown = [t for t in targets if t.met is None]
    text = f"{len(targets) - len(missed) - len(unknown)} of {len(targets)} targets met, {len(missed)} missed"
    return text + (f", {len(unknown)} not measured." if unknown else ".")


def page(
    scenarios: list[Scenario], measurements: Measurements, targets: list[Target], facts: dict[str, Any]
) -> str:
    """docs/benchmarks.md."""
    missed = [t for t in targets if t.met is False]
    packages = ", ".join(f"{name} {found}" for name, found in facts["packages"].items() if found)
    parts = [
        "# Benchmarks",
        "`./go bench --write-docs` has measured what is on this page and has written it; nothing is edited by hand.",
        f"""| | |
| --- | --- |
| measured | {facts["began"]} to {facts["ended"]} |
| machine | {facts["processor"]}, {facts["cores"]} cores, {facts["memory"] / 2**30:.0f} GiB, {facts["system"]} |
| Python | {facts["python"]} |
| commit | {facts["commit"]} |
| packages | {packages} |
| workers | 2 for every pool |""",
        noise(facts),
        "## Targets",
        summary(targets),
    ]
    if missed:
        parts.append("Missed:")
        parts.append(
            "\n".join(
                f"- {t.scenario}: {t.text}: {show(t.value, t.unit)}, "
                f"should be {'≥' if t.at_least else '≤'} {show(t.bound, t.unit)}"
                for t in missed
            )
        )
    parts.append(as_markdown(TARGET_HEAD, target_rows(targets)))
    parts.append("## All measurements")
    parts.append(
        "Medians over the rounds; `executor` is `concurrent.futures.ProcessPoolExecutor`, "
        f"which starts processes by {multiprocessing.get_start_method()} here."
    )
    for scenario in scenarios:
        if scenario.name in measurements.outcomes:
            head, rows = case_rows(scenario, measurements)
            if len(rows) == 1:  # better read from top to bottom
                head, rows = (
                    ["", rows[0][0]],
                    [list(pair) for pair in zip(head[1:], rows[0][1:], strict=True)],
                )
            parts += [f"### {scenario.title}", scenario.note, as_markdown(head, rows)]
    parts.append(METHOD)
    return "\n\n".join(part for part in parts if part) + "\n"


METHOD = """## How it is measured

Each measurement is a fresh Python process with one pool in it, which is warm before the clock starts (but for the cold
start). Pools take turns: a round measures each once, and the next round begins with another one, so that a machine that
becomes slower or faster does so for all. Never do two run at once. A ratio is taken within each round, and its median
over the rounds is what counts; the lowest and highest are shown beside it. What must hold every time is judged by the
worst time. All pools run the same functions on the same data and their results are checked. A pool that
fails or hangs in a scenario is shown with what it said. Pools that no target names are measured less often.

    ./go bench                          # all of it: about half an hour
    ./go bench --only warm --only cold  # some scenarios
    ./go bench --quick                  # few rounds of little work: to see that it runs
    ./go bench --json FILE              # every single measurement
    ./go bench --write-docs             # this page

The scripts are in `benchmarks/`: a module for each pool in `peers/`, the functions that are called in `work.py`, the
scenarios in `drive.py` and `scenarios.py`, the bounds in `targets.py`."""


def as_json(measurements: Measurements, targets: list[Target], facts: dict[str, Any]) -> str:
    outcomes = {
        scenario: {case: [o and asdict(o) for o in rounds] for case, rounds in cases.items()}
        for scenario, cases in measurements.outcomes.items()
    }
    rows = [{**asdict(t), "value": t.value, "verdict": t.verdict} for t in targets]
    return json.dumps({"about": facts, "targets": rows, "measurements": outcomes}, indent=1) + "\n"
