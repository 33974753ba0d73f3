"""The local pool under pressure: dead workers, stragglers, big payloads, abandoned maps, callers that vanish."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pytest
from mini.conformance.probes import Gate, Tally, until
from mini.inputs import Source
from mini.wire import PackedRows


@pytest.fixture
def app(tmp_path: Path) -> Iterator[mini.LocalApparatus]:
    with mini.LocalApparatus("pool", max_workers=2, data_dir=tmp_path / "data").w(progress=False) as app:
        yield app


# What workers call is not in this module: each new one would import it, with all that it imports.


def executions(log: Tally) -> Counter[int]:
    return Counter(map(int, log.read()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until_dead(pids: list[int], seconds: float) -> list[int]:
    """Those of `pids` that still live after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_dead_worker_costs_one_call_and_nothing_runs_twice(
    app: mini.LocalApparatus, tmp_path: Path, chunk: int
) -> None:
    log = Tally(str(tmp_path / "log"))

    def work(i: int) -> int:
        log.add(i)
        if i in (150, 151, 380):
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    results = list(app.w(chunk=chunk).map(work, range(500), return_exceptions=True))
    lost = [i for i, r in enumerate(results) if isinstance(r, mini.WorkerLost)]
    assert lost == [150, 151, 380]
    assert [r for r in results if not isinstance(r, mini.WorkerLost)] == [
        i for i in range(500) if i not in lost
    ]
    assert executions(log) == Counter(range(500))


def test_results_of_every_kind_survive_the_death_of_their_worker(app: mini.LocalApparatus) -> None:
    kinds = [
        7,
        2**70,
        1.5,
        True,
        None,
        "text",
        b"bytes",
        (1, [2]),
        {"a": 3},
        "x" * 3_000_000,
        np.arange(20_000),
    ]

    def work(i: int) -> object:
        if i % 40 == 39:
            os._exit(3)
        if i % 40 == 38:
            raise KeyError(i)
        return kinds[i % 40 % len(kinds)]

    results = list(app.map(work, range(400), return_exceptions=True))
    for i, result in enumerate(results):
        if i % 40 == 39:
            assert isinstance(result, mini.WorkerLost)
            assert "exited with code 3" in str(result)
        elif i % 40 == 38:
            assert isinstance(result, KeyError)
        else:
            np.testing.assert_equal(result, kinds[i % 40 % len(kinds)])


@pytest.mark.slow
def test_random_kills_from_outside_lose_only_the_calls_that_ran(
    app: mini.LocalApparatus, tmp_path: Path
) -> None:
    log, pids = Tally(str(tmp_path / "log")), Tally(str(tmp_path / "pids"))
    random.seed(1)

    def work(i: int) -> int:
        log.add(i)
        pids.add(os.getpid())
        end = time.perf_counter() + 0.0005
        while time.perf_counter() < end:
            pass
        return i

    kills = 0
    ok = lost = 0
    for i, result in enumerate(app.map(work, range(4000), return_exceptions=True)):
        if isinstance(result, mini.WorkerLost):
            lost += 1
        else:
            assert result == i
            ok += 1
        if i % 400 == 200 and executions(pids):
            pid = random.choice(list(executions(pids)))
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
                kills += 1
    assert kills
    assert lost <= kills
    assert ok + lost == 4000
    assert max(executions(log).values()) == 1


def test_a_straggler_holds_up_nothing_but_itself(app: mini.LocalApparatus, tmp_path: Path) -> None:
    """Calls before it in its group are handed out, calls after it are given to other workers."""
    release = Gate(str(tmp_path / "release"), patience=60)

    def work(i: int) -> int:
        if i == 1500:
            release.wait()
        return i

    seen = set()
    for result in app.map(work, range(3000), ordered=False):
        seen.add(result)
        if len(seen) == 2999:
            assert 1500 not in seen
            release.open()
    assert seen == set(range(3000))


def test_stolen_calls_run_once(app: mini.LocalApparatus, tmp_path: Path) -> None:
    log = Tally(str(tmp_path / "log"))

    def work(i: int) -> int:
        log.add(i)
        if i % 97 == 0:
            time.sleep(0.05)  # an uneven load, not a wait for anything
        return i

    assert list(app.map(work, range(1000))) == list(range(1000))
    assert executions(log) == Counter(range(1000))


def test_large_payloads_in_both_directions_at_once(app: mini.LocalApparatus) -> None:
    def flip(x: np.ndarray) -> np.ndarray:
        return x[::-1].copy()

    arrays = [np.full(500_000, i, dtype=float) for i in range(30)]
    arrays[3][0] = -1
    results = list(app.w(chunk=1, window=30).map(flip, arrays))
    assert [r[0] for r in results] == list(range(30))
    assert results[3][-1] == -1


def test_an_input_array_may_be_reused_for_the_next_input(app: mini.LocalApparatus) -> None:
    def inputs() -> Iterator[np.ndarray]:
        array = np.zeros(200_000)
        for i in range(20):
            array[:] = i
            yield array

    assert list(app.map(lambda x: float(x.sum()), inputs())) == [i * 200_000.0 for i in range(20)]


def test_what_an_abandoned_map_computed_never_shows_up_in_the_next(app: mini.LocalApparatus) -> None:
    for round_ in range(20):
        for result in app.map(lambda i, r: (r, i), range(10_000), kwargs={"r": round_}):
            assert result == (round_, 0)
            break
    assert list(app.map(lambda i: i, range(100))) == list(range(100))


def test_grouping_shares_no_object_between_calls(app: mini.LocalApparatus) -> None:
    shared = [0]

    def bump(x: list[int]) -> list[int]:
        x.append(len(x))
        return x

    assert list(app.map(bump, [shared] * 300)) == [[0, 1]] * 300


def test_a_result_is_a_snapshot(app: mini.LocalApparatus) -> None:
    class Kept:
        values: list[int] = []  # noqa: RUF012

    def grow(i: int) -> tuple[int, list[int]]:
        Kept.values.append(i)
        return os.getpid(), Kept.values

    lengths: dict[int, list[int]] = {}
    for pid, values in app.map(grow, range(400)):
        lengths.setdefault(pid, []).append(len(values))
    for seen in lengths.values():  # not in this order: calls may be taken back and run elsewhere
        assert sorted(seen) == list(range(1, len(seen) + 1))


def test_a_timeout_ends_one_call_of_a_group(app: mini.LocalApparatus, tmp_path: Path) -> None:
    log = Tally(str(tmp_path / "log"))

    def work(i: int) -> int:
        log.add(i)
        if i in (300, 700):
            time.sleep(60)
        return i

    results = list(app.w(timeout=0.5).map(work, range(1000), return_exceptions=True))
    late = [i for i, r in enumerate(results) if isinstance(r, mini.JobTimeout)]
    assert late == [300, 700]
    assert executions(log) == Counter(range(1000))


def test_a_worker_that_closes_its_connections_is_lost(app: mini.LocalApparatus) -> None:
    def vandal(i: int) -> int:
        if i == 5:
            os.closerange(3, 64)
        return i

    results = list(app.w(chunk=1).map(vandal, range(20), return_exceptions=True))
    assert [i for i, r in enumerate(results) if isinstance(r, BaseException)] in ([5], [])
    assert app.run(abs, -1) == 1


def test_maps_from_many_threads_share_the_workers(app: mini.LocalApparatus) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(k: int) -> int:
        return sum(app.map(lambda i, k: i * k, range(2000), kwargs={"k": k}))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(8))) == [k * 1999000 for k in range(8)]
    assert len(set(app.w(chunk=1).map(lambda _: os.getpid(), range(50)))) <= 2


def test_the_consumer_may_stop_for_a_while(app: mini.LocalApparatus, tmp_path: Path) -> None:
    """Inputs that can be pulled without running the user's code go on being worked on while nobody asks."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def work(i: int) -> int:
        (marks / str(i)).touch()
        return i

    results = app.w(chunk=1, window=20).map(work, list(range(100)))
    until((marks / "19").exists, 60)
    assert next(results) == 0
    assert len(list(marks.iterdir())) <= 21
    results.close()


RunScript = Callable[[str], "subprocess.Popen[str]"]

BUSY = """
    def busy(path):
        Path(path).write_text(str(os.getpid()))
        while True:
            pass

    paths = [f"{sys.argv[0]}.{k}" for k in range(2)]
    try:
        list(app.map(busy, paths))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def busy_pids(tmp_path: Path) -> list[int]:
    pids = []
    for k in range(2):
        path = tmp_path / f"script.py.{k}"
        deadline = time.monotonic() + 30
        while not path.exists() or not path.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        pids.append(int(path.read_text()))
    return pids


def test_killing_the_caller_ends_workers_that_are_busy(run_script: RunScript, tmp_path: Path) -> None:
    process = run_script(BUSY)
    pids = busy_pids(tmp_path)
    process.kill()
    process.communicate()
    assert until_dead(pids, 10) == []


def test_ctrl_c_ends_everything_at_once(run_script: RunScript, tmp_path: Path) -> None:
    process = run_script(BUSY)
    pids = busy_pids(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert out == "interrupted\n"
    assert until_dead(pids, 0.5) == []
    assert process.returncode == 0


def test_ctrl_c_ends_the_other_maps_as_well(run_script: RunScript, tmp_path: Path) -> None:
    process = run_script(
        """
        folder = Path(sys.argv[0] + ".calls")
        folder.mkdir()

        def mark(i):
            (folder / str(i)).touch()
            time.sleep(0.01)

        other = app.map(mark, range(10_000))
        next(other)
        try:
            app.run(lambda: os.kill(os.getppid(), signal.SIGINT) or time.sleep(60))
        except KeyboardInterrupt:
            before = len(list(folder.iterdir()))
        print(app.run(abs, -1), len(list(app.map(time.sleep, [0.1] * 6))), flush=True)
        print(len(list(folder.iterdir())) - before, flush=True)
        try:
            list(other)
        except mini.JobCancelled as exc:
            print(exc)
        """
    )
    out, _ = process.communicate(timeout=30)
    assert out == "1 6\n0\ncancelled by Ctrl-C in the calling process\n"


def test_ctrl_c_ends_what_others_wait_for(run_script: RunScript) -> None:
    process = run_script(
        """
        import threading

        futures = [app.executor().submit(time.sleep, 60)]
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            app.run(time.sleep, 60)
        except KeyboardInterrupt:
            print(repr(futures[0].exception(10)), flush=True)
        """
    )
    out, _ = process.communicate(timeout=30)
    assert out == "JobCancelled('cancelled by Ctrl-C in the calling process')\n"


def test_a_map_keeps_its_apparatus(tmp_path: Path) -> None:
    def apparatus() -> mini.LocalApparatus:
        return mini.LocalApparatus("kept", max_workers=1, data_dir=tmp_path).w(progress=False)

    async def collect() -> list[int]:
        return [x async for x in apparatus().amap(abs, range(-3, 0))]

    assert list(apparatus().map(abs, range(-3, 0))) == [3, 2, 1]
    assert list(apparatus().stream(range, 3)) == [0, 1, 2]
    assert asyncio.run(collect()) == [3, 2, 1]


@pytest.mark.slow
def test_calls_with_a_timeout_can_be_taken_back_at_any_time(app: mini.LocalApparatus) -> None:
    """Orders are obeyed by another thread of the worker: a short switch interval has it come at odd moments."""
    for _ in range(2):
        list(app.w(chunk=1).map(lambda _: sys.setswitchinterval(1e-5), range(20)))
    for _ in range(200):
        results = app.w(timeout=60, window=100_000).map(lambda x: 2 * x, iter(range(100_000)))
        for _ in range(3000):
            next(results)
        results.close()
    large = np.zeros(1 << 20)
    assert sum(app.map(lambda x: x + large[0], range(1000))) == 499_500


def test_a_forked_child_gets_workers_of_its_own(run_script: RunScript, tmp_path: Path) -> None:
    process = run_script(
        """
        mine = set(app.w(chunk=1).map(lambda i: os.getpid(), range(20)))
        pid = os.fork()
        if pid == 0:
            theirs = set(app.w(chunk=1).map(lambda i: os.getpid(), range(20)))
            print(mine & theirs, flush=True)
            app.close()
            os._exit(0)
        os.waitpid(pid, 0)
        print(set(app.w(chunk=1).map(lambda i: os.getpid(), range(20))) <= mine, flush=True)
        """
    )
    out, _ = process.communicate(timeout=60)
    assert out == "set()\nTrue\n"


def test_the_end_of_the_process_leaves_nothing(run_script: RunScript, tmp_path: Path) -> None:
    process = run_script(
        """
        it = app.map(lambda i: os.getpid(), range(1000))
        print(next(it))
        """
    )
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert until_dead([int(out)], 2) == []


def test_dropping_the_apparatus_ends_its_workers(tmp_path: Path) -> None:
    app = mini.LocalApparatus("dropped", max_workers=1, data_dir=tmp_path).w(progress=False)
    pid = app.run(os.getpid)
    del app
    assert until_dead([pid], 5) == []


def test_a_worker_that_hangs_while_it_starts_is_given_up(
    app: mini.LocalApparatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mini.local.pool.START_SECONDS", 0.3)
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(3600)")
    with pytest.raises(mini.BackendUnavailable, match="did not start within"):
        app.w(env={"PYTHONPATH": str(tmp_path)}).run(abs, -1)


@pytest.mark.parametrize("workers", ["process", "thread"])
def test_an_async_map_ends_whoever_finds_that_there_are_no_more_inputs(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Source.take

    def slow_to_say_so(source: Source, count: int) -> PackedRows:
        packed = take(source, count)
        if not packed.count and threading.current_thread() is not threading.main_thread():
            time.sleep(0.02)  # so that the consumer looks meanwhile
        return packed

    monkeypatch.setattr(Source, "take", slow_to_say_so)

    async def collect(count: int) -> list[int]:
        # One at a time, so that the last outcome is there before the end of the inputs is found.
        return [x async for x in one.w(chunk=1).amap(abs, range(count))]

    with mini.LocalApparatus("ends", max_workers=1, data_dir=tmp_path, workers=workers) as one:
        for count in [1, 2, 3, 5, 8] * 4:
            assert asyncio.run(asyncio.wait_for(collect(count), 30)) == list(range(count))
