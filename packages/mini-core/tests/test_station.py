"""A worker whose call forks: the copy goes on with the call and does nothing else."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini.conformance.footprint import alive
from pipe_adapter import PipeApparatus


@pytest.fixture(params=["local", "pipe"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mini.Apparatus]:
    """Workers that share their journals with the caller, and workers that share nothing."""
    data_dir = str(tmp_path / "data")
    make = mini.LocalApparatus if request.param == "local" else PipeApparatus
    with make("forks", max_workers=1, data_dir=data_dir).w(progress=False) as app:
        yield app


def assert_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_a_call_that_forks_is_answered_once(app: mini.Apparatus) -> None:
    def fork(i: int) -> tuple[int, int, int]:
        worker = os.getpid()
        print("before the fork")
        child = os.fork()
        print("after the fork")
        return worker, os.getpid(), child

    copies = []
    for worker, answering, child in app.map(fork, range(20)):
        assert worker == answering
        copies.append(child)
    assert len(set(copies)) == 20
    assert app.run(os.getpid) == worker
    assert_dead(copies)


def test_a_copy_ends_whatever_its_call_returns(app: mini.Apparatus, tmp_path: Path) -> None:
    """None has no cell in the journal, and an exception is saved in another way than a number."""

    def fork(result: object) -> object:
        worker = os.getpid()
        child = os.fork()
        path = tmp_path / f"{child or os.getpid()}"
        path.touch()
        if os.getpid() != worker and result == "raise":
            raise SystemExit
        return result

    results = [None, None, 1, 2, 1.5, "text", None, "raise", [1], b"x" * 3_000_000]
    assert list(app.map(fork, results)) == results
    assert_dead([int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()])
    assert len([path for path in tmp_path.iterdir() if path.name.isdigit()]) == len(results)


def test_a_stream_that_forks_comes_once(app: mini.Apparatus, tmp_path: Path) -> None:
    def items() -> Iterator[tuple[int, int]]:
        child = os.fork()
        for _ in range(500):
            yield os.getpid(), child
            (tmp_path / f"{os.getpid()} went on").touch()

    pids, children = zip(*app.stream(items), strict=True)
    assert set(pids) == {app.run(os.getpid)}
    assert len(pids) == 500
    assert_dead([children[0]])
    assert not (tmp_path / f"{children[0]} went on").exists()


def report(result: multiprocessing.SimpleQueue[int]) -> None:
    print("from the child")
    mini.emit_metrics(child=1)
    job = mini.current_job()
    assert job is not None
    result.put(job.index)


def test_a_process_that_a_call_forks_may_print_and_emit(app: mini.Apparatus) -> None:
    def call(i: int) -> tuple[int | None, int]:
        context = multiprocessing.get_context("fork")
        result: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
        process = context.Process(target=report, args=(result,))
        process.start()
        process.join()
        return process.exitcode, result.get()

    assert list(app.map(call, range(3))) == [(0, 0), (0, 1), (0, 2)]
