"""Large results, which come in memory that is used again: whatever is held stays as it is."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mini.LocalApparatus]:
    folder = tmp_path_factory.mktemp("slots")
    with mini.LocalApparatus("slots", max_workers=2, data_dir=folder) as app:
        yield app.w(progress=False)


def filled(value: int, size: int) -> Any:
    return np.full(size, value, dtype=np.uint8)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 3 * MIB), st.booleans(), st.booleans()), max_size=25),
    st.integers(0, 255),
)
def test_results_that_are_held_stay_as_they_are(
    app: mini.LocalApparatus, plan: list[tuple[int, bool, bool]], seed: int
) -> None:
    held: list[tuple[int, Any]] = []
    choose = random.Random(seed)
    values = [(seed + k) % 256 for k in range(len(plan))]
    sizes = [size for size, _, _ in plan]
    for k, result in enumerate(app.map(filled, values, sizes)):
        _, keep, scribble = plan[k]
        assert result.size == sizes[k]
        assert (result == values[k]).all()
        if scribble:
            result[:] = 255 - values[k]
            values[k] = 255 - values[k]
        if keep:
            held.append((values[k], result[: choose.randint(0, sizes[k])]))  # a part of it holds it, too
        elif held and choose.random() < 0.3:
            held.pop(choose.randrange(len(held)))
        del result
        for value, array in held:
            assert (array == value).all()


def test_every_kind_of_large_result(app: mini.LocalApparatus) -> None:
    def make(k: int) -> Any:
        data = bytes([k]) * (2 * MIB)
        return [
            data,
            bytearray(data),
            np.frombuffer(data, np.uint8),
            {"a": np.full((512, 1024), k), "b": "x" * MIB},
        ][k % 4]

    def is_all(k: int, result: Any) -> bool:
        if isinstance(result, dict):
            return bool((result["a"] == k).all()) and result["b"] == "x" * MIB
        return bool((np.frombuffer(result, np.uint8) == k).all())

    for k, result in enumerate(app.map(make, range(12))):
        assert type(result) is [bytes, bytearray, np.ndarray, dict][k % 4]
        assert is_all(k, result)


def test_arrays_are_aligned_and_writable(app: mini.LocalApparatus) -> None:
    for a, b in app.map(
        lambda k: (np.ones(200_001, np.uint8 if k % 2 else np.float64), np.ones(MIB)), range(6)
    ):
        assert a.flags.aligned
        assert b.flags.aligned
        b += 1
        assert (b == 2).all()


def test_results_outlive_their_workers(app: mini.LocalApparatus) -> None:
    def pid_and_array(k: int) -> tuple[int, Any]:
        return os.getpid(), np.full(MIB, k)

    results = list(app.map(pid_and_array, range(4)))
    for pid in {pid for pid, _ in results}:
        os.kill(pid, signal.SIGKILL)
    again = list(app.map(pid_and_array, range(10, 20)))
    assert {pid for pid, _ in results}.isdisjoint(pid for pid, _ in again)
    assert all((array == k).all() for k, (_, array) in enumerate(results))
    assert all((array == k).all() for k, (_, array) in enumerate(again, 10))


def open_files(_: int = 0) -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_they_cost_few_descriptors(app: mini.LocalApparatus) -> None:
    """One for each slot, of which each worker has four."""
    before = open_files(), max(app.map(open_files, range(8)))
    kept = [list(app.map(filled, [1] * 20, [3 * MIB] * 20)) for _ in range(3)]
    assert open_files() <= before[0] + 2 * 4
    assert max(app.map(open_files, range(8))) <= before[1] + 4
    assert sum(map(len, kept)) == 60


def test_a_forked_copy_keeps_the_results_that_it_has(app: mini.LocalApparatus) -> None:
    """The caller drops them and gets others, of which the copy sees nothing."""
    results = [np.asarray(r) for r in app.map(filled, [7, 8], [2 * MIB, 2 * MIB])]
    ready, go = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.read(ready, 1)
            code = 0 if [set(np.unique(r)) for r in results] == [{7}, {8}] else 2
        finally:
            os._exit(code)
    results[0][:] = 1
    results.clear()
    for k, result in enumerate(app.map(filled, range(100, 120), [2 * MIB] * 20), 100):
        assert (result == k).all()
    os.write(go, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(ready)
    os.close(go)
