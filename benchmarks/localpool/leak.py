"""Whether long use of mini leaves anything behind."""

from __future__ import annotations

import gc
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from . import tasks
from .pools.mini_local import Pool

psutil: Any = import_module("psutil")  # for mypy, which runs where it has no types

CLOSURE_BYTES = 1_000_000
THREADS = 8


def measure(closures: int, maps: int) -> dict[str, float]:
    """What a long use adds to what a short use of the same kind has left."""
    pool = Pool()
    try:
        _use(pool, closures // 10, maps // 10)
        before = _holds()
        _use(pool, closures, maps)
        after = _holds()
    finally:
        pool.close()
    return {key: after[key] - before[key] for key in before}


def _use(pool: Pool, closures: int, maps: int) -> None:
    """A map of closures over a megabyte each, maps one after the other, and maps at once from several threads."""
    count = sum(1 for _ in pool.imap(tasks.call, (tasks.closure(x, CLOSURE_BYTES) for x in range(closures))))
    assert count == closures
    for _ in range(maps):
        assert list(pool.imap(tasks.identity, range(100))) == list(range(100))
    right: list[bool] = []

    def several() -> None:
        for _ in range(maps // THREADS):
            right.append(list(pool.imap(tasks.identity, range(1000))) == list(range(1000)))  # noqa: PERF401

    threads = [threading.Thread(target=several) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * THREADS * (maps // THREADS)


def _holds() -> dict[str, float]:
    """What this process and its workers hold just now."""
    gc.collect()
    me = psutil.Process()
    everybody = [me, *me.children(recursive=True)]
    shm = Path("/dev/shm")
    return {
        "memory": sum(process.memory_info().rss for process in everybody) / 1e6,
        "descriptors": sum(process.num_fds() for process in everybody),
        "threads": sum(process.num_threads() for process in everybody),
        "processes": len(everybody),
        "shm": sum(1 for _ in shm.iterdir()) if shm.exists() else 0,
    }
