"""The process that makes the calls: with mini, and with Ray's own client, on one instance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from mini import Apparatus
from mini.local.wait import usable_cores
from mini_ray import RayApparatus

from ..common.child import psutil
from ..common.clients import Orders, Result, latencies, serve_session
from . import functions

now = time.perf_counter

CONSTANT_BYTES = 100_000_000
CHUNK = 100
TOGETHER = 0.2
"""Seconds that calls take of which each is to find a worker of its own."""
WINDOW = 64
"""Items of a stream under way, where there may be more of them than at default settings."""
WARM_UP = 1000
LOOK_EVERY = 1000
"""Items of a stream between two looks at the memory."""


def main(session: str, replies: int, folder: str) -> None:
    serve_session(SESSIONS[session](folder), replies)


class Sides:
    """Two ways to call functions: mini's, on an instance that it starts, and Ray's, on that same instance.

    Args:
        folder: for volumes; none is used.
        names: of functions that Ray is to know. It registers each with its first call.
    """

    def __init__(self, folder: str, *names: str) -> None:
        self.workers = usable_cores()
        self.mini: Apparatus = RayApparatus("benchmark", storage=folder, max_workers=self.workers).w(
            progress=False
        )
        self.raw: dict[str, Any] = {}
        self._names = names

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.mini:
            self.mini.run(functions.identity, 0)  # starts the instance
            assert ray.cluster_resources()["CPU"] == self.workers
            # As mini's calls, tasks are not run again when a worker dies.
            self.raw = {
                name: ray.remote(max_retries=0)(getattr(functions, name)) for name in ("where", *self._names)
            }
            yield

    def settle(self) -> None:
        """Wait until each side has all of its workers, and these have nothing to do."""
        seconds = [TOGETHER] * self.workers
        for side in (
            lambda: self.mini.w(chunk=1).map(functions.where, seconds),
            lambda: ray.get([self.raw["where"].remote(s) for s in seconds]),
        ):
            for _ in range(100):
                if len(set(side())) == self.workers:
                    break
            else:
                raise TimeoutError(f"there are not {self.workers} workers")

    def timed(self, results: Callable[[], Iterable[Any]], expected: list[Any]) -> Result:
        self.settle()
        begin = now()
        found = list(results())
        seconds = now() - begin
        assert found == expected
        return {"seconds": seconds, "rate": len(found) / seconds, "calls": len(found)}


@contextmanager
def tiny(folder: str) -> Iterator[Orders]:
    """Calls that return their input."""
    sides = Sides(folder, "identity", "identities")

    def raw(count: int) -> Result:
        task = sides.raw["identity"]
        return sides.timed(lambda: ray.get([task.remote(x) for x in range(count)]), [*range(count)])

    def chunks(count: int) -> Result:
        task = sides.raw["identities"]

        def results() -> Iterator[int]:
            pieces = (list(range(at, min(at + CHUNK, count))) for at in range(0, count, CHUNK))
            for piece in ray.get([task.remote(piece) for piece in pieces]):
                yield from piece

        return sides.timed(results, [*range(count)])

    def mini(count: int) -> Result:
        return sides.timed(lambda: sides.mini.map(functions.identity, range(count)), [*range(count)])

    def unchunked(count: int) -> Result:
        app = sides.mini.w(chunk=1)
        return sides.timed(lambda: app.map(functions.identity, range(count)), [*range(count)])

    with sides.running():
        for warm_up in (raw, chunks, mini, unchunked):
            warm_up(1000)
        yield {"raw": raw, "chunks": chunks, "mini": mini, "unchunked": unchunked}


@contextmanager
def single(folder: str) -> Iterator[Orders]:
    """One call after the other."""
    sides = Sides(folder, "identity")

    def mini(seconds: float) -> Result:
        sides.settle()
        return latencies(lambda: sides.mini.run(functions.identity, 7), seconds)

    def raw(seconds: float) -> Result:
        task = sides.raw["identity"]
        sides.settle()
        return latencies(lambda: ray.get(task.remote(7)), seconds)

    with sides.running():
        yield {"mini": mini, "raw": raw}


@contextmanager
def constant(folder: str) -> Iterator[Orders]:
    """Calls that all have the same large argument, which is another one each time."""
    sides = Sides(folder, "size")

    def measure(results: Callable[[Any, int], Iterable[Any]], count: int) -> Result:
        data = np.frombuffer(os.urandom(CONSTANT_BYTES), np.uint8)
        return sides.timed(lambda: results(data, count), [x + CONSTANT_BYTES for x in range(count)])

    def mini(count: int) -> Result:
        return measure(lambda data, n: sides.mini.map(functions.size, range(n), kwargs={"data": data}), count)

    def raw(count: int) -> Result:
        task = sides.raw["size"]

        def results(data: Any, n: int) -> list[int]:
            stored = ray.put(data)
            found: list[int] = ray.get([task.remote(x, stored) for x in range(n)])
            return found

        return measure(results, count)

    with sides.running():
        for warm_up in (mini, raw):
            warm_up(10)
        yield {"mini": mini, "raw": raw}


@contextmanager
def stream(folder: str) -> Iterator[Orders]:
    """A generator's items, one at a time, and what the caller's memory does meanwhile."""
    sides = Sides(folder, "count_up")
    memory = psutil.Process().memory_info

    def measure(items: Callable[[int], Iterator[int]], count: int) -> Result:
        sides.settle()
        for _ in items(WARM_UP):
            pass
        before = most = memory().rss
        begin = now()
        taken = 0
        for item in items(count):
            assert item == taken
            taken += 1
            if not taken % LOOK_EVERY:
                most = max(most, memory().rss)
        seconds = now() - begin
        assert taken == count
        return {"rate": count / seconds, "grown": (most - before) / 1e6, "items": count}

    def mini(count: int) -> Result:
        return measure(lambda n: sides.mini.stream(functions.count_up, n), count)

    def wide(count: int) -> Result:
        app = sides.mini.w(window=WINDOW)
        return measure(lambda n: app.stream(functions.count_up, n), count)

    def raw(count: int) -> Result:
        task = sides.raw["count_up"].options(num_returns="streaming")
        return measure(lambda n: (ray.get(reference) for reference in task.remote(n)), count)

    with sides.running():
        yield {"mini": mini, "wide": wide, "raw": raw}


SESSIONS = {"tiny": tiny, "single": single, "constant": constant, "stream": stream}
