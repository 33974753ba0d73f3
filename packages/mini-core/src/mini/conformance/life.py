"""LIFE: life cycle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ..capability import Capability
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite
from .cap import WATCH
from .err import caught
from .footprint import alive, shared_memory
from .probes import Gate, Tally
from .scripts import Scripts

__all__ = ["LifeSuite"]

WORK = """
import asyncio, os, signal, sys, threading, time
import numpy as np
from mini.conformance import subjects
from mini.conformance.footprint import Footprint
def work(app):
    assert app.run(subjects.double, 2) == 4
    assert list(app.map(subjects.double, range(3000))) == [2 * x for x in range(3000)]
    constant = np.zeros(500_000)
    assert list(app.map(lambda x: x + constant.size, range(20))) == [500_000 + x for x in range(20)]
    assert sum(len(b) for b in app.map(subjects.blob, [1_000_000] * 4)) == 4_000_000
    left = app.map(subjects.double, subjects.endless())
    next(left)
    left.close()
    stream = app.stream(subjects.count_up, 100)
    next(stream)
    stream.close()
    try:
        app.run(subjects.raise_two_arguments)
    except subjects.TwoArguments:
        pass
    with app.executor() as executor:
        assert executor.submit(subjects.double, 3).result() == 6
    async def asynchronously():
        assert await app.arun(subjects.double, 4) == 8
        async for _ in app.amap(subjects.double, range(100)):
            break
    asyncio.run(asynchronously())
    app.volume.write_bytes("life", b"x")
    if app.supports("kill_worker"):
        list(app.map(lambda x: os._exit(1) if x == 3 else x, range(10), return_exceptions=True))
    if app.supports("timeout"):
        list(app.w(timeout=0.2).map(time.sleep, [0, 10], return_exceptions=True))
"""

FORK = """
import os, sys, time, warnings
from mini.conformance.subjects import double, raises
warnings.simplefilter("ignore", DeprecationWarning)
assert app.run(double, 1) == 2
assert list(app.map(double, range(100))) == [2 * x for x in range(100)]
def in_a_child(use):
    pid = os.fork()
    if not pid:
        try:
            use()
        except RuntimeError as exc:
            print("raised", exc, flush=True)
        except BaseException as exc:
            print("unexpected", repr(exc), flush=True)
            os._exit(1)
        else:
            print("worked", flush=True)
        os._exit(0)
    deadline = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    raise SystemExit("it hangs")
def check(value, wanted):
    assert value == wanted, value
"""

FORK_USES = {
    "run": "in_a_child(lambda: check(app.run(double, 5), 10))",
    "map": "in_a_child(lambda: check(list(app.map(double, range(5))), [0, 2, 4, 6, 8]))",
    "close": "in_a_child(app.close)",
    "a new one": "in_a_child(lambda: check(again().run(double, 5), 10))",
    "in the midst of a map": "results = app.map(double, iter(range(300)))\n"
    "assert next(results) == 0\n"
    "in_a_child(lambda: check(len(list(results)), 299))\n"
    "assert list(results) == [2 * x for x in range(1, 300)]",
}


class LifeSuite(Suite):
    """LIFE: life cycle."""

    # --- LIFE-01 ---

    def test_life_01_making_one_starts_nothing(self, scripts: Scripts) -> None:
        """ "Making an apparatus starts nothing and reaches nothing: no network, no process, under 5 ms."

        A failure means that the constructor, or `w`, or looking at the volume, does what the first call should do.
        """
        script = scripts.run(
            """
import time
from mini.conformance.subjects import nothing
again = pickle.dumps(app)
pickle.loads(again).w(chunk=1).before_each(nothing)
"""
            + WATCH
            + """
times = []
for _ in range(5):
    began = time.perf_counter()
    new = pickle.loads(again)
    times.append(time.perf_counter() - began)
    derived = new.w(window=3, retries=1).before_each(nothing)
    repr(derived), derived.name, derived.records(), derived.logs(), derived.volume
    derived.executor()
    pickle.dumps(derived)
    derived.close()
assert seen == [], seen
print(min(times))
"""
        )
        assert float(script.out) < 0.005

    # --- LIFE-02 ---

    def test_life_02_leaving_closes(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "`with app:` closes on leaving"

        A failure means that an apparatus can still be used after its block, and its workers are still there.
        """
        with fresh(unused_name) as apparatus:
            assert apparatus.run(subjects.double, 2) == 4
        with pytest.raises(RuntimeError):
            apparatus.run(subjects.double, 2)
        with (
            pytest.raises(LookupError, match="of the block"),
            fresh(f"{unused_name}-2") as apparatus,
        ):
            raise LookupError("of the block")
        with pytest.raises(RuntimeError):
            apparatus.run(subjects.double, 2)

    @pytest.mark.parametrize("used", [True, False])
    def test_life_02_close_is_idempotent(self, fresh: MakeApparatus, unused_name: str, used: bool) -> None:
        """ "`close()` is idempotent"

        A failure means that closing twice, or closing what was never used, raises.
        """
        apparatus = fresh(unused_name)
        if used:
            assert apparatus.run(subjects.double, 2) == 4
        for _ in range(3):
            apparatus.close()
        threads = [threading.Thread(target=apparatus.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @pytest.mark.parametrize("used", [True, False])
    def test_life_02_using_a_closed_one(self, fresh: MakeApparatus, unused_name: str, used: bool) -> None:
        """ "using a closed one raises `RuntimeError`"

        A failure means that a closed apparatus starts its workers again, or hangs.
        """
        apparatus = fresh(unused_name)
        executor = apparatus.executor()
        if used:
            assert apparatus.run(subjects.double, 2) == 4
        apparatus.close()

        async def arun() -> None:
            await apparatus.arun(subjects.double, 2)

        async def amap() -> None:
            async for _ in apparatus.amap(subjects.double, [2]):
                pass

        def enter() -> None:
            with apparatus:
                pass

        uses: dict[str, Callable[[], Any]] = {
            "run": lambda: apparatus.run(subjects.double, 2),
            "map": lambda: list(apparatus.map(subjects.double, [2])),
            "stream": lambda: list(apparatus.stream(subjects.count_up, 2)),
            "arun": lambda: asyncio.run(arun()),
            "amap": lambda: asyncio.run(amap()),
            "with": enter,
            "submit": lambda: executor.submit(subjects.double, 2),
        }
        for name, use in uses.items():
            error = caught(use)
            assert isinstance(error, RuntimeError), (name, error)

    def test_life_02_closing_while_calls_wait(
        self, fresh: MakeApparatus, unused_name: str, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "using a closed one raises `RuntimeError`"

        A failure means that a thread which waits for a result waits for ever when another closes the apparatus.
        """
        apparatus = fresh(unused_name)
        call = probes.in_background(apparatus.run, subjects.pass_gate, gate, gate2)
        gate.wait()
        closing = probes.in_background(apparatus.close)
        probes.until(lambda: call.done() or closing.done(), patience, "the end of the call or of close()")
        gate2.open()
        closing.result(patience)
        error = call.exception(patience)
        assert error is None or isinstance(error, RuntimeError)
        with pytest.raises(RuntimeError):
            apparatus.run(subjects.double, 2)

    # --- LIFE-03 ---

    def test_life_03_nothing_is_left_after_close(self, scripts: Scripts) -> None:
        """ "After `close()` or the end of the process no worker, thread, socket, temp file or shared memory is left."

        A failure names what is left behind after all that an apparatus can be used for.
        """
        script = scripts.run(
            WORK
            + """
again = pickle.dumps(app)
with pickle.loads(again) as warm:  # imports, and whatever is made once for all
    work(warm)
before = Footprint.now(unowned=True)
with pickle.loads(again) as app:
    work(app)
deadline = time.monotonic() + 2
while (left := Footprint.now(unowned=True).new_since(before)) and time.monotonic() < deadline:
    time.sleep(0.01)  # a thread that has done its work may still be on its way out
print(left)
"""
        )
        assert script.out == "[]\n", script.words()

    @pytest.mark.parametrize(
        "end", ["returns", "raises", "sys.exit", "in the midst of a map", "SIGTERM", "SIGKILL"]
    )
    def test_life_03_nothing_is_left_of_a_process(
        self, scripts: Scripts, end: str, patience: float, tally: Tally
    ) -> None:
        """ "After […] the end of the process no worker, thread, socket, temp file or shared memory is left."

        A failure names what outlives a caller that did not close its apparatus: workers have to notice that it is gone.
        """
        source = {
            "returns": "",
            "raises": "raise LookupError('the end')\n",
            "sys.exit": "sys.exit(3)\n",
            "in the midst of a map": "results = app.map(subjects.double, subjects.endless())\nnext(results)\n",
            "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n",
            "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)\n",
        }[end]
        before = shared_memory(unowned=True)
        script = scripts.start(
            WORK
            + "from mini.conformance.footprint import descendants\n"
            + "assert app.run(subjects.double, 2) == 4\n"
            + "constant = np.zeros(500_000)\n"
            + "assert list(app.map(lambda x: x + constant.size, range(4))) == [500_000 + x for x in range(4)]\n"
            + "from mini.conformance.probes import Tally\n"
            + "[Tally(sys.argv[1]).add(pid) for pid in descendants()]\n"
            + source,
            tally.path,
        )
        status = script.wait(3 * patience)
        wanted = {"raises": 1, "sys.exit": 3, "SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL}
        assert status == wanted.get(end, 0), script.words()
        workers = [int(pid) for pid in tally.read()]
        probes.until(lambda: not any(map(alive, workers)), patience / 2, "the end of the workers")
        assert list(scripts.temporary.iterdir()) == []
        assert shared_memory(unowned=True) <= before

    def test_life_03_an_apparatus_that_is_dropped(self, scripts: Scripts) -> None:
        """ "After `close()` or the end of the process no worker […] is left."

        A failure means that an apparatus which nobody refers to any more keeps its workers until the process ends.
        """
        scripts.run(
            WORK
            + """
import gc
from mini.conformance.footprint import descendants
again = pickle.dumps(app)
def use():
    app = pickle.loads(again)
    assert app.run(subjects.double, 2) == 4
    list(app.map(subjects.double, range(100)))
before = descendants()
use()
deadline = time.monotonic() + 10
while (left := descendants() - before) and time.monotonic() < deadline:
    gc.collect()
    time.sleep(0.01)
assert not left, left
"""
        )

    # --- LIFE-04 ---

    def test_life_04_pickled_into_a_call(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "An apparatus, as an object, can be pickled into a call and used there."

        A failure means that `_settings` leaves out what makes the same apparatus again, or that options are lost.
        """
        apparatus = fresh(unused_name).before_each(subjects.nothing).w(retries=2)

        def use(app: Apparatus) -> tuple[str, str, int, list[int]]:
            with app:
                return (
                    app.name,
                    app.backend,
                    app.run(subjects.double, 4),
                    list(app.map(subjects.double, [1, 2])),
                )

        assert apparatus.run(use, apparatus) == (unused_name, apparatus.backend, 8, [2, 4])
        assert apparatus.run(lambda: apparatus.run(subjects.double, 5)) == 10
        copy = pickle.loads(pickle.dumps(apparatus))
        try:
            assert type(copy) is type(apparatus)
            assert {c: copy.supports(c) for c in Capability} == {c: apparatus.supports(c) for c in Capability}
            copy.volume.write_bytes("shared", b"by name")
            assert apparatus.volume.read_bytes("shared") == b"by name"
        finally:
            copy.close()
        assert apparatus.run(subjects.double, 4) == 8

    def test_life_04_with_its_options(self, fresh: MakeApparatus, unused_name: str, tally: Tally) -> None:
        """ "can be pickled into a call and used there"

        A failure means that options or hooks are lost on the way.
        """
        apparatus = fresh(unused_name).w(retries=2).before_each(functools.partial(tally.add, "hook"))
        copy = pickle.loads(pickle.dumps(apparatus.w(max_workers=1)))
        with copy, pytest.raises(LookupError):
            copy.run(subjects.note_and_fail, tally)
        assert tally.read() == ["hook", "called"] * 3

    # --- LIFE-05 ---

    def test_life_05_submit_and_map(self, apparatus: Apparatus, gate: Gate, patience: float) -> None:
        """ "`app.executor()` is a `concurrent.futures.Executor` over the same backend (`submit`, `map`, `shutdown`,
        cancellable futures)"

        A failure means that code written for an executor of the standard library does not find one here.
        """
        with apparatus.executor() as executor:
            assert isinstance(executor, concurrent.futures.Executor)
            futures = [executor.submit(subjects.add, x, y=1) for x in range(30)]
            assert [future.result(patience) for future in futures] == list(range(1, 31))
            done, waiting = concurrent.futures.wait(futures, patience)
            assert (len(done), len(waiting)) == (30, 0)
            failing = executor.submit(subjects.raise_two_arguments)
            assert isinstance(failing.exception(patience), subjects.TwoArguments)
            with pytest.raises(subjects.TwoArguments):
                failing.result(patience)
            called = threading.Event()
            executor.submit(subjects.double, 1).add_done_callback(lambda _: called.set())
            assert called.wait(patience)
            assert list(executor.map(subjects.add, range(5), range(9))) == [0, 2, 4, 6, 8]
            assert list(executor.map(subjects.double, range(5), timeout=patience, chunksize=2)) == [
                0,
                2,
                4,
                6,
                8,
            ]
            held = executor.submit(subjects.pass_gate, gate, gate)
            assert held.result(patience) == "through"
        with pytest.raises(RuntimeError):
            executor.submit(subjects.double, 1)
        with pytest.raises(RuntimeError):
            executor.map(subjects.double, [1])
        assert apparatus.run(subjects.double, 4) == 8, "shutting the executor down leaves the apparatus open"

    def test_life_05_futures_can_be_cancelled(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "cancellable futures"

        A failure means that a future which has not started cannot be cancelled, or that its call runs all the same.
        """
        executor = apparatus.w(max_workers=1).executor()
        running = executor.submit(subjects.pass_gate, gate, gate2)
        gate.wait()
        probes.until(running.running, patience, "the start of the first call")
        waiting = [executor.submit(tally.add, n) for n in range(5)]
        assert not running.cancel()
        assert waiting[3].cancel()
        assert waiting[3].cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting[3].result(patience)
        gate2.open()
        assert running.result(patience) == "through"
        concurrent.futures.wait([future for future in waiting if future is not waiting[3]], patience)
        executor.shutdown()
        assert sorted(tally.read()) == ["0", "1", "2", "4"]

    def test_life_05_shutdown(
        self, apparatus: Apparatus, tally: Tally, gate: Gate, gate2: Gate, patience: float
    ) -> None:
        """ "`shutdown`"

        A failure means that `shutdown` does not wait for what was submitted, or does not cancel it when asked to.
        """
        with apparatus.executor() as executor:
            futures = [executor.submit(tally.add, n) for n in range(10)]
        assert all(future.done() for future in futures)
        assert len(tally.read()) == 10
        executor = apparatus.w(max_workers=1).executor()
        running = executor.submit(subjects.pass_gate, gate, gate2)
        gate.wait()
        waiting = [executor.submit(tally.add, n) for n in range(10)]
        executor.shutdown(wait=False, cancel_futures=True)
        # As with the standard library's, one call may already be on its way to the worker.
        assert all(future.cancelled() for future in waiting[1:])
        gate2.open()
        assert running.result(patience) == "through"
        executor.shutdown()
        assert len(tally.read()) == 10 + (not waiting[0].cancelled())

    def test_life_05_run_in_executor(self, apparatus: Apparatus, gate: Gate, gate2: Gate) -> None:
        """ "so that code written for one (`run_in_executor`, `workers=` of SciPy) takes it"

        A failure means that asyncio cannot use it, or that `map` is not what SciPy expects of `workers=`.
        """

        async def main() -> str:
            with apparatus.executor() as executor:
                loop = asyncio.get_running_loop()
                call = loop.run_in_executor(executor, subjects.pass_gate, gate, gate2)
                await asyncio.to_thread(gate.wait)
                gate2.open()
                return await call

        assert asyncio.run(main()) == "through"
        with apparatus.executor() as executor:
            workers: Callable[..., Any] = executor.map  # `workers(func, iterable)` is all that SciPy asks for
            assert list(workers(lambda x: x @ x, [subjects.np_zeros(3) + n for n in range(3)])) == [0, 3, 12]

    # --- LIFE-06 ---

    @pytest.mark.parametrize("what", FORK_USES)
    def test_life_06_forking(self, scripts: Scripts, what: str, patience: float) -> None:
        """ "Forking after use, and use in a forked child, either works or raises at once; it never hangs."

        A failure means that a forked child waits for a lock or a worker of its parent, or takes them from it.
        """
        script = scripts.run(
            "data = pickle.dumps(app)\ndef again():\n    return pickle.loads(data)\n"
            + FORK
            + FORK_USES[what]
            + "\nassert app.run(double, 7) == 14\n"
            + "assert list(app.map(double, range(100))) == [2 * x for x in range(100)]\n"
            + "app.close()\n",
            "fork",
            patience / 2,
        )
        assert script.out.startswith(("worked", "raised")), script.words()
