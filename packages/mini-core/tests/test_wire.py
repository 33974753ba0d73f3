"""The wire format by itself: what goes in comes out, as values, in frames that any carrier can move."""

from __future__ import annotations

import asyncio
import linecache
import mmap
import pickle
import threading
import traceback
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini import RemoteError, SerializationError, wire
from mini.failure import Failure
from mini.journal import COLUMN_BYTES, FILE_BYTES, WORDS, Memory, saved_parts
from mini.output import Outbox
from mini.wire import Frames
from mini.worker import GroupHead, Program, ProgramHead, Worker

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner), max_leaves=8
)


def unpacked(frames: Frames) -> list[tuple[Any, ...]]:
    kind, rows = wire.unpack_rows(frames)
    return [wire.arguments(kind, row) for row in rows]


@given(st.lists(st.binary(max_size=200_000), max_size=5))
def test_frames_survive_being_one_block(frames: list[bytes]) -> None:
    assert [bytes(f) for f in wire.split_frames(wire.join_frames(frames))] == frames


@given(
    st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[values] * width), min_size=1, max_size=20)),
    st.data(),
)
def test_rows_survive_packing_and_slicing(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    packed = wire.pack_rows(rows)
    assert packed.count == len(rows)
    assert unpacked(packed.frames) == rows
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    assert unpacked(wire.slice_payload(packed.frames, start, stop)) == rows[start:stop]


def test_large_buffers_travel_beside_the_pickle_and_arrive_writable() -> None:
    arrays = [np.arange(100_000.0) + i for i in range(3)]
    packed = wire.pack_column(arrays)
    assert len(packed.frames) == 2 + 3
    block = wire.join_frames(wire.slice_payload(packed.frames, 1, 3))
    for (array,), original in zip(unpacked(wire.split_frames(block)), arrays[1:], strict=True):
        np.testing.assert_array_equal(array, original)
        array[0] = -1


def test_packing_stops_before_what_cannot_be_packed() -> None:
    packed = wire.pack_column([[1], [2], [threading.Lock()], [4]])
    assert unpacked(packed.frames) == [([1],), ([2],)]
    assert isinstance(packed.error, SerializationError)
    assert "args[0][0]" in str(packed.error)


class TwoArguments(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")
        self.left, self.right = left, right


class WithSlots(Exception):
    __slots__ = ("extra",)
    extra: list[int]


class OwnReduce(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, ("rebuilt",)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


def caught(raiser: Any) -> BaseException:
    try:
        raiser()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def send(exc: BaseException) -> BaseException:
    """As an exception of a call travels: pickled by the worker inside a failure, which is pickled too."""
    return pickle.loads(wire.dumps(Failure.of(exc))[0]).exception()  # type: ignore[no-any-return]


def raise_(exc: BaseException, cause: BaseException | None = None) -> None:
    raise exc from cause


@pytest.mark.parametrize(
    "original",
    [
        TwoArguments(1, 2),
        ValueError("a", 3),
        KeyError("missing"),
        FileNotFoundError(2, "no such file", "/there"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ImportError("no", name="module", path="/p"),
        ExceptionGroup("many", [ValueError(1), TwoArguments(3, 4)]),
        TimeoutError("mine"),
        RemoteError("T", "m", "t"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_keep_type_arguments_and_attributes(original: BaseException) -> None:
    original.add_note("a note")
    arrived = send(caught(lambda: raise_(original, OSError("cause"))))
    assert type(arrived) is type(original)
    assert arrived.args == original.args or isinstance(original, ExceptionGroup)
    assert str(arrived) == str(original)
    assert {k: v for k, v in vars(arrived).items() if k != "lock"} == vars(original)
    assert isinstance(arrived.__cause__, OSError)
    assert [f.name for f in traceback.extract_tb(arrived.__traceback__)][-1] == "raise_"


def test_slots_arrive_too() -> None:
    original = WithSlots("a")
    original.extra = [1]
    original.plain = 2  # type: ignore[attr-defined]
    arrived = send(original)
    assert isinstance(arrived, WithSlots)
    assert (arrived.extra, arrived.plain, arrived.args) == ([1], 2, ("a",))  # type: ignore[attr-defined]


def test_a_group_keeps_its_members() -> None:
    arrived = send(ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [TwoArguments(3, 4)])]))
    assert isinstance(arrived, ExceptionGroup)
    inner = arrived.exceptions[1]
    assert isinstance(inner, ExceptionGroup)
    assert isinstance(inner.exceptions[0], TwoArguments)
    assert inner.exceptions[0].right == 4


def test_a_class_with_a_reduction_of_its_own_is_taken_at_its_word() -> None:
    assert send(OwnReduce("original")).args == ("rebuilt",)


def test_context_cycles_survive() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    arrived = send(first)
    assert arrived.__context__ is not None
    assert arrived.__context__.__context__ is arrived


@pytest.mark.parametrize(
    "exc",
    [
        Unpicklable(),
        StopIteration(3),
        SystemExit(2),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_cannot_be_raised_as_itself_arrives_as_a_description(exc: BaseException) -> None:
    arrived = send(caught(lambda: raise_(exc)))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith(type(exc).__name__)
    assert arrived.message == str(exc)
    assert "in raise_" in arrived.traceback


def test_a_deep_traceback_is_cut_in_the_middle() -> None:
    def deep(n: int) -> None:
        deep(n + 1)

    arrived = send(caught(lambda: deep(0)))
    assert isinstance(arrived, RecursionError)
    assert len(traceback.extract_tb(arrived.__traceback__)) <= 200


def test_code_that_travels_by_value_keeps_the_name_of_its_file() -> None:
    """Whatever cloudpickle makes of it: without, tracebacks of scripts and notebooks show no source."""

    def outer() -> Any:
        return lambda: None

    data, buffers = wire.dumps(outer)
    arrived = wire.loads(data, buffers=buffers)
    assert arrived is not outer
    assert arrived.__code__ == outer.__code__
    assert arrived.__code__.co_filename == arrived().__code__.co_filename == __file__


def test_source_lines_travel_for_files_that_are_not_here() -> None:
    code = "def far():\n    raise ValueError('from far away')\n"
    linecache.cache["/only/there.py"] = (len(code), None, code.splitlines(keepends=True), "/only/there.py")
    scope: dict[str, Any] = {}
    exec(compile(code, "/only/there.py", "exec"), scope)
    failure = pickle.loads(pickle.dumps(Failure.of(caught(scope["far"]))))
    del linecache.cache["/only/there.py"]
    text = "".join(traceback.format_exception(failure.exception()))
    assert "raise ValueError('from far away')" in text


# --- the worker and its journal ---


class Host:
    """Takes parts as a caller does."""

    def __init__(self) -> None:
        self.parts: list[Frames] = []
        self.ended = False

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        if frames:
            self.parts.append([bytes(f) for f in frames])
        self.ended = elapsed is not None

    def take_credit(self, flow: str) -> bool:
        return True

    def outcomes(self) -> list[Any]:
        return [value for part in self.parts for value in wire.unpack_part(part)[0]]


def work(calls: Sequence[Any], fn: Any) -> tuple[Host, list[Any]]:
    """Run `fn` over `calls` in one group. Return the host and, for each call, what could have been saved before it."""
    host = Host()
    words = memoryview(bytearray(8 * WORDS)).cast("Q")
    memory = Memory(words, memoryview(bytearray(COLUMN_BYTES)), mmap.mmap(-1, FILE_BYTES))
    saved: list[Any] = []

    def watched(i: int) -> Any:
        sent = host.outcomes()
        part = saved_parts(memory)
        saved.append(sent + (wire.unpack_part(part)[0] if part else []))
        return fn(calls[i])

    worker = Worker(host, Outbox(lambda reports: None, shared=True), memory, process_wide=False)
    frames = wire.pack_program(lambda i: i, {}).frames
    program = Program(ProgramHead("f", "call", None, "a", None, 0), frames)
    program._call = watched
    payload = wire.pack_column(list(range(len(calls)))).frames
    worker.run_group(program, GroupHead(1, "f", 0, len(calls), 1), payload)
    assert host.ended
    return host, saved


outcomes = st.lists(
    atoms | values | st.sampled_from([2**80, "x" * 700_000, b"y" * 3_000_000, {"a": [1]}]), max_size=25
)


@settings(deadline=None)
@given(outcomes)
def test_whatever_the_outcomes_are_they_arrive_and_are_saved_before_the_next_call(calls: list[Any]) -> None:
    host, saved = work(calls, lambda value: value)
    assert host.outcomes() == calls
    for i, there in enumerate(saved):
        assert there == calls[:i]
        assert [type(x) for x in there] == [type(x) for x in calls[:i]]


def test_an_outcome_that_looks_like_a_blank_cell_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mini.journal.os", SimpleNamespace(urandom=bytes))  # zeros
    host, saved = work([0, 1, 0, 0], lambda value: value)
    assert host.outcomes() == [0, 1, 0, 0]
    assert all(there == [0, 1, 0, 0][: len(there)] for there in saved)


def test_large_arrays_and_failures_keep_their_places() -> None:
    def fn(x: int) -> Any:
        if x % 5 == 2:
            raise KeyError(x)
        if x % 5 == 3:
            return threading.Lock()
        return np.full(50_000, x) if x % 5 == 4 else x

    host, _ = work(list(range(50)), fn)
    for i, outcome in enumerate(host.outcomes()):
        if i % 5 == 2:
            assert isinstance(outcome.exception(), KeyError)
        elif i % 5 == 3:
            assert isinstance(outcome.exception(), SerializationError)
        elif i % 5 == 4:
            np.testing.assert_array_equal(outcome, np.full(50_000, i))
        else:
            assert outcome == i
