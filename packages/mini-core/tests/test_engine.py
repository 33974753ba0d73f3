"""The engine over a carrier that does everything a backend may do to it, at random: parts, losses, calls given back."""

from __future__ import annotations

import marshal
import pickle
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini import wire
from mini.capability import Capability
from mini.carrier import Carrier, Event, Group, Lost, Outcomes, Returned, Task
from mini.failure import Failure
from mini.options import Options
from mini.protocol import Apparatus
from mini.volume import DirectoryVolume, Volume
from mini.wire import Frames

Chances = dict[str, float]


PATIENCE = 10.0
"""Seconds after which an engine that waits for nothing fails its test."""


class ChaosCarrier(Carrier):
    """Runs calls itself, in an order and with accidents that a seed decides, and counts what it ran."""

    def __init__(self, seed: int, width: int, chances: Chances) -> None:
        super().__init__(width)
        self.random = random.Random(seed)
        self.chances = chances
        self.flying: list[Group] = []
        self.at: dict[int, int] = {}
        self.ran: Counter[int] = Counter()
        self.bell = threading.Event()
        self.events: list[Event] = []
        self.closed = False

    def room(self, task: Task) -> int:
        return (2 if task.quick else 1) * self.width - len(self.flying)

    def start(self, group: Group) -> str:
        assert self.room(group.task) > 0
        self.flying.append(group)
        self.at[group.id] = 0
        self.bell.set()
        return f"worker {len(self.flying)}"

    def chance(self, what: str) -> bool:
        return self.random.random() < self.chances.get(what, 0)

    def poll(self, timeout: float | None) -> list[Event]:
        with self.lock:
            idle = not self.flying and not self.events
        if idle:
            woken = self.bell.wait(PATIENCE if timeout is None else timeout)
            self.bell.clear()
            assert woken or timeout is not None, "the engine waits for a group that has ended"
        with self.lock:
            if self.flying:
                self.act(self.random.choice(self.flying))
            events, self.events = self.events, []
            return events

    def act(self, group: Group) -> None:
        at = self.at[group.id]
        left = group.count - at
        if self.chance("return") and left:
            count = self.random.randint(1, left)
            self.events.append(Returned(group, count))
            if count == group.count:
                self.flying.remove(group)
            return
        if self.chance("lose"):
            self.lose(group, at, left)
            return
        if self.chance("overtake") and left:
            # The calls at the end were taken back, and the end of the group arrives before the word of it.
            count = self.random.randint(0, left - 1)
            self.events.append(Outcomes(group, self.run(group, at, count) if count else [], 1000))
            self.events.append(Returned(group, left - count))
            self.flying.remove(group)
            return
        count = self.random.randint(0, left)
        frames = self.run(group, at, count) if count else []
        self.at[group.id] = at + count
        done = at + count == group.count
        if done:
            self.flying.remove(group)
        if frames or done:
            self.events.append(Outcomes(group, frames, 1000 * group.count if done else None))

    def lose(self, group: Group, at: int, left: int) -> None:
        """Its worker dies, perhaps while it runs a call, perhaps with outcomes that can be saved."""
        self.flying.remove(group)
        running: int | None = -1
        if left and self.random.random() < 0.7:
            self.ran[group.start + at] += 1
            running = at
            if self.chance("unknown"):
                running = None
        self.events.append(Lost(group, running, "its worker died"))

    def run(self, group: Group, at: int, count: int) -> Frames:
        fn, kwargs, _ = wire.loads(group.task.program.frames[0])
        kind, rows = wire.unpack_rows(wire.slice_payload(group.payload, at, at + count))
        outcomes: list[Any] = []
        for position, row in enumerate(rows, at):
            self.ran[group.start + position] += 1
            try:
                outcomes.append(fn(*wire.arguments(kind, row), **kwargs))
            except Exception as exc:
                outcomes.append(Failure.of(exc))
        failed = [at + k for k, outcome in enumerate(outcomes) if type(outcome) is Failure]
        if failed or self.random.random() < 0.5:
            body = b"".join(wire.dumps(outcome)[0] for outcome in outcomes)
            return [marshal.dumps(("journal", at, count, failed)), body]
        return [marshal.dumps(("list", at, count, [])), pickle.dumps(outcomes)]

    def wake(self) -> None:
        self.bell.set()

    def retract(self, task: Task) -> None:
        pass

    def close(self, *, kill: bool) -> None:
        self.closed = True
        self.flying.clear()


class ChaosApparatus(Apparatus):
    """An adapter of its own, as small as they get."""

    backend = "chaos"
    worker_data_dir = "/nowhere"
    capabilities = frozenset[Capability]()

    def __init__(self, seed: int, width: int, chances: Chances) -> None:
        super().__init__("chaos")
        self.carrier = ChaosCarrier(seed, width, chances)
        self._options = self._options.merged({"progress": False}, tuple)

    def _open_carrier(self, options: Options) -> Carrier:
        return self.carrier

    def _carrier_key(self, options: Options) -> str:
        return "one"

    def _open_volume(self) -> Volume:
        return DirectoryVolume(Path("/nowhere"))

    def _settings(self) -> dict[str, Any]:
        return {}


def work(x: int) -> int:
    if x % 11 == 7:
        raise ValueError(x)
    return x * x


seeds = st.integers(0, 2**32)
chances = st.fixed_dictionaries(
    {
        "return": st.sampled_from([0, 0.3]),
        "lose": st.sampled_from([0, 0.1, 0.3]),
        "overtake": st.sampled_from([0, 0.3]),
    }
)
shapes = st.fixed_dictionaries(
    {}, optional={"chunk": st.integers(1, 50), "window": st.integers(1, 100), "retries": st.integers(0, 3)}
)


@settings(deadline=None)
@given(seeds, st.integers(1, 4), chances, shapes, st.integers(0, 120), st.booleans())
def test_every_call_has_its_outcome_once_and_in_its_place(
    seed: int, width: int, chances: Chances, shape: dict[str, int], n: int, ordered: bool
) -> None:
    with ChaosApparatus(seed, width, chances) as app:
        pulled = 0

        def inputs() -> Iterator[int]:
            nonlocal pulled
            for i in range(n):
                pulled += 1
                assert pulled - len(results) <= shape.get("window", 10_000) + 1
                yield i

        results: list[int | BaseException] = []
        results.extend(app.w(**shape).map(work, inputs(), ordered=ordered, return_exceptions=True))

        lost = [r for r in results if isinstance(r, mini.WorkerLost)]
        wrong = [r for r in results if isinstance(r, ValueError)]
        good = [r for r in results if isinstance(r, int)]
        assert len(lost) + len(wrong) + len(good) == n
        assert all(e.args[0] % 11 == 7 for e in wrong)
        assert not lost or chances["lose"]
        if ordered:
            for i, result in enumerate(results):
                assert (
                    result == i * i
                    if isinstance(result, int)
                    else isinstance(result, ValueError | mini.WorkerLost)
                )
                if isinstance(result, BaseException):
                    record = mini.failure_record(result)
                    assert record is not None
                    assert record.index == i
                    assert f"for input {i}: {i}" in "".join(result.__notes__)
        else:
            assert Counter(good) <= Counter(i * i for i in range(n))

        ran = app.carrier.ran
        assert set(ran) == set(range(n))
        retries = shape.get("retries", 0)
        assert max(ran.values(), default=0) <= retries + 1
        for error in wrong:
            assert ran[error.args[0]] == retries + 1
            if retries:
                assert f"after {retries + 1} attempts" in error.__notes__


@settings(deadline=None)
@given(seeds, st.integers(1, 4), st.integers(1, 60))
def test_where_it_is_not_known_which_call_killed_a_worker_the_others_come_through(
    seed: int, width: int, n: int
) -> None:
    with ChaosApparatus(seed, width, {"lose": 0.1, "unknown": 1}) as app:
        results = list(app.map(lambda x: x, range(n), return_exceptions=True))
        assert all(r == i or isinstance(r, mini.WorkerLost) for i, r in enumerate(results))
        # With groups of one it is always known, and nothing runs twice.
        alone = ChaosApparatus(seed, width, {"lose": 0.1, "unknown": 1})
        list(alone.w(chunk=1).map(lambda x: x, range(n), return_exceptions=True))
        assert max(alone.carrier.ran.values()) == 1
        alone.close()


@settings(deadline=None)
@given(seeds, st.integers(1, 4), chances, st.integers(0, 60))
def test_the_first_failure_in_order_is_raised_where_it_is(
    seed: int, width: int, chances: Chances, first: int
) -> None:
    with ChaosApparatus(seed, width, {**chances, "lose": 0}) as app:
        seen: list[int] = []
        with pytest.raises(ZeroDivisionError) as error:
            seen.extend(app.map(lambda x: 1 // (x not in (first, first + 5)), range(100)))
        assert f"for input {first}:" in error.value.__notes__[0]
        # Nothing is left of it, and the next map is not disturbed.
        assert list(app.map(lambda x: -x, range(50))) == [-x for x in range(50)]


def test_the_results_before_a_failure_are_handed_out() -> None:
    with ChaosApparatus(1, 2, {}) as app:
        results = app.map(lambda x: 10 // (3 - x), range(10))
        assert [next(results) for _ in range(3)] == [3, 5, 10]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


@settings(deadline=None)
@given(seeds, st.integers(1, 4), st.integers(0, 30))
def test_what_the_input_iterator_raises_comes_after_the_results_before_it(
    seed: int, width: int, n: int
) -> None:
    def inputs() -> Iterator[int]:
        yield from range(n)
        raise LookupError("no more")

    with ChaosApparatus(seed, width, {"return": 0.2}) as app:
        seen: list[int] = []
        with pytest.raises(LookupError, match="no more"):
            seen.extend(app.map(work, (i * 11 for i in inputs())))
        assert seen == [(i * 11) ** 2 for i in range(n)]
