"""MAP: many calls."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from mini import LocalApparatus
from mini.carrier import Carrier, Event, Lost, Outcomes, Task
from mini.local.inprocess import ThreadCarrier
from mini.local.pool import ProcessPool
from mini.options import Options

from .calls import Wrapping
from .registry import breaks


def _starred(fn: Callable[..., Any], row: tuple[Any, ...], **kwargs: Any) -> Any:
    return fn(*row, **kwargs)


@breaks("test_map_01_zips_and_stops_at_the_shortest[map]", says="argument 2 is longer than argument 1")
class StrictZip(LocalApparatus):
    """Wants iterables of equal length."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        if len(iterables) == 1:
            return super().map(fn, *iterables, **options)
        return super().map(functools.partial(_starred, fn), zip(*iterables, strict=True), **options)


@breaks("test_map_02_results_come_as_they_are_ready[map]", says="Unopened", patience=0.5)
class ResultsAtTheEnd(LocalApparatus):
    """Hands results out when all of them are there."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        results = super().map(fn, *iterables, **options)
        return (result for _ in range(1) for result in list(results))


@breaks("test_map_03_results_keep_input_order[map]", says=r"list\(range\(20\)\)")
class WrongOrder(LocalApparatus):
    """Hands results out as they come, whatever was asked for."""

    def map(self, fn: Any, /, *iterables: Any, ordered: bool = True, **options: Any) -> Any:
        return super().map(fn, *iterables, ordered=False, **options)


@breaks("test_map_03_unordered_as_they_finish[map]", says="first == int")
class AlwaysInOrder(LocalApparatus):
    """Does not know `ordered=False`."""

    def map(self, fn: Any, /, *iterables: Any, ordered: bool = True, **options: Any) -> Any:
        return super().map(fn, *iterables, ordered=True, **options)


@breaks("test_map_04_endless_inputs[map]", says="inputs were pulled of a generator that has no end")
class EagerMap(LocalApparatus):
    """Makes lists of the inputs, as `Executor.map` does."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        return super().map(fn, *map(list, iterables), **options)


@breaks("test_map_04_at_most_window_inputs_are_out[100-False]", says="most_out")
class NoWindow(LocalApparatus):
    """Has a window of its own size."""

    def _many(self, *args: Any) -> Any:
        flow, engine = super()._many(*args)
        flow.window = 6000
        return flow, engine


@breaks("test_map_05_empty_inputs_start_nothing[iterator-map]", says="new_since")
class WarmsUp(LocalApparatus):
    """Starts its workers when it is asked for a map."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        self.run(abs, -1)
        return super().map(fn, *iterables, **options)


@breaks("test_map_06_what_has_not_started_is_dropped[True]", says=r"len\(started.read\(\)\) < 20", patience=1)
class GoesOnAfterAnError(LocalApparatus):
    """Raises what a call raised and leaves the others to themselves."""

    def map(self, fn: Any, /, *iterables: Any, return_exceptions: bool = False, **options: Any) -> Any:
        results = super().map(fn, *iterables, return_exceptions=True, **options)
        if return_exceptions:
            return results
        return self._hand_out(results)

    def _hand_out(self, results: Iterator[Any]) -> Iterator[Any]:
        for result in results:
            if isinstance(result, BaseException):
                deque(results, 0)
                raise result
            yield result


@breaks("test_map_07_also_within_a_group", says=r"started_in_all\(.*\) <= 2")
class CannotTakeBack(LocalApparatus):
    """Its workers finish a group although nobody wants it any more."""

    def _open_carrier(self, options: Options) -> Carrier:
        class Threads(ThreadCarrier):
            def retract(self, task: Task) -> None:
                pass

        return Threads(options.max_workers or 2)


@breaks("test_map_07_its_results_are_not_taken_for_others", says=r"\('old', 1\)")
class Leftovers(LocalApparatus):
    """Has one queue for the results of all maps, and does not empty it when a map is left early."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left: deque[Iterator[Any]] = deque()

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        return self._hand_out(super().map(fn, *iterables, **options))

    def _hand_out(self, results: Iterator[Any]) -> Iterator[Any]:
        while self.left:
            yield from itertools.islice(self.left.popleft(), 1)
        try:
            yield from map(_same, results)
        except GeneratorExit:
            self.left.append(results)
            raise


def _same(result: Any) -> Any:
    return result  # a `map` between two generators keeps the outer one from closing the inner one


@breaks("test_map_08_amap_is_an_async_iterator", says="Unopened", patience=0.5)
class BlockingAmap(LocalApparatus):
    """Waits for results on the event loop."""

    async def amap(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        for result in self.map(fn, *iterables, **options):
            yield result


@breaks("test_map_09_errors_of_the_inputs_arrive_unchanged[map]", says="an input could not be made")
class WrapsErrorsOfInputs(LocalApparatus):
    """Says in its own words that the inputs failed."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        return super().map(fn, *map(self._watched, iterables), **options)

    def _watched(self, inputs: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from inputs
        except Exception as exc:
            raise RuntimeError("an input could not be made") from exc


def _with(fn: Callable[..., Any], kwargs: dict[str, Any], *row: Any) -> Any:
    return fn(*row, **kwargs)


@breaks("test_map_10_large_constants_travel_once[1-kwargs]", says=r"len\(packed.read\(\)\) <= 2")
class ConstantsWithEachCall(LocalApparatus):
    """Sends the keyword arguments of a map as a part of each of its inputs."""

    def map(self, fn: Any, /, *iterables: Any, kwargs: Any = None, **options: Any) -> Any:
        if not kwargs:
            return super().map(fn, *iterables, **options)
        return super().map(functools.partial(_with, fn), itertools.repeat(kwargs), *iterables, **options)


@breaks("test_map_11_tiny_calls_cost_less_than_a_round_trip_each", says="< ")
class OneByOne(LocalApparatus):
    """Never groups calls."""

    def _many(self, *args: Any) -> Any:
        flow, engine = super()._many(*args)
        flow.chunk = 1
        return flow, engine


def _twice(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return fn(*args, **kwargs)
    except Exception:
        return fn(*args, **kwargs)


@breaks("test_map_12_unequal_lengths", says="of the same length")
class ComparesLengths(LocalApparatus):
    """Wants iterables of equal length, as far as they have one."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        if len({len(inputs) for inputs in iterables if hasattr(inputs, "__len__")}) > 1:
            raise ValueError("the inputs are not of the same length")
        return super().map(fn, *iterables, **options)


@breaks("test_map_13_each_call_starts_once[None]", says="Counter")
class RetriesUnasked(Wrapping):
    """Leaves the backend's own retries on."""

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(_twice, fn)


@breaks("test_map_13_grouped_also_when_a_worker_dies[in a call]", says="Counter", workers="process")
class RunsTheGroupAgain(LocalApparatus):
    """Does not know what a dead worker had finished, and says that it does."""

    def _open_carrier(self, options: Options) -> Carrier:
        class Pool(ProcessPool):
            def poll(self, timeout: float | None) -> list[Event]:
                events = super().poll(timeout)
                dead = {event.group.id for event in events if isinstance(event, Lost)}
                return [
                    replace(event, running=None) if isinstance(event, Lost) and event.running != -1 else event
                    for event in events
                    if not (isinstance(event, Outcomes) and event.group.id in dead)
                ]

        return Pool(options.max_workers or 2, options.env or {})
