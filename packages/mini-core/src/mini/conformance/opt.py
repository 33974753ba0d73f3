"""OPT: options."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..capability import Capability
from ..errors import BackendUnavailable, JobTimeout, OptionError, Unsupported, WorkerLost
from ..protocol import Apparatus
from . import probes, subjects
from .base import MakeApparatus, Suite, Supports, requires, when_declined
from .err import caught
from .map import as_map, both_maps, dies_with_its_worker
from .probes import Gate, Held, Tally
from .scripts import Scripts

__all__ = ["OptSuite"]

# Each with a value that every backend can meet.
VALID: dict[str, list[Any]] = {
    "cpu": [1, 0.5, None],
    "memory": [128, None],
    "gpu": [0, None],
    "timeout": [60, 59.5, None],
    "retries": [0, 2, None],
    "max_workers": [1, 2, None],
    "env": [{}, None],
    "image": [None],
    "window": [1, 50, None],
    "chunk": [1, 10, None],
    "modal": [{}, {"anything": object()}],
    "ray": [{}, {"anything": object()}],
}

INVALID: list[tuple[str, Any]] = [
    *(("cpu", value) for value in (0, -1, "two", float("nan"), True)),
    *(("memory", value) for value in (0, -1, "1 GB")),
    *(("gpu", value) for value in (-1, "", "A100:none", 0.5)),
    *(("timeout", value) for value in (0, -1, "soon", float("inf"))),
    *(("retries", value) for value in (-1, 0.5, "many")),
    *(("max_workers", value) for value in (0, -1, 1.5, "all")),
    *(("env", value) for value in ("A=1", {"A": 1}, {1: "a"}, {"A=": "1"})),
    *(("window", value) for value in (0, -1, 2.5)),
    *(("chunk", value) for value in (0, -1, 2.5)),
    *(("ray", value) for value in (1, "cpu")),
]

IGNORED = """
import logging, sys
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)
logging.getLogger().addHandler(Keep())
logging.getLogger("mini").setLevel(logging.INFO)
def said(option):
    found = [r for r in records if repr(option) in r.getMessage() or f" {option} " in r.getMessage()]
    return [r.levelname for r in found]
"""


class OptSuite(Suite):
    """OPT: options."""

    # --- OPT-01 ---

    def test_opt_01_w_returns_a_new_apparatus(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "`w(**options)` returns a new apparatus; the old one is unchanged; calls chain and later ones win."

        A failure means that options are kept in something that the old and the new apparatus share.
        """

        def attempts(app: Apparatus) -> int:
            before = len(tally.read())
            with pytest.raises(LookupError):
                app.run(subjects.note_and_fail, tally)
            return len(tally.read()) - before

        with_two = apparatus.w(retries=2)
        assert with_two is not apparatus
        assert type(with_two) is type(apparatus)
        assert (with_two.name, with_two.backend) == (apparatus.name, apparatus.backend)
        assert attempts(with_two) == 3
        assert attempts(apparatus) == 1
        assert attempts(with_two.w(retries=1)) == 2
        assert attempts(with_two.w(chunk=1).w(window=5)) == 3
        assert attempts(with_two.w(retries=None)) == 1
        assert attempts(with_two) == 3

    def test_opt_01_what_is_passed_stays_the_callers(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "the old one is unchanged"

        A failure means that a dict of options is kept as it is, or changed, when others are added to it.
        """
        env = {"MINI_CONFORMANCE": "1"}
        first = apparatus.w(env=env)
        env["MINI_CONFORMANCE"] = "2"
        second = first.w(env={"MINI_CONFORMANCE_OTHER": "3"})
        assert env == {"MINI_CONFORMANCE": "2"}
        if first.supports(Capability.ENV):
            assert first.run(os.getenv, "MINI_CONFORMANCE") == "1"
            assert first.run(os.getenv, "MINI_CONFORMANCE_OTHER") is None
            assert second.run(os.getenv, "MINI_CONFORMANCE_OTHER") == "3"

    # --- OPT-02 ---

    @pytest.mark.parametrize("option", VALID)
    def test_opt_02_is_understood(self, fresh: MakeApparatus, unused_name: str, option: str) -> None:
        """ "These are understood everywhere: `cpu` (cores, float), `memory` (MiB), `gpu` (count, or a name such as
        `"L4"`, or `"A100:2"`), `timeout` (s), `retries` (count), `max_workers` (count), `env` (dict), `image` (a
        backend's own object), `window` (inputs in flight), `chunk` (calls per group at most; 1 = never grouped). A dict
        under a backend's name (`modal={…}`, `ray={…}`) passes native options to that backend; the others ignore it."

        A failure means that the adapter refuses an option that is part of the common vocabulary.
        """
        apparatus = fresh(unused_name)
        for value in VALID[option]:
            if option == apparatus.backend and value:
                continue  # only that backend knows which of its native options there are
            with_it = apparatus.w(**{option: value})
            assert with_it.run(subjects.double, 2) == 4
            assert list(with_it.map(subjects.double, range(10))) == [2 * x for x in range(10)]

    @pytest.mark.parametrize(("option", "value"), INVALID, ids=lambda value: repr(value)[:20])
    def test_opt_02_values_are_checked(self, apparatus: Apparatus, option: str, value: Any) -> None:
        """ "`cpu` (cores, float), `memory` (MiB), […] `timeout` (s), `retries` (count), `max_workers` (count)"

        A failure means that a value without sense is taken, to do something unexpected later.
        """
        with pytest.raises(TypeError, match=option):
            apparatus.w(**{option: value})

    def test_opt_02_max_workers_is_a_limit(self, apparatus: Apparatus, shared_dir: Path) -> None:
        """ "`max_workers` (count)"

        A failure means that more calls run at the same time than was asked for.
        """
        path = str(shared_dir / "alone")
        assert list(apparatus.w(max_workers=1, chunk=1).map(subjects.alone, [path] * 30)) == [True] * 30

    def test_opt_02_ignored_options_are_mentioned_once(
        self, scripts: Scripts, supports: Supports, unused_name: str
    ) -> None:
        """ "What a backend has no use for it ignores and says so once, at INFO."

        A failure means that an option has no effect and nobody says so, or says so again and again.
        """
        silent = supports(Capability.RESOURCES)
        scripts.run(
            IGNORED
            + f"""
for _ in range(3):
    assert app.w(cpu=1).w(memory=64).run(abs, -1) == 1
    assert list(app.w(cpu=1, memory=64).map(abs, [-1])) == [1]
app.close()
for option in ("cpu", "memory"):
    assert said(option) == {[] if silent else ["INFO"]}, (option, [r.getMessage() for r in records])
assert said("chunk") == said("window") == []
"""
        )

    @requires(Capability.RESOURCES)
    def test_opt_02_more_than_there_is_is_refused(self, apparatus: Apparatus) -> None:
        """ "`cpu` (cores, float)"

        A failure means that a call which asks for ten thousand cores runs anyhow, so that nothing was reserved for it,
        or waits for ever. A backend that reserves nothing declines `resources`.
        """
        with pytest.raises((BackendUnavailable, OptionError)):
            apparatus.w(cpu=10_000).run(abs, -1)

    # --- OPT-03 ---

    @pytest.mark.parametrize(
        ("wrong", "nearest"),
        [("timout", "timeout"), ("retry", "retries"), ("gpus", "gpu"), ("max_worker", "max_workers")],
    )
    def test_opt_03_names_the_nearest(self, apparatus: Apparatus, wrong: str, nearest: str) -> None:
        """ "An option that nobody knows raises `TypeError` naming the nearest one."

        A failure means that a misspelt option is swallowed. (What the adapter overrides `w` for?)
        """
        with pytest.raises(TypeError, match=f"{wrong}.*{nearest}"):
            apparatus.w(**{wrong: 1})
        with pytest.raises(TypeError):
            apparatus.w(nothing_like_an_option_of_ours=1)

    # --- OPT-04 ---

    @requires(Capability.TIMEOUT)
    @pytest.mark.parametrize("what", ["sleeps", "computes"])
    def test_opt_04_ends_the_call(
        self, apparatus: Apparatus, shared_dir: Path, tally: Tally, patience: float, what: str
    ) -> None:
        """ "`timeout` ends the call on the worker and raises `JobTimeout` (a `TimeoutError`)."

        A failure means that only the caller stops to wait, while the call goes on and keeps its worker.
        """
        held = Held(str(shared_dir / "held"))
        limited = apparatus.w(timeout=0.5)
        began = time.monotonic()
        error = caught(limited.run, subjects.hang, held, what, 4 * patience, tally)
        assert isinstance(error, JobTimeout)
        assert isinstance(error, TimeoutError)
        assert 0.5 <= time.monotonic() - began < patience
        probes.until(held.free, patience, "the end of the call")
        assert tally.read() == ["started"]
        assert limited.run(subjects.double, 2) == 4

    @when_declined(test_opt_04_ends_the_call)
    def _opt_04_is_ignored_and_says_so(
        self, apparatus: Apparatus, gate: Gate, gate2: Gate, scripts: Scripts, what: str
    ) -> None:
        refused_or_mentioned(scripts, "timeout", 0.05)
        if what == "sleeps":
            with contextlib.suppress(Unsupported):
                assert apparatus.w(timeout=0.05).run(subjects.sleep_then, 0.5, "over") == "over", (
                    "it has an effect: declare timeout"
                )

    @requires(Capability.TIMEOUT)
    @both_maps
    def test_opt_04_of_one_call_of_a_map(
        self, apparatus: Apparatus, shared_dir: Path, tally: Tally, patience: float, how: str
    ) -> None:
        """ "`timeout` ends the call"

        A failure means that the time is counted for a group or for the map, or that other calls are ended as well.
        """

        def call(number: int, held: Held, tally: Tally, patience: float) -> int:
            if number == 37:
                subjects.hang(held, "sleeps", 4 * patience, tally)
            time.sleep(0.03)
            return number

        kwargs = {"held": Held(str(shared_dir / "held")), "tally": tally, "patience": patience}
        results = list(
            as_map(apparatus.w(timeout=0.8), how)(call, range(60), kwargs=kwargs, return_exceptions=True)
        )
        assert isinstance(results[37], JobTimeout)
        assert [*results[:37], *results[38:]] == [*range(37), *range(38, 60)]
        assert tally.read() == ["started"]

    @when_declined(test_opt_04_of_one_call_of_a_map)
    def _opt_04_of_a_map_is_ignored(self, apparatus: Apparatus, how: str) -> None:
        with contextlib.suppress(Unsupported):
            results = as_map(apparatus.w(timeout=0.01), how)(subjects.sleep_then, [0.05] * 3, range(3))
            assert list(results) == [0, 1, 2], "it has an effect: declare timeout"

    # --- OPT-05 ---

    @pytest.mark.parametrize("failures", [0, 1, 2, 3, 9])
    def test_opt_05_runs_again_what_raised(self, apparatus: Apparatus, tally: Tally, failures: int) -> None:
        """ "`retries=n` runs a call that raised or lost its worker up to n more times; the last error is raised, with a
        note of how many attempts there were."

        A failure means that attempts are counted wrongly, or that the error of another attempt is raised.
        """
        app = apparatus.w(retries=3)
        uses: list[Callable[[], int]] = [
            lambda: app.run(subjects.fail_at_first, tally, failures),
            lambda: next(app.map(subjects.fail_at_first, [tally], [failures])),
        ]
        for use in uses:
            Path(tally.path).unlink(missing_ok=True)
            if failures <= 3:
                assert use() == failures + 1
                assert len(tally.read()) == failures + 1
            else:
                error = caught(use)
                assert (type(error), error.args) == (LookupError, ("attempt 4",))
                assert len(tally.read()) == 4
                assert any("4" in note and "attempt" in note for note in error.__notes__), error.__notes__

    def test_opt_05_without_retries_there_are_none(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "`retries=n` runs a call […] up to n more times"

        A failure means that calls are run again by default.
        """
        with pytest.raises(LookupError, match="attempt 1"):
            apparatus.run(subjects.fail_at_first, tally, 1)
        assert len(tally.read()) == 1

    @both_maps
    def test_opt_05_only_what_failed(self, apparatus: Apparatus, shared_dir: Path, how: str) -> None:
        """ "runs a call that raised […] up to n more times"

        A failure means that calls which succeeded are run again, or that results change places.
        """
        tallies = [Tally(str(shared_dir / f"{how}-{n}")) for n in range(60)]
        failures = [n % 4 for n in range(60)]
        results = as_map(apparatus.w(retries=3), how)(subjects.fail_at_first, tallies, failures)
        assert list(results) == [n % 4 + 1 for n in range(60)]
        assert [len(tally.read()) for tally in tallies] == [n % 4 + 1 for n in range(60)]

    @requires(Capability.KILL_WORKER)
    def test_opt_05_runs_again_what_lost_its_worker(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "or lost its worker"

        A failure means that only exceptions of the function's own are retried.
        """
        app = apparatus.w(retries=2)
        assert app.run(subjects.die_at_first, tally, 2) == 3
        assert len(tally.read()) == 3
        Path(tally.path).unlink()
        error = caught(list, app.map(subjects.die_at_first, [tally], [9]))
        assert isinstance(error, WorkerLost)
        assert len(tally.read()) == 3
        assert any("3" in note and "attempt" in note for note in error.__notes__), error.__notes__

    @when_declined(test_opt_05_runs_again_what_lost_its_worker)
    def _opt_05_nobody_is_left_to_retry(self, scripts: Scripts) -> None:
        dies_with_its_worker(scripts)

    # --- OPT-06 ---

    @requires(Capability.ENV)
    def test_opt_06_is_there_at_import(self, scripts: Scripts, project_src: Path) -> None:
        """ "`env` variables are there when the worker's process imports the function's modules."

        A failure means that variables are set too late, stay when they should not, or are mixed between calls with
        different ones.
        """
        project_src.mkdir(parents=True, exist_ok=True)
        (project_src / "reads_at_import.py").write_text(
            "import os\nVALUE = os.environ.get('MINI_CONFORMANCE_ENV', 'not set')\ndef value(_=None): return VALUE\n"
        )
        scripts.run(
            """
import os
from reads_at_import import value
def early():
    return value(), os.environ.get("MINI_CONFORMANCE_ENV")
a, b = (app.w(env={"MINI_CONFORMANCE_ENV": text}) for text in "ab")
for _ in range(2):
    assert app.run(value) == "not set"
    assert a.run(value) == "a"
    assert b.run(early) == ("b", "b")
    assert set(a.map(value, range(20))) == {"a"}
assert a.w(env={"MINI_CONFORMANCE_OTHER": "x"}).run(value) == "a"
assert a.w(env={"MINI_CONFORMANCE_ENV": "c"}).run(value) == "c"
assert value() == "not set" and "MINI_CONFORMANCE_ENV" not in os.environ
app.close()
""",
            path=project_src,
        )

    @when_declined(test_opt_06_is_there_at_import)
    def _opt_06_is_ignored_and_says_so(self, scripts: Scripts, tmp_path: Path) -> None:
        refused_or_mentioned(scripts, "env", {"MINI_CONFORMANCE_ENV": "a"})
        scripts.run(
            "import os\n"
            "value = app.w(env={'MINI_CONFORMANCE_ENV': 'a'}).run(os.getenv, 'MINI_CONFORMANCE_ENV')\n"
            "assert value is None, 'it has an effect: declare env'\n"
            "assert 'MINI_CONFORMANCE_ENV' not in os.environ\n"
        )

    # --- OPT-07 ---

    def test_opt_07_before_every_call_in_the_order_added(
        self, apparatus: Apparatus, shared_dir: Path
    ) -> None:
        """ "`before_each(hook)` returns a new apparatus whose hook runs on the worker before every call, hooks in the
        order added"

        A failure means that hooks run once per group or worker, in another order, or for the old apparatus too.
        """
        calls = Tally(str(shared_dir / "calls"))
        first, second = (lambda: calls.add("first")), (lambda: calls.add("second"))
        hooked = apparatus.before_each(first).before_each(second)

        def call(_: int = 0) -> str:
            return "/".join(calls.read()[-2:])

        assert hooked is not apparatus
        assert hooked.run(call) == "first/second"
        assert calls.read() == ["first", "second"]
        assert apparatus.run(subjects.double, 2) == 4
        assert list(apparatus.map(subjects.double, range(5))) == [0, 2, 4, 6, 8]
        assert calls.read() == ["first", "second"]
        one = hooked.w(max_workers=1)
        assert list(one.map(call, range(100))) == ["first/second"] * 100
        assert Counter(calls.read()) == {"first": 101, "second": 101}

    @requires(Capability.PROCESS_ISOLATION)
    def test_opt_07_hooks_run_on_the_worker(self, apparatus: Apparatus, tally: Tally) -> None:
        """ "whose hook runs on the worker"

        A failure means that hooks run in the calling process.
        """
        worker = apparatus.before_each(lambda: tally.add(os.getpid())).run(os.getpid)
        assert tally.read() == [str(worker)]

    @when_declined(test_opt_07_hooks_run_on_the_worker)
    def _opt_07_hooks_run_where_calls_do(self, apparatus: Apparatus, tally: Tally) -> None:
        worker = apparatus.before_each(lambda: tally.add(probes.where())).run(probes.where)
        assert tally.read() == [worker]
        assert worker.startswith(f"{os.getpid()}-")

    @both_maps
    def test_opt_07_a_hook_that_raises_fails_its_call_alone(self, apparatus: Apparatus, how: str) -> None:
        """ "a hook that raises fails that call alone"

        A failure means that the error of a hook ends the group, the worker or the map, or that the call runs anyway.
        """
        hooked = apparatus.before_each(subjects.raise_at_seven)
        results = list(as_map(hooked, how)(subjects.double, range(50), return_exceptions=True))
        error = results[7]
        assert isinstance(error, LookupError)
        assert error.args == ("hook at 7",)
        assert [*results[:7], *results[8:]] == [2 * x for x in range(50) if x != 7]


def refused_or_mentioned(scripts: Scripts, option: str, value: Any) -> None:
    """An option that would have no effect is refused, or else ignored and mentioned once, at INFO."""
    scripts.run(
        IGNORED
        + f"""
from mini import Unsupported
try:
    for _ in range(3):
        assert app.w({option}={value!r}).run(abs, -1) == 1
    assert said({option!r}) == ["INFO"], [r.getMessage() for r in records]
except Unsupported as exc:
    assert {option!r} in str(exc), exc
app.close()
"""
    )
