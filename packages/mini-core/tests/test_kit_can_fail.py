"""The conformance kit can fail: of many apparatuses, each broken in one thing, each is caught by the clause for it."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from broken import BROKEN, Broken
from broken.selection import CHOSEN, others
from mini.conformance import ApparatusConformance
from mini.conformance.clauses import CLAUSES, clause_of

# The first of them waits for all sessions of the kit.
pytestmark = pytest.mark.timeout(600)


@dataclass
class Outcome:
    """How a test ended. What came of it while its fixtures were set up or torn down is kept apart."""

    failure: str | None = None
    errors: list[str] = field(default_factory=list)


Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """What the kit says about all of them, by suite and test, in sessions of pytest as an adapter's author has them."""
    helpers = tmp_path_factory.mktemp("helpers")
    # At the same time, because much of it is waiting for what does not come.
    sessions = {
        folder: start(folder, workers, helpers)
        for workers in ("process", "thread")
        for folder in [tmp_path_factory.mktemp(workers)]
    }
    found: Outcomes = {}
    try:
        for folder, session in sessions.items():
            status = session.wait(540)
            assert status == pytest.ExitCode.TESTS_FAILED, (folder / "output.txt").read_text()[-5000:]
            found |= read(folder / "results.xml")
        yield found
    finally:
        for session in sessions.values():
            session.kill()
            session.wait()
        for helper in helpers.iterdir():
            with suppress(ProcessLookupError):
                os.kill(int(helper.name), signal.SIGKILL)


def start(folder: Path, workers: str, helpers: Path) -> subprocess.Popen[bytes]:
    """Start a session of pytest for all that have such workers."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    suites = [f"Test{broken.name}" for broken in BROKEN if broken.workers == workers]
    suites.append("TestSound" + workers.capitalize())
    (folder / "test_apparatuses.py").write_text(f"from broken.suites import {', '.join(suites)}\n")
    options = ["-q", "--tb=native", f"--basetemp={folder / 'tmp'}", "--junitxml=results.xml"]
    plugins = ["-p", "no:cacheprovider", "-p", "broken.selection"]
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "BROKEN_HELPERS": str(helpers)}
    command = [sys.executable, "-m", "pytest", *options, *plugins, "test_apparatuses.py"]
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)


def read(results: Path) -> Outcomes:
    found: Outcomes = {}
    for case in ET.parse(results).iter("testcase"):
        key = case.attrib["classname"].rpartition(".")[2], case.attrib["name"]
        outcome = found.setdefault(key, Outcome())
        for failure in case.iter("failure"):
            outcome.failure = f"{failure.attrib['message']}\n{failure.text}"
        outcome.errors += [f"{error.attrib['message']}\n{error.text}" for error in case.iter("error")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.clause}-{broken.name}")
def test_it_is_caught_by_the_clause_meant_for_it(outcomes: Outcomes, broken: Broken) -> None:
    outcome = outcomes[f"Test{broken.name}", broken.test]
    assert outcome.failure is not None, f"{broken.name} passes {broken.test}"
    assert re.search(broken.says, outcome.failure), outcome.failure


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_it_is_sound_otherwise(outcomes: Outcomes, broken: Broken) -> None:
    for test in others(broken):
        outcome = outcomes[f"Test{broken.name}", test]
        assert outcome.failure is None, outcome.failure
        assert not outcome.errors, outcome.errors


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["process", "thread"])
def test_a_sound_one_passes_the_same_tests(outcomes: Outcomes, workers: str) -> None:
    suite = "TestSound" + workers.capitalize()
    mine = {test: outcome for (name, test), outcome in outcomes.items() if name == suite}
    assert mine.keys() == CHOSEN[suite] >= {broken.test for broken in BROKEN if broken.workers == workers}
    for outcome in mine.values():
        assert outcome.failure is None, outcome.failure
        assert not outcome.errors, outcome.errors


def test_each_clause_can_fail() -> None:
    assert {broken.clause for broken in BROKEN} >= set(CLAUSES)
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)


def test_each_clause_is_quoted_by_its_tests() -> None:
    """An adapter's author reads with a failure which words of the contract are at stake, and what it means."""
    quoted = set()
    for name in filter(lambda name: name.startswith("test_"), dir(ApparatusConformance)):
        clause = clause_of(name)
        assert clause is not None, name
        doc = " ".join(inspect.cleandoc(getattr(ApparatusConformance, name).__doc__ or "").split())
        quote = re.match(r'"(.+?)" A failure ', doc)
        assert quote is not None, f"{name}: {doc}"
        text = " ".join(CLAUSES[clause].split())
        missing = [part for part in quote[1].split(" […]") if part.strip(" ,") not in text]
        assert missing == [], f"{name} quotes what {clause} does not say"
        quoted.add(clause)
    assert quoted == set(CLAUSES)
