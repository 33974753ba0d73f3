"""What is measured: the scenarios, which peers take part in each, with what and how often."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from measure import Children
from peers import NAMES

POOLS = [name for name in NAMES if name != "executor-fork" or multiprocessing.get_start_method() != "fork"]
"""`executor` starts processes as the platform does by default, which may be fork anyway."""
SLOW_TO_START = ("dask", "ray")

Take = Callable[[Children], dict[str, Any]]


@dataclass
class Case:
    """One line of a scenario.

    Attributes:
        name: of the peer, or what else tells it from the others.
        take: measures it once.
        rounds: how often at most.
    """

    name: str
    take: Take
    rounds: int = 99


@dataclass
class Scenario:
    """Cases that are measured in turns, `rounds` times.

    Attributes:
        title: what it is, for people.
        note: what is measured, for people, in Markdown.
        columns: what is shown of each case: key in the values, title, unit.
    """

    name: str
    title: str
    note: str
    columns: list[tuple[str, str, str]]
    rounds: int
    cases: list[Case] = field(default_factory=list)

    def drive(
        self, peer: str, *, limit: float = 60, rounds: int = 99, case: str | None = None, **parameters: Any
    ) -> None:
        take = partial(_drive, scenario=self.name, peer=peer, limit=limit, parameters=parameters)
        self.cases.append(Case(case or peer, take, rounds))


def _drive(
    children: Children, *, scenario: str, peer: str, limit: float, parameters: dict[str, Any]
) -> dict[str, Any]:
    return children.drive(scenario, peer, limit, **parameters)


def scenarios(*, quick: bool) -> list[Scenario]:
    """All scenarios; with `quick` in few rounds of little work, to see that they run."""

    def some(usual: int, few: int) -> int:
        return few if quick else usual

    rounds = some(5, 2)
    few = some(3, 1)
    once = 1

    tiny = Scenario(
        "tiny",
        "Tiny calls",
        "`map` of a function that returns its argument, over a range of integers, all results summed."
        " For each pool its default and the fastest of four chunk sizes. For dask and Ray, which "
        "group nothing, chunks are made by hand.",
        [("rates.default", "default", "/s"), ("rate", "best chunk", "/s"), ("best", "that chunk", "")],
        rounds,
    )
    for peer in POOLS:
        tiny.drive(
            peer,
            limit=120,
            rounds=few if peer in SLOW_TO_START else rounds,
            seconds=some(60, 20) / 100,
            most=3_000_000,
            chunks=[None, 128, 512, 2048, 8192],
        )

    warm = Scenario(
        "warm",
        "A single call in a warm pool",
        "One call at a time. The socketpair is a child process that sends 100 bytes back: what no "
        "pool can be faster than.",
        [("median", "median", "s"), ("p99", "99th percentile", "s")],
        some(9, 2),
    )
    for peer in (*POOLS, "socketpair"):
        warm.drive(
            peer, rounds=few if peer in SLOW_TO_START else 99, seconds=some(10, 4) / 10, most=some(3000, 1000)
        )

    cold = Scenario(
        "cold",
        "From a fresh process to the first result",
        "From starting a Python that imports the pool and makes one call until that call's result is there.",
        [("wall", "time", "s")],
        some(11, 3),
        [Case(peer, partial(_cold, peer=peer), few if peer in SLOW_TO_START else 99) for peer in POOLS],
    )

    codes = {
        "bare interpreter": "pass",
        "import mini": "import mini",
        "import concurrent.futures.process": "import concurrent.futures.process",
        "from mini import LocalApparatus": "from mini import LocalApparatus",
        "import pebble": "import pebble",
        "import joblib": "import joblib",
    }
    imports = Scenario(
        "import",
        "Start of an interpreter that imports",
        "The whole life of an interpreter. `import mini` loads what is used when it is used, so the "
        "line with `LocalApparatus` is what a program pays.",
        [("wall", "time", "s")],
        some(31, 5),
        [Case(name, partial(_run_code, code=code)) for name, code in codes.items()],
    )

    efficiency = Scenario(
        "efficiency",
        "Calls of 10 ms on two workers",
        "200 calls that use a processor for 10 ms each. The efficiency is one second over the time "
        "that the map took.",
        [("efficiency", "efficiency", ""), ("wall", "time", "s")],
        rounds,
    )
    for peer in POOLS:
        efficiency.drive(peer, rounds=few if peer in SLOW_TO_START else rounds, calls=some(200, 60))

    results = Scenario(
        "results",
        "50 results of 10 MB",
        "Each call makes a numpy array of 10 MB; the parent looks at each result and drops it.",
        [("wall", "time", "s")],
        rounds,
    )
    for peer in POOLS:
        results.drive(peer, rounds=few if peer == "dask" else rounds, count=50)

    constant = Scenario(
        "constant",
        "50 calls that share a constant of 100 MB",
        "The pool is warm, the constant new to it. Pools with something for shared objects use that: "
        "`kwargs` (mini), `shared_objects` (mpire, which forks new workers for it), `scatter` (dask),"
        " `put` (Ray), memory-mapped arrays (joblib); the others get it bound to the function.",
        [("wall", "time", "s"), ("pickled", "pickled by the parent", "")],
        rounds,
    )
    for peer in POOLS:
        many = rounds if peer in ("mini", "mpire", "joblib", "ray") else once
        constant.drive(peer, rounds=many, calls=some(50, 20), limit=120)

    generator = Scenario(
        "generator",
        "A generator of integers",
        "Pools that read the whole generator before the first result are given it in chunks, without "
        "which they would take minutes. Growth is that of the parent's peak memory.",
        [
            ("count", "integers", ""),
            ("first", "first result", "s"),
            ("growth", "growth of the parent", "B"),
            ("rate", "throughput", "/s"),
        ],
        rounds,
    )
    million = some(1_000_000, 200_000)
    for peer, chunk, count in [
        ("mini", None, million),
        ("joblib", None, million),
        ("imap", 512, million),
        ("imap", None, million),
        ("mpire", 512, million),
        ("executor", 512, million),
        ("loky", 512, million),
        ("pebble", 512, million),
        ("dask", 512, million),
        ("ray", 512, million),
    ]:
        generator.drive(
            peer,
            case=peer if chunk is None else f"{peer}, chunk {chunk}",
            rounds=rounds if peer in ("mini", "joblib") or (peer == "imap" and chunk) else once,
            limit=120,
            count=count,
            chunk=chunk,
        )

    early = Scenario(
        "early",
        "A consumer that stops after 100 results of a generator of a million",
        "Pulled: inputs that the generator had given 0.3 s after the consumer took its hundredth "
        "result and waits.",
        [("pulled", "inputs pulled", ""), ("ahead", "most ahead of the consumer", "")],
        few,
    )
    for peer, chunk, window in [
        ("mini", None, None),
        ("mini", None, 64),
        ("mini", None, 1000),
        ("joblib", None, None),
        ("imap", None, None),
        ("imap", 512, None),
        ("mpire", 1, None),
        ("mpire", 1, 64),
        ("executor", 512, None),
        ("pebble", 512, None),
    ]:
        name = peer + (f", chunk {chunk}" if chunk else "") + (f", window {window}" if window else "")
        early.drive(
            peer,
            case=name,
            rounds=few if peer == "mini" else once,
            count=1_000_000,
            stop=100,
            chunk=chunk,
            window=window,
        )

    kill = Scenario(
        "kill",
        "One of 100 calls kills its worker",
        "Calls of 10 ms; call 50 kills its process. Each call notes in a file that it has begun.",
        [
            ("ok", "results of 99", ""),
            ("once", "others begun once", ""),
            ("never", "never", ""),
            ("again", "more often", ""),
            ("fatal", "the fatal one begun", ""),
            ("wall", "time", "s"),
        ],
        rounds,
    )
    for peer in POOLS:
        kill.drive(peer, rounds=rounds if peer in ("mini", "pebble") else once, limit=45, calls=100, fatal=50)

    interrupt = Scenario(
        "interrupt",
        "Ctrl-C while both workers are at work",
        "SIGINT to the process group, as a terminal sends it, in the middle of calls of two seconds; "
        "the script has the pool in a `with` block and catches nothing.",
        [("parent", "parent gone", "s"), ("all", "all gone", "s")],
        rounds,
        [Case(peer, partial(_interrupt, peer=peer), rounds if peer == "mini" else once) for peer in POOLS],
    )

    growth = Scenario(
        "growth",
        "What long use leaves behind",
        "What is there after the whole, beyond what was there after a tenth of it.",
        [
            (f"{kind}.{key}", f"{kind}: {key}", unit)
            for kind in ("closures", "maps", "threads")
            for key, unit in [
                ("memory", "B"),
                ("peak", "B"),
                ("descriptors", ""),
                ("threads", ""),
                ("/dev/shm", ""),
                ("worker memory", "B"),
                ("worker descriptors", ""),
            ]
        ],
        once,
    )
    growth.drive("mini", limit=600, closures=some(10_000, 500), maps=some(200, 40), threads=8)

    return [
        tiny, warm, cold, imports, efficiency, results, constant, generator, early, kill, interrupt, growth,
    ]  # fmt: skip


def _cold(children: Children, *, peer: str) -> dict[str, Any]:
    return children.cold(peer, 60)


def _run_code(children: Children, *, code: str) -> dict[str, Any]:
    return children.run_code(code, 60)


def _interrupt(children: Children, *, peer: str) -> dict[str, Any]:
    return children.interrupt(peer, 30)
