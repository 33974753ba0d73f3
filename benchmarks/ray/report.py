"""What the page says, and the figures that it shows."""

from __future__ import annotations

from ..common.report import Figure, megabytes, milliseconds, seconds
from ..common.targets import number

DISTRIBUTIONS = ("mini-core", "mini-ray", "ray", "numpy")

METHOD = [
    "Both sides call in one process, on the same local instance of Ray, which mini has started, and with one worker",
    "for each core: as many of mini's actors, and as many of Ray's own processes for tasks. All are there before the",
    "clock starts, and Ray knows each function by then. In each round each side is measured once, in an order that",
    "changes; the other one waits meanwhile. Ratios are taken within each round; *measured* is their median over the",
    "rounds, *spread* the least and the greatest.",
]
READINGS = [
    "- **Tiny**: a function that returns its input. *A task for each* is `ray.get([f.remote(x) for x in xs])`, and",
    "  *by hand* the same with tasks that take a list of 100 inputs and return a list. 10 000 calls where each is",
    "  a task or a group of its own, else 300 000.",
    "- **Warm**: single calls, one after the other, for 2 seconds. `run` brings the function along each time.",
    "- **Constant**: a numpy array, another one each time, which Ray's tasks read from shared memory without a copy.",
    "  `ray.put` is part of the time. mini has it as a keyword argument that all calls share.",
    "- **Stream**: how much larger the resident memory of the calling process was, at most, than before the stream;",
    '  it is looked at every 1000 items. Ray\'s own generator (`num_returns="streaming"`) has 50 000 items, and so',
    "  has the stream with `window=64`; by default there are 16 items under way.",
]
REASONS: list[str] = []


def _rate(value: float) -> str:
    return f"{number(round(value))} /s"


FIGURES: list[Figure] = [
    ("tiny calls, a task for each", "tiny.rate", "raw", _rate),
    ("… mini's `map` with `chunk=1`", "tiny.rate", "unchunked", _rate),
    ("tiny calls, tasks of 100", "tiny.rate", "chunks", _rate),
    ("… mini's `map`", "tiny.rate", "mini", _rate),
    ("warm `ray.get(f.remote(x))`, p50", "single.median", "raw", milliseconds),
    ("… p99", "single.p99", "raw", milliseconds),
    ("warm `run`, p50", "single.median", "mini", milliseconds),
    ("… p99", "single.p99", "mini", milliseconds),
    ("100 calls with 100 MB, `ray.put`", "constant.seconds", "raw", seconds),
    ("… mini's `map`", "constant.seconds", "mini", seconds),
    ("items of Ray's own generator", "stream.rate", "raw", _rate),
    ("… growth of the caller", "stream.grown", "raw", megabytes),
    ("items of `stream`", "stream.rate", "mini", _rate),
    ("… growth of the caller", "stream.grown", "mini", megabytes),
    ("items of `stream` with `window=64`", "stream.rate", "wide", _rate),
]
