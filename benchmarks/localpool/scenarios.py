"""What is measured, one function for each measurement. They run in the process that owns the pool."""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import tasks
from .pools import Pool

Result = dict[str, Any]

now = time.perf_counter

CALLS_OF_10_MS = 200
LARGE_RESULTS = 50
CONSTANT_CALLS = 50
STREAM_LENGTH = 1_000_000
CONSUMED = 100
KILL_CALLS = 100
MIB = 1 << 20


def warm(pool: Pool) -> Result:
    """Start all workers, have them import what they need, and check that results are right."""
    assert pool.call(tasks.identity, 7) == 7
    assert list(pool.imap(tasks.identity, range(100))) == list(range(100))
    list(pool.imap(tasks.spin, range(20)))
    return {}


def tiny(pool: Pool, calls: int, chunk: int | None) -> Result:
    """Calls per second of a function that does nothing."""
    begin = now()
    _consume(pool.imap(tasks.identity, range(calls), chunk))
    return {"rate": calls / (now() - begin)}


def latency(pool: Pool, calls: int, seconds: float) -> Result:
    """Seconds of single calls, one after the other, to a warm pool."""
    samples: list[float] = []
    end = now() + seconds
    while len(samples) < calls and now() < end:
        begin = now()
        pool.call(tasks.identity, 7)
        samples.append(now() - begin)
    samples.sort()
    return {"median": statistics.median(samples), "p99": samples[int(len(samples) * 0.99)]}


def efficiency(pool: Pool) -> Result:
    """Of the time that two processors have, what part went into calls of 10 ms."""
    begin = now()
    _consume(pool.imap(tasks.spin, range(CALLS_OF_10_MS)))
    seconds = now() - begin
    return {"efficiency": CALLS_OF_10_MS * tasks.SPIN_SECONDS / 2 / seconds}


def efficiency_without_pool() -> Result:
    """`efficiency` of two forked processes that share nothing: what this machine has to give just now."""
    begin = now()
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            for x in range(CALLS_OF_10_MS // 2):
                tasks.spin(x)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return {"efficiency": CALLS_OF_10_MS * tasks.SPIN_SECONDS / 2 / (now() - begin)}


def results(pool: Pool) -> Result:
    """Seconds for large results, each dropped before the next is taken."""
    begin = now()
    for x, array in enumerate(pool.imap(tasks.array, range(LARGE_RESULTS))):
        assert array[-1] == x
        assert array.nbytes == tasks.RESULT_BYTES
        del array
    return {"seconds": now() - begin}


def constant(pool: Pool) -> Result:
    """Seconds for a map whose calls share a large object that no worker has seen, and how often it was pickled."""
    shared = tasks.Constant()
    before = tasks.Constant.pickled
    begin = now()
    found = list(pool.constant(tasks.use_constant, range(CONSTANT_CALLS), shared))
    seconds = now() - begin
    assert found == [x + 1.0 for x in range(CONSTANT_CALLS)]
    return {"seconds": seconds, "pickles": tasks.Constant.pickled - before}


def stream(pool: Pool, seconds: float) -> Result:
    """A generator of a million integers: time to the first result, rate, and what the caller's memory grew by.

    It is left early after `seconds`, and its rate is then of what came until then.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # makes the high-water mark what is resident now
    before = _status("VmHWM")
    begin = now()
    results = iter(pool.imap(tasks.identity, (x for x in range(STREAM_LENGTH))))
    next(results)
    first = now() - begin
    count = 1
    while now() - begin < seconds:
        count += _consume(itertools.islice(results, 2000))
        if count % 2000 != 1:
            break
    rate = count / (now() - begin)
    grown = (_status("VmHWM") - before) / MIB
    return {"first": first, "rate": rate, "grown": grown, "count": count}


def stop(pool: Pool, window: int | None) -> Result:
    """How many inputs were taken for a consumer that stops after the first hundred results."""
    source = tasks.Counted(STREAM_LENGTH)
    inputs = iter(source)
    results = (
        pool.imap(tasks.identity, inputs) if window is None else pool.windowed(tasks.identity, inputs, window)
    )
    _consume(itertools.islice(iter(results), CONSUMED))
    time.sleep(0.3)  # what pulls in a thread of its own does so meanwhile
    close = getattr(results, "close", None)
    if close is not None:
        close()
    return {"pulled": source.pulled}


def kill(pool: Pool) -> Result:
    """A map of calls one of which kills its worker: seconds, results, and how often each call has run."""
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/ran"
        fatal = KILL_CALLS // 2
        begin = now()
        outcomes = list(pool.outcomes(tasks.Mortal(path, fatal), range(KILL_CALLS)))
        seconds = now() - begin
        ok = [x for x in outcomes if not isinstance(x, BaseException)]
        ran = Counter(int(line) for line in Path(path).read_text().split())
    others = set(range(KILL_CALLS)) - {fatal}
    return {
        "seconds": seconds,
        "ok": len(set(ok) & others),
        "once": sum(ran[x] == 1 for x in others),
        "fatal_runs": ran[fatal],
    }


def long(pool: Pool, path: str) -> Result:
    """Calls of two seconds, to be interrupted."""
    _consume(pool.imap(tasks.Long(path), range(10)))
    return {}


def _consume(results: Iterable[Any]) -> int:
    """Take all results as fast as a loop can, and count them."""
    counter = itertools.count()
    deque(zip(results, counter, strict=False), maxlen=0)
    return next(counter)


def _status(field: str) -> int:
    """Bytes that the kernel's account of this process gives for `field`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


ALL: dict[str, Callable[..., Result]] = {
    found.__name__: found
    for found in (warm, tiny, latency, efficiency, results, constant, stream, stop, kill, long)
}
