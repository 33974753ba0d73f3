"""The tables: every target with its verdict, and every pool with all that was measured."""

from __future__ import annotations

from ..common.report import Column, subject_table, summary, target_table
from ..common.run import Run
from ..common.samples import Samples
from ..common.targets import number
from .conduct import FLOOR, POOLS
from .pools import WORKERS
from .targets import TARGETS

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


def _rate(value: float) -> str:
    if value >= 999_500:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.3g}k" if value >= 1000 else f"{value:.3g}"


def _ms(value: float) -> str:
    return f"{value * 1000:.3g}"


COLUMNS: list[Column] = [
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
    return subject_table(samples, COLUMNS, [*POOLS, FLOOR])


def page(run: Run) -> str:
    """docs/benchmarks.md."""
    found = run.verdicts(TARGETS)
    table, notes = pool_table(run.samples)
    rounds = run.effort.rounds
    lines = [
        "# Benchmarks of the local pool",
        "",
        "<!-- Written by `./go bench localpool --write-docs`; edits are lost. -->",
        "",
        *(f"- {line}" for line in run.where),
        f"- {rounds} rounds (half as many of what takes long), {WORKERS} workers, {run.minutes:.0f} minutes.",
        "",
        *METHOD,
        "",
        "## Targets",
        "",
        *summary(found),
        *(
            ["[Why](explanation/local-pool.md#what-it-misses-and-why), with a profile of each.", ""]
            if any(not verdict.met for verdict in found)
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
