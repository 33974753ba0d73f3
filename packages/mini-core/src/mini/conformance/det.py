"""DET: detached jobs. No backend has them yet, so what is tested is that they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from ..capability import Capability
from ..errors import Unsupported
from ..protocol import Apparatus
from . import subjects
from .base import Suite, requires, when_declined
from .footprint import Footprint

__all__ = ["DetSuite"]

Test = TypeVar("Test", bound=Callable[..., Any])

# Whatever a clause is about, it begins with a job, and there are these four ways to come by one.
JOBS: dict[str, Callable[[Apparatus], Any]] = {
    "spawn": lambda apparatus: apparatus.spawn(subjects.double, 1),
    "spawn_map": lambda apparatus: apparatus.spawn_map(subjects.double, [1]),
    "jobs": lambda apparatus: apparatus.jobs(),
    "job": lambda apparatus: apparatus.job("none"),
}


def no_tests_yet() -> None:
    pytest.fail("the kit cannot check detached jobs yet: decline detached_jobs until it can", pytrace=False)


def refused(apparatus: Apparatus, *ways: str) -> None:
    """Each of the ways raises Unsupported, says by which name to ask, and starts nothing."""
    before = Footprint.now()
    for way in ways:
        with pytest.raises(Unsupported, match=way):
            JOBS[way](apparatus)
        with pytest.raises(NotImplementedError):
            JOBS[way](apparatus)
    assert Footprint.now().new_since(before) == []


def detached(*ways: str) -> Callable[[Test], Test]:
    """Mark a test as one of detached jobs. Where they are declined, each of the ways to come by one is refused."""

    def decorate(test: Test) -> Test:
        checked = requires(Capability.DETACHED_JOBS)(test)

        @when_declined(checked)
        def is_refused(self: Suite, apparatus: Apparatus) -> None:
            refused(apparatus, *ways)

        return checked

    return decorate


class DetSuite(Suite):
    """DET: detached jobs."""

    @detached("spawn", "spawn_map")
    def test_det_01_spawn_returns_a_job(self, apparatus: Apparatus) -> None:
        """ "`spawn(fn, *args, **kwargs)` returns a `Job` at once; `spawn_map` returns a `JobGroup`; the work goes on
        when the calling process ends."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("jobs", "job")
    def test_det_02_read_from_another_process(self, apparatus: Apparatus) -> None:
        """ "Another process, given the apparatus name, lists the jobs and reads state, progress, metrics, result, error
        and logs; reading starts no worker, no cluster and no image build."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("spawn", "job")
    def test_det_03_states_never_go_backwards(self, apparatus: Apparatus) -> None:
        """ "States are PENDING → RUNNING → DONE | FAILED | CANCELLED | LOST and never go backwards within an attempt; a
        result is visible if and only if its state is DONE."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("spawn", "job")
    def test_det_04_result_waits(self, apparatus: Apparatus) -> None:
        """ "`job.result(timeout=None)` waits; `aresult` awaits; a failed job raises as ERR-01…07 say."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("spawn", "job")
    def test_det_05_cancel(self, apparatus: Apparatus) -> None:
        """ "`cancel()` ends a pending job at once and a running one within 10 s; cancelling twice is harmless."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("spawn", "jobs")
    def test_det_06_lost_jobs_are_seen(self, apparatus: Apparatus) -> None:
        """ "A job whose worker or host vanished is seen as LOST by a reader, never as RUNNING for ever."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("spawn", "spawn_map")
    def test_det_07_no_update_is_lost(self, apparatus: Apparatus) -> None:
        """ "Two processes that write to the same record at once lose no update; a worker that was given up on cannot
        overwrite a newer attempt."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()

    @detached("job", "spawn")
    def test_det_08_retry(self, apparatus: Apparatus) -> None:
        """ "`retry(job)` runs a FAILED, LOST or CANCELLED job again under the same id, with attempt + 1."

        A failure means that the backend neither has detached jobs nor raises `Unsupported` for them.
        """
        no_tests_yet()
