"""The pytest plugin of the conformance kit: shows what was declined, and writes what the report is made of.

It is loaded in every pytest session where mini-core is installed, so it imports nothing that costs time and does
nothing where no suite of the kit is run.
"""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clauses import clause_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

__all__ = [
    "FRAGMENT_SCHEMA",
    "Recorder",
    "mini_version",
    "pytest_addoption",
    "pytest_configure",
    "recorder_of",
]

FRAGMENT_SCHEMA = 1
"""The version of what a *.fragment.json holds. It is between this plugin and report.py, and not documented."""

_NAME = "mini-conformance-recorder"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("mini", "conformance of an apparatus").addoption(
        "--conformance-report",
        metavar="DIR",
        default=None,
        help="write the outcome of each clause to DIR, for `python -m mini.conformance report DIR`",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds; `-m 'not slow'` leaves it out")
    option = config.getoption("--conformance-report")
    # A worker of pytest-xdist sees a part of the tests; the process that started it hears of all.
    directory = Path(option).absolute() if option and not hasattr(config, "workerinput") else None
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            import pytest

            message = f"--conformance-report: cannot write to {directory}: {exc.strerror}"
            raise pytest.UsageError(message) from exc
    config.pluginmanager.register(Recorder(directory, tells=bool(option) and directory is None), _NAME)


def recorder_of(config: pytest.Config) -> Recorder | None:
    """The recorder of a session; None where the plugin is switched off."""
    return config.pluginmanager.get_plugin(_NAME)


class Recorder:
    """Notes the outcome of each of the kit's tests, and writes a file for each column of the report.

    A test that was collected and not run is noted as skipped, and so is one of a suite that was not even collected:
    where a part of a clause's tests was left out, the report must not say that it passed.

    Args:
        directory: where the files go; None for none.
        tells: another process writes them, which has collected nothing by itself.

    Attributes:
        failed: node ids of tests that failed.
    """

    def __init__(self, directory: Path | None, *, tells: bool = False) -> None:
        self.failed: set[str] = set()
        self._tells = tells
        self._directory = directory
        self._suites: dict[str, type] = {}
        self._backends: dict[str, str] = {}
        self._tests: dict[str, dict[str, Any]] = {}
        self._ran: set[str] = set()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        base = sys.modules.get(f"{__package__}.base")
        suite = getattr(item, "cls", None)
        if base is None or suite is None or not issubclass(suite, base.Suite):
            return
        function = item.function  # type: ignore[attr-defined]
        about = _about(suite, item.name, function)
        self._suites[about["suite"]] = suite
        self._tests[item.nodeid] = {**about, "function": function.__name__}
        # Reports carry it, also from a worker of pytest-xdist to where they are gathered.
        item.user_properties.append(("mini-conformance", about))

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        if self._tells:
            self._tells = False
            left_out = {f"{about['suite']}::{about['test']}": about for about in self._not_collected()}
            item.user_properties.append(("mini-conformance-all", {**self._tests, **left_out}))

    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        if report.skipped and _declined(report):
            return "declined", "d", ("DECLINED", {"cyan": True})
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        about = properties.get("mini-conformance")
        if report.failed:
            self.failed.add(report.nodeid)
        if not isinstance(about, dict):
            return
        for nodeid, other in properties.get("mini-conformance-all", {}).items():  # type: ignore[attr-defined]
            self._tests.setdefault(nodeid, other)
        test = self._tests.setdefault(report.nodeid, dict(about))
        if report.nodeid not in self._ran:
            self._ran.add(report.nodeid)
            test |= {"outcome": "passed", "seconds": 0.0, "reason": None}
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        if isinstance(backend := properties.get("mini-backend"), str):
            self._backends[about["suite"]] = backend
        if report.failed:
            test["outcome"] = "failed"
            test["reason"] = _first_line(report)
            report.sections.append(("the clause, and what this means", about["doc"]))
        elif report.skipped and test["outcome"] == "passed":
            test["outcome"] = "declined" if _declined(report) else "skipped"
            test["reason"] = _declined(report) or _first_line(report)

    def pytest_sessionfinish(self) -> None:
        if self._directory is None:
            return
        ran = {self._tests[nodeid]["suite"] for nodeid in self._ran}
        columns = defaultdict(list)
        for about in [*self._tests.values(), *self._not_collected()]:
            if about["suite"] in ran:
                backend = self._backends.get(about["suite"], about["suite"].rpartition(".")[2])
                columns[backend, about["variant"]].append(
                    {
                        key: about[key]
                        for key in ("clause", "test", "suite", "outcome", "seconds", "reason", "overridden")
                        if about[key] is not None
                    }
                )
        for (backend, variant), tests in columns.items():
            fragment = {
                "schema": FRAGMENT_SCHEMA,
                "backend": backend,
                "variant": variant,
                "python": ".".join(map(str, sys.version_info[:3])),
                # Not `platform.platform()`, which has whose kernel it is and how it was built.
                "platform": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
                "mini": mini_version(),
                "adapter": _adapter(backend),
                "tests": tests,
            }
            name = f"{backend}-{variant}-{sys.version_info[0]}.{sys.version_info[1]}"
            file = self._directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.fragment.json"
            file.write_text(json.dumps(fragment, indent=1) + "\n")

    def _not_collected(self) -> Iterator[dict[str, Any]]:
        """The tests that the suites have and that the command line, or a conftest.py, left out."""
        collected = {(test["suite"], test.get("function")) for test in self._tests.values()}
        for name, suite in self._suites.items():
            for test in dir(suite):
                if test.startswith("test_") and (name, test) not in collected:
                    yield _about(suite, test, getattr(suite, test))


def _about(suite: type, name: str, function: Any) -> dict[str, Any]:
    """What a fragment says about a test, as long as nothing has been heard of it."""
    return {
        "clause": clause_of(name.partition("[")[0]),
        "test": name,
        "suite": f"{suite.__module__}.{suite.__qualname__}",
        "variant": suite.variant,  # type: ignore[attr-defined]
        "doc": inspect.cleandoc(function.__doc__ or ""),
        "outcome": "skipped",
        "seconds": 0.0,
        "reason": "left out of the run, or not reached by it",
        "overridden": getattr(function, "__mini_overridden__", None),
    }


def _declined(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    capability = dict(getattr(report, "user_properties", ())).get("mini-declined")
    return capability if isinstance(capability, str) else None


def _first_line(report: pytest.TestReport) -> str:
    """Why a test failed or was skipped."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    return next(iter(text.splitlines()), "")[:300]


def mini_version() -> str:
    """The version of mini-core."""
    try:
        return version("mini-core")
    except PackageNotFoundError:
        return "from source"


def _adapter(backend: str) -> str | None:
    """The distribution that registers the backend, with its version; None where no installed one does."""
    for point in entry_points(group="mini.backends", name=backend):
        if point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None
