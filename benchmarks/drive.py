"""Runs one scenario with one peer, in a process of its own: `python drive.py SCENARIO PEER OUT PARAMETERS`.

What it measures goes to the file OUT as a JSON object, seconds and bytes unless the name says otherwise. The peer's
own output goes where it likes.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import peers
import psutil
import work

Values = dict[str, Any]
clock = time.perf_counter


def check(ok: bool, what: str) -> None:
    if not ok:
        raise AssertionError(f"wrong results: {what}")


def tiny(peer: peers.Peer, *, seconds: float, most: int, chunks: list[int | None]) -> Values:
    """Calls per second of a function that does nothing, for each chunk size; None is the pool's default."""
    rates = {}
    for chunk in chunks:
        count, took = 200 if chunk is None else 4 * chunk, 0.0
        while True:
            began = clock()
            total = sum(peer.map(work.identity, range(count), chunk))
            took = clock() - began
            check(total == count * (count - 1) // 2, "the sum of the inputs")
            if took >= seconds / 2 or count >= most:
                break
            count = min(most, int(count * min(20.0, 1.2 * seconds / took)))
        rates["default" if chunk is None else str(chunk)] = count / took
    best = max(rates, key=lambda chunk: rates[chunk])
    return {"rates": rates, "rate": rates[best], "best": best}


def warm(peer: peers.Peer, *, seconds: float, most: int) -> Values:
    """How long a single call takes when the pool is warm."""
    took: list[float] = []
    until = clock() + seconds
    while len(took) < most and (clock() < until or len(took) < 5):
        began = clock()
        result = peer.call(work.identity, len(took))
        took.append(clock() - began)
        check(result == len(took) - 1, "a single call")
    took.sort()
    return {"median": median(took), "p99": took[int(0.99 * (len(took) - 1))], "calls": len(took)}


def efficiency(peer: peers.Peer, *, calls: int, workers: int) -> Values:
    """What part of the workers' time goes into calls of 10 ms each."""
    began = clock()
    check(sum(peer.map(work.spin_10_ms, range(calls))) == calls * (calls - 1) // 2, "the sum of the inputs")
    wall = clock() - began
    return {"wall": wall, "efficiency": calls * 0.010 / workers / wall}


def results(peer: peers.Peer, *, count: int) -> Values:
    """The time for `count` results of 10 MB, each looked at and dropped."""
    for _ in peer.map(work.large, range(2)):
        pass
    began = clock()
    for x, array in enumerate(peer.map(work.large, range(count), 1 if peer.chunks else None)):
        check(array.nbytes == work.RESULT_BYTES and array[0] == x and array[-1] == x, "an array")
    return {"wall": clock() - began}


def constant(peer: peers.Peer, *, calls: int) -> Values:
    """The time for a map whose calls share a new object of 100 MB, and how often the parent pickled it."""
    shared = work.Constant()
    began = clock()
    found = list(peer.constant(work.read_constant, range(calls), shared))
    wall = clock() - began
    check(found == [x + 1.0 for x in range(calls)], "reads of the constant")
    return {"wall": wall, "pickled": work.Constant.pickled}


def generator(peer: peers.Peer, *, count: int, chunk: int | None) -> Values:
    """A generator of `count` integers: time to the first result, calls per second, and growth of this process."""
    consume(peer.stream(work.identity, iter(range(1000)), chunk))
    gc.collect()
    before = rss()
    reset_peak_rss()
    began = clock()
    found = iter(peer.stream(work.identity, iter(work.Counted(count)), chunk))
    total = next(found)
    first = clock() - began
    total += sum(found)
    wall = clock() - began
    check(total == count * (count - 1) // 2, "the sum of the inputs")
    return {"first": first, "wall": wall, "rate": count / wall, "growth": peak_rss() - before, "count": count}


def early(peer: peers.Peer, *, count: int, stop: int, chunk: int | None, window: int | None) -> Values:
    """How many inputs have been pulled when the consumer stops after `stop` results, a while after that."""
    inputs = work.Counted(count)
    if window is None:
        consume(peer.stream(work.identity, iter(range(1000)), chunk))
        found = peer.stream(work.identity, iter(inputs), chunk)
    else:
        consume(peer.windowed(work.identity, iter(range(1000)), window))
        found = peer.windowed(work.identity, iter(inputs), window)
    most = 0
    for x in islice(found, stop):
        check(x < stop, "an early result")
        most = max(most, inputs.pulled - x - 1)
    time.sleep(
        0.3
    )  # a pool that pulls in a thread of its own goes on, which a user's slow consumer would see too
    pulled = inputs.pulled
    close = getattr(found, "close", None)
    if close is not None:
        close()
    return {"pulled": pulled, "ahead": max(most, pulled - stop)}


def kill(peer: peers.Peer, *, calls: int, fatal: int) -> Values:
    """A map one of whose calls kills its worker: how many results come, how often each call began, and the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "began")
        consume(peer.map(work.identity, range(2 * calls)))
        began = clock()
        outcomes = list(peer.outcomes(work.NotingCall(str(path), fatal), range(calls)))
        wall = clock() - began
        ok = [x for x in outcomes if not isinstance(x, BaseException)]
        check(set(ok) <= set(range(calls)) - {fatal} and len(set(ok)) == len(ok), "results of calls")
        times = Counter(int(line) for line in path.read_text().split())
        others = [times[x] for x in range(calls) if x != fatal]
    errors = Counter(type(x).__name__ for x in outcomes if isinstance(x, BaseException))
    return {
        "wall": wall,
        "ok": len(ok),
        "once": others.count(1),
        "never": others.count(0),
        "again": sum(n > 1 for n in others),
        "fatal": times[fatal],
        "errors": dict(errors),
    }


def interrupted(peer: peers.Peer, *, path: str) -> Values:
    """Works until Ctrl-C comes; whoever sends it watches the file at `path` and measures."""
    consume(peer.map(work.LongCall(path), range(1000)))
    return {}


def growth(peer: peers.Peer, *, closures: int, maps: int, threads: int) -> Values:
    """What is left of long use, beyond what was there after a tenth of it."""

    def many_closures(count: int) -> None:
        functions = (work.closure(1_000_000, x) for x in range(count))
        check(sum(peer.map(work.call, functions)) == count * (count - 1) // 2, "closures")

    def many_maps(count: int) -> None:
        for _ in range(count):
            check(sum(peer.map(work.identity, range(2000))) == 1999000, "one map of many")

    def many_threads(rounds: int) -> None:
        wrong: list[BaseException] = []

        def body() -> None:
            try:
                many_maps(rounds)
            except BaseException as exc:
                wrong.append(exc)

        pool = [threading.Thread(target=body) for _ in range(threads)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        if wrong:
            raise wrong[0]

    found: Values = {}
    kinds: list[tuple[str, Callable[[int], None], int]] = [
        ("closures", many_closures, closures),
        ("maps", many_maps, maps),
        ("threads", many_threads, max(1, maps // threads)),
    ]
    for name, use, count in kinds:
        use(max(1, count // 10))
        before = footprint()
        reset_peak_rss()
        began = clock()
        use(count)
        wall = clock() - began
        peak = peak_rss()
        after = footprint()
        found[name] = {key: after[key] - before[key] for key in before}
        found[name].update(peak=peak - before["memory"], wall=wall)
    return found


def consume(items: Iterable[Any]) -> None:
    for _ in items:
        pass


# --- what this process uses ---


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def reset_peak_rss() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """The most memory (bytes) since `reset_peak_rss`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def footprint() -> dict[str, int]:
    """Memory, descriptors, threads and shared memory of this process, and of its workers, once all is at rest.

    At rest: the same numbers of threads and descriptors for half a second, for at most five.
    """
    until = clock() + 5
    steady, last = 0, (0, 0)
    while steady < 5 and clock() < until:
        gc.collect()
        time.sleep(0.1)
        now = (threading.active_count(), psutil.Process().num_fds())
        steady, last = (steady + 1 if now == last else 0), now
    workers = psutil.Process().children(recursive=True)
    return {
        "memory": rss(),
        "descriptors": last[1],
        "threads": psutil.Process().num_threads(),
        "/dev/shm": len(list(Path("/dev/shm").iterdir())),
        "worker memory": sum(w.memory_info().rss for w in workers),
        "worker descriptors": sum(w.num_fds() for w in workers),
        "worker threads": sum(w.num_threads() for w in workers),
        "workers": len(workers),
    }


SCENARIOS: dict[str, Callable[..., Values]] = {
    f.__name__: f
    for f in (tiny, warm, efficiency, results, constant, generator, early, kill, interrupted, growth)
}


def main(scenario: str, name: str, out: str, parameters: str) -> None:
    given = json.loads(parameters)
    workers = given.pop("workers")
    run = SCENARIOS[scenario]
    report: Values
    try:
        with peers.load(name)(workers) as peer:
            # Every worker has started and has imported what it needs.
            for x in range(20):
                peer.call(work.identity, x)
            if name != "socketpair" and scenario != "interrupted":
                consume(peer.map(work.spin_10_ms, range(10 * workers)))
            if scenario == "efficiency":
                given["workers"] = workers
            report = {"values": run(peer, **given)}
            Path(out).write_text(json.dumps(report))  # ending the pool may hang
    except (peers.Absent, ModuleNotFoundError) as exc:
        report = {"absent": str(exc)}
    except Exception as exc:
        report = {"error": f"{type(exc).__name__}: {exc}"}
    if not Path(out).exists() or not Path(out).stat().st_size:
        Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
