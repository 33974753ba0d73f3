"""RUN: one call."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import decimal
import fractions
import functools
import operator
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from ..capability import Capability
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite, requires, when_declined
from .footprint import Footprint
from .probes import Gate, Held, Tally
from .scripts import Scripts

__all__ = ["RunSuite"]


FUNCTIONS: dict[str, tuple[Callable[..., Any], Any]] = {
    "module function": (subjects.double, 42),
    "lambda": (lambda x: x + 1, 22),
    "closure": (subjects.closure(3), 63),
    "bound method": (subjects.Whose(4).times, 84),
    "class method": (subjects.Whose.tripled, 63),
    "static method": (subjects.Whose.halved, 10.5),
    "callable object": (subjects.Whose(5), 105),
    "partial": (functools.partial(subjects.add, y=1), 22),
    "partial of a lambda": (functools.partial(lambda y, x: x - y, 1), 20),
    "builtin": (str, "21"),
    "function in C": (operator.neg, -21),
    "bound method of a builtin": ([20, 21].index, 1),
    "cached": (subjects.cached, 42),
}

VALUES: list[Any] = [
    *(None, ..., NotImplemented, True, 0, -(2**70), 0.1, float("inf"), 1j, "", "naïve 雪", b"", b"\0\xff"),
    *(
        (),
        [],
        {},
        set(),
        frozenset({1}),
        bytearray(b"a"),
        range(3, 9, 2),
        slice(1, None),
        [[[]]],
        {1: {2: [3]}},
    ),
    *(decimal.Decimal("1.10"), fractions.Fraction(1, 3), dt.timedelta(1, 2, 3), PurePosixPath("a/b")),
    *(
        subjects.Colour.RED,
        subjects.Pair(1, [2]),
        subjects.Point(1.5, ["a"]),
        OrderedDict(b=1, a=2),
        Counter("abca"),
    ),
    *(
        subjects.Point,
        subjects.Whose,
        int,
        len,
        os.path.join,
        subjects.double,
        dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    ),
]

ARRAYS = {
    "int64": np.arange(12).reshape(3, 4),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "not contiguous": np.arange(40)[::4],
    "empty": np.empty((0, 3), np.float32),
    "no dimensions": np.array(7),
    "large": np.arange(300_000.0),
    "structured": np.array([(1, "a"), (2, "b")], dtype=[("number", "i4"), ("text", "U4")]),
    "objects": np.array([{"a": 1}, None, "text"], dtype=object),
    "bools": np.array([True, False]),
    "big-endian": np.array([1, 2], dtype=">i4"),
}


OF_A_SCRIPT = """
import asyncio, dataclasses, enum, functools

@dataclasses.dataclass
class Point:
    x: int
    y: int
    def swapped(self):
        return Point(self.y, self.x)

class Colour(enum.Enum):
    RED = 1

class MyError(Exception):
    def __init__(self, code, why):
        super().__init__(f"{code}: {why}")
        self.code = code

OFFSET = 10

def shifted(x, by=1):
    return x + by + OFFSET

def point(x):
    return Point(x, -x)

def colour(c):
    return c, Colour.RED

def fails(code):
    raise MyError(code, "because")

async def slowly(x):
    await asyncio.sleep(0)
    return Point(x, x)

def counting(n):
    for i in range(n):
        yield Point(i, i)

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@dataclasses.dataclass(slots=True)
class Slotted:
    x: int

class Private:
    __slots__ = ("__x", "y")
    def __init__(self, x):
        self.__x = self.y = x
    def sum(self):
        return self.__x + self.y

def check():
    def inner(x):
        return shifted(x) * 2
    assert app.run(shifted, 1, by=5) == 16
    assert app.run(lambda x: shifted(x), 1) == 12
    assert app.run(inner, 1) == 24
    assert app.run(Point(1, 2).swapped) == Point(2, 1)
    assert app.run(functools.partial(shifted, by=0), 1) == 11
    assert app.run(factorial, 5) == 120
    assert app.run(fibonacci, 50) == 12586269025
    assert app.run(lambda: fibonacci(50)) == 12586269025
    assert app.run(Point, 1, 2) == Point(1, 2)
    assert type(app.run(point, 3)) is Point
    assert [type(p) for p in app.map(point, range(3))] == [Point] * 3
    assert [p.x for p in app.map(slowly, range(3))] == [0, 1, 2]
    assert list(app.stream(counting, 2)) == [Point(0, 0), Point(1, 1)]
    assert app.run(colour, Colour.RED) == (Colour.RED, Colour.RED)
    assert app.run(colour, Colour.RED)[0] is Colour.RED
    assert isinstance(app.run(lambda p: [{"deep": p}], Point(1, 2))[0]["deep"], Point)
    try:
        app.run(fails, 7)
    except MyError as exc:
        assert exc.code == 7 and str(exc) == "7: because"
    else:
        raise AssertionError("nothing was raised")
    results = list(app.map(fails, [1, 2], return_exceptions=True))
    assert [(type(e), e.code) for e in results] == [(MyError, 1), (MyError, 2)]
    print("all checked")
"""


class RunSuite(Suite):
    """RUN: one call."""

    # --- RUN-01 ---

    def test_run_01_calls_once_and_returns(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "`run(fn, *args, **kwargs)` calls `fn` once on a worker and returns what it returned."

        A failure means that results do not come back as they are, or that a call is made twice: perhaps the backend
        retries by itself, which it must be told not to.
        """

        def call(x: int, *, y: int) -> list[int]:
            tally.add("called")
            return [x, y]

        assert apparatus.run(call, 1, y=2) == [1, 2]
        assert tally.read() == ["called"]

    @pytest.mark.parametrize("kind", FUNCTIONS)
    def test_run_01_any_kind_of_function(self, apparatus: Apparatus, kind: str) -> None:
        """ "calls `fn` once on a worker and returns what it returned"

        A failure means that this kind of function does not survive the way to a worker. Carry what the core has packed
        and pack nothing yourself.
        """
        fn, expected = FUNCTIONS[kind]
        assert apparatus.run(fn, 21) == expected

    def test_run_01_functions_of_a_script(self, scripts: Scripts) -> None:
        """ "calls `fn` once on a worker and returns what it returned"

        A failure means that functions defined in `__main__` are sent by name, or that a worker runs the script again.
        """
        script = scripts.run(OF_A_SCRIPT + "\nprint('top level')\nwith app:\n    check()\n")
        assert script.out.split("\n") == ["top level", "all checked", ""]

    def test_run_01_functions_of_a_src_package(self, scripts: Scripts, project_src: Path) -> None:
        """ "calls `fn` once on a worker and returns what it returned"

        A failure means that workers cannot import the project's own packages: ship them, or pass the import path on.
        """
        package = project_src / "my_project"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .steps import step\n")
        (package / "steps.py").write_text(
            "class Odd(Exception): pass\n"
            "def step(x):\n"
            "    if x % 2: raise Odd(x)\n"
            "    return x // 2\n"
            "class Model:\n"
            "    def __init__(self, a): self.a = a\n"
            "    def predict(self, x): return self.a * x\n"
        )
        scripts.run(
            """
from my_project import step
from my_project.steps import Model, Odd
with app:
    assert app.run(step, 4) == 2
    assert app.run(Model(3).predict, 4) == 12
    assert type(app.run(Model, 3)) is Model
    assert [type(r) for r in app.map(step, [2, 3], return_exceptions=True)] == [int, Odd]
""",
            path=package.parent,
        )

    # --- RUN-02 ---

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
    def test_run_02_arguments_arrive_unchanged(self, apparatus: Apparatus, value: Any) -> None:
        """ "Positional and keyword arguments arrive unchanged; `None`, `...`, […] all survive"

        A failure means that an argument, or a result, is converted on the way, for instance through JSON.
        """
        args, kwargs = apparatus.run(subjects.everything, value, [value], here=value)
        assert args == (value, [value])
        assert kwargs == {"here": value}
        assert [type(args[0]), type(args[1][0]), type(kwargs["here"])] == [type(value)] * 3

    def test_run_02_any_name_of_a_keyword(self, apparatus: Apparatus) -> None:
        """ "Positional and keyword arguments arrive unchanged"

        A failure means that a keyword is taken for an argument of `run` or `map` itself, or of the adapter's.
        """
        names = ("fn", "self", "args", "kwargs", "name", "timeout", "ordered", "options", "task", "index")
        assert apparatus.run(subjects.everything, **dict.fromkeys(names, 1)) == ((), dict.fromkeys(names, 1))
        mapped = apparatus.map(subjects.everything, [0], kwargs=dict.fromkeys(names, 1))
        assert list(mapped) == [((0,), dict.fromkeys(names, 1))]

    def test_run_02_functions_as_arguments(self, apparatus: Apparatus) -> None:
        """ "and functions as arguments all survive"

        A failure means that arguments are pickled without cloudpickle, unlike the function.
        """

        def apply(*functions: Callable[[int], Any]) -> list[Any]:
            return [function(3) for function in functions]

        wanted = [4, 9, 12, 6]
        functions = (lambda x: x + 1, subjects.closure(3), subjects.Whose(4).times, subjects.double)
        assert apparatus.run(apply, *functions) == wanted
        assert list(apparatus.map(lambda f: f(3), functions)) == wanted

    def test_run_02_one_object_passed_twice_is_one_object(self, apparatus: Apparatus) -> None:
        """ "Positional and keyword arguments arrive unchanged"

        A failure means that arguments of one call are pickled apart from each other.
        """
        shared = [1]
        assert apparatus.run(lambda a, b: a is b, shared, shared) is True
        recursive: list[Any] = []
        recursive.append(recursive)
        assert apparatus.run(lambda r: r[0] is r, recursive) is True

    @pytest.mark.parametrize("kind", ARRAYS)
    def test_run_02_arrays_arrive_writable(self, apparatus: Apparatus, kind: str) -> None:
        """ "numpy arrays […] survive; arrays arrive writable"

        A failure that says "read-only" means that a worker unpickles buffers over immutable memory: hand them to
        the core as `bytearray` or as writable memory.
        """
        array = ARRAYS[kind]
        before = array.copy()
        for writable, dtype, shape, seen in (
            apparatus.run(subjects.overwrite, array),
            *apparatus.map(subjects.overwrite, [array, array]),
            *apparatus.map(lambda _, array: subjects.overwrite(array), [1], kwargs={"array": array}),
            apparatus.run(lambda deep: subjects.overwrite(deep["here"][0]), {"here": [array]}),
        ):
            assert writable
            assert (dtype, shape) == (str(array.dtype), array.shape)
            assert np.array_equal(seen, before)
        assert np.array_equal(array, before)

    def test_run_02_classes_of_a_script(self, scripts: Scripts) -> None:
        """ "classes defined in `__main__`, and functions as arguments all survive"

        A failure means that classes of a script are sent by name.
        """
        scripts.run(
            OF_A_SCRIPT
            + """
def look(value, cls, fn):
    assert isinstance(value, cls)
    return fn(value)
with app:
    assert app.run(look, Point(1, 2), Point, lambda p: p.x + p.y) == 3
    assert app.run(look, [Colour.RED], list, fn=lambda c: c[0] is Colour.RED) is True
    assert list(app.map(lambda p: p.x, [Point(1, 2), Point(3, 4)])) == [1, 3]
"""
        )

    # --- RUN-03 ---

    def test_run_03_other_tasks_keep_running(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`await arun(...)` is the same call without blocking the event loop: other tasks keep running."

        A failure with Unopened means that the loop was blocked: what should have opened the gate never ran.
        """

        async def main() -> Any:
            async def open_when_started() -> None:
                # The loop has to turn many times for this, which it cannot while it is blocked.
                for _ in range(10):
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(gate.wait)
                gate2.open()

            task = asyncio.create_task(open_when_started())
            try:
                return await apparatus.arun(subjects.pass_gate, gate, gate2)
            finally:
                task.cancel()

        assert asyncio.run(main()) == "through"

    def test_run_03_is_the_same_call(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "`await arun(...)` is the same call"

        A failure means that `arun` and `run` take different ways to a worker.
        """

        def call(x: int, *, y: int) -> tuple[int, int]:
            tally.add(x)
            if x < 0:
                raise LookupError("negative")
            return x, y

        async def main() -> list[Any]:
            calls = (apparatus.arun(call, x, y=2 * x) for x in range(20))
            with pytest.raises(LookupError, match="negative"):
                await apparatus.arun(call, -1, y=0)
            return await asyncio.gather(*calls)

        assert asyncio.run(main()) == [(x, 2 * x) for x in range(20)]
        assert Counter(tally.read()) == Counter(map(str, range(-1, 20)))

    # --- RUN-04 ---

    def test_run_04_within_a_running_loop(self, apparatus: Apparatus) -> None:
        """ "`run` and `map` work when an event loop is already running in the calling thread (notebooks)."

        A failure means that the adapter runs an event loop of its own in the calling thread; it needs another thread.
        """

        async def main() -> list[Any]:
            assert apparatus.run(subjects.double, 1) == 2
            assert apparatus.run(subjects.plus_one, 1) == 2
            assert list(apparatus.stream(subjects.count_up, 2)) == [0, 1]
            return [*apparatus.map(subjects.double, range(5)), *apparatus.map(subjects.plus_one, range(3))]

        assert asyncio.run(main()) == [0, 2, 4, 6, 8, 1, 2, 3]

    def test_run_04_in_the_cells_of_a_notebook(self, scripts: Scripts) -> None:
        """ "`run` and `map` work when an event loop is already running in the calling thread (notebooks)."

        A failure means that functions and classes of cells, which have no file, do not reach a worker, or that the
        loop of the notebook is in the way.
        """
        script = scripts.run_cells(
            OF_A_SCRIPT,
            "check()",
            "def shifted(x, by=1):\n    return -x",
            "assert app.run(shifted, 5) == -5, 'a cell that is run again replaces its functions'",
            "assert await app.arun(shifted, 5) == -5",
            "assert [x async for x in app.amap(shifted, range(3))] == [0, -1, -2]",
            "app.close()",
        )
        assert script.out == "all checked\n"

    # --- RUN-05 ---

    def test_run_05_async_functions_are_awaited(self, apparatus: Apparatus) -> None:
        """ "An `async def` function is awaited on the worker and its value returned."

        A failure means that a worker does not run calls through the core's worker function, which awaits them.
        """

        async def with_a_task(x: int) -> tuple[int, bool]:
            task = asyncio.create_task(subjects.plus_one(x))
            return await task, asyncio.get_running_loop().is_running()

        async def fails() -> None:
            await asyncio.sleep(0)
            raise LookupError("asynchronously")

        assert apparatus.run(subjects.plus_one, 1) == 2
        assert apparatus.run(subjects.AsyncAdder(), 1) == 2
        assert apparatus.run(functools.partial(subjects.plus_one, x=4)) == 5
        assert apparatus.run(with_a_task, 1) == (2, True)
        assert list(apparatus.map(subjects.plus_one, range(50))) == list(range(1, 51))
        assert asyncio.run(_arun(apparatus, subjects.plus_one, 1)) == 2
        with pytest.raises(LookupError, match="asynchronously"):
            apparatus.run(fails)

    # --- RUN-06 ---

    def test_run_06_while_another_thread_has_all_workers(
        self, fresh: MakeApparatus, unused_name: str, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "Called from several threads at once, one apparatus serves them all."

        A failure by timeout means that a call which began while there was no room is forgotten once there is.
        """
        apparatus = fresh(unused_name).w(max_workers=1)
        thread = threading.Thread(target=apparatus.run, args=(subjects.pass_gate, gate, gate2), daemon=True)
        thread.start()
        gate.wait()  # it runs

        async def main() -> Any:
            later = asyncio.create_task(apparatus.arun(subjects.double, 2))
            future = apparatus.executor().submit(subjects.double, 3)
            await asyncio.sleep(0)
            gate2.open()
            await asyncio.to_thread(thread.join, patience)
            return await asyncio.wait_for(later, patience), future.result(patience)

        assert asyncio.run(main()) == (4, 6)

    def test_run_06_from_several_threads(self, apparatus: Apparatus, patience: float) -> None:
        """ "Called from several threads at once, one apparatus serves them all."

        A failure means that results are given to the wrong thread, or that a thread waits for one that waits for it.
        """
        start = threading.Barrier(8)
        results: dict[int, list[Any]] = {}

        def use(number: int) -> None:
            start.wait(patience)
            runs = [apparatus.run(subjects.add, number, 100 * k) for k in range(5)]
            mapped = list(apparatus.map(subjects.add, range(200), [1000 * number] * 200))
            results[number] = [runs, mapped]

        threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * patience)
        assert not any(thread.is_alive() for thread in threads)
        assert results == {
            number: [[number + 100 * k for k in range(5)], [x + 1000 * number for x in range(200)]]
            for number in range(8)
        }

    # --- RUN-07 ---

    @requires(Capability.PROCESS_ISOLATION)
    def test_run_07_never_in_the_calling_process(self, apparatus: Apparatus) -> None:
        """ "`fn` never runs in the calling process"

        A failure means that the backend declares `process_isolation` and takes a short cut for some calls.
        """

        async def alook(_: object = None) -> int:
            return os.getpid()

        def look(_: object = None) -> int:
            return os.getpid()

        def stream() -> Iterator[int]:
            yield os.getpid()

        async def asynchronously() -> list[int]:
            return [
                await apparatus.arun(look),
                *[pid async for pid in apparatus.amap(look, range(2))],
                *[pid async for pid in apparatus.astream(stream)],
            ]

        with apparatus.executor() as executor:
            pids = {executor.submit(look).result(), *executor.map(look, range(2))}
        pids |= {apparatus.run(look), apparatus.run(alook), *apparatus.map(look, range(20))}
        pids |= {*apparatus.map(alook, range(2)), *apparatus.stream(stream), *asyncio.run(asynchronously())}
        assert os.getpid() not in pids

    @when_declined(test_run_07_never_in_the_calling_process)
    def _run_07_runs_in_the_calling_process(self, apparatus: Apparatus) -> None:
        pids = {apparatus.run(os.getpid), *apparatus.map(lambda _: os.getpid(), range(20))}
        assert pids == {os.getpid()}, (
            "calls run in another process than the caller's: declare process_isolation"
        )

    # --- RUN-08 ---

    def test_run_08_arguments_are_passed_by_value(self, apparatus: Apparatus) -> None:
        """ "Rebinding or mutating an argument on the worker is not seen by the caller (pass by value)."

        A failure means that objects are handed to a worker of the same process as they are; it must unpickle its own.
        """
        items, table, point, array = [1], {"a": [1]}, subjects.Point(1.0, ["a"]), np.zeros(3)
        big = np.zeros(200_000)
        values = (items, table, point, array, big)
        before = copy.deepcopy(values)

        def mutate(
            items: list[Any], table: dict[str, Any], point: subjects.Point, array: Any, big: Any, *, more: Any
        ) -> str:
            items.append(2)
            table["a"].append(2)
            point.x, point.tags = 2.0, []
            array += 1
            big += 1
            more.clear()
            items, table = [], {}
            return "done"

        assert apparatus.run(mutate, *values, more=items) == "done"
        assert list(apparatus.map(mutate, *([v] for v in values), kwargs={"more": items})) == ["done"]
        assert repr(values) == repr(before)
        assert not big.any()

    def test_run_08_what_the_function_holds_is_passed_by_value(self, apparatus: Apparatus) -> None:
        """ "Rebinding or mutating an argument on the worker is not seen by the caller (pass by value)."

        A failure means that a closure, a default or the object of a bound method is shared with the caller.
        """
        held, whose = [1], subjects.Whose(2)

        def change(extra: list[int] = held) -> list[int]:
            held.append(2)
            extra.append(3)
            return held

        def factor(by: subjects.Whose) -> int:
            by.factor = 99
            return by.factor

        assert apparatus.run(change) == [1, 2, 3]
        assert apparatus.run(functools.partial(factor, whose)) == 99
        assert list(apparatus.map(lambda x: held.append(x), [5])) == [None]
        assert (held, whose.factor) == ([1], 2)

    def test_run_08_results_are_the_callers_own(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "(pass by value)"

        A failure means that a result is the very object that the worker goes on using.
        """

        one = apparatus.w(max_workers=1)
        results = [
            *one.map(subjects.keep, range(4), kwargs={"under": tally.path}),
            one.run(subjects.keep, 4, tally.path),
        ]
        results[0].append(99)
        again = one.run(subjects.keep, 5, tally.path)
        assert [*results, again] == [[0, 99], *(list(range(k + 1)) for k in range(1, 6))]

    # --- RUN-09 ---

    @pytest.mark.parametrize(
        "generator",
        [
            subjects.count_up,
            subjects.Generating().method,
            subjects.Generating(),
            functools.partial(subjects.count_up, 3),
            subjects.agenerate,
        ],
        ids=["function", "method", "callable object", "partial", "async"],
    )
    def test_run_09_generator_functions_are_refused(
        self, fresh: MakeApparatus, unused_name: str, generator: Callable[..., Any]
    ) -> None:
        """ "A generator function is refused with a `TypeError` before anything starts; it says to return a list or use
        `stream`."

        A failure means that the adapter starts its backend before the core has looked at the call.
        """
        apparatus = fresh(unused_name)
        before = Footprint.now()

        async def amap() -> None:
            async for _ in apparatus.amap(generator, [1]):
                pass

        for refused in (
            lambda: apparatus.run(generator),
            lambda: list(apparatus.map(generator, [1])),
            lambda: asyncio.run(_arun(apparatus, generator)),
            lambda: asyncio.run(amap()),
            lambda: apparatus.executor().submit(generator),
        ):
            with pytest.raises(TypeError, match=r"list.*stream"):
                refused()
        assert Footprint.now().new_since(before) == []

    # --- RUN-10 ---

    def test_run_10_yields_what_the_function_yields(self, apparatus: Apparatus) -> None:
        """ "`stream(fn, *args, **kwargs)` yields what a generator function yields"

        A failure means that items are lost, doubled or out of order on the way.
        """

        def squares(*values: int, offset: int) -> Iterator[tuple[int, list[int]]]:
            for value in values:
                yield value * value + offset, [value]

        assert list(apparatus.stream(squares, 1, 2, 3, offset=10)) == [(11, [1]), (14, [2]), (19, [3])]
        assert list(apparatus.stream(subjects.count_up, 0)) == []
        assert list(apparatus.stream(subjects.count_up, 1000)) == list(range(1000))
        failing = apparatus.stream(subjects.two_then_fail)
        assert [next(failing), next(failing)] == [1, 2]
        with pytest.raises(KeyError, match="no third"):
            next(failing)

    def test_run_10_as_it_yields_it(self, apparatus: Apparatus, gate: Gate) -> None:
        """ "yields what a generator function yields, as it yields it"

        A failure with Unopened means that items are held back until there are more of them, or all.
        """
        stream = apparatus.stream(subjects.one_then_wait, gate)
        assert next(stream) == 1
        gate.open()
        assert list(stream) == [2]

    def test_run_10_closing_ends_it(self, apparatus: Apparatus, shared_dir: Path, patience: float) -> None:
        """ "`stream(fn, *args, **kwargs)` yields what a generator function yields, as it yields it"

        A failure means that a stream which nobody reads any more runs for ever and keeps its worker.
        """
        held = Held(str(shared_dir / "held"))
        stream = apparatus.stream(subjects.count_for_ever, held)
        assert [next(stream) for _ in range(100)] == list(range(100))
        assert not held.free()
        stream.close()
        probes.until(held.free, patience, "the end of the stream")
        assert apparatus.run(subjects.double, 4) == 8

    def test_run_10_astream_is_its_twin(self, apparatus: Apparatus, gate: Gate) -> None:
        """ "`astream` is its twin"

        A failure means that `astream` blocks the event loop, or does not yield items as they come.
        """

        async def main() -> list[int]:
            stream = apparatus.astream(subjects.one_then_wait, gate)
            first = await anext(stream)
            gate.open()
            return [first, *[item async for item in stream]]

        assert asyncio.run(main()) == [1, 2]

    # --- RUN-11 ---

    def test_run_11_one_class_identity(self, scripts: Scripts) -> None:
        """ "One class identity: an object of a `__main__` class that comes back is an instance of the caller's class,
        and `except MyError` catches what `fn` raised."

        A failure means that a worker makes a class of its own where the caller has one.
        """
        scripts.run(
            OF_A_SCRIPT
            + """
class Sub(Point):
    pass
def local_class():
    class Local:
        pass
    return Local
Local = local_class()
with app:
    for round in range(3):
        assert type(app.run(lambda: Point(1, 2))) is Point
        assert type(app.run(lambda: Sub(1, 2))) is Sub
        assert type(app.run(lambda: Local())) is Local
        assert app.run(lambda: Colour.RED) is Colour.RED
        assert app.run(lambda: Point) is Point
        try:
            app.run(fails, round)
        except MyError as exc:
            assert type(exc) is MyError and exc.code == round
    assert type(app.run(Slotted, 1)) is Slotted and app.run(Slotted, 1) == Slotted(1)
    assert type(app.run(Private, 2)) is Private and app.run(Private, 2).sum() == 4
    for results in (app.map(point, range(300)), app.map(lambda x: Sub(x, x), range(300))):
        assert all(isinstance(result, Point) for result in results)
    check()
"""
        )

    def test_run_11_classes_of_cells(self, scripts: Scripts) -> None:
        """ "an object of a `__main__` class that comes back is an instance of the caller's class"

        A failure means that a class of a notebook's cell is confused with the one of an earlier run of that cell.
        """
        scripts.run_cells(
            OF_A_SCRIPT,
            "old = app.run(point, 1)",
            OF_A_SCRIPT,
            "new = app.run(point, 1)",
            "assert type(new) is Point and type(old) is not Point",
            "app.close()",
        )


async def _arun(apparatus: Apparatus, fn: Callable[..., Any], *args: Any) -> Any:
    return await apparatus.arun(fn, *args)
