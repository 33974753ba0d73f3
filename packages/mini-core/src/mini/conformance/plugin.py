"""The pytest plugin of the conformance kit: shows what was declined, and writes what the report is made of.

It is loaded in every pytest session where mini-core is installed, so it imports nothing that costs time and does
nothing where no suite of the kit is run.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["Recorder", "pytest_addoption", "pytest_configure", "recorder_of"]

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
    directory = config.getoption("--conformance-report")
    config.pluginmanager.register(Recorder(Path(directory).absolute() if directory else None), _NAME)


def recorder_of(config: pytest.Config) -> Recorder | None:
    """The recorder of a session; None where the plugin is switched off."""
    return config.pluginmanager.get_plugin(_NAME)


class Recorder:
    """Notes the outcome of each of the kit's tests.

    Attributes:
        failed: node ids of tests that failed.
        backends: the backend that each suite turned out to be about.
    """

    def __init__(self, directory: Path | None) -> None:
        self.failed: set[str] = set()
        self.backends: dict[str, str] = {}
        self._directory = directory
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        if report.skipped and _declined(report):
            return "declined", "d", ("DECLINED", {"cyan": True})
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = dict(report.user_properties).get("mini-conformance")
        if report.failed:
            self.failed.add(report.nodeid)
        if not isinstance(about, dict):
            return
        test = self._tests.setdefault(report.nodeid, {**about, "outcome": "passed", "seconds": 0.0})
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        if report.failed:
            test["outcome"] = "failed"
            test["reason"] = _last_line(report)
            report.sections.append(("the clause, and what this means", about["doc"]))
        elif report.skipped and test["outcome"] == "passed":
            test["outcome"] = "declined" if _declined(report) else "skipped"
            test["reason"] = _declined(report) or _last_line(report)

    def pytest_sessionfinish(self) -> None:
        if self._directory is None or not self._tests:
            return
        columns = defaultdict(list)
        for about in self._tests.values():
            test = {key: value for key, value in about.items() if value is not None and key != "doc"}
            suite = test.pop("suite")
            backend = self.backends.get(suite, suite.rpartition(".")[2])
            columns[backend, test.pop("variant")].append(test)
        self._directory.mkdir(parents=True, exist_ok=True)
        for (backend, variant), tests in columns.items():
            fragment = {
                "backend": backend,
                "variant": variant,
                "python": ".".join(map(str, sys.version_info[:3])),
                "platform": platform.platform(),
                "mini": _version(),
                "tests": tests,
            }
            name = f"{backend}-{variant}-{sys.version_info[0]}.{sys.version_info[1]}"
            file = self._directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.fragment.json"
            file.write_text(json.dumps(fragment, indent=1) + "\n")


def _declined(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    capability = dict(getattr(report, "user_properties", ())).get("mini-declined")
    return capability if isinstance(capability, str) else None


def _last_line(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    return next(iter(text.splitlines()), "")[:300]


def _version() -> str:
    try:
        return version("mini-core")
    except PackageNotFoundError:
        return "from source"
