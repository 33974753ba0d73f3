"""The process that is a client of the emulator: Modal's own, which measures when it is told to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import modal

from ..common.clients import Orders, Result, latencies, serve_session, wait_for_containers
from . import program

now = time.perf_counter


def main(session: str, replies: int) -> None:
    serve_session(SESSIONS[session](), replies)


@contextmanager
def cold() -> Iterator[Orders]:
    """An app that runs, with a function that has no container."""
    with program.cold_app.run():

        def remote() -> Result:
            wait_for_containers(program.once, 0)
            begin = now()
            assert program.once.remote(7) == 7
            return {"seconds": now() - begin}

        yield {"remote": remote}


@contextmanager
def warm() -> Iterator[Orders]:
    """A function with one container that waits for a call."""
    client = modal.Client.from_env()  # the one that the app uses

    def hello(seconds: float) -> Result:
        return latencies(client.hello, seconds)

    def remote(seconds: float) -> Result:
        return latencies(lambda: program.identity.remote(7), seconds)

    with program.warm_app.run():
        assert program.identity.remote(7) == 7
        yield {"hello": hello, "remote": remote}


@contextmanager
def mapping() -> Iterator[Orders]:
    """A function with two containers that wait."""

    def inputs(count: int) -> Result:
        begin = now()
        results = list(program.mapped.map(range(count)))
        seconds = now() - begin
        assert results == list(range(count))
        return {"per_input": seconds / count, "inputs": count}

    with program.map_app.run():
        wait_for_containers(program.mapped, program.MAP_CONTAINERS)
        inputs(100 * program.MAP_CONTAINERS)
        yield {"map": inputs}


@contextmanager
def volumes() -> Iterator[Orders]:
    """A Volume of each version."""
    with modal.Volume.ephemeral(version=1) as first, modal.Volume.ephemeral(version=2) as second:
        known = {1: first, 2: second}

        def put(version: int, path: str) -> Result:
            begin = now()
            with known[version].batch_upload(force=True) as batch:
                batch.put_file(path, "file")
            return {"seconds": now() - begin}

        def get(version: int, path: str) -> Result:
            begin = now()
            with Path(path).open("wb") as file:
                file.writelines(known[version].read_file("file"))
            return {"seconds": now() - begin}

        yield {"put": put, "get": get}


@contextmanager
def apps() -> Iterator[Orders]:
    """Ephemeral apps, one after the other, each with one call."""

    def run(count: int) -> Result:
        begin = now()
        for x in range(count):
            with program.ephemeral_app.run():
                assert program.ephemeral.remote(x) == x
        return {"seconds": (now() - begin) / count}

    yield {"run": run}


@contextmanager
def idle() -> Iterator[Orders]:
    """A deployed app that has been called, and no client."""

    def deploy() -> Result:
        program.idle_app.deploy(name="benchmark-idle")
        return {}

    yield {"deploy": deploy}


SESSIONS = {"cold": cold, "warm": warm, "map": mapping, "volumes": volumes, "apps": apps, "idle": idle}
