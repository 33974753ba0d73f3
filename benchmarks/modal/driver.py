"""The process that makes the calls: with mini, and with Modal's own client, in containers of the same image."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

import modal
from mini import Apparatus
from mini_modal import ModalApparatus, make_image

from ..common.clients import Orders, Result, latencies, serve_session, wait_for_containers
from .project import MODULE

now = time.perf_counter

CONSTANT_BYTES = 100_000_000
WINDOW = 600
"""Seconds that containers of Modal's own function may be idle."""
TOGETHER = 0.2
"""Seconds that calls take of which each is to find a container of its own."""


def main(session: str, replies: int, folder: str, containers: int) -> None:
    os.chdir(folder)  # where mini finds the project
    sys.path.insert(0, str(Path(folder) / "src"))
    serve_session(SESSIONS[session](import_module(MODULE), containers), replies)


class Sides:
    """A function, called by mini and by Modal's own client, with as many containers for each.

    Args:
        functions: the project's module.
        name: of the function.
    """

    def __init__(self, functions: Any, name: str, containers: int) -> None:
        self._functions = functions
        self._containers = containers
        self.function: Callable[..., Any] = getattr(functions, name)
        self.mini: Apparatus = ModalApparatus("benchmark", max_workers=containers).w(progress=False)
        self._app = modal.App("benchmark-raw")
        self.raw: modal.Function[..., Any, Any] = self._app.function(
            image=make_image(),
            min_containers=containers,
            max_containers=containers,
            scaledown_window=WINDOW,
            include_source=False,  # it is in the image
        )(self.function)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.mini, self._app.run():
            yield

    def settle(self) -> None:
        """Wait until both have all of their containers: mini's are started when there is work for them."""
        wait_for_containers(self.raw, self._containers)
        for _ in range(100):
            where = self.mini.map(self._functions.where, [TOGETHER] * self._containers)
            if len(set(where)) == self._containers:
                return
        raise TimeoutError(f"mini does not get {self._containers} containers")

    def timed(self, results: Callable[[], Iterable[Any]], expected: list[Any]) -> Result:
        self.settle()
        begin = now()
        found = list(results())
        seconds = now() - begin
        assert found == expected
        return {"seconds": seconds, "rate": len(found) / seconds, "calls": len(found)}


@contextmanager
def tiny(functions: Any, containers: int) -> Iterator[Orders]:
    """Calls that return their input."""
    sides = Sides(functions, "identity", containers)

    def mini(count: int) -> Result:
        return sides.timed(lambda: sides.mini.map(sides.function, range(count)), [*range(count)])

    def raw(count: int) -> Result:
        return sides.timed(lambda: sides.raw.map(range(count)), [*range(count)])

    with sides.running():
        for warm_up in (mini, raw):
            warm_up(100 * containers)
        yield {"mini": mini, "raw": raw}


@contextmanager
def slow(functions: Any, containers: int) -> Iterator[Orders]:
    """Calls that sleep."""
    sides = Sides(functions, "sleep", containers)

    def mini(seconds: float, count: int) -> Result:
        inputs = [seconds] * count
        return sides.timed(lambda: sides.mini.map(sides.function, inputs), inputs)

    def raw(seconds: float, count: int) -> Result:
        inputs = [seconds] * count
        return sides.timed(lambda: sides.raw.map(inputs), inputs)

    with sides.running():
        for warm_up in (mini, raw):
            warm_up(0.01, 10 * containers)
        yield {"mini": mini, "raw": raw}


@contextmanager
def single(functions: Any, containers: int) -> Iterator[Orders]:
    """One call after the other."""
    sides = Sides(functions, "identity", containers)

    def mini(seconds: float) -> Result:
        sides.settle()
        return latencies(lambda: sides.mini.run(sides.function, 7), seconds)

    def raw(seconds: float) -> Result:
        sides.settle()
        return latencies(lambda: sides.raw.remote(7), seconds)

    with sides.running():
        yield {"mini": mini, "raw": raw}


@contextmanager
def constant(functions: Any, containers: int) -> Iterator[Orders]:
    """Calls that all have the same large argument, which is another one each time."""
    sides = Sides(functions, "size", containers)

    def mini(count: int) -> Result:
        data, expected = os.urandom(CONSTANT_BYTES), [x + CONSTANT_BYTES for x in range(count)]
        return sides.timed(
            lambda: sides.mini.map(sides.function, range(count), kwargs={"data": data}), expected
        )

    def raw(count: int) -> Result:
        data, expected = os.urandom(CONSTANT_BYTES), [x + CONSTANT_BYTES for x in range(count)]
        return sides.timed(lambda: sides.raw.map(range(count), repeat(data)), expected)

    with sides.running():
        yield {"mini": mini, "raw": raw}


@contextmanager
def image(functions: Any, containers: int) -> Iterator[Orders]:
    """Whether the image, which is built, is up to date. Each time it is asked from the start."""
    builder = modal.App.lookup("benchmark-image", create_if_missing=True)

    def made() -> Result:
        begin = now()
        make_image()
        return {"seconds": now() - begin}

    def asked() -> Result:
        begin = now()
        make_image().build(builder)
        return {"seconds": now() - begin}

    def started() -> Result:
        begin = now()
        app = modal.App("benchmark-started")
        app.function(image=make_image(), include_source=False)(functions.identity)
        with app.run():
            seconds = now() - begin
        return {"seconds": seconds}

    asked()
    started()
    yield {"make_image": made, "ask": asked, "start": started}


SESSIONS = {"tiny": tiny, "slow": slow, "single": single, "constant": constant, "image": image}
