"""The report on a list of records: what is in it, and that a browser shows it, alone and safely.

What runs in Chromium is skipped where there is none, unless CI is set.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini.curves import Point
from mini.jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    JobRecord,
    JobState,
    Origin,
    Outcome,
    Report,
    Worker,
)
from mini.report import render
from mini.report.data import MOST_POINTS, curves_of, describe, inputs_of, metrics_of
from mini.status import FailureRecord, Progress

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

START = 1_790_000_000.0
TRACE = (
    'Traceback (most recent call last):\n  File "/home/me/train.py", line {line}, in train\n    scale / 0\n'
)
TAKE = "document.title='taken'"
HOSTILE = f'</script><script>{TAKE}</script><img src=x onerror="{TAKE}"><!-- \u2028 漢字 \u202e'


def origin(**changes: Any) -> Origin:
    known: dict[str, Any] = {
        "launched": START,
        "launched_by": "me@here",
        "lock_digest": "ab" * 32,
        "source_digest": "cd" * 32,
        "git_commit": "ef" * 20,
        "git_dirty": True,
        "python": "3.11.7",
        "packages": {"numpy": "2.1.0"},
    }
    return Origin(**{**known, **changes})


def job(
    index: int,
    input: str = "",
    state: JobState = JobState.DONE,
    failure: FailureRecord | None = None,
    metrics: dict[str, Any] | None = None,
    group: str = "g",
    before: tuple[Attempt, ...] = (),
    **launch: Any,
) -> JobRecord:
    claimed = (
        None if state is JobState.PENDING else Claimed(START + 1 + index, Worker("here", 100 + index % 4))
    )
    outcome = Outcome(10, "00") if state is JobState.DONE else None
    ended = Ended(START + 1.5 + index, state, outcome, failure) if state.is_final else None
    report = Report(Progress(3, 10, "epochs"), metrics or {})
    attempt = Attempt(len(before) + 1, Created(START), claimed, ended, report)
    return JobRecord(f"{group}-{index}", group, index, input, "train", origin(**launch), (*before, attempt))


def failure(message: str = "division by zero", line: int = 7, kind: Any = "user") -> FailureRecord:
    return FailureRecord(0, 1, kind, "ZeroDivisionError", message, f"{TRACE.format(line=line)}{message}")


def sweep(count: int = 40) -> list[JobRecord]:
    """A grid of jobs, of which every tenth failed."""
    records = []
    for index in range(count):
        rate, units = 10.0 ** -(1 + index % 4), 8 * 2 ** (index % 3)
        text = f"{{'rate': {rate}, 'units': {units}, 'act': {'relu' if index % 2 else 'tanh'!r}}}"
        failed = index % 10 == 9
        state = JobState.FAILED if failed else JobState.DONE
        metrics = (
            {}
            if failed
            else {"accuracy": 1 - rate - 1 / (units + index), "loss": [1 / (1 + n) for n in range(5)]}
        )
        records.append(job(index, text, state, failure() if failed else None, metrics))
    return records


# --- the data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("3", {"input": 3}),
        ("3, 'a b'", {"input 1": 3, "input 2": "a b"}),
        ("{'rate': 0.1, 'seed': 3}", {"rate": 0.1, "seed": 3}),
        ("Setting(hidden=8, rate=-0.3)", {"hidden": 8, "rate": -0.3}),
        ("Setting(8), 1", {"input 1": "Setting(8)", "input 2": 1}),
        ("rate=0.1, seed=None", {"rate": 0.1, "seed": None}),
        ("[1, 2]", {"input": "[1, 2]"}),
        ("array([1., 2.])", {"input": "array([1., 2.])"}),
        ("<Model 3>", {"input": "<Model 3>"}),
        ("2) + f(1", {"input": "2) + f(1"}),
        ("12345678901234567890", {"input": "12345678901234567890"}),
        ("1e999", {"input": "Infinity"}),
        ("...", {"input": "..."}),
        ("# nothing", {"input": "# nothing"}),
        ("{'rate': 0.1, 'tag': 'a', '...': '...'}", {"rate": 0.1, "tag": "a", "...": "..."}),
        ("{'deep': {'a': 1, '...': '...'}, 'b': 2}", {"deep": '{"a": 1, "...": "..."}', "b": 2}),
        ("", {}),
    ],
)
def test_inputs_are_taken_from_their_repr(text: str, inputs: dict[str, Any]) -> None:
    assert inputs_of(job(0, text)) == inputs


def test_metrics_are_flat_and_series_are_apart() -> None:
    metrics = {
        "loss": math.nan,
        "val": {"acc": 0.5, "f1": {"a": 1}},
        "curve": [3, 2.0, math.inf],
        "tags": ["a"],
        "n": [1],
    }
    record = job(0, metrics=metrics)
    assert metrics_of(record) == {"loss": "NaN", "val.acc": 0.5, "val.f1.a": 1, "tags": '["a"]', "n": "[1]"}
    (series,) = describe([record], "n", "local", START)["series"]
    assert series == {"name": "curve", "steps": [[1, 2, 3]], "values": [[3, 2.0, "Infinity"]]}


def test_curves_have_their_steps_and_few_points_where_there_are_many() -> None:
    records = [job(index, metrics={"loss": 0.0}) for index in range(3)]
    curve = [Point(n * 10, n / 7, 1 / 3 + n) for n in range(100)]
    curves = curves_of(
        [*records, job(3)], lambda keys: [{"loss": curve}, {"loss": curve[:1]}, {}][: len(keys)]
    )
    assert curves == {"g-0": {"loss": curve}}
    (series,) = describe(records, "n", "local", START, curves)["series"]
    assert (series["name"], series["steps"][1:], series["values"][1:]) == ("loss", [None] * 2, [None] * 2)
    assert series["steps"][0] == list(range(0, 1000, 10))
    assert series["values"][0][:2] == [0.333333, 1.33333]

    many = [job(index, metrics={"loss": 0.0}) for index in range(10_000)]
    names = [f"m{n}" for n in range(64)]
    curves = curves_of(many, lambda keys: (dict.fromkeys(names, curve) for _ in keys))
    assert sum(len(points) for one in curves.values() for points in one.values()) == MOST_POINTS
    assert all(points[-1] is curve[-1] for one in curves.values() for points in one.values())


def test_failures_of_one_place_are_one_group_whatever_they_say() -> None:
    first = Attempt(
        1,
        Created(START),
        Claimed(START, Worker("here", 1)),
        Ended(START, JobState.FAILED, None, failure("z")),
    )
    records = [
        job(0, state=JobState.FAILED, failure=failure("a")),
        job(1, state=JobState.FAILED, failure=failure("b")),
        job(2, state=JobState.FAILED, failure=failure("a", line=8)),
        job(3, before=(first,)),
        job(4, state=JobState.LOST),
        job(5, state=JobState.CANCELLED),
    ]
    groups = describe(records, "n", "local", START)["failures"]
    assert [(g["type"], g["message"], g["jobs"], g["earlier"]) for g in groups] == [
        ("ZeroDivisionError", "a", [0, 1], [3]),
        ("ZeroDivisionError", "a", [2], []),
        ("WorkerLost", "its worker vanished", [4], []),
    ]


class _Shape(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.texts.append(data)


def shape(page: str) -> _Shape:
    parser = _Shape()
    parser.feed(page)
    return parser


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.floats() | st.integers(), max_size=3))
def test_nothing_that_a_record_says_becomes_markup(name: str, text: str, metrics: dict[str, Any]) -> None:
    records = [job(0, text, JobState.FAILED, failure(text), metrics, group=text)]
    page = render(records, name, "local", now=START)
    page.encode()
    empty, full = shape(render([], "n", "local", now=START)), shape(page)
    assert [tag for tag, _ in full.tags] == [tag for tag, _ in empty.tags]
    data = json.loads(full.texts[0], parse_constant=lambda constant: pytest.fail(constant))
    assert (data["name"], data["input"]) == (name, [text])


def test_the_page_asks_nobody_for_anything() -> None:
    page = render(sweep(), "n", "local", now=START)
    for tag, attributes in shape(page).tags:
        assert tag not in ("link", "img", "iframe", "base", "object")
        assert not {"src", "action", "style", "onclick"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
    assert "default-src 'none'" in page
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|innerHTML|eval)\b", page)


def test_ten_thousand_jobs_are_a_moderate_file() -> None:
    began = time.monotonic()
    records = sweep(10_000)
    curve = [Point(n, n / 3, 1 / (1 + n)) for n in range(256)]
    curves = curves_of(records, lambda keys: ({"loss by epoch": curve} for _ in keys))
    page = render(records, "n", "local", now=START, curves=curves)
    assert time.monotonic() - began < 10
    assert len(page) < 8_000_000


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        message = "no Chromium on PATH (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with api.sync_playwright() as playwright:
        # Its sandbox needs more than a container may have; what it opens is ours.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Shown:
    """A report in a browser that is offline; what the browser complains of, or asks for, is noted."""

    def __init__(
        self,
        browser: Browser,
        folder: Path,
        records: list[JobRecord],
        curves: Any = None,
        **context: Any,
    ) -> None:
        file = folder / "report.html"
        page = render(records, "my sweep", "local", now=START + 100, curves=curves)
        file.write_text(page, encoding="utf-8")
        self.complaints: list[str] = []
        self.context = browser.new_context(offline=True, **context)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request",
            lambda request: self.complaints.append(request.url) if request.url != file.as_uri() else None,
        )
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("#rows tr")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def column(self, name: str) -> list[str]:
        """The cells of a column, as they are shown."""
        cells: list[str] = self.page.evaluate(
            """name => {
                const at = [...document.querySelectorAll("#heads th")].findIndex(th => th.innerText.includes(name));
                return [...document.querySelectorAll("#rows tr[data-job]")].map(row => row.cells[at].innerText.trim());
            }""",
            name,
        )
        return cells

    def filter(self, text: str, says: str) -> None:
        self.page.fill("#query", text)
        self.page.wait_for_function(
            "says => document.getElementById('query-says').innerText.includes(says)", arg=says
        )


def test_a_browser_shows_it_without_a_complaint(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, sweep()) as shown:
        page = shown.page
        assert page.inner_text("h1") == "my sweep"
        assert page.title() == "my sweep · 36 DONE, 4 FAILED"
        assert "40 jobs on local" in page.inner_text("#subtitle")
        for section in ("metrics", "curves", "failures", "jobs", "timeline", "origin"):
            assert page.is_visible(f"#{section}"), section
        page.click("#show-scatter")
        page.click("#show-parallel")
        assert shown.complaints == []  # before the test reads pixels, which Chromium has a word to say about
        painted = """id => {
            const canvas = document.getElementById(id);
            const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return all.data.some(value => value !== 0);
        }"""
        assert all(page.evaluate(painted, plot) for plot in ("plot", "curve-plot", "time-plot"))
        page.click("#show-scatter")
        assert page.evaluate(painted, "plot")
        assert page.inner_text("#failure-groups summary").startswith("ZeroDivisionError: division by zero")
        assert "4 jobs" in page.inner_text("#failure-groups summary")
        assert "efefefefefef, with changes" in page.inner_text("#origin")


def test_curves_are_drawn_over_their_steps(browser: Browser, tmp_path: Path) -> None:
    records = [job(index, str(index), metrics={"loss": 0.0}) for index in range(3)]
    curves = {
        "g-0": {"loss": [Point(step, step, 1000 - step) for step in range(0, 1001, 100)]},
        "g-1": {"loss": [Point(500, 0, 10), Point(750, 1, math.nan), Point(1000, 1, 900)]},
    }
    painted = """([x, y]) => {
        const canvas = document.getElementById("curve-plot");
        const scale = canvas.width / canvas.getBoundingClientRect().width;
        const box = [x - 3, y - 6, 6, 12].map(value => Math.round(value * scale));
        return canvas.getContext("2d").getImageData(...box).data.some(value => value !== 0);
    }"""
    with Shown(browser, tmp_path, records, curves) as shown:
        page = shown.page
        assert page.inner_text("#series") == "loss"
        assert page.get_attribute("#curve-plot", "aria-label") == "Curves of loss by step, one for each job"
        page.locator("#curve-plot").scroll_into_view_if_needed()
        box = page.locator("#curve-plot").bounding_box()
        assert box is not None
        # The first falls from the upper left to the lower right: it can be touched in the middle, and nowhere else.
        touched = set()
        for down in range(0, int(box["height"]), 4):
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + down)
            page.evaluate("() => new Promise(requestAnimationFrame)")
            if page.is_visible("#tip"):
                touched.add(down / box["height"])
        assert touched
        assert 0.2 < min(touched) < max(touched) < 0.7
        assert shown.complaints == []
        middle = [box["width"] / 2, box["height"] * (min(touched) + max(touched)) / 2]
        assert page.evaluate(painted, middle)
        # From one point to the next the second has no number, so there is no line.
        assert not page.evaluate(painted, [box["width"] * 0.85, box["height"] * 0.3])


def test_the_table_sorts(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, sweep()) as shown:
        page = shown.page

        def by(name: str, order: str) -> list[float]:
            page.click(f"#heads th button:text-is('{name}')")
            page.wait_for_selector(f"#heads th[aria-sort='{order}']")
            return [float(cell) for cell in shown.column(name) if cell]

        up = by("accuracy", "ascending")
        assert up == sorted(up)
        assert len(up) == 36
        assert shown.column("accuracy")[36:] == [""] * 4  # what is not there comes last, whichever way
        down = by("accuracy", "descending")
        assert down == sorted(up, reverse=True)
        assert shown.column("accuracy")[36:] == [""] * 4
        page.click("#heads th button:text-is('accuracy')")
        page.wait_for_function("() => !document.querySelector('#heads th[aria-sort$=ending]')")
        assert [int(cell.split()[-1]) for cell in shown.column("#")] == list(range(40))


def test_the_table_filters(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, sweep()) as shown:
        shown.filter("rate<=0.001 units=16", "of 40 shown")
        assert set(shown.column("units")) == {"16"}
        assert set(shown.column("rate")) == {"0.001", "1e-4"}
        shown.filter("state=failed", "4 jobs of 40 shown")
        assert {cell.split()[-1] for cell in shown.column("state")} == {"FAILED"}
        shown.filter("gelu", "0 jobs of 40 shown")
        shown.filter("colour=red", "There is no column “colour”; there are: #, state, rate")
        shown.filter("rate>much", "rate is a number, and “much” is none")
        shown.page.click("#clear")
        shown.page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 40")
        shown.page.click(".chip.FAILED")
        shown.page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 4")
        assert shown.page.get_attribute(".chip.FAILED", "aria-pressed") == "true"
        shown.page.click("#clear")
        shown.page.click("[data-failure='0']")
        shown.page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 4")
        assert shown.complaints == []


def test_a_job_opens_from_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, sweep()) as shown:
        shown.page.focus("tr[data-job='9'] .open")
        shown.page.keyboard.press("Enter")
        about = shown.page.inner_text("tr.about")
        assert "attempt 1: ✗ FAILED" in about
        assert "line 7, in train" in about
        assert shown.page.evaluate("() => document.activeElement.getAttribute('aria-expanded')") == "true"
        shown.page.keyboard.press("Enter")
        assert shown.page.query_selector("tr.about") is None


def test_dragging_along_an_axis_filters(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, sweep()) as shown:
        box = shown.page.locator("#plot").bounding_box()
        assert box is not None
        x = box["x"] + 44  # the first axis: rate
        shown.page.mouse.move(x, box["y"] + 30)
        shown.page.mouse.down()
        shown.page.mouse.move(x, box["y"] + 60)
        shown.page.mouse.up()
        shown.page.wait_for_function(
            "() => document.getElementById('query-says').innerText === '10 jobs of 40 shown'"
        )
        assert set(shown.column("rate")) == {"0.1"}
        shown.page.mouse.click(x, box["y"] + 150)
        shown.page.wait_for_function("() => document.getElementById('query-says').innerText === '40 jobs'")


@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    records = [*sweep(), job(40, repr("long" * 500), JobState.FAILED, failure("x" * 5000), group="h" * 200)]
    with Shown(browser, tmp_path, records, viewport={"width": width, "height": 800}) as shown:
        shown.page.click("tr[data-job='40'] .open")
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") == width
        shown.page.click("#show-scatter")
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") == width


def test_it_follows_the_colours_of_the_system(browser: Browser, tmp_path: Path) -> None:
    def contrast(page: Page, selector: str) -> float:
        """The ratio of WCAG between an element's colour and that of the card that it is on."""
        ratio: float = page.evaluate(
            """selector => {
                const light = colour => {
                    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(n => n / 255);
                    const linear = parts.map(c => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
                };
                const element = document.querySelector(selector);
                const ground = light(getComputedStyle(element.closest(".card")).backgroundColor);
                const ink = light(getComputedStyle(element).color);
                return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
            }""",
            selector,
        )
        return ratio

    grounds = []
    records = [*sweep(), *(job(40 + n, "0", state) for n, state in enumerate(JobState))]
    for scheme in ("light", "dark"):
        with Shown(browser, tmp_path, records, color_scheme=scheme) as shown:
            grounds.append(shown.page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
            for selector in ("h2", "td", ".hint", *(f".state.{state}" for state in JobState)):
                assert contrast(shown.page, selector) >= 4.5, (scheme, selector)
    assert grounds[0] != grounds[1]


def test_what_hostile_records_say_is_text(browser: Browser, tmp_path: Path) -> None:
    fails = failure(HOSTILE)
    records = [
        job(
            0,
            HOSTILE,
            JobState.FAILED,
            fails,
            group=HOSTILE,
            launched_by=HOSTILE,
            packages={HOSTILE: HOSTILE},
        ),
        job(1, repr(HOSTILE), metrics={HOSTILE: 1, "b": HOSTILE}),
        job(2, repr(HOSTILE), metrics={HOSTILE: 2, "b": HOSTILE, "__proto__": 3, "constructor": [1, 2]}),
    ]
    with Shown(browser, tmp_path, records) as shown:
        shown.page.click("tr[data-job='0'] .open")
        assert "taken" not in shown.page.title()
        assert shown.page.query_selector("img") is None
        assert "onerror" in shown.page.inner_text("#rows")
        assert shown.complaints == []


def test_without_jobs_it_says_so(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, tmp_path, []) as shown:
        assert shown.page.inner_text("#rows") == "There are no jobs yet."
        assert shown.complaints == []


@pytest.mark.slow
def test_ten_thousand_jobs_are_shown_quickly(browser: Browser, tmp_path: Path) -> None:
    began = time.monotonic()
    with Shown(browser, tmp_path, sweep(10_000)) as shown:
        assert time.monotonic() - began < 15
        assert len(shown.column("#")) == 50
        shown.filter("act=relu", "5,000 jobs of 10,000 shown")
        shown.page.click("#after")
        shown.page.wait_for_function(
            "() => document.getElementById('page-says').innerText.startsWith('51–100')"
        )
        assert shown.complaints == []
