"""MAP: many calls."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import itertools
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..capability import Capability
from ..errors import WorkerLost
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite, requires, when_declined
from .footprint import Footprint
from .probes import Gate, Heavy, Held, Tally
from .scripts import Scripts

__all__ = ["MapSuite"]

DEFAULT_WINDOW = 10_000
"""What the contract calls "some thousands"."""

Map = Callable[..., Iterator[Any]]

with_examples = settings(
    max_examples=30,
    deadline=None,
    database=None,
    # One apparatus serves all examples, and the classes of all backends share the test.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
    ],
)

GROUPINGS = st.fixed_dictionaries(
    {}, optional={"chunk": st.integers(1, 9) | st.just(500), "window": st.integers(1, 30)}
)
DEEDS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["list", "list", "number", "number", "array", "raise"]),
        st.sampled_from([0, 0, 0, 0, 0, 0.001, 0.006]),
    ),
    max_size=25,
)


class Watched:
    """Inputs that note how many of them are out at any moment."""

    def __init__(self, inputs: Iterable[Any]) -> None:
        self._inputs = iter(inputs)
        self.pulled = self.consumed = self.most_out = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        value = next(self._inputs)
        self.pulled += 1
        self.most_out = max(self.most_out, self.pulled - self.consumed)
        return value

    def consume(self, results: Iterator[Any], count: int | None = None) -> list[Any]:
        taken = []
        for result in itertools.islice(results, count):
            taken.append(result)
            self.consumed += 1
        return taken


class Abort(BaseException):
    """Not an Exception."""


def then_raise(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


class RaisesNext:
    def __init__(self, count: int, error: BaseException) -> None:
        self._left, self._error = count, error

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return self._left


def as_map(apparatus: Apparatus, how: str) -> Map:
    """`map`, or `amap` driven by an event loop of its own."""
    if how == "map":
        return apparatus.map

    def drive(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with asyncio.Runner() as runner:
            results = apparatus.amap(*args, **kwargs)

            async def step() -> Any:
                return await anext(results)

            try:
                while True:
                    try:
                        yield runner.run(step())
                    except StopAsyncIteration:
                        return
            finally:
                runner.run(results.aclose())

    return drive


both_maps = pytest.mark.parametrize("how", ["map", "amap"])


def outcome(value: Any) -> Any:
    """Something to compare results and exceptions by."""
    if isinstance(value, BaseException):
        return type(value).__name__, value.args
    return value.tolist() if isinstance(value, np.ndarray) else copy.deepcopy(value)


def started_in_all(apparatus: Apparatus, tally: Tally, patience: float) -> int:
    """How many calls of a map that was left have started, when no more do.

    A call may have begun while the word that it is not wanted any more was on its way to its worker.
    """

    def others() -> bool:
        before = len(tally.read())
        assert [apparatus.run(subjects.double, x) for x in range(20)] == [2 * x for x in range(20)]
        return len(tally.read()) == before

    probes.until(others, patience, "the end of the calls of a map that was left")
    return len(tally.read())


class MapSuite(Suite):
    """MAP: many calls."""

    # --- MAP-01 ---

    @both_maps
    def test_map_01_zips_and_stops_at_the_shortest(self, apparatus: Apparatus, how: str) -> None:
        """ "`map(fn, *iterables, kwargs=None)` zips the iterables and stops at the shortest, as `Executor.map` does;
        `kwargs` goes to every call."

        A failure means that inputs are paired, or kwargs passed, in another way than the core does.
        """
        map_ = as_map(apparatus, how)
        assert list(map_(lambda a, b, *, c: (a, b, c), range(3), "abcde", kwargs={"c": [0]})) == [
            (0, "a", [0]),
            (1, "b", [0]),
            (2, "c", [0]),
        ]
        assert list(map_(subjects.add, subjects.endless(), iter([5, 6]))) == [5, 7]
        assert list(map_(len, {"ab": 1, "c": 2})) == [2, 1]
        assert list(map_(subjects.total, np.ones((3, 2)))) == [2.0, 2.0, 2.0]

    @with_examples
    @given(lists=st.lists(st.lists(st.integers(), max_size=60), min_size=1, max_size=3), options=GROUPINGS)
    def test_map_01_as_the_builtin_map(
        self, apparatus: Apparatus, lists: list[list[int]], options: dict[str, int]
    ) -> None:
        """ "zips the iterables and stops at the shortest"

        A failure means that for some lengths and groupings an input is lost, doubled or paired wrongly.
        """

        def collect(*args: int) -> list[int]:
            return list(args)

        results = apparatus.w(**options).map(collect, *map(iter, lists))
        assert list(results) == [list(row) for row in zip(*lists, strict=False)]

    # --- MAP-02 ---

    @both_maps
    def test_map_02_results_come_as_they_are_ready(
        self, apparatus: Apparatus, how: str, tally: Tally, gate: Gate
    ) -> None:
        """ "It returns an iterator; results come as they are ready, not after the last call."

        A failure with Unopened means that the first result was held back until a later call had ended.
        """

        def call(number: int) -> int:
            if number:
                gate.wait()
            return number

        results = as_map(apparatus, how)(call, range(3))
        assert iter(results) is results
        assert next(results) == 0
        gate.open()
        assert list(results) == [1, 2]

    @both_maps
    def test_map_02_also_while_inputs_come_slowly(self, apparatus: Apparatus, how: str) -> None:
        """ "results come as they are ready, not after the last call"

        A failure means that results wait until a slow iterator has no more inputs, or has filled the window.
        """
        pulled = []

        def inputs() -> Iterator[int]:
            for number in range(500):
                pulled.append(number)
                time.sleep(0.03)
                yield number

        results: Any = as_map(apparatus, how)(subjects.double, inputs())
        with contextlib.closing(results):
            assert [next(results) for _ in range(3)] == [0, 2, 4]
            assert len(pulled) < 500

    def test_map_02_also_from_the_midst_of_a_group(self, apparatus: Apparatus, gate: Gate) -> None:
        """ "results come as they are ready, not after the last call"

        A failure with Unopened means that results of tiny calls wait for a slow call that is grouped with them. A
        worker has to hand out what it has when a call takes long.
        """
        slow = 5000

        def call(number: int) -> int:
            if number == slow:
                gate.wait()
            return number

        # Nothing can be handed out while the calling thread itself runs a call, and so not in the midst of its group.
        alone = apparatus.run(probes.where) == probes.where()
        results = apparatus.w(chunk=1 if alone else None).map(call, range(slow + 300))
        before = list(itertools.islice(results, slow))
        gate.open()
        assert [*before, *results] == list(range(slow + 300))

    @pytest.mark.parametrize("chunk", [1, None])
    def test_map_02_no_call_waits_behind_a_slow_one(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, chunk: int | None
    ) -> None:
        """ "results come as they are ready, not after the last call"

        A failure with Unopened means that a call was given to a worker ahead of time, that the one before it took long,
        and that it waited there while another worker had nothing to do. It has to be taken back.
        """
        slow, count = 200, 400

        def call(number: int) -> int:
            if number == slow:
                gate.wait()
            return number

        def meet(number: int) -> bool:
            tally.add(number)
            with contextlib.suppress(probes.Unopened):
                probes.until(lambda: len(tally.read()) == 2, 1)
            return len(tally.read()) == 2

        # A backend that runs one call at a time has nobody who could take it.
        together = all([*apparatus.w(chunk=1).map(meet, range(2))])
        # Nothing can be handed out while the calling thread itself runs a call, and so not in the midst of its group.
        alone = apparatus.run(probes.where) == probes.where()
        results = apparatus.w(chunk=1 if alone else chunk).map(call, range(count), ordered=False)
        before = list(itertools.islice(results, count - 1 if together else slow))
        gate.open()
        assert sorted([*before, *results]) == list(range(count))

    def test_map_02_from_endless_inputs(self, apparatus: Apparatus) -> None:
        """ "results come as they are ready, not after the last call"

        A failure means that all inputs are read before the first result comes. (A list of the inputs is no good.)
        """
        results = apparatus.map(subjects.double, subjects.endless())
        assert list(itertools.islice(results, 3)) == [0, 2, 4]
        results.close()

    # --- MAP-03 ---

    @both_maps
    def test_map_03_results_keep_input_order(
        self, apparatus: Apparatus, how: str, tally: Tally, gate: Gate
    ) -> None:
        """ "Results keep the order of the inputs."

        A failure means that results are handed out as they arrive although `ordered` is true.
        """
        one_by_one = apparatus.w(chunk=1)
        results = as_map(one_by_one, how)(
            subjects.first_waits, range(20), kwargs={"tally": tally, "gate": gate, "seconds": 0.3}
        )
        assert list(results) == list(range(20))
        assert sorted(map(int, tally.read())) == list(range(20))

    @both_maps
    def test_map_03_unordered_as_they_finish(
        self, apparatus: Apparatus, how: str, tally: Tally, gate: Gate
    ) -> None:
        """ "With `ordered=False` they come as they finish."

        A failure means that a result that is ready waits for one before it.
        """
        results = as_map(apparatus.w(chunk=1), how)(
            subjects.first_waits,
            range(5),
            kwargs={"tally": tally, "gate": gate, "seconds": 1},
            ordered=False,
        )
        first = next(results)
        gate.open()
        rest = list(results)
        # A backend that runs one call at a time finishes call 0 first, others do not.
        assert first == int(tally.read()[0])
        assert sorted([first, *rest]) == list(range(5))

    # --- MAP-04 ---

    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("window", [1, 2, 7, 100])
    def test_map_04_at_most_window_inputs_are_out(
        self, apparatus: Apparatus, window: int, ordered: bool
    ) -> None:
        """ "at most `window` inputs […] are in flight or waiting to be consumed"

        A failure means that inputs are pulled ahead of what `window` allows.
        """
        inputs = Watched(range(400))
        results = apparatus.w(window=window).map(subjects.double, inputs, ordered=ordered)
        assert sorted(inputs.consume(results)) == [2 * x for x in range(400)]
        assert inputs.most_out <= window

    @both_maps
    def test_map_04_endless_inputs(self, apparatus: Apparatus, how: str) -> None:
        """ "Inputs are pulled lazily. A generator of any length, also an endless one, may be passed; at most `window`
        inputs (default: a few groups per worker, at most some thousands) are in flight or waiting to be consumed."

        A failure means that the inputs are pulled without end or far ahead of the results.
        """
        inputs = Watched(subjects.endless())
        results = as_map(apparatus, how)(subjects.double, inputs)
        assert inputs.consume(results, 100) == [2 * x for x in range(100)]
        assert inputs.pulled <= 100 + DEFAULT_WINDOW
        results.close()  # type: ignore[attr-defined]

    def test_map_04_slow_calls_pull_few_inputs(self, apparatus: Apparatus) -> None:
        """ "default: a few groups per worker"

        A failure means that the default window does not depend on how long calls take: inputs may be large.
        """
        inputs = Watched(subjects.endless())
        results = apparatus.map(lambda _: time.sleep(0.02), inputs)
        inputs.consume(results, 10)
        assert inputs.most_out <= 40
        results.close()

    # --- MAP-05 ---

    @both_maps
    @pytest.mark.parametrize("inputs", ["list", "iterator", "second of two"])
    def test_map_05_empty_inputs_start_nothing(
        self, fresh: MakeApparatus, unused_name: str, how: str, inputs: str
    ) -> None:
        """ "An empty input gives an empty iterator and starts nothing: no worker, no cluster, no image."

        A failure means that the adapter starts its backend when it is asked for a map rather than for the first call.
        """
        given: dict[str, list[Any]] = {
            "list": [[]],
            "iterator": [iter(())],
            "second of two": [[1, 2], iter(())],
        }
        apparatus = fresh(unused_name)
        before = Footprint.now()
        results = as_map(apparatus, how)(subjects.add, *given[inputs])
        assert list(results) == []
        assert Footprint.now().new_since(before) == []

    # --- MAP-06 ---

    @both_maps
    def test_map_06_raises_at_its_place(self, apparatus: Apparatus, how: str) -> None:
        """ "The first call that raises, in the order results are handed out, raises at that place"

        A failure means that results before the error are lost, or that the error comes late or twice.
        """

        def call(number: int) -> int:
            if number in (3, 5):
                raise LookupError(f"call {number}")
            return number

        results = as_map(apparatus, how)(call, range(10))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(LookupError, match="call 3"):
            next(results)
        assert list(results) == []
        assert apparatus.run(subjects.double, 2) == 4

    @pytest.mark.parametrize("ordered", [True, False])
    def test_map_06_what_has_not_started_is_dropped(
        self, apparatus: Apparatus, shared_dir: Path, gate: Gate, ordered: bool
    ) -> None:
        """ "calls not yet started are dropped"

        A failure means that a map which has failed goes on working.
        """
        started, ended = Tally(str(shared_dir / "started")), Tally(str(shared_dir / "ended"))
        kwargs = {"started": started, "ended": ended, "held": Held(str(shared_dir / "held")), "gate": gate}
        results = apparatus.w(chunk=1).map(
            subjects.fail_beside, range(300), kwargs={**kwargs, "failing": 0}, ordered=ordered
        )
        with pytest.raises(LookupError, match="call 0"):
            list(results)
        gate.open()
        assert [apparatus.run(subjects.double, 2) for _ in range(20)] == [4] * 20
        assert len(started.read()) < 20

    def test_map_06_calls_before_it_are_not_cancelled(
        self, apparatus: Apparatus, shared_dir: Path, gate: Gate
    ) -> None:
        """ "The first call that raises, in the order results are handed out, raises at that place"

        A failure means that an error which arrives early takes calls with it whose results come first.
        """
        started, ended = Tally(str(shared_dir / "started")), Tally(str(shared_dir / "ended"))
        kwargs = {"started": started, "ended": ended, "held": Held(str(shared_dir / "held"))}
        gate.open()
        results = apparatus.w(chunk=1).map(
            subjects.fail_beside, range(2), kwargs={**kwargs, "failing": 1, "gate": gate}
        )
        assert next(results) == 0
        with pytest.raises(LookupError, match="call 1"):
            next(results)

    @requires(Capability.CANCEL_RUNNING)
    def test_map_06_running_calls_are_cancelled(
        self, apparatus: Apparatus, shared_dir: Path, gate: Gate, patience: float
    ) -> None:
        """ "running ones cancelled where the backend can"

        A failure means that the backend declares `cancel_running`, and lets calls run on whose results nobody wants.
        """
        started, ended = Tally(str(shared_dir / "started")), Tally(str(shared_dir / "ended"))
        held = Held(str(shared_dir / "held"))
        kwargs = {"failing": 0, "started": started, "ended": ended, "held": held, "gate": gate}
        results = apparatus.w(chunk=1).map(subjects.fail_beside, range(2), kwargs=kwargs)
        with pytest.raises(LookupError, match="call 0"):
            next(results)
        probes.until(held.free, patience / 2, "the end of the running call")
        gate.open()
        assert apparatus.run(subjects.double, 2) == 4
        assert ended.read() == []

    @when_declined(test_map_06_running_calls_are_cancelled)
    def _map_06_running_calls_end_by_themselves(
        self, apparatus: Apparatus, shared_dir: Path, gate: Gate, patience: float
    ) -> None:
        started, ended = Tally(str(shared_dir / "started")), Tally(str(shared_dir / "ended"))
        held = Held(str(shared_dir / "held"))
        kwargs = {"failing": 0, "started": started, "ended": ended, "held": held, "gate": gate}
        with pytest.raises(LookupError, match="call 0"):
            next(apparatus.w(chunk=1).map(subjects.fail_beside, range(2), kwargs=kwargs))
        both = len(started.read()) == 2
        gate.open()
        assert apparatus.run(subjects.double, 2) == 4
        if both:
            ended.wait_for(1, patience)

    @both_maps
    def test_map_06_return_exceptions(self, apparatus: Apparatus, how: str) -> None:
        """ "With `return_exceptions=True` the exception is a result like any other."

        A failure means that exceptions are raised, or lost, although they were asked for as results.
        """

        def call(number: int) -> int:
            if number % 3 == 0:
                raise LookupError(number)
            return number

        results = list(as_map(apparatus, how)(call, range(200), return_exceptions=True))
        expected = [("LookupError", (n,)) if n % 3 == 0 else n for n in range(200)]
        assert [outcome(result) for result in results] == expected

    # --- MAP-07 ---

    @pytest.mark.parametrize("how", ["close", "break", "garbage collection"])
    def test_map_07_leaving_early_cancels_what_has_not_started(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, patience: float, how: str
    ) -> None:
        """ "Closing the iterator early (`break`, `close()`, garbage collection) cancels what has not started and leaves
        the apparatus usable."

        A failure means that the calls of a map which nobody reads any more are still started.
        """

        def call(number: int, tally: Tally, gate: Gate) -> int:
            if number:
                subjects.note_and_wait(number, tally, gate)
            return number

        kwargs = {"tally": tally, "gate": gate}
        results = apparatus.w(chunk=1).map(call, subjects.endless(), kwargs=kwargs)
        if how == "break":
            for result in results:
                assert result == 0
                break
            results.close()
        else:
            assert next(results) == 0
        if how == "close":
            results.close()
        del results
        gc.collect()
        gate.open()
        assert started_in_all(apparatus, tally, patience) < 10

    def test_map_07_also_within_a_group(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, patience: float
    ) -> None:
        """ "cancels what has not started"

        A failure means that a worker goes on with the rest of a group that nobody wants. It has to be told.
        """
        tiny = 5000

        def call(number: int, tally: Tally, gate: Gate) -> int:
            if number >= tiny:
                subjects.note_and_wait(number, tally, gate)
            return number

        alone = apparatus.run(probes.where) == probes.where()
        one_by_one = apparatus.w(chunk=1 if alone else None)
        results = one_by_one.map(call, range(2 * tiny), kwargs={"tally": tally, "gate": gate})
        assert list(itertools.islice(results, tiny)) == list(range(tiny))
        with contextlib.suppress(probes.Unopened):  # a worker that is the calling thread does not go ahead
            tally.wait_for(1, min(1, patience))
        results.close()
        with contextlib.suppress(probes.Unopened):  # word of it may take a moment to reach the workers
            tally.wait_for(3, patience / 50)
        gate.open()
        assert started_in_all(apparatus, tally, patience) <= 2

    def test_map_07_its_results_are_not_taken_for_others(
        self, apparatus: Apparatus, tally: Tally, gate: Gate
    ) -> None:
        """ "leaves the apparatus usable"

        A failure means that results of calls which ended after their map was closed turn up in the next one.
        """

        def call(which: str, number: int, tally: Tally, gate: Gate) -> tuple[str, int]:
            if which == "old" and number:
                subjects.note_and_wait(number, tally, gate)
            return which, number

        kwargs = {"tally": tally, "gate": gate}
        old = apparatus.w(chunk=1).map(partial(call, "old"), subjects.endless(), kwargs=kwargs)
        assert next(old) == ("old", 0)
        old.close()
        new = apparatus.map(partial(call, "new"), range(500), kwargs=kwargs)
        gate.open()
        assert list(new) == [("new", number) for number in range(500)]
        for _ in range(20):
            tiny = apparatus.map(subjects.double, subjects.endless())
            assert list(itertools.islice(tiny, 10)) == [2 * x for x in range(10)]
            tiny.close()
            assert list(apparatus.map(subjects.add, range(10), [100] * 10)) == list(range(100, 110))

    # --- MAP-08 ---

    def test_map_08_amap_is_an_async_iterator(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`amap` is the same as an async iterator"

        A failure with Unopened means that `amap` blocks the event loop while it waits.
        """

        async def main() -> list[str]:
            async def open_when_started() -> None:
                await asyncio.to_thread(gate.wait)
                gate2.open()

            task = asyncio.create_task(open_when_started())
            results = [result async for result in apparatus.amap(subjects.pass_gate, [gate], [gate2])]
            await task
            return results

        assert asyncio.run(main()) == ["through"]

    @pytest.mark.parametrize("how", ["break", "aclose", "cancelled task"])
    def test_map_08_leaving_early_cleans_up(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, patience: float, how: str
    ) -> None:
        """ "leaving `async for` early does the same clean-up"

        A failure means that the calls of an `amap` that nobody reads any more are still started.
        """
        kwargs = {"tally": tally, "gate": gate}

        def call(number: int, tally: Tally, gate: Gate) -> int:
            if number:
                subjects.note_and_wait(number, tally, gate)
            return number

        async def take(results: AsyncIterator[int]) -> None:
            async for result in results:
                if result == 0 and how != "cancelled task":
                    break

        async def main() -> None:
            results = apparatus.w(chunk=1).amap(call, subjects.endless(), kwargs=kwargs)
            if how == "cancelled task":
                task = asyncio.create_task(take(results))
                await asyncio.to_thread(tally.wait_for, 1, patience)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            elif how == "aclose":
                async with aclosing(results):
                    await take(results)
            else:
                await take(results)
            del results
            gc.collect()
            await asyncio.sleep(0)  # the loop closes generators that were dropped

        asyncio.run(main())
        gate.open()
        assert started_in_all(apparatus, tally, patience) < 10

    # --- MAP-09 ---

    @both_maps
    def test_map_09_errors_of_the_inputs_arrive_unchanged(self, apparatus: Apparatus, how: str) -> None:
        """ "An exception raised by an input iterator reaches the caller unchanged."

        A failure means that the error is wrapped, has notes, or comes before the results of the inputs before it.
        """
        map_, error = as_map(apparatus, how), LookupError("no more")
        for count in (0, 1, 50):
            for inputs in (
                [then_raise(count, error)],
                [RaisesNext(count, error)],
                [range(100), RaisesNext(count, error)],
            ):
                results = map_(lambda *row: len(row), *inputs)
                seen = list(itertools.islice(results, count))
                with pytest.raises(LookupError) as raised:
                    next(results)
                assert raised.value is error
                assert not getattr(error, "__notes__", [])
                assert seen == [len(inputs)] * count

    @both_maps
    def test_map_09_also_those_that_are_no_exception(self, apparatus: Apparatus, how: str) -> None:
        """ "An exception raised by an input iterator reaches the caller unchanged."

        A failure means that a BaseException of the inputs is lost, or leaves the apparatus unusable. It need not wait
        for the results of the inputs before it.
        """
        error = Abort("stop")
        for count in (0, 1, 50):
            with pytest.raises(Abort) as raised:
                list(as_map(apparatus, how)(subjects.double, then_raise(count, error)))
            assert raised.value is error
            assert apparatus.run(subjects.double, 4) == 8

    # --- MAP-10 ---

    @pytest.mark.parametrize("where", ["kwargs", "closure", "bound method"])
    @pytest.mark.parametrize("chunk", [1, None])
    def test_map_10_large_constants_travel_once(
        self, apparatus: Apparatus, shared_dir: Path, chunk: int | None, where: str
    ) -> None:
        """ "A large object in `kwargs`, or closed over by `fn`, is sent to each worker at most once per map, not once
        per call."

        A failure means that the function and its constants are sent along with every group of calls.
        """
        packed, unpacked = Tally(str(shared_dir / "packed")), Tally(str(shared_dir / "unpacked"))
        heavy = Heavy(packed, unpacked, bytes(1_000_000))
        app = apparatus.w(chunk=chunk)
        if where == "kwargs":
            results = app.map(subjects.use, range(100), kwargs={"heavy": heavy})
        elif where == "closure":
            results = app.map(lambda x: subjects.use(x, heavy), range(100))
        else:
            results = app.map(partial(subjects.use, heavy=heavy), range(100))
        assert list(results) == [1_000_000 + x for x in range(100)]
        assert len(packed.read()) <= 2
        assert max(Counter(unpacked.read()).values()) == 1, "a worker unpacked it more than once"
        assert len(unpacked.read()) <= 2

    # --- MAP-11 ---

    def test_map_11_tiny_calls_cost_less_than_a_round_trip_each(self, apparatus: Apparatus) -> None:
        """ "Tiny calls are grouped so that the cost of a call is not a round trip each"

        A failure means that every call travels alone: perhaps `room()` says too little, or groups are taken apart.
        """
        assert list(apparatus.map(subjects.double, range(2000))) == [2 * x for x in range(2000)]  # warm
        grouped, alone = [], []
        for _ in range(7):
            began = time.perf_counter()
            list(apparatus.map(subjects.double, range(3000)))
            grouped.append((time.perf_counter() - began) / 3000)
            began = time.perf_counter()
            list(apparatus.w(chunk=1).map(subjects.double, range(100)))
            alone.append((time.perf_counter() - began) / 100)
        assert statistics.median(grouped) < statistics.median(alone) / 2

    @with_examples
    @given(deeds=DEEDS, options=GROUPINGS, ordered=st.booleans(), keep_going=st.booleans())
    def test_map_11_grouping_is_invisible(
        self,
        apparatus: Apparatus,
        deeds: list[tuple[int, str, float]],
        options: dict[str, int],
        ordered: bool,
        keep_going: bool,
    ) -> None:
        """ "grouping changes no result, no order, no error and no count of attempts"

        A failure means that calls which travel together see each other's objects, or that an error of one of them hits
        another.
        """
        pool: list[list[Any]] = [[], ["a"], ["b", ["c"]]]
        expected = []
        for which, what, _ in deeds:
            try:
                expected.append(outcome(subjects.act(copy.deepcopy(pool[which]), what, 0)))
            except LookupError as exc:
                expected.append(outcome(exc))
                if not keep_going:
                    break
        results = apparatus.w(**options).map(
            subjects.act,
            # The same few lists again and again: each call has to get one of its own.
            [pool[which] for which, _, _ in deeds],
            [what for _, what, _ in deeds],
            [pause for _, _, pause in deeds],
            ordered=ordered,
            return_exceptions=keep_going,
        )
        seen = []
        try:
            for result in results:
                seen.append(outcome(result))
                if isinstance(result, list):
                    result.append("the consumer's own")
        except LookupError as exc:
            seen.append(outcome(exc))
        if ordered:
            assert seen == expected
        elif keep_going:
            assert sorted(map(repr, seen)) == sorted(map(repr, expected))
        assert pool == [[], ["a"], ["b", ["c"]]]

    @pytest.mark.parametrize("chunk", [1, 3, None])
    def test_map_11_inputs_are_what_they_were_when_pulled(
        self, apparatus: Apparatus, chunk: int | None
    ) -> None:
        """ "grouping changes no result"

        A failure means that inputs are pulled together and packed later, so that a generator which goes on using an
        object it has handed out changes the inputs before.
        """

        def reusing() -> Iterator[tuple[list[int], Any]]:
            row, array = [0], np.zeros(2)
            for number in range(300):
                row[0] = number
                array += 1
                yield row, array

        results = apparatus.w(chunk=chunk).map(lambda pair: (pair[0][0], float(pair[1][0])), reusing())
        assert list(results) == [(number, number + 1.0) for number in range(300)]

    @pytest.mark.parametrize("chunk", [1, None])
    def test_map_11_attempts_do_not_depend_on_groups(
        self, apparatus: Apparatus, tally: Tally, chunk: int | None
    ) -> None:
        """ "grouping changes […] no count of attempts"

        A failure means that a whole group is run again when one of its calls is to be.
        """

        def call(number: int) -> int:
            tally.add(number)
            if number % 50 == 7:
                raise LookupError(number)
            return number

        results = list(apparatus.w(chunk=chunk, retries=2).map(call, range(600), return_exceptions=True))
        assert [n for n, result in enumerate(results) if isinstance(result, LookupError)] == list(
            range(7, 600, 50)
        )
        assert Counter(tally.read()) == {str(n): 3 if n % 50 == 7 else 1 for n in range(600)}

    # --- MAP-12 ---

    def test_map_12_unequal_lengths(self, apparatus: Apparatus) -> None:
        """ "Iterables of unequal length […] are all legal."

        A failure means that lengths are compared, or that the longest counts.
        """
        rows = apparatus.map(lambda *row: row, range(7), iter(range(5)), [0] * 1000, subjects.endless(1))
        assert list(rows) == [(x, x, 0, x + 1) for x in range(5)]

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_map_12_a_million_inputs(self, apparatus: Apparatus) -> None:
        """ "a million inputs […] are all legal"

        A failure means that something grows with the number of inputs, or that a call costs too much.
        """
        results = apparatus.map(subjects.double, iter(range(1_000_000)))
        assert sum(results) == 2 * sum(range(1_000_000))

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_map_12_results_of_100_mb(self, apparatus: Apparatus) -> None:
        """ "results of 100 MB are all legal"

        A failure means that a message of the backend has a limit; large outcomes have to travel in pieces or as files.
        """
        size = 100_000_000
        for result in apparatus.map(subjects.blob, [size, size]):
            assert len(result) == size
        array = apparatus.run(subjects.np_zeros, size // 8)
        assert array.nbytes == size
        assert list(apparatus.map(subjects.total, [array, array + 1])) == [0, size / 8]

    # --- MAP-13 ---

    @pytest.mark.parametrize("chunk", [1, None])
    def test_map_13_each_call_starts_once(
        self, apparatus: Apparatus, tally: Tally, chunk: int | None
    ) -> None:
        """ "Without `retries` a call starts at most once"

        A failure means that calls are run again although nobody asked for it; switch the backend's own retries off.
        """

        def call(number: int) -> int:
            tally.add(number)
            if number % 9 == 0:
                raise LookupError(number)
            return number

        results = list(apparatus.w(chunk=chunk).map(call, range(500), return_exceptions=True))
        assert len(results) == 500
        assert Counter(tally.read()) == {str(number): 1 for number in range(500)}

    @requires(Capability.KILL_WORKER)
    def test_map_13_one_by_one_also_when_a_worker_dies(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "a result that was computed is not computed again, whatever dies. With `chunk=1` this holds everywhere"

        A failure means that calls of a dead worker are run again that had ended, or the one that killed it.
        """
        results = list(
            apparatus.w(chunk=1).map(
                subjects.note_and_die,
                range(40),
                kwargs={"tally": tally, "deadly": 20},
                return_exceptions=True,
            )
        )
        assert [n for n, result in enumerate(results) if isinstance(result, WorkerLost)] == [20]
        assert results[:20] + results[21:] == [*range(20), *range(21, 40)]
        assert Counter(tally.read()) == {str(number): 1 for number in range(40)}

    @when_declined(test_map_13_one_by_one_also_when_a_worker_dies)
    def _map_13_a_worker_cannot_die_alone(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    @requires(Capability.KILL_WORKER, Capability.AT_MOST_ONCE_GROUPED)
    @pytest.mark.parametrize("when", ["in a call", "at any moment"])
    def test_map_13_grouped_also_when_a_worker_dies(
        self, apparatus: Apparatus, tally: Tally, when: str
    ) -> None:
        """ "Without `retries` a call starts at most once, and a result that was computed is not computed again,
        whatever dies."

        A failure means that the backend cannot tell which calls of a group a dead worker had finished: it has to keep a
        journal of the group where the worker's death does not reach it, or decline `at_most_once_grouped`.
        """
        fn: Any = subjects.note_and_die if when == "in a call" else subjects.note_and_die_later
        deadly, count = 3000, 6000
        kwargs = {"tally": tally, "deadly": deadly}
        results = list(apparatus.map(fn, range(count), kwargs=kwargs, return_exceptions=True))
        lost = [n for n, result in enumerate(results) if isinstance(result, WorkerLost)]
        if when == "in a call":
            assert lost == [deadly]
        assert len(lost) <= 1
        assert [n for n, result in enumerate(results) if result != n] == lost
        started = Counter(map(int, tally.read()))
        # The call that was lost may have been lost before it could say that it had started.
        assert started | Counter(lost) == Counter(range(count))

    @when_declined(test_map_13_grouped_also_when_a_worker_dies)
    def _map_13_grouped_calls_may_run_again(
        self,
        apparatus: Apparatus,
        tally: Tally,
        deadly: Callable[..., int],
        supports: Callable[[Capability], bool],
        scripts: Scripts,
    ) -> None:
        if not supports(Capability.KILL_WORKER):
            dies_with_its_worker(scripts)
            return
        kwargs = {"tally": tally, "deadly": 3000}
        results = list(apparatus.map(deadly, range(6000), kwargs=kwargs, return_exceptions=True))
        assert [n for n, result in enumerate(results) if result != n] == [3000]
        assert isinstance(results[3000], WorkerLost)
        again = [number for number, count in Counter(tally.read()).items() if count > 1]
        assert again, "no call was run again: declare at_most_once_grouped"


def dies_with_its_worker(scripts: Scripts) -> None:
    """Where `kill_worker` is declined, a worker that dies takes its caller with it."""
    script = scripts.start(
        "import os\n"
        "result = list(app.map(lambda x: os._exit(7), [1], return_exceptions=True))\n"
        "print('survived', result)\n"
    )
    assert script.wait(scripts.patience) == 7, f"the caller survived: declare kill_worker\n{script.words()}"
