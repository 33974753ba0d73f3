"""What type checkers infer. mypy reads the assertions when it checks the tests; pytest runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import assert_type

import mini
import pytest


def double(x: int) -> int:
    return 2 * x


async def shout(text: str, mark: str = "!") -> str:
    return text.upper() + mark


def count(n: int) -> Iterator[int]:
    yield from range(n)


async def count_slowly(n: int) -> AsyncIterator[int]:
    for x in range(n):
        yield x


@pytest.fixture
def app(tmp_path: Path) -> Iterator[mini.LocalApparatus]:
    with mini.LocalApparatus("types", workers="inline", data_dir=tmp_path) as app:
        yield app


def test_calls_have_the_return_type_of_the_function(app: mini.LocalApparatus) -> None:
    assert assert_type(app.run(double, 2), int) == 4
    assert assert_type(app.run(shout, "a", mark="?"), str) == "A?"
    assert assert_type(asyncio.run(app.arun(double, 2)), int) == 4
    assert assert_type(asyncio.run(app.arun(shout, "a")), str) == "A!"


def test_maps_yield_the_return_type_of_the_function(app: mini.LocalApparatus) -> None:
    results = app.map(double, [1, 2])
    assert_type(results, Generator[int, None, None])
    assert list(results) == [2, 4]
    awaited = app.map(shout, ["a"])
    assert_type(awaited, Generator[str, None, None])
    assert list(awaited) == ["A!"]
    with_errors = app.map(double, [1], return_exceptions=True)
    assert_type(with_errors, Generator[int | BaseException, None, None])
    assert list(with_errors) == [2]
    streamed = app.stream(count, 2)
    assert_type(streamed, Generator[int, None, None])
    assert list(streamed) == [0, 1]


def test_the_async_twins_yield_the_same_types(app: mini.LocalApparatus) -> None:
    async def collect() -> tuple[list[int], list[str], list[int | BaseException], list[int], list[int]]:
        plain, awaited = app.amap(double, [1, 2]), app.amap(shout, ["a"])
        assert_type(plain, AsyncGenerator[int, None])
        assert_type(awaited, AsyncGenerator[str, None])
        with_errors = app.amap(double, [1], return_exceptions=True)
        assert_type(with_errors, AsyncGenerator[int | BaseException, None])
        streamed, streamed_async = app.astream(count, 2), app.astream(count_slowly, 2)
        assert_type(streamed, AsyncGenerator[int, None])
        assert_type(streamed_async, AsyncGenerator[int, None])
        return (
            [x async for x in plain],
            [x async for x in awaited],
            [x async for x in with_errors],
            [x async for x in streamed],
            [x async for x in streamed_async],
        )

    assert asyncio.run(collect()) == ([2, 4], ["A!"], [2], [0, 1], [0, 1])


def test_derived_apparatuses_keep_their_class(app: mini.LocalApparatus) -> None:
    assert_type(app.w(timeout=3), mini.LocalApparatus)
    assert_type(app.before_each(lambda: None), mini.LocalApparatus)


def test_wrong_arguments_are_found_before_anything_runs(app: mini.LocalApparatus) -> None:
    with pytest.raises(TypeError):
        app.run(double, "2", 3)  # type: ignore[call-overload]
