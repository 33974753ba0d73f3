"""What mini's local pool must reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..common.samples import Samples
from ..common.targets import Target, per_round
from .conduct import FLOOR, POOLS
from .scenarios import CONSUMED, KILL_CALLS

MIB = 1 << 20


def ratio(scenario: str, measure: str, peer: str, sign: Literal["≥", "≤"], bound: float, what: str) -> Target:
    values, needs = per_round(lambda ours, theirs: ours / theirs, (measure, "mini"), (measure, peer))
    return Target(scenario, what, sign, bound, values, needs=needs)


def plain(
    scenario: str,
    measure: str,
    sign: Literal["≥", "≤", "="],
    bound: float,
    what: str,
    unit: str,
    scale: Callable[[float], float] = float,
) -> Target:
    values, needs = per_round(scale, (measure, "mini"))
    return Target(scenario, what, sign, bound, values, unit, needs)


def _against_the_fastest(samples: Samples) -> list[float]:
    """Tiny calls at default settings against the best that any peer had in the round with its best chunk size."""
    found = []
    for turn, ours in samples.of("tiny.rate", "mini").items():
        theirs = [samples.of("chunked.rate", name).get(turn, 0.0) for name in POOLS if name != "mini"]
        if best := max(theirs, default=0.0):
            found.append(ours / best)
    return found


def _net_import(mini: float, stdlib: float, bare: float) -> float:
    return (mini - bare) / (stdlib - bare)


def _milliseconds(seconds: float) -> float:
    return seconds * 1000


STDLIB = "concurrent.futures.process"
_imports, _imports_need = per_round(
    _net_import, ("import.seconds", "mini"), ("import.seconds", STDLIB), ("import.seconds", "interpreter")
)
_import_more, _import_more_needs = per_round(
    lambda mini, bare: (mini - bare) * 1000, ("import.seconds", "mini"), ("import.seconds", "interpreter")
)

TARGETS = [
    ratio("tiny", "tiny.rate", "joblib", "≥", 4, "tiny calls, default settings: calls/s, against joblib"),
    ratio("tiny", "tiny.rate", "imap", "≥", 20, "… against imap"),
    ratio("tiny", "tiny.rate", "executor", "≥", 50, "… against ProcessPoolExecutor"),
    Target(
        "chunked",
        "… against the fastest peer with its best chunk size",
        "≥",
        0.8,
        _against_the_fastest,
        needs=(("tiny", "mini"),),
    ),
    ratio("latency", "latency.median", "imap", "≤", 0.5, "warm single call: time, against imap"),
    ratio("latency", "latency.median", "pebble", "≤", 0.5, "… against pebble"),
    ratio("latency", "latency.median", FLOOR, "≤", 2, "… against a bare socketpair round trip"),
    ratio("cold", "cold.seconds", "pebble", "≤", 1.2, "fresh process to first result: time, against pebble"),
    Target(
        "imports", f"`import mini`: time, against `import {STDLIB}`", "≤", 1.5, _imports, needs=_imports_need
    ),
    Target(
        "imports",
        "… more than a bare interpreter",
        "≤",
        30,
        _import_more,
        unit="ms",
        needs=_import_more_needs,
    ),
    plain("efficiency", "efficiency.efficiency", "≥", 0.96, "200 calls of 10 ms CPU: efficiency", ""),
    ratio("results", "results.seconds", "ray", "≤", 0.6, "50 results of 10 MB: time, against Ray"),
    plain("constant", "constant.pickles", "=", 1, "a constant of 100 MB over 50 calls: pickled", "times"),
    ratio("constant", "constant.seconds", "mpire", "≤", 0.7, "… time, against mpire"),
    plain("stream", "stream.first", "≤", 5, "a generator of a million: first result", "ms", _milliseconds),
    plain("stream", "stream.grown", "≤", 20, "… the caller grows by", "MB", lambda mib: mib * MIB / 1e6),
    ratio("stream", "stream.rate", "joblib", "≥", 3, "… results/s, against joblib"),
    plain("stop", "stop.pulled", "≤", 5000, "a consumer that stops after 100 results: inputs taken", ""),
    plain("stop", "window.pulled", "≤", 50, "… beyond the 100, with `window=50`", "", lambda n: n - CONSUMED),
    plain(
        "kill", "kill.ok", "=", KILL_CALLS - 1, "one SIGKILLed worker in 100 calls: calls that succeed", ""
    ),
    plain("kill", "kill.once", "=", KILL_CALLS - 1, "… other calls that have run exactly once", ""),
    ratio("kill", "kill.seconds", "pebble", "≤", 1.2, "… time, against pebble"),
    plain("interrupt", "interrupt.parent", "≤", 0.3, "Ctrl-C: until the caller has ended", "s"),
    plain("interrupt", "interrupt.all", "≤", 0.3, "… and all of its children", "s"),
    plain("leak", "leak.memory", "≤", 5, "long use: the caller and its workers grow by", "MB"),
    plain("leak", "leak.descriptors", "≤", 0, "… descriptors", ""),
    plain("leak", "leak.threads", "≤", 0, "… threads", ""),
    plain("leak", "leak.shm", "≤", 0, "… files in `/dev/shm`", ""),
]
