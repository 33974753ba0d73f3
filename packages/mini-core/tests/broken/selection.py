"""Which of the kit's tests each suite runs. As a plugin of pytest, `-p broken.selection`, it keeps to those."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from . import BROKEN, Broken

__all__ = ["CHOSEN", "SAMPLE", "others"]

SAMPLE = {
    "RUN": "test_run_01_any_kind_of_function[closure]",
    "MAP": "test_map_06_raises_at_its_place[map]",
    "ERR": "test_err_04_what_cannot_be_pickled[cannot be reduced-map]",
    "OPT": "test_opt_07_a_hook_that_raises_fails_its_call_alone[amap]",
    "CTX": "test_ctx_03_outside_of_a_call",
    "VOL": "test_vol_02_what_is_not_there",
    "DET": "test_det_02_a_name_without_jobs",
    "CAP": "test_cap_01_the_names_are_fixed[CANCEL_RUNNING]",
    "LIFE": "test_life_02_using_a_closed_one[False]",
}
"""A test of each group of clauses that costs little: what is broken in one thing is sound in the others."""


def others(broken: Broken) -> list[str]:
    """The sample of the groups that do not have the clause which is broken."""
    return [test for group, test in SAMPLE.items() if not broken.clause.startswith(group)]


CHOSEN: dict[str, set[str]] = {f"Test{broken.name}": {broken.test, *others(broken)} for broken in BROKEN}
"""The tests of each suite."""
for _broken in BROKEN:
    CHOSEN.setdefault(f"TestSound{_broken.workers.capitalize()}", {*SAMPLE.values()}).add(_broken.test)


# What asyncio says of exceptions that nobody has asked for, it says when garbage is collected. Its traceback may then
# be formatted while pytest parses source for another one, for which Python 3.11 has a SystemError.
logging.getLogger("asyncio").disabled = True


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str) -> list[Any] | None:
    if not (isinstance(collector, pytest.Class) and name.startswith("test_")):
        return None  # somebody else's to decide
    chosen = {test.partition("[")[0] for test in CHOSEN[collector.name]}
    return None if name in chosen else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if item.parent is not None and item.name in CHOSEN[item.parent.name]]
    timeouts = {(f"Test{broken.name}", broken.test): broken.timeout for broken in BROKEN}
    for item in items:
        assert item.parent is not None
        if timeout := timeouts.get((item.parent.name, item.name)):
            item.add_marker(pytest.mark.timeout(timeout), append=False)
