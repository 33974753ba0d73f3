"""The tables: every target with its verdict, and all figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from ..common.report import markdown, summary, target_table
from ..common.run import Run
from ..common.samples import Samples
from ..common.targets import number
from .conduct import LARGE, QUICK, SMALL, VERSIONS
from .targets import TARGETS

DISTRIBUTIONS = ("modal-emulator", "modal", "grpclib", "protobuf", "aiohttp")

METHOD = [
    "Modal's unmodified client runs in a process of its own, against a server in another one that has its own, empty",
    "cache of images; nothing else of the benchmark runs meanwhile. In each round everything that is compared is",
    "measured once, in an order that changes. Ratios are taken within each round; *measured* is their median over the",
    "rounds, *spread* the least and the greatest.",
]
READINGS = [
    "- **Cold**: from `.remote()` to its result in a process that has imported `modal` and whose app runs, of a",
    "  function whose image is built and that has no container. Against a new interpreter that only runs",
    "  `import modal`, compiled.",
    "- **Warm**: `.remote()` of a function with one container that waits. A *bare unary call* is `Client.hello()`: one",
    "  RPC by the same client in the same process, which the server answers at once.",
    "- **`map`**: of a function that returns its input, with two containers that wait. *No more* per input is read as",
    "  1.1×, which is what two runs of the same differ by.",
    "- **Volume**: a file of random bytes by `batch_upload`, and by `read_file` into another file, against `cp` of it",
    "  on the same file system. None of them waits for the disk (no `fsync`); before each, everything is synced.",
    "- **Idle**: the server and the process that starts its containers, resident memory added up, after a deployment.",
    "- **Ephemeral apps**: each has one call, hence one container. *Left* is what is there more than after the first",
    "  twenty; *no growth* of memory is read as 10 MB.",
]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _s(seconds: float) -> str:
    return f"{number(seconds)} s"


def _mb(value: float) -> str:
    return f"{number(value)} MB"


FIGURES: list[tuple[str, str, str, Callable[[float], str]]] = [
    ("`import modal`", "cold.seconds", "import modal", _s),
    ("cold `.remote`", "cold.seconds", "remote", _s),
    ("bare unary call, p50", "warm.median", "hello", _ms),
    ("… p99", "warm.p99", "hello", _ms),
    ("warm `.remote`, p50", "warm.median", "remote", _ms),
    ("… p99", "warm.p99", "remote", _ms),
    ("… processor time of the server", "warm.server", "remote", _ms),
    ("… of the client", "warm.client", "remote", _ms),
    ("… of the container", "warm.containers", "remote", _ms),
    ("`map` of 1 000, per input", "map.per_input", SMALL, _ms),
    ("… of 10 000", "map.per_input", LARGE, _ms),
    ("… processor time of the server", "map.server", LARGE, _ms),
    ("… of the client", "map.client", LARGE, _ms),
    ("… of the containers", "map.containers", LARGE, _ms),
    ("`cp` of 1 GiB", "volume.seconds", "cp", _s),
    *(
        row
        for version in VERSIONS
        for row in (
            (f"1 GiB into a Volume v{version}", "volume.seconds", f"put v{version}", _s),
            ("… the server grows by", "volume.grown", f"put v{version}", _mb),
            ("… out of it again", "volume.seconds", f"get v{version}", _s),
            ("… the server grows by", "volume.grown", f"get v{version}", _mb),
        )
    ),
    ("idle server, memory", "idle.memory", "server", _mb),
    ("… processor", "idle.load", "server", lambda percent: f"{percent:.2g} %"),
    ("an ephemeral app with one call", "apps.seconds", "server", _s),
]


def figure_table(samples: Samples) -> str:
    rows = [["", "median", "spread"]]
    for title, measure, subject, show in FIGURES:
        values = list(samples.of(measure, subject).values())
        if values:
            spread = f"{show(min(values))} – {show(max(values))}" if len(values) > 1 else ""
            rows.append([title, show(statistics.median(values)), spread])
        elif why := samples.why(measure.split(".")[0], subject):
            rows.append([title, "–", why])
    return markdown(rows)


def page(run: Run) -> str:
    """docs/benchmarks-emulator.md."""
    found = run.verdicts(TARGETS)
    lines = [
        "# Benchmarks of the Modal emulator",
        "",
        "<!-- Written by `./go bench emulator --write-docs`; edits are lost. -->",
        "",
        *(f"- {line}" for line in run.where),
        f"- {run.effort.rounds} rounds (of cold starts thrice as many, of long ones half), {run.minutes:.0f} minutes.",
        *(["- A quick run, of fewer and smaller things than the tables say."] if run.effort == QUICK else []),
        "",
        *METHOD,
        "",
        "## Targets",
        "",
        *summary(found),
        target_table(found),
        "",
        *READINGS,
        "",
        "## Figures",
        "",
        figure_table(run.samples),
        "",
    ]
    return "\n".join(lines).rstrip() + "\n"
