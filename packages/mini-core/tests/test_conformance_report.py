"""The report of the conformance kit, from real sessions of pytest to the files that it writes."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mini.conformance.__main__ import main
from mini.conformance.clauses import CLAUSES, GROUPS
from mini.conformance.renderings import as_html, as_markdown, as_text, label
from mini.conformance.report import OUTCOMES, Column, Fragment, Report, Test, as_json, merge

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
WRITTEN = ("conformance.html", "conformance.json", "conformance.md")

SUITES = """
import pytest
from mini import Capability, LocalApparatus
from mini.conformance import CapSuite, Suite, overridden, requires, when_declined


class Adapter(Suite):
    @pytest.fixture
    def make_apparatus(self, tmp_path_factory):
        data_dir = tmp_path_factory.getbasetemp() / "mini"
        return lambda name: LocalApparatus(name, data_dir=data_dir, workers="inline")


class TestSmall(Adapter):
    variant = "small"

    def test_run_01_passes(self, apparatus):
        assert apparatus.run(abs, -1) == 1

    @pytest.mark.parametrize("number", [1, 2])
    def test_run_02_fails_for_two(self, apparatus, number):
        assert number == 1, "<script>alert('&amp;')</script> | `x` ``y`` \\x1b[31m **red** </td>"

    @pytest.fixture
    def broken(self):
        raise OSError("no such machine")

    def test_run_03_fails_in_its_fixture(self, broken):
        pass

    def test_run_04_is_deselected(self):
        pass

    def test_run_04_is_run(self):
        pass

    @pytest.mark.skip(reason="needs a licence")
    def test_map_01_is_skipped_by_a_mark(self):
        pass

    def test_map_01_is_not_skipped(self):
        pass

    def test_map_02_skips_itself(self):
        pytest.skip("no network")

    @pytest.mark.xfail(reason="not yet", strict=True)
    def test_map_03_is_expected_to_fail(self):
        raise AssertionError

    @requires(Capability.DETACHED_JOBS)
    def test_det_01_is_declined(self, apparatus):
        apparatus.spawn(abs, -1)

    @requires(Capability.CANCEL_RUNNING)
    def test_map_06_is_declined(self, apparatus):
        raise NotImplementedError

    def test_map_06_is_not_declined(self):
        pass

    @requires(Capability.PROCESS_ISOLATION)
    def test_run_07_is_declined_and_there(self):
        pass

    @requires(Capability.ENV)
    def test_opt_06_is_declined_and_not_refused(self):
        pass

    @when_declined(test_opt_06_is_declined_and_not_refused)
    def _opt_06_is_refused(self):
        raise AssertionError("nobody refused it")

    def test_of_no_clause(self):
        pass


class TestCap(CapSuite, Adapter):
    variant = "cap"

    @overridden(reason="the names are <b>ours</b>")
    def test_cap_01_answers_stay_the_same(self):
        pass


class TestNotRun(Adapter):
    variant = "not-run"

    def test_run_01_is_deselected(self):
        pass
"""


def pytest_session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the suites above, as an adapter's author does."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_adapter.py").write_text(SUITES)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def complaint_about(*arguments: str | Path) -> str:
    """What the command says when it refuses; here and not in a process of its own, which would take far longer."""
    result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="python -m mini.conformance")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    return result.output


def report(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mini.conformance", *map(str, arguments)],
        env={**os.environ, **env},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder with the fragments of one session, and what the command said about it."""
    folder = tmp_path_factory.mktemp("session")
    fragments = folder / "a" / "report"
    result = pytest_session(folder, f"--conformance-report={fragments}", "-k", "not deselected")
    assert result.returncode == 1, result.stdout
    assert "3 failed, " in result.stdout, result.stdout
    assert "1 xfailed, 1 error, 2 declined" in result.stdout, result.stdout
    assert sorted(path.name for path in fragments.iterdir()) == [
        f"local-cap-{HERE}.fragment.json",
        f"local-small-{HERE}.fragment.json",
    ]
    return fragments, report("report", fragments)


def load(folder: Path) -> Any:
    return json.loads((folder / "conformance.json").read_text())


def cell_of(data: Any, clause: str, variant: str) -> Any:
    (row,) = (row for row in data["clauses"] if row["id"] == clause)
    (index,) = (i for i, column in enumerate(data["columns"]) if column["variant"] == variant)
    return row["cells"][index]


# --- from a session to the table ---


@pytest.mark.parametrize(
    ("clause", "outcome", "reason"),
    [
        ("RUN-01", "passed", None),
        ("RUN-02", "failed", "<script>alert"),
        ("RUN-03", "failed", "OSError: no such machine"),
        ("RUN-04", "skipped", "left out of the run"),
        ("RUN-05", "skipped", "no test was run"),
        ("RUN-07", "failed", "declines 'process_isolation', but what the test checks works"),
        ("MAP-01", "skipped", "needs a licence"),
        ("MAP-02", "skipped", "no network"),
        ("MAP-03", "skipped", "expected to fail: not yet"),
        ("MAP-06", "partly", "cancel_running"),
        ("OPT-06", "failed", "nobody refused it"),
        ("DET-01", "declined", "detached_jobs"),
    ],
)
def test_a_cell_is_as_bad_as_its_worst_test(
    session: Any, clause: str, outcome: str, reason: str | None
) -> None:
    folder, result = session
    cell = cell_of(load(folder), clause, "small")
    assert cell["outcome"] == ("declined" if outcome == "partly" else outcome)
    assert cell["partly"] is (outcome == "partly")
    assert cell["reason"] is None if reason is None else reason in cell["reason"]
    (line,) = re.findall(rf"^{clause}  .*", result.stdout, re.MULTILINE)
    assert line.split()[2] == (outcome.upper() if outcome == "failed" else outcome)


def test_an_overridden_test_is_shown_with_its_reason(session: Any) -> None:
    folder, result = session
    cell = cell_of(load(folder), "CAP-01", "cap")
    assert (cell["outcome"], cell["overridden"]) == ("passed", ["the names are <b>ours</b>"])
    assert [test["test"] for test in cell["tests"] if test["overridden"]] == [
        "test_cap_01_answers_stay_the_same"
    ]
    assert re.search(r"^CAP-01 +passed\* +skipped", result.stdout, re.MULTILINE)
    assert "test_cap_01_answers_stay_the_same: the names are <b>ours</b> (local cap" in result.stdout
    assert "passed (overridden)" in (folder / "conformance.md").read_text()


def test_what_is_printed(session: Any) -> None:
    folder, result = session
    assert result.returncode == 1
    assert result.stderr == ""
    out = result.stdout
    assert f"local small {HERE}: 1 passed, 2 declined (1 partly)" in out
    assert f"DET-01: detached_jobs (local small {HERE})" in out
    assert "\x1b" not in out
    assert out.endswith(f"{folder}/conformance.json\n{folder}/conformance.md\n{folder}/conformance.html\n")
    order = re.findall(r"^([A-Z]+-\d+)  ", out, re.MULTILINE)
    assert order == list(CLAUSES)


def test_the_json_has_the_documented_shape(session: Any) -> None:
    data = load(session[0])
    assert data.keys() == {"schema", "mini", "columns", "groups", "clauses", "others"}
    assert data["schema"] == 1
    assert [column["variant"] for column in data["columns"]] == ["cap", "small"]
    for index, column in enumerate(data["columns"]):
        assert column.keys() == {"backend", "variant", "python", "platform", "mini", "adapter", "counts"}
        assert column["python"] == ".".join(map(str, sys.version_info[:3]))
        assert column["mini"] == data["mini"]
        assert column["adapter"] == f"mini-core {data['mini']}"
        cells = [row["cells"][index] for row in data["clauses"]]
        counted = {name: sum(cell["outcome"] == name for cell in cells) for name in OUTCOMES}
        assert column["counts"] == counted | {"partly": sum(cell["partly"] for cell in cells)}
    assert data["groups"] == [{"id": id, "text": text} for id, text in GROUPS.items()]
    assert [(row["id"], row["text"]) for row in data["clauses"]] == list(CLAUSES.items())
    for row in data["clauses"]:
        assert row.keys() == {"id", "group", "text", "cells"}
        assert row["group"] == row["id"].split("-")[0]
        assert len(row["cells"]) == 2
        for cell in row["cells"]:
            types = {
                "outcome": str,
                "partly": bool,
                "reason": str | None,
                "seconds": float | int,
                "overridden": list,
                "tests": list,
            }
            assert cell.keys() == types.keys()
            assert all(isinstance(cell[key], kind) for key, kind in types.items())
            assert cell["outcome"] in OUTCOMES
            assert (cell["reason"] is None) is (cell["outcome"] == "passed")
    tests = [test for row in data["clauses"] for cell in row["cells"] for test in cell["tests"]]
    others = [test for column in data["others"] for test in column]
    assert [test["test"] for test in others] == ["test_of_no_clause"]
    for test in tests + others:
        assert test.keys() == {"test", "suite", "outcome", "seconds", "reason", "overridden"}
        assert test["suite"] in {"test_adapter.TestCap", "test_adapter.TestSmall"}
        assert (test["reason"] is None) is (test["outcome"] == "passed")


class Page(HTMLParser):
    """Reads a page as strictly as it is written: every element is closed by its own end tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def ids(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


def test_the_page_is_whole_and_safe(session: Any) -> None:
    text = (session[0] / "conformance.html").read_text()
    page = Page(text)
    assert page.ids() == list(CLAUSES)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    links = [attrs[name] for _, attrs in page.tags for name in ("href", "src") if name in attrs]
    assert set(links) == {f"#{clause}" for clause in CLAUSES}
    assert not re.search(r"https?:|url\(|@import", text)
    hostile = "<script>alert('&amp;')</script> | `x` ``y`` \ufffd[31m **red** </td>"
    assert sum(hostile in data for data in page.text) == 2  # in its cell, and among what failed
    for name in ("test_run_02_fails_for_two[2]", "test_map_01_is_not_skipped", "needs a licence"):
        assert any(name in data for data in page.text)
    assert "prefers-color-scheme: dark" in text
    assert "position: sticky" in text


def tables(markdown: str) -> list[list[str]]:
    """The rows of each table, as GitHub tells cells apart: also in code a pipe without a backslash ends one."""
    found: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def assert_tables_are_whole(markdown: str) -> None:
    for table in tables(markdown):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1, table


def test_the_markdown(session: Any) -> None:
    text = (session[0] / "conformance.md").read_text()
    assert_tables_are_whole(text)
    assert len(tables(text)) == 1 + len(GROUPS)
    assert re.findall(r"^## ([A-Z]+): ", text, re.MULTILINE) == list(GROUPS)
    assert re.findall(r"^\| ([A-Z]+-\d\d) \|", text, re.MULTILINE) == list(CLAUSES)
    sections = ["Failed", "Skipped", "Declined", "Declined in part", "Overridden"]
    assert [name for name in re.findall(r"^## ([A-Z].*)", text, re.MULTILINE) if ":" not in name] == sections
    # What is in a span of code, with a fence longer than any in it, is no markup.
    (hostile,) = re.findall(r"^- RUN-02 .*", text, re.MULTILINE)
    assert (
        "```AssertionError: <script>alert('&amp;')</script> | `x` ``y`` \ufffd[31m **red** </td>" in hostile
    )
    assert f"- MAP-06: `cancel_running` (`local small {HERE}`)" in text


def test_the_same_fragments_give_the_same_bytes(session: Any, tmp_path: Path) -> None:
    folder, result = session
    copy = tmp_path / "copy"
    copy.mkdir()
    for number, path in enumerate(sorted(folder.glob("*.fragment.json"), reverse=True)):
        data = json.loads(path.read_text())
        random.Random(number).shuffle(data["tests"])
        (copy / f"{number}.fragment.json").write_text(json.dumps(data))
    for seed in ("1", "2"):
        again = report("report", copy, PYTHONHASHSEED=seed)
        assert again.stdout.replace(str(copy), str(folder)) == result.stdout
        assert {name: (copy / name).read_bytes() for name in WRITTEN} == {
            name: (folder / name).read_bytes() for name in WRITTEN
        }


def test_a_run_that_stops_early_passes_nothing_it_has_not_reached(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = pytest_session(
        tmp_path, f"--conformance-report={out}", "-x", "-k", "run_01_passes or run_02 or map_01"
    )
    assert result.returncode == 1, result.stdout
    assert report("report", out).returncode == 1
    data = load(out)
    assert [column["variant"] for column in data["columns"]] == ["small"]
    outcomes = {id: cell_of(data, id, "small")["outcome"] for id in ("RUN-01", "RUN-02", "MAP-01", "MAP-06")}
    assert outcomes == {"RUN-01": "passed", "RUN-02": "failed", "MAP-01": "skipped", "MAP-06": "skipped"}
    skipped = cell_of(data, "MAP-06", "small")["tests"]
    assert [test["test"] for test in skipped] == ["test_map_06_is_declined", "test_map_06_is_not_declined"]


@pytest.mark.parametrize(
    "chosen",
    [
        ["test_adapter.py::TestSmall::test_map_06_is_not_declined"],
        ["-k", "TestSmall and test_map_06_is_not_declined"],
    ],
    ids=["by its name", "deselecting the others"],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_test_that_nobody_collected_is_on_record(chosen: list[str], processes: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if processes > 1:
        pytest.importorskip("xdist")
        chosen = [*chosen, f"-n{processes}"]
    result = pytest_session(tmp_path, f"--conformance-report={out}", *chosen)
    assert result.returncode == 0, result.stdout
    assert report("report", out).returncode == 0
    data = load(out)
    # What the backend is called is not known where no test has made an apparatus.
    assert [column["backend"] for column in data["columns"]] == ["TestSmall"]
    assert data["columns"][0]["adapter"] is None
    cell = cell_of(data, "MAP-06", "small")
    assert [(test["test"], test["outcome"]) for test in cell["tests"]] == [
        ("test_map_06_is_declined", "skipped"),
        ("test_map_06_is_not_declined", "passed"),
    ]
    assert cell["outcome"] == "skipped"


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = pytest_session(tmp_path, f"--conformance-report={tmp_path}/file")
    assert result.returncode == 4
    assert "--conformance-report: cannot write to" in result.stdout
    assert "passed" not in result.stdout


# --- what is made of fragments ---


def fragment(**changes: Any) -> dict[str, Any]:
    test = {"clause": "RUN-01", "test": "test_run_01", "suite": "s", "outcome": "passed", "seconds": 1}
    return {
        "schema": 1,
        "backend": "local",
        "variant": "",
        "python": "3.12.1",
        "platform": "Linux",
        "mini": "0.1.0",
        "adapter": None,
        "tests": [test],
    } | changes


def write(folder: Path, *fragments: Any) -> None:
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(fragments):
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / f"{number}.fragment.json").write_text(text)


def test_a_report_in_which_nothing_failed(tmp_path: Path) -> None:
    write(tmp_path, fragment())
    result = report("report", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "local 3.12" in result.stdout


def test_columns_of_several_versions_side_by_side(tmp_path: Path) -> None:
    write(
        tmp_path,
        fragment(python="3.13.0"),
        fragment(python="3.11.7"),
        fragment(python="3.11.7", mini="0.0.9"),
        fragment(python="3.9.1"),
        fragment(backend="ray", adapter="mini-ray 2.0"),
        fragment(backend="ray", adapter="mini-ray 2.1"),
    )
    result = report("report", tmp_path)
    assert result.returncode == 0, result.stderr
    data = load(tmp_path)
    assert [(column["backend"], column["python"], column["mini"]) for column in data["columns"]] == [
        ("local", "3.9.1", "0.1.0"),
        ("local", "3.11.7", "0.0.9"),
        ("local", "3.11.7", "0.1.0"),
        ("local", "3.13.0", "0.1.0"),
        ("ray", "3.12.1", "0.1.0"),
        ("ray", "3.12.1", "0.1.0"),
    ]
    for name in ("mini 0.0.9", "mini-ray 2.0", "mini-ray 2.1"):
        assert name in result.stdout.split("RUN:")[0]


def test_a_clause_of_another_version_is_shown(tmp_path: Path) -> None:
    tests = [fragment()["tests"][0] | {"clause": "RUN-99", "outcome": "failed", "reason": "gone"}]
    write(tmp_path, fragment(mini="9.9.9", tests=tests))
    result = report("report", tmp_path)
    assert result.returncode == 1
    assert re.search(r"^RUN-11 .*\nRUN-99 +FAILED .*no clause of mini-core", result.stdout, re.MULTILINE)
    assert Page((tmp_path / "conformance.html").read_text()).ids() == [
        *list(CLAUSES)[:11],
        "RUN-99",
        *list(CLAUSES)[11:],
    ]


def test_a_test_of_no_clause_that_fails_is_told(tmp_path: Path) -> None:
    tests = [
        fragment()["tests"][0] | {"clause": None, "outcome": "failed", "reason": "mine", "test": "test_mine"}
    ]
    write(tmp_path, fragment(tests=tests))
    result = report("report", tmp_path)
    assert result.returncode == 1
    assert "of no clause  test_mine: mine" in result.stdout


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ([], "no JSON object"),
        ({"theirs": True}, "its schema is None"),
        (fragment(schema=2), "its schema is 2"),
        (fragment(tests={}), "'tests'"),
        (fragment(tests=[1]), "'tests'"),
        (fragment(backend=None), "'backend' is None"),
        (fragment(python="snake"), "'snake' is no version of Python"),
        (fragment(tests=[fragment()["tests"][0] | {"outcome": "good"}]), "'good' is no outcome"),
        (fragment(tests=[fragment()["tests"][0] | {"seconds": float("nan")}]), "no number of seconds"),
        (fragment(tests=[fragment()["tests"][0] | {"seconds": True}]), "no number of seconds"),
        (fragment(tests=[fragment()["tests"][0] | {"clause": 1}]), "'clause' is 1"),
    ],
)
def test_what_is_no_fragment(tmp_path: Path, content: Any, complaint: str) -> None:
    write(tmp_path, fragment(), content)
    said = complaint_about("report", tmp_path)
    assert complaint in said
    assert f"{tmp_path}/1.fragment.json" in said
    assert f"pytest --conformance-report={tmp_path}" in said
    assert not any((tmp_path / name).exists() for name in WRITTEN)


def test_no_fragments(tmp_path: Path) -> None:
    (tmp_path / "conformance.json").write_text("{}")
    result = report("report", tmp_path)
    assert result.returncode == 2
    assert f"pytest --conformance-report={tmp_path}" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["report"], ["report", "/nowhere/at/all"], ["report", __file__], ["repot", "."]]
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    assert "Usage: python -m mini.conformance" in complaint_about(*arguments)


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path, fragment())
    (tmp_path / "conformance.html").mkdir()
    result = report("report", tmp_path)
    assert result.returncode == 2
    assert "conformance.html" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    write(tmp_path, fragment())
    result = report("report", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (result.returncode, result.stderr) == (0, "")


def test_what_pytest_loads_in_every_session_is_light() -> None:
    script = """
        import sys, pytest
        before = set(sys.modules)
        import mini.conformance.plugin
        print(*sorted(name for name in set(sys.modules) - before if name.split(".")[0] not in sys.stdlib_module_names))
    """
    printed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    ).stdout
    assert set(printed.split()) == {
        "mini",
        "mini.conformance",
        "mini.conformance.clauses",
        "mini.conformance.plugin",
    }


def test_the_report_does_not_need_the_kits_dependencies(tmp_path: Path) -> None:
    write(tmp_path, fragment())
    script = f"""
        import sys
        from mini.conformance.__main__ import main
        main(["report", {str(tmp_path)!r}], standalone_mode=False)
        assert not sys.modules.keys() & {{"pytest", "hypothesis", "numpy"}}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, stdout=subprocess.DEVNULL)


# --- whatever the fragments are ---

# What _text of report.py lets through: anything, but on one line.
lines = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]) | st.sampled_from(" <>&\"'`|*\\"), max_size=8
)
tests = st.builds(
    Test,
    test=lines,
    suite=st.sampled_from(["a.A", "b.B"]),
    outcome=st.sampled_from(OUTCOMES),
    seconds=st.floats(0, 100).map(lambda seconds: round(seconds, 3)),
    reason=st.none() | lines.filter(bool),
    overridden=st.none() | lines.filter(bool),
)
columns = st.builds(
    Column,
    backend=st.sampled_from(["local", "ray"]) | lines,
    variant=st.sampled_from(["", "thread"]) | lines,
    python=st.sampled_from(["3.11.7", "3.11.8", "3.13.0"]),
    platform=st.sampled_from(["Linux", "Darwin"]),
    mini=st.sampled_from(["0.1.0", "0.2.0"]),
    adapter=st.none() | st.just("mini-ray 1.0"),
)
clauses = st.sampled_from([*list(CLAUSES)[:3], "CAP-01"]) | st.none() | lines.filter(bool)
fragments = st.lists(
    st.builds(Fragment, columns, st.lists(st.tuples(clauses, tests), max_size=4).map(tuple)),
    min_size=1,
    max_size=4,
)
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cells(of: Report) -> dict[tuple[Column, str], Any]:
    return {
        (column, row.clause): cell
        for row in of.rows
        for column, cell in zip(of.columns, row.cells, strict=True)
    }


@some
@given(fragments)
def test_every_clause_has_one_cell_in_every_column_and_no_test_is_lost(given: list[Fragment]) -> None:
    merged = merge(given)
    assert set(merged.columns) == {fragment.column for fragment in given}
    assert len(set(merged.columns)) == len(merged.columns) == len(merged.others)
    assert {row.clause for row in merged.rows} >= CLAUSES.keys()
    assert len({row.clause for row in merged.rows}) == len(merged.rows)
    known = [row.clause for row in merged.rows if row.clause in CLAUSES]
    assert known == list(CLAUSES)
    found: list[tuple[Column, str | None, Test]] = [
        (column, clause, test) for (column, clause), cell in cells(merged).items() for test in cell.tests
    ]
    found += [
        (column, None, test)
        for column, tests in zip(merged.columns, merged.others, strict=True)
        for test in tests
    ]
    told = [(fragment.column, clause, test) for fragment in given for clause, test in fragment.tests]
    assert sorted(map(repr, found)) == sorted(map(repr, told))


@some
@given(fragments, st.randoms())
def test_the_order_of_fragments_and_tests_does_not_matter(
    given: list[Fragment], random: random.Random
) -> None:
    shuffled = [replace(f, tests=tuple(random.sample(f.tests, len(f.tests)))) for f in given]
    random.shuffle(shuffled)
    one, other = merge(given), merge(shuffled)
    assert one == other
    for render in (as_text, as_markdown, as_html, as_json):
        assert render(one) == render(other)


@some
@given(fragments, columns, clauses, tests)
def test_one_more_test_never_makes_a_cell_better(
    given: list[Fragment], column: Column, clause: str | None, test: Test
) -> None:
    before, after = merge(given), merge([*given, Fragment(column, ((clause, test),))])
    assert after.failed is (before.failed or test.outcome == "failed")
    for where, cell in cells(before).items():
        now = cells(after)[where]
        if where != (column, clause):
            assert now == cell
        elif cell.tests:
            assert OUTCOMES.index(now.outcome) == max(map(OUTCOMES.index, (cell.outcome, test.outcome)))
        else:
            assert now.outcome == test.outcome
    for cell in cells(after).values():
        assert (label(cell) == "passed") is (
            bool(cell.tests) and all(test.outcome == "passed" for test in cell.tests)
        )


@some
@given(fragments)
def test_whatever_it_says_the_files_stay_whole(given: list[Fragment]) -> None:
    merged = merge(given)
    page = Page(as_html(merged))
    assert page.ids() == [row.clause for row in merged.rows]
    allowed = (
        "html head meta title style body h1 h2 p dl dt dd table thead tbody tr th td a code details summary"
    )
    assert {tag for tag, _ in page.tags} <= {*allowed.split(), "ul", "li", "b", "q", "br"}
    assert sum(tag == "details" for tag, _ in page.tags) == len(merged.rows) * len(merged.columns)
    assert_tables_are_whole(as_markdown(merged))
    data = as_json(merged)
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@some
@given(fragments, st.integers(40, 200))
def test_a_narrow_terminal_gets_all_columns(given: list[Fragment], width: int) -> None:
    merged = merge(given)
    text = re.sub(r"\x1b\[\d*m", "", as_text(merged, width))
    rows = re.findall(r"^RUN-05 .*", text, re.MULTILINE)
    assert sum(len(re.findall(" (?:passed|declined|partly|skipped|FAILED)", row)) for row in rows) == len(
        merged.columns
    )
    assert all(len(row) <= width or len(re.findall(" skipped", row)) == 1 for row in rows)
