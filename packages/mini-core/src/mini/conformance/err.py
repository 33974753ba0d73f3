"""ERR: when it goes wrong."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..capability import Capability
from ..errors import JobTimeout, RemoteError, SerializationError, WorkerLost
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite, requires, when_declined
from .footprint import Footprint, alive, descendants
from .map import as_map, both_maps, dies_with_its_worker
from .probes import Gate, Held, Tally
from .scripts import Scripts

__all__ = ["ErrSuite", "Unreachable"]


@dataclass(frozen=True)
class Unreachable:
    """How a script comes by an apparatus whose backend cannot be started or reached.

    Attributes:
        prelude: Python source that makes it, as `app`.
        seconds: within which a call has to have failed.
        secret: a credential that the script has and no message may contain.
    """

    prelude: str
    seconds: float = 10
    secret: str = ""


def caught(function: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
    """What a call raises."""
    try:
        function(*args, **kwargs)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def ways(apparatus: Apparatus) -> dict[str, Callable[..., BaseException]]:
    """The ways to make one call that fails, each of which returns what was raised."""

    def by_map(fn: Callable[..., Any], *args: Any) -> BaseException:
        return caught(list, apparatus.map(fn, *([arg] for arg in (args or (0,)))))

    def by_arun(fn: Callable[..., Any], *args: Any) -> BaseException:
        async def main() -> Any:
            return await apparatus.arun(fn, *args)

        return caught(asyncio.run, main())

    def by_amap(fn: Callable[..., Any], *args: Any) -> BaseException:
        return caught(list, as_map(apparatus, "amap")(fn, *([arg] for arg in (args or (0,)))))

    def by_executor(fn: Callable[..., Any], *args: Any) -> BaseException:
        with apparatus.executor() as executor:
            error = executor.submit(fn, *args).exception(60)
        assert error is not None
        return error

    return {
        "run": lambda fn, *args: caught(apparatus.run, fn, *args),
        "map": by_map,
        "arun": by_arun,
        "amap": by_amap,
        "executor": by_executor,
    }


WAYS = pytest.mark.parametrize("way", ["run", "map", "arun", "amap", "executor"])


CONTROL: dict[str, Callable[[], BaseException]] = {
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "asyncio.CancelledError": lambda: asyncio.CancelledError("stop"),
    "concurrent.futures.CancelledError": lambda: concurrent.futures.CancelledError("stop"),
    "TimeoutError": lambda: TimeoutError("slow"),
}

INTERRUPTED = """
import asyncio, os, signal, sys, time
from mini.conformance.probes import Gate, Tally
from mini.conformance.subjects import note_then_sleep
# A test that runs in the background has SIGINT ignored, and so would this script.
signal.signal(signal.SIGINT, signal.default_int_handler)
how, started, gate = sys.argv[1], Tally(sys.argv[2]), Gate(sys.argv[3], 60)
def use():
    if how == "run":
        app.run(note_then_sleep, started, 120)
    elif how == "map":
        list(app.map(note_then_sleep, [started] * 10, [120] * 10))
    elif how == "between":
        for _ in app.map(lambda t, s: s and note_then_sleep(t, s), [started] * 10, [0] + [120] * 9):
            while True:
                time.sleep(1)
    else:
        async def main():
            async for _ in app.amap(note_then_sleep, [started] * 10, [120] * 10):
                pass
        asyncio.run(main())
"""

CAUGHT = """
try:
    use()
except KeyboardInterrupt:
    print("interrupted", flush=True)
gate.wait()
assert app.run(abs, -3) == 3
assert list(app.map(abs, [-1, -2])) == [1, 2]
app.close()
print("usable", flush=True)
"""


class ErrSuite(Suite):
    """ERR: when it goes wrong."""

    @pytest.fixture
    def unreachable(self, script_prelude: str) -> Unreachable:
        """May be overridden: an apparatus whose backend cannot be reached. By default no process can be started."""
        return Unreachable(
            script_prelude + "import os, sys\n"
            "sys.executable = '/nonexistent/python'\n"
            "os.environ['PATH'] = '/nonexistent'\n"
        )

    # --- ERR-01 ---

    @WAYS
    def test_err_01_type_args_and_attributes(self, apparatus: Apparatus, way: str) -> None:
        """ "An exception raised by `fn` is raised in the caller with its own type, `args` and attributes."

        A failure means that exceptions are wrapped, or pickled by other means than the core's.
        """
        fails = ways(apparatus)[way]
        error = fails(subjects.raise_with_attributes)
        assert type(error) is ValueError
        assert error.args == ("plain", 1)
        assert error.detail == {"a": [1]}  # type: ignore[attr-defined]
        error = fails(subjects.raise_two_arguments)
        assert type(error) is subjects.TwoArguments
        assert (str(error), error.code, error.why) == ("because (7)", 7, "because")

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("key"),
            OSError(2, "No such file", "a/b"),
            FileNotFoundError(2, "No such file", "a", None, "b"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            subjects.KeywordsOnly(code=3),
            subjects.Slotted("message", [1]),
            subjects.Derived(1, "derived"),
            ZeroDivisionError(),
            ImportError("no", name="module", path="path"),
            AssertionError("wrong"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_err_01_any_kind_of_exception(self, apparatus: Apparatus, error: BaseException) -> None:
        """ "with its own type, `args` and attributes"

        A failure means that an exception is built anew by calling its class, which takes other arguments than `args`.
        """
        for got in (
            caught(apparatus.run, subjects.raises, error),
            caught(list, apparatus.map(subjects.raises, [error])),
        ):
            assert type(got) is type(error)
            assert got.args == error.args
            assert str(got) == str(error)
            for name in ("code", "extra", "why", "filename", "filename2", "errno", "object", "name", "path"):
                assert getattr(got, name, None) == getattr(error, name, None)

    def test_err_01_from_a_stream(self, apparatus: Apparatus) -> None:
        """ "An exception raised by `fn` is raised in the caller with its own type, `args` and attributes."

        A failure means that a stream ends quietly where its function failed.
        """

        def items() -> Iterator[int]:
            yield 1
            subjects.raise_two_arguments()

        stream = apparatus.stream(items)
        assert next(stream) == 1
        with pytest.raises(subjects.TwoArguments, match="because"):
            next(stream)

    # --- ERR-02 ---

    @WAYS
    def test_err_02_shows_the_workers_frames(self, apparatus: Apparatus, way: str) -> None:
        """ "Its traceback shows the worker's frames: file, line and source of the failing line."

        A failure means that tracebacks are lost or turned into text on the way.
        """
        error = ways(apparatus)[way](subjects.deep, 2)
        frames = traceback.extract_tb(error.__traceback__)
        assert [frame.name for frame in frames[-3:]] == ["deep"] * 3
        # A worker elsewhere has the same module at another place.
        there = Path(frames[-1].filename)
        assert there.parts[-3:] == ("mini", "conformance", "subjects.py")
        assert frames[-1].line == 'raise LookupError("down here")  # the line that failed'
        assert frames[-1].lineno is not None
        source = Path(subjects.__file__).read_text().splitlines()
        assert source[frames[-1].lineno - 1].strip() == frames[-1].line
        text = "".join(traceback.format_exception(error))
        assert f'File "{there}", line {frames[-1].lineno}, in deep' in text
        assert 'raise LookupError("down here")' in text

    def test_err_02_in_scripts_and_cells(self, scripts: Scripts) -> None:
        """ "file, line and source of the failing line"

        A failure means that the traceback of a function in `__main__`, or in a notebook's cell, shows no source.
        """
        source = (
            "import traceback\n"
            "def fails(x):\n"
            "    return 1 / x  # this line\n"
            "for use in (lambda: app.run(fails, 0), lambda: list(app.map(fails, [0]))):\n"
            "    try:\n"
            "        use()\n"
            "    except ZeroDivisionError as exc:\n"
            "        frame = traceback.extract_tb(exc.__traceback__)[-1]\n"
            "        assert frame.line == 'return 1 / x  # this line', frame\n"
            "        assert frame.name == 'fails' and frame.filename == fails.__code__.co_filename, frame\n"
            "        assert frame.lineno == fails.__code__.co_firstlineno + 1, frame\n"
            "    else:\n"
            "        raise AssertionError('nothing was raised')\n"
        )
        scripts.run(source + "app.close()\n")
        scripts.run_cells(source, "app.close()")

    # --- ERR-03 ---

    @WAYS
    def test_err_03_cause_context_and_notes(self, apparatus: Apparatus, way: str) -> None:
        """ "`__cause__`, `__context__`, `__notes__` […] arrive whole."

        A failure means that only the outermost exception is carried.
        """
        fails = ways(apparatus)[way]
        error = fails(subjects.chain)
        assert (type(error), str(error)) == (ValueError, "on top")
        assert getattr(error, "__notes__", [])[:2] == ["first note", "second note"]
        between = error.__context__
        assert (type(between), str(between)) == (TypeError, "in between")
        assert error.__cause__ is None
        assert between is not None
        cause = between.__cause__
        assert (type(cause), str(cause)) == (LookupError, "down here")
        assert cause is not None
        assert cause.__notes__ == ["a note on the cause"]
        assert "# the line that failed" in "".join(traceback.format_exception(error))
        assert traceback.extract_tb(cause.__traceback__)[-1].name == "deep"
        hidden = fails(subjects.hide_the_context)
        assert hidden.__suppress_context__
        assert type(hidden.__context__) is LookupError

    @WAYS
    def test_err_03_exception_groups(self, apparatus: Apparatus, way: str) -> None:
        """ "exception groups arrive whole"

        A failure means that the members of a group are lost, or their tracebacks, causes or notes.
        """
        error = ways(apparatus)[way](subjects.raise_group)
        assert isinstance(error, ExceptionGroup)
        assert error.message == "several"
        assert error.__notes__[0] == "a note on the group"
        first, second, inner = error.exceptions
        assert (type(first), first.__notes__) == (ValueError, ["first note", "second note"])
        assert first.__context__ is not None
        assert type(first.__context__.__cause__) is LookupError
        assert isinstance(second, subjects.TwoArguments)
        assert second.code == 7
        assert traceback.extract_tb(second.__traceback__)[-1].name == "raise_two_arguments"
        assert isinstance(inner, ExceptionGroup)
        assert repr(inner.exceptions) == "(LookupError(1),)"

    # --- ERR-04 ---

    @WAYS
    @pytest.mark.parametrize("kind", ["holds a lock", "cannot be reduced", "cannot be restored"])
    def test_err_04_what_cannot_be_pickled(self, apparatus: Apparatus, way: str, kind: str) -> None:
        """ "An exception that cannot be pickled arrives as `RemoteError` holding its type name, message and formatted
        traceback."

        A failure means that such an exception is lost, or raises an error of pickling in its place.
        """
        error = ways(apparatus)[way](subjects.raise_unpicklable, kind)
        assert type(error) is RemoteError
        name = {
            "holds a lock": "HoldsALock",
            "cannot be reduced": "CannotBeReduced",
            "cannot be restored": "CannotBeRestored",
        }
        assert error.type_name.rpartition(".")[2] == name[kind]
        assert error.message == f"it {kind}"
        assert 'raise classes[kind](f"it {kind}")  # the line that failed' in error.traceback
        assert error.message in str(error)

    @WAYS
    @pytest.mark.parametrize("link", ["cause", "context", "group"])
    def test_err_04_what_it_was_raised_from(self, apparatus: Apparatus, way: str, link: str) -> None:
        """ "An exception that cannot be pickled arrives as `RemoteError`"

        A failure means that an exception is lost because of the one that it was raised from, or because of another
        one of its group. Exceptions of libraries often hold a lock or a connection; what is raised from them does not.
        """
        error = ways(apparatus)[way](subjects.raise_from_unpicklable, link)
        assert type(error) is (ExceptionGroup if link == "group" else ValueError)
        linked: Any = error.exceptions[1] if isinstance(error, ExceptionGroup) else error.__context__
        assert type(linked) is RemoteError
        assert linked.message == "it holds a lock"
        assert error.__cause__ is (linked if link == "cause" else None)

    # --- ERR-05 ---

    @pytest.mark.parametrize("what", ["function", "hook", "keyword", "argument", "kwargs of a map"])
    def test_err_05_before_anything_is_started(
        self, fresh: MakeApparatus, unused_name: str, what: str
    ) -> None:
        """ "A function, argument or result that cannot be pickled raises `SerializationError`, naming which of the
        three it was and the path to the part that failed; a bad function or constant raises before anything is started"

        A failure means that the backend was started for a call that cannot be packed.
        """
        guard = threading.Lock()
        table = {"fine": 1, "deep": [0, {"bad_part": guard}]}
        apparatus = fresh(unused_name)
        before = Footprint.now()
        cases: dict[str, tuple[str, str, Callable[[], Any]]] = {
            "function": ("function", "guard", lambda: apparatus.run(lambda: guard)),
            "hook": ("hook", "guard", lambda: apparatus.before_each(lambda: guard).run(abs, 1)),
            "keyword": ("argument", "bad_part", lambda: apparatus.run(subjects.everything, 1, x=table)),
            "argument": ("argument", "bad_part", lambda: apparatus.run(subjects.everything, 1, table)),
            "kwargs of a map": (
                "argument",
                "bad_part",
                lambda: next(apparatus.map(subjects.everything, [1], kwargs={"x": table})),
            ),
        }
        which, part, use = cases[what]
        with pytest.raises(SerializationError) as raised:
            use()
        assert which in str(raised.value)
        assert part in str(raised.value)
        assert Footprint.now().new_since(before) == []

    @both_maps
    def test_err_05_a_bad_input_raises_at_its_place(
        self, apparatus: Apparatus, tally: Tally, how: str
    ) -> None:
        """ "a bad input of a map at its place"

        A failure means that one bad input takes the results of others with it.
        """

        def call(x: Any) -> Any:
            tally.add(x)
            return x

        map_ = as_map(apparatus, how)
        inputs = [*range(20), [{"bad_part": threading.Lock()}], *range(21, 40)]
        results = map_(call, inputs)
        assert [next(results) for _ in range(20)] == list(range(20))
        with pytest.raises(SerializationError, match=r"argument(.|\n)*bad_part"):
            next(results)
        kept = list(map_(subjects.identity, inputs, return_exceptions=True))
        assert [x for x in kept if isinstance(x, SerializationError)] == kept[20:21]
        assert [*kept[:20], *kept[21:]] == [*range(20), *range(21, 40)]

    @WAYS
    def test_err_05_results(self, apparatus: Apparatus, tally: Tally, way: str) -> None:
        """ "naming which of the three it was and the path to the part that failed"

        A failure means that a result that cannot be pickled is reported as something else, or the call run again.
        """

        def call() -> Any:
            tally.add("called")
            return {"fine": 1, "deep": [0, {"bad_part": threading.Lock()}]}

        fails = ways(apparatus)[way]
        error = fails(call) if way not in ("map", "amap") else fails(lambda _: call())
        assert isinstance(error, SerializationError)
        assert "result" in str(error)
        assert "bad_part" in str(error)
        assert tally.read() == ["called"]

    def test_err_05_bad_results_among_good_ones(self, apparatus: Apparatus) -> None:
        """ "A function, argument or result that cannot be pickled raises `SerializationError`"

        A failure means that a bad result takes those of the calls that are grouped with it along.
        """

        def call(number: int) -> Any:
            return threading.Lock() if number % 100 == 50 else [number]

        results = list(apparatus.map(call, range(1000), return_exceptions=True))
        bad = [n for n, result in enumerate(results) if isinstance(result, SerializationError)]
        assert bad == list(range(50, 1000, 100))
        assert all(result == [n] for n, result in enumerate(results) if n not in bad)

    # --- ERR-06 ---

    @requires(Capability.KILL_WORKER)
    @pytest.mark.parametrize("how", ["SIGKILL", "exit", "abort"])
    def test_err_06_a_dead_worker_costs_its_call(self, apparatus: Apparatus, how: str) -> None:
        """ "A worker that dies (SIGKILL, `os._exit`, out of memory, lost node) raises `WorkerLost` for the call that it
        was running"

        A failure means that a worker's death is not noticed, or raised as something of the backend's own.
        """
        for way, fails in ways(apparatus).items():
            error = fails(subjects.die, how)
            assert isinstance(error, WorkerLost), (way, error)
        assert apparatus.run(subjects.double, 2) == 4

    @requires(Capability.KILL_WORKER)
    def test_err_06_also_before_its_function_is_there(self, apparatus: Apparatus) -> None:
        """ "A worker that dies […] raises `WorkerLost` for the call that it was running"

        A failure by timeout means that a call whose function or arguments end the worker that unpickles them, by what
        they import or by their size, is given to one worker after the other, for ever.
        """
        deadly = subjects.Deadly()
        assert isinstance(caught(apparatus.run, lambda: deadly), WorkerLost)
        assert isinstance(caught(apparatus.run, subjects.everything, deadly), WorkerLost)
        results = apparatus.map(subjects.everything, range(2), kwargs={"it": deadly}, return_exceptions=True)
        assert [type(result) for result in results] == [WorkerLost, WorkerLost]
        assert apparatus.run(subjects.double, 2) == 4

    @when_declined(test_err_06_also_before_its_function_is_there)
    def _err_06_nor_is_there_a_caller(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    @when_declined(test_err_06_a_dead_worker_costs_its_call)
    def _err_06_a_dead_worker_is_a_dead_caller(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    @requires(Capability.KILL_WORKER)
    @pytest.mark.parametrize("chunk", [1, None])
    def test_err_06_and_no_other_call(self, apparatus: Apparatus, chunk: int | None) -> None:
        """ "and for no other call: with `return_exceptions=True` the rest of the map completes"

        A failure means that calls which waited for the dead worker, or had ended on it, are lost with it.
        """
        deadly = {7, 8, 150, 151, 299}

        def call(number: int) -> list[int]:
            if number in deadly:
                subjects.die("SIGKILL")
            return [number]

        results = list(apparatus.w(chunk=chunk).map(call, range(300), return_exceptions=True))
        assert {n for n, result in enumerate(results) if isinstance(result, WorkerLost)} == deadly
        assert all(result == [n] for n, result in enumerate(results) if n not in deadly)

    @when_declined(test_err_06_and_no_other_call)
    def _err_06_the_rest_dies_too(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    @requires(Capability.KILL_WORKER)
    def test_err_06_a_call_beside_it_goes_on(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "and for no other call"

        A failure means that the death of one worker ends the calls of the others.
        """
        beside = probes.in_background(apparatus.run, subjects.pass_gate, gate, gate2)
        gate.wait()
        with pytest.raises(WorkerLost):
            apparatus.run(subjects.die, "exit")
        gate2.open()
        assert beside.result(patience) == "through"

    @when_declined(test_err_06_a_call_beside_it_goes_on)
    def _err_06_no_call_goes_on(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    # --- ERR-07 ---

    @pytest.mark.parametrize("code", [None, 0, 3, "farewell"])
    def test_err_07_sys_exit_is_an_error_of_the_call(
        self, apparatus: Apparatus, code: int | str | None
    ) -> None:
        """ "`sys.exit()` in `fn` is an error of that call (`RemoteError`), not the end of a worker or the caller."

        A failure means that SystemExit ends a worker, or passes for one that was lost.
        """
        one = apparatus.w(max_workers=1)
        worker = one.run(os.getpid)
        for way, fails in ways(one).items():
            error = fails(sys.exit, code)
            assert type(error) is RemoteError, way
            assert error.type_name == "SystemExit"
        results = list(one.map(subjects.exit_at_three, range(50), return_exceptions=True))
        assert [n for n, result in enumerate(results) if isinstance(result, RemoteError)] == [3]
        assert one.run(os.getpid) == worker

    # --- ERR-08 ---

    @requires(Capability.INTERRUPT)
    @pytest.mark.parametrize("to", ["the caller", "its process group"])
    @pytest.mark.parametrize("how", ["run", "map", "amap"])
    def test_err_08_interrupt_stops_the_map(
        self, scripts: Scripts, tally: Tally, gate: Gate, patience: float, how: str, to: str
    ) -> None:
        """ "`KeyboardInterrupt` in the caller stops the map, leaves no process behind and raises within 2 s."

        A failure means that Ctrl-C waits for calls to end, leaves workers running, or spoils the apparatus.
        """
        script = scripts.start(INTERRUPTED + CAUGHT, how, tally.path, gate.path)
        tally.wait_for(1, patience)
        workers = descendants(script.pid)
        began = time.monotonic()
        if to == "the caller":
            os.kill(script.pid, signal.SIGINT)
        else:
            script.signal_group(signal.SIGINT)
        script.wait_for_line("interrupted", patience)
        assert time.monotonic() - began < 2
        probes.until(
            lambda: all(Held(path).free() for path in tally.read()), 2, "the end of the running calls"
        )
        gate.open()
        assert script.wait(patience) == 0, script.words()
        assert "usable" in script.out
        assert not any(map(alive, workers))

    @when_declined(test_err_08_interrupt_stops_the_map)
    def _err_08_the_caller_ends_with_its_calls(
        self, scripts: Scripts, tally: Tally, gate: Gate, patience: float, how: str, to: str
    ) -> None:
        source = INTERRUPTED.replace("120", "0.3") + "use()\n"
        script = scripts.start(source, how, tally.path, gate.path)
        tally.wait_for(1, patience)
        if to == "the caller":
            os.kill(script.pid, signal.SIGINT)
        else:
            script.signal_group(signal.SIGINT)
        assert script.wait(patience) != 0
        assert "KeyboardInterrupt" in script.err

    @requires(Capability.INTERRUPT)
    @pytest.mark.parametrize("how", ["map", "between"])
    def test_err_08_uncaught(
        self, scripts: Scripts, tally: Tally, gate: Gate, patience: float, how: str
    ) -> None:
        """ "leaves no process behind"

        A failure means that workers survive a script which Ctrl-C has ended.
        """
        script = scripts.start(INTERRUPTED + "use()\n", how, tally.path, gate.path)
        tally.wait_for(1, patience)
        workers = descendants(script.pid)
        began = time.monotonic()
        script.signal_group(signal.SIGINT)
        assert script.wait(patience) in (-signal.SIGINT, 130), script.words()
        assert time.monotonic() - began < 2
        assert "KeyboardInterrupt" in script.err
        probes.until(lambda: not any(map(alive, workers)), 2, "the end of the workers")
        probes.until(
            lambda: all(Held(path).free() for path in tally.read()), 2, "the end of the running calls"
        )

    @when_declined(test_err_08_uncaught)
    def _err_08_uncaught_ends_with_its_calls(
        self, scripts: Scripts, tally: Tally, gate: Gate, patience: float
    ) -> None:
        self._err_08_the_caller_ends_with_its_calls(scripts, tally, gate, patience, "map", "the caller")

    # --- ERR-09 ---

    @requires(Capability.PROCESS_ISOLATION)
    @pytest.mark.parametrize("use", ["app.run(abs, -1)", "list(app.map(abs, [-1]))", "asyncio.run(amap())"])
    def test_err_09_says_what_to_do(
        self, scripts: Scripts, unreachable: Unreachable, patience: float, use: str
    ) -> None:
        """ "A backend that is not installed, not reachable or not authorised raises `BackendUnavailable` (or its
        subclass `AuthError`) saying what to do next, within its connect timeout, and without a token in the text."

        A failure means that an error of the backend's own comes through, that a call waits for a backend that will
        never come, or that a message gives a credential away.
        """
        source = (
            "import asyncio, time\n"
            "from mini import BackendUnavailable\n"
            "async def amap():\n"
            "    return [x async for x in app.amap(abs, [-1])]\n"
            "began = time.monotonic()\n"
            "try:\n"
            f"    {use}\n"
            "except BackendUnavailable as exc:\n"
            "    print(f'{time.monotonic() - began:.3f}\\n{exc}')\n"
            "else:\n"
            "    raise AssertionError('it was available')\n"
            "app.close()\n"
        )
        script = scripts.start(source, prelude=unreachable.prelude)
        assert script.wait(unreachable.seconds + patience) == 0, script.words()
        seconds, _, message = script.out.partition("\n")
        assert float(seconds) <= unreachable.seconds
        assert len(message.split()) > 3
        assert not unreachable.secret or unreachable.secret not in script.out + script.err

    @when_declined(test_err_09_says_what_to_do)
    def _err_09_needs_nothing(self, scripts: Scripts, unreachable: Unreachable, patience: float) -> None:
        # A backend that needs nothing but the calling process cannot be missing.
        script = scripts.start("assert app.run(abs, -1) == 1\napp.close()\n", prelude=unreachable.prelude)
        assert script.wait(patience) == 0, script.words()

    # --- ERR-10 ---

    @WAYS
    @pytest.mark.parametrize("name", CONTROL)
    def test_err_10_is_an_error_of_the_call(self, apparatus: Apparatus, name: str, way: str) -> None:
        """ "`StopIteration`, `TimeoutError`, `CancelledError`, `GeneratorExit` or `KeyboardInterrupt` raised by `fn` is
        an error of that call; it never passes for the library's own control flow."

        A failure means that the adapter, or an event loop beneath it, takes the exception for a signal to itself.
        """
        error = ways(apparatus.w(timeout=None))[way](subjects.raises, CONTROL[name]())
        assert is_that_error(error, name), repr(error)
        assert not isinstance(error, JobTimeout)

    @both_maps
    @pytest.mark.parametrize("name", CONTROL)
    def test_err_10_the_rest_of_the_map_completes(self, apparatus: Apparatus, name: str, how: str) -> None:
        """ "is an error of that call"

        A failure means that the exception ends the map, or the worker's group, as if all were done.
        """
        kwargs = {"at": 7, "error": CONTROL[name]()}
        map_ = as_map(apparatus, how)
        results = list(map_(subjects.misbehave, range(40), kwargs=kwargs, return_exceptions=True))
        assert is_that_error(results[7], name), repr(results[7])
        assert [*results[:7], *results[8:]] == [*range(7), *range(8, 40)]
        failing = map_(subjects.misbehave, range(40), kwargs=kwargs)
        assert [next(failing) for _ in range(7)] == list(range(7))
        assert is_that_error(caught(next, failing), name)

    def test_err_10_a_future_is_not_cancelled(self, apparatus: Apparatus) -> None:
        """ "it never passes for the library's own control flow"

        A failure means that a future, or a task, looks cancelled because its call raised CancelledError.
        """
        with apparatus.executor() as executor:
            for name in ("asyncio.CancelledError", "concurrent.futures.CancelledError"):
                future = executor.submit(subjects.raises, CONTROL[name]())
                assert is_that_error(future.exception(60), name)
                assert not future.cancelled()

        async def main() -> None:
            task = asyncio.create_task(apparatus.arun(subjects.raises, CONTROL["asyncio.CancelledError"]()))
            await asyncio.wait([task])
            assert not task.cancelled()
            assert is_that_error(task.exception(), "asyncio.CancelledError")

        asyncio.run(main())

    @requires(Capability.TIMEOUT)
    def test_err_10_a_timeout_of_its_own(self, apparatus: Apparatus) -> None:
        """ "it never passes for the library's own control flow"

        A failure means that a TimeoutError which the function raised is reported as a JobTimeout.
        """
        error = caught(apparatus.w(timeout=60).run, subjects.raises, TimeoutError("slow"))
        assert type(error) is TimeoutError

    @when_declined(test_err_10_a_timeout_of_its_own)
    def _err_10_a_timeout_of_its_own(self, apparatus: Apparatus) -> None:
        assert type(caught(apparatus.run, subjects.raises, TimeoutError("slow"))) is TimeoutError

    # --- ERR-11 ---

    @both_maps
    @pytest.mark.parametrize("keep_going", [False, True])
    def test_err_11_a_note_names_the_input(self, apparatus: Apparatus, how: str, keep_going: bool) -> None:
        """ "An exception from a map carries a note with the input's index and a short repr of it."

        A failure means that the note is missing, or names another input of the same group.
        """

        def call(number: int, text: str) -> int:
            if number in (123, 124):
                raise LookupError("here")
            return number

        texts = [f"text {n} " + 100_000 * "x" for n in range(200)]
        results = as_map(apparatus, how)(call, range(200), texts, return_exceptions=keep_going)
        if keep_going:
            errors = [error for error in results if isinstance(error, LookupError)]
        else:
            errors = [caught(list, results)]  # type: ignore[list-item]
        for error, number in zip(errors, (123, 124), strict=keep_going):
            (note,) = [note for note in error.__notes__ if str(number) in note]
            assert f"text {number}" in note
            assert len(note) < 1000

    def test_err_11_also_without_a_repr(self, apparatus: Apparatus) -> None:
        """ "a short repr of it"

        A failure means that an input whose repr fails takes the place of the error that is to be reported.
        """
        error = caught(list, apparatus.map(subjects.fail_with, [subjects.NoRepr()]))
        assert type(error) is LookupError
        assert any("0" in note for note in error.__notes__)


def is_that_error(error: BaseException | None, name: str) -> bool:
    """Whether it is the exception itself or stands for it; what would be control flow here can only stand for it."""
    if name in ("TimeoutError", "concurrent.futures.CancelledError"):
        return type(error) is type(CONTROL[name]())
    return type(error) is RemoteError and error.type_name.rpartition(".")[2] == name.rpartition(".")[2]
