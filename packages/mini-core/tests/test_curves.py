"""The history of metrics: which points are kept, that both sides keep the same, and what comes back from a store."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mini.curves import MOST_CURVES, MOST_POINTS, Curve, Curves, Point, Recorder, follow, pack, thin, unpack

numbers = st.floats() | st.integers(-(2**60), 2**60)


def points(count: int) -> list[Point]:
    return [Point(n, n / 10, -n) for n in range(count)]


@given(st.integers(2, 9), st.integers(0, 300))
def test_of_many_points_few_are_kept_evenly_with_the_first_and_the_last(most: int, count: int) -> None:
    curve = Curve(most)
    given = points(count)
    for point in given:
        curve.add(point)
    assert curve.count == count
    assert len(curve.points) <= most
    assert curve.points == [*given[:: curve.stride], *([] if curve.last is None else [given[-1]])]
    if given:
        assert (curve.points[0], curve.points[-1]) == (given[0], given[-1])
    if count <= most - 1:
        assert curve.points == given
    else:
        assert len(curve.kept) >= (most - 1) // 2  # it is not thinned for nothing


@given(st.lists(st.integers(0, 700), max_size=6))
def test_who_follows_has_the_same_points_however_often_it_is_told(bursts: list[int]) -> None:
    recorder, followed, whole = Recorder(0.0, lambda: 1.0), Curves(), Curve()
    number = 0
    for burst in bursts:
        for _ in range(burst):
            recorder.emit({"loss": -number})
            whole.add(Point(number + 1, 1.0, -number))
            number += 1
        news = recorder.news()
        assert sum(len(new) for _, _, new, _ in news.values()) <= MOST_POINTS
        follow(followed, news)
    assert recorder.news() == {}
    if number:
        assert followed["loss"].points == whole.points
        assert (followed["loss"].stride, followed["loss"].count) == (whole.stride, number)


@given(st.lists(st.tuples(numbers, numbers), max_size=20), st.text())
def test_curves_survive_a_store(values: list[tuple[float, float]], name: str) -> None:
    curve = Curve()
    for at, (step, value) in enumerate(values):
        curve.add(Point(step, at / 8, value))
    data = pack({name: curve})
    json.loads(data, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert repr(unpack(data)) == repr({name: curve.points})  # the repr, because NaN is not itself
    assert unpack(None) == {}


@given(st.integers(0, 50), st.integers(2, 20))
def test_thinner_still(count: int, most: int) -> None:
    given = points(count)
    found = thin(given, most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    if given:
        assert (found[0], found[-1]) == (given[0], given[-1])


def told(*values: dict[str, Any]) -> dict[str, list[Point]]:
    recorder, curves = Recorder(0.0, lambda: 0.0), Curves()
    for value in values:
        recorder.emit(value)
        follow(curves, recorder.news())
    return {name: curve.points for name, curve in curves.items()}


def test_the_step_is_that_of_the_progress_or_else_a_count() -> None:
    now = 10.0
    recorder, curves = Recorder(10.0, lambda: now), Curves()
    recorder.emit({"loss": 1.0})
    recorder.progress(5)
    now = 11.5
    recorder.emit({"loss": 0.5, "rate": 3})
    recorder.progress("not a number")
    recorder.emit({"loss": 0.25})
    follow(curves, recorder.news())
    assert curves["loss"].points == [(1, 0.0, 1.0), (5, 1.5, 0.5), (3, 1.5, 0.25)]
    assert curves["rate"].points == [(5, 1.5, 3)]


def test_numbers_of_all_kinds_and_nothing_else() -> None:
    class Hostile:
        @property
        def shape(self) -> tuple[int, ...]:
            raise RuntimeError("no")

    class Almost:
        shape = ()

        def item(self) -> float:
            raise RuntimeError("not now")

    itself: dict[str, Any] = {"a": 1}
    itself["me"] = itself
    value = {
        "numpy": np.float32(0.5),
        "array": np.array(2),
        "whole": 10**400,
        "large": 2**60,
        "nan": math.nan,
        "flag": True,
        "numpy flag": np.bool_(True),
        "text": "1",
        "list": [1, 2],
        "vector": np.arange(2),
        "none": None,
        "hostile": Hostile(),
        "almost": Almost(),
        "in": {"a": 1, "b": {"c": 2.0}},
    }
    found = told(value, value)
    values = {name: [point.value for point in points] for name, points in found.items()}
    assert math.isnan(values.pop("nan")[0])
    assert values == {
        "numpy": [0.5, 0.5],
        "array": [2, 2],
        "large": [2.0**60] * 2,
        "in.a": [1, 1],
        "in.b.c": [2.0, 2.0],
    }
    assert set(told(itself)) >= {"a", "me.a"}


def test_a_last_value_that_turns_out_to_be_none_is_left_out() -> None:
    class Fickle:
        shape = ()
        calls = 0

        def item(self) -> Any:
            return "text"

    recorder, curves = Recorder(0.0), Curves()
    for number in range(MOST_POINTS):
        recorder.emit({"x": number})
    recorder.emit({"x": Fickle()})
    follow(curves, recorder.news())
    assert all(isinstance(point.value, int) for point in curves["x"].points)
    json.loads(pack(curves))


def test_there_are_only_so_many_curves() -> None:
    assert len(told({f"m{n}": n for n in range(10_000)})) == MOST_CURVES


def test_a_million_points_take_moments() -> None:
    recorder = Recorder(0.0)
    began = time.process_time()
    for number in range(1_000_000):
        recorder.emit({"loss": 1 / (number + 1)})
    assert time.process_time() - began < 20  # 2 s on a usual machine
    ((_, count, new, last),) = recorder.news().values()
    assert count == 1_000_000
    assert len(new) <= MOST_POINTS
    assert (last or new[-1])[2] == 1e-6
