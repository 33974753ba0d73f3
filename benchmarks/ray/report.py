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
    "- **Stream**: how much larger the resident memory of the calling process was, at most, than after a first stream",
    "  of 1000 items, looked at every 1000 items. Each stream has a process of its own. Ray's own generator",
    '  (`num_returns="streaming"`) and the stream with `window=64` have 50 000 items; by default 16 are under way.',
]
REASONS = [
    "## Where the time of the constant goes",
    "",
    "Timed step by step at a load of about 10: `ray.put` takes some 10 ms, also in mini's `map`. Then Ray's 100 tasks",
    "take 65 to 120 ms, most of it what any 100 tasks take. mini's calls travel in groups and take 5 to 20 ms, but",
    "before the first of them each actor copies the array out of Ray's object store into memory of the process in",
    "which calls run. Writing 100 MB into a new anonymous file takes 38 ms of processor time, and 40 to 120 ms until",
    "it is done, as two actors do so on two cores that others use too. It is the pages that cost: the same copy into",
    "large pages, which anonymous files do not have here, takes 10 ms.",
    "",
    "In two runs at a load of about 10 the target was missed, with 1.58× (9 rounds) and 1.66× (7 rounds).",
    "",
    "Ray's own tasks read the array in place. A call's process cannot: it holds no reference that Ray knows of, so the",
    "store might reuse the memory while something there still refers to the array. One copy a node, for all actors on",
    "it, would save processor time, but no time where there is a core for each.",
]


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
