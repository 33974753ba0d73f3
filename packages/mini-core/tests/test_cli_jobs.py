"""The commands over jobs, as a user runs them: real processes, and the local backend's real runner."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mini import launched
from mini.local.jobs import is_held, open_board
from pty_terminal import Terminal

COMMAND = [sys.executable, "-P", "-m", "mini"]
STATES = ["DONE", "RUNNING", "PENDING", "FAILED", "LOST", "CANCELLED"]
PATIENCE = 60.0

TRAIN = """
import mini

def fit(rate: float, units: int = 8, tag: str = "plain"):
    print("fitting", rate, units)
    mini.emit_progress(3, 3, "epochs")
    if rate == 3:
        raise ValueError("too much")
    mini.emit_metrics(loss=1 / (rate + units))
    return {"score": rate * units, "tag": tag}
"""
# It waits for somebody to open the other end of a pipe, and never for good.
WAIT = """
import os

def wait(pipe: str, x: int = 0):
    print("waiting", flush=True)
    with open(pipe) as file:
        return file.read()
"""


def environment(**more: str) -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if k not in ("MINI_APP", "NO_COLOR", "FORCE_COLOR")}
    return {**outside, "MINI_PROGRESS": "0", **more}


def mini(folder: Path, *arguments: str, status: int = 0, **env: str) -> str:
    """What a command prints to standard output; its exit status has to be the expected one."""
    done = run(folder, *arguments, **env)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def run(
    folder: Path, *arguments: str, command: Sequence[str] = COMMAND, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def answer(folder: Path, *arguments: str, status: int = 0, **env: str) -> dict[str, Any]:
    """The JSON that a command prints."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    data: dict[str, Any] = json.loads(
        mini(folder, *arguments, "--json", status=status, **env), parse_constant=refuse
    )
    assert data["schema"] == 1
    return data


def complaint(folder: Path, *arguments: str, status: int = 2, **env: str) -> str:
    """What a command says to standard error when it refuses, on one line; then it says nothing else."""
    done = run(folder, *arguments, **env)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def until(folder: Path, name: str, state: str) -> None:
    """Wait until a job is in a state."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done = run(folder, "status", name, "--json")
        if done.stdout and json.loads(done.stdout)["counts"][state]:
            return
    pytest.fail(f"no job of {name} is ever {state}: {done.stdout}{done.stderr}")


def leave(folder: Path) -> None:
    """Wait until the runners have ended, which they do when there is nothing more to do."""
    deadline = time.monotonic() + PATIENCE
    for lock in folder.glob(".mini/jobs/*/alive.lock"):
        while is_held(lock):
            assert time.monotonic() < deadline, f"{lock} is still held"
            time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "wait.py").write_text(WAIT)
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path
    for database in tmp_path.glob(".mini/jobs/*/jobs.db"):
        run(tmp_path, "cancel", database.parent.name)  # if there is something to cancel
    leave(tmp_path)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sweep of six jobs has ended, two of which failed. Tests only read it."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "train.py").write_text(TRAIN)
    mini(folder, "run", "train.py:fit", "--map", "rate=1,2,3", "--map", "units=8,16", "-w", "cpu=2", status=1)
    leave(folder)
    return folder


# --- run ------------------------------------------------------------------------------------------------------------


def test_a_function_in_a_file_becomes_a_sweep(folder: Path) -> None:
    done = run(folder, "run", "train.py:fit", "--map", "rate=1,3", "--map", "units=8,16", MINI_PROGRESS="1")
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == [
        "# state rate units loss result.score result.tag error",
        "0 DONE 1 8 0.11111 8 plain",
        "1 DONE 1 16 0.058824 16 plain",
        "2 FAILED 3 8 ValueError: too much",
        "3 FAILED 3 16 ValueError: too much",
        "train on local: 2 DONE, 2 FAILED; mini report train",
    ]
    assert "mini: fit: 4/4 in" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_values_are_json_or_else_strings(folder: Path) -> None:
    (folder / "echo.py").write_text("def echo(x, text: str = '', **more):\n    return [x, text, more]\n")
    rows = answer(
        folder, "run", "echo.py", "--map", "x=1,a,null,1.5,[1,2]", "--map", "text=7", "--map", "y=q"
    )
    assert [job["result"] for job in rows["jobs"]] == [
        [x, "7", {"y": "q"}] for x in (1, "a", None, 1.5, "[1", "2]")
    ]
    rows = answer(folder, "run", "echo.py", "--map", 'x=[1,2],"a,b",{"k":[true]}')
    assert [job["result"][0] for job in rows["jobs"]] == [[1, 2], "a,b", {"k": [True]}]
    assert rows["jobs"][1]["inputs"] == {"x": "a,b"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grid.csv", "\ufeffx,text\n1,a\n2,\n"),
        ("grid.jsonl", '{"x": 1, "text": "a"}\n\n{"x": 2}\n'),
        ("grid.json", '[{"x": 1, "text": "a"}, {"x": 2}]'),
        ("", '[{"x": 1, "text": "a"}, {"x": 2}]'),
    ],
)
def test_rows_come_from_a_file_as_well(folder: Path, name: str, text: str) -> None:
    (folder / "echo.py").write_text("def echo(x, text='none', z=0):\n    return [x, text, z]\n")
    if name:
        (folder / name).write_text(text)
    rows = answer(folder, "run", "echo.py:echo", "--grid", name or text, "--map", "z=3")
    assert [job["result"] for job in rows["jobs"]] == [[1, "a", 3], [2, "none", 3]]


def test_a_cell_may_be_long_and_quoted(folder: Path) -> None:
    (folder / "echo.py").write_text("def echo(x, text: str):\n    return [x, len(text), text[-6:]]\n")
    (folder / "grid.csv").write_text(f'x,text\n1,"{"a" * 200_000}, ""b""\n"\n2,c\n')
    rows = answer(folder, "run", "echo.py", "--grid", "grid.csv")
    assert [job["result"] for job in rows["jobs"]] == [[1, 200_006, ', "b"\n'], [2, 1, "c"]]


def test_a_grid_of_lists_is_their_product(folder: Path) -> None:
    (folder / "echo.py").write_text("def echo(x, y):\n    return [x, y]\n")
    rows = answer(folder, "run", "echo.py", "--grid", '{"x": [1, 2], "y": "a"}')
    assert [job["result"] for job in rows["jobs"]] == [[1, "a"], [2, "a"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py:fit", "--map", "rat=1"], "fit has no parameter 'rat'; it has rate, units, tag"),
        (["train.py:fit", "--map", "units=1"], "fit needs 'rate': give it with --map rate=VALUE"),
        (["train.py:fit"], "fit needs 'rate'"),
        (["train.py:fit", "--map", "rate"], "'rate' is not KEY=VALUE"),
        (["train.py:fit", "--map", "rate=1", "--map", "rate=2"], "'rate' is given twice"),
        (["train.py:fit", "--map", "rate=1", "--grid", '[{"rate": 1}]'], "'rate' is in --map and in --grid"),
        (["train.py:fit", "--grid", "[1]"], "row 1 is no object"),
        (["train.py:fit", "--grid", "[{"], "is not JSON"),
        (["train.py:fit", "--grid", "gone.csv"], "'gone.csv' cannot be read"),
        (["train.py:fit", "--grid", "train.py"], "neither JSON nor a file"),
        (["train.py:fit", "--grid", "[]"], "there are no inputs: --grid has no rows"),
        (["train.py:fit", "--grid", "5.json"], "5.json is neither a list of objects"),
        (["train.py:fit", "--grid", "null.json"], "null.json is neither a list of objects"),
        (["train.py:fit", "--grid", "deep.json"], "deep.json is not JSON"),
        (["train.py:fit", "--grid", "open.csv"], "open.csv: line 3 cannot be read: unexpected end of data"),
        (["train.py:fit", "--grid", "short.csv"], "short.csv: line 4 has 1 cells, and there are 2 columns"),
        (["train.py:fit", "--map", "rate="], "'rate' has no values: give some, as in rate=1,2"),
        (["train.py:fit", "--map", "rate=1", "-w", "timeot=1"], "did you mean 'timeout'"),
        (["train.py:fit", "--map", "rate=1", "-w", "timeout"], "'timeout' is not KEY=VALUE"),
        (["train.py:fit", "--map", "rate=1", "--name", "a b"], "is not a name for an apparatus"),
        (["train.py:fit", "--map", "rate=1", "--watch", "--detach"], "exclude each other"),
        (["train.py:gone"], "there is no 'gone' in"),
        (["train.py:"], "names no function"),
        (["gone.py:fit"], "there is no file 'gone.py'"),
        (["two.py"], "say which function of two.py, as in two.py:a; it has a, b"),
        (["broken.py"], "broken.py:2: in <module>|broken.py cannot be imported: ZeroDivisionError"),
        (["many.py:many", "--map", "x=1"], "many is a generator function"),
        (["place.py:place", "--map", "x=1"], "takes 'y' by its place only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "two.py").write_text("def a(): pass\ndef b(): pass\ndef _c(): pass\n")
    (tmp_path / "broken.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "many.py").write_text("def many(x):\n    yield x\n")
    (tmp_path / "place.py").write_text("def place(y, /, x): pass\n")
    (tmp_path / "5.json").write_text("5")
    (tmp_path / "null.json").write_text("null")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "open.csv").write_text('rate,tag\n1,a\n2,"b\n3,c\n')
    (tmp_path / "short.csv").write_text('rate,tag\n1,"a\nb"\n2\n')
    assert re.search("|".join(map(re.escape, message.split("|"))), complaint(tmp_path, "run", *arguments)), (
        message
    )
    assert not (tmp_path / ".mini").exists()


def test_a_grid_that_is_too_large_is_not_made_first(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "many.json").write_text(json.dumps({key: [*range(1000)] for key in ("rate", "units", "tag")}))
    limited = ["sh", "-c", 'ulimit -v 4000000 2> /dev/null; exec "$@"', "sh", *COMMAND]
    done = run(tmp_path, "run", "train.py", "--grid", "many.json", command=limited)
    assert done.returncode == 2, done.stderr
    assert "that makes 1,000,000,000 calls, and at most 1,000,000 go" in " ".join(done.stderr.split())


def test_a_backend_that_is_not_there_is_status_3(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    assert "there is no backend 'nowhere'" in complaint(
        tmp_path, "run", "train.py", "--map", "rate=1", "--app", "nowhere", status=3
    )
    assert "there is no backend 'nowhere'" in complaint(
        tmp_path, "status", "train", MINI_APP="nowhere", status=3
    )


def test_a_file_with_main_is_left_to_it(folder: Path) -> None:
    (folder / "own.py").write_text(
        "def double(x): return 2 * x\n"
        "def main(app): return (app.name, app.backend, app.spawn(double, 4).result(30))\n"
    )
    assert mini(folder, "run", "own.py") == "('own', 'local', 8)\n"
    assert "own  local" in mini(folder, "ls")
    assert "defines main(app)" in complaint(folder, "run", "own.py", "--map", "x=1")
    assert answer(folder, "run", "own.py:double", "--map", "x=3")["jobs"][0]["result"] == 6


def test_json_is_one_object_of_a_file_with_main_as_well(folder: Path) -> None:
    (folder / "own.py").write_text(
        "def double(x): return 2 * x\n"
        "def main(app):\n"
        "    print('on', app.backend)\n"
        "    return {'doubled': tuple(app.map(double, range(3)))}\n"
    )
    data = answer(folder, "run", "own.py")
    assert data == {"schema": 1, "name": "own", "app": "local", "returned": {"doubled": [0, 2, 4]}}
    assert mini(folder, "run", "own.py") == "on local\n{'doubled': (0, 2, 4)}\n"
    (folder / "own.py").write_text("def main(app): return {1, 2}\n")
    data = answer(folder, "run", "own.py")
    assert (data["returned"], data["returned_repr"]) == (None, "{1, 2}")
    (folder / "own.py").write_text("def main(app): pass\n")
    assert answer(folder, "run", "own.py")["returned"] is None
    assert mini(folder, "run", "own.py") == ""


def test_what_a_file_needs_travels_with_it(folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "helper.py").write_text("def scale(x): return 10 * x\n")
    (folder / "code" / "use.py").write_text(
        "from dataclasses import dataclass\n"
        "from helper import scale\n"
        "print('noise')\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "async def use(x): return Point(scale(x))\n"
        "if __name__ == '__main__':\n"
        "    raise SystemExit('the last lines of a script must not run')\n"
    )
    jobs = answer(folder, "run", "code/use.py:use", "--map", "x=1,2")["jobs"]
    assert [job["result"] for job in jobs] == [{"x": 10}, {"x": 20}]
    jobs = answer(folder, "results", "use")["jobs"]
    assert [job["result"] for job in jobs] == [{"x": 10}, {"x": 20}]


def test_detached_jobs_go_on_by_themselves(folder: Path) -> None:
    says = answer(folder, "run", "wait.py", "--map", f"pipe={folder / 'pipe'}", "--detach")
    assert says["next"] == [f"mini {verb} wait" for verb in ("watch", "status", "results", "report")]
    until(folder, "wait", "RUNNING")
    assert "  RUNNING  " in mini(folder, "status", "wait", status=4)
    assert answer(folder, "results", "wait", status=4)["jobs"][0]["result"] is None
    (folder / "pipe").write_text("go")
    assert mini(folder, "watch", "wait") == "wait on local: 1 DONE\n"
    assert answer(folder, "results", "wait")["jobs"][0]["result"] == "go"


def test_a_budget_ends_the_launch_and_is_stated_before(folder: Path) -> None:
    maps = ["--map", f"pipe={folder / 'pipe'}", "--map", "x=0,1,2"]
    options = ["-w", "timeout=60", "-w", "retries=1", "--max-workers", "1"]
    done = run(folder, "run", "wait.py", *maps, *options, "--budget", "0.5s")
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        "at worst: 6:00 of workers' time (3 calls x 60 s x 2 attempts)",
        "ended after: 0.5 s of workers' time",
    ]
    assert "the budget of 0.5 s is used up" in mini(folder, "status", "wait", status=1)
    jobs = answer(folder, "results", "wait", status=1)["jobs"]
    assert {job["state"] for job in jobs} == {"CANCELLED"}
    assert "the budget of 0.5 s is used up" in jobs[2]["error"]


def test_a_cost_is_a_budget_by_prices(folder: Path) -> None:
    run_it = ["run", "train.py", "--map", "rate=1", "--max-cost"]
    assert "Declared is nothing: declare cpu, memory or gpu" in complaint(folder, *run_it, "1")
    assert "goes into [tool.mini.prices]" in complaint(folder, *run_it, "1", "-w", "cpu=2")
    table = "[tool.mini.prices]\ncurrency = 'USD'\ncpu = 3\n"
    (folder / "pyproject.toml").write_text(f'[project]\nname = "p"\nversion = "1"\n{table}')
    done = run(folder, *run_it, "12USD", "--budget", "1h30m", "-w", "cpu=2")
    assert done.stderr.splitlines() == [
        "at worst: no end, because nothing says how long a call may run (-w timeout=SECONDS)",
        "ended after: 1:30:00 of workers' time, 9 USD",
    ]
    done = run(folder, *run_it, "3 USD", "--budget", "1h30m", "-w", "cpu=2", "-w", "timeout=60")
    assert done.stderr.splitlines() == [
        "at worst: 1:00 of workers' time, 0.1 USD (1 call x 60 s)",
        "ended after: 30:00 of workers' time, 3 USD",
    ]
    assert "the prices of the project are in USD" in complaint(folder, *run_it, "3EUR", "-w", "cpu=2")
    assert "'-1' is no amount, such as 5USD" in complaint(folder, *run_it, "-1", "-w", "cpu=2")
    for wrong in ("0", "2 weeks", "h", "-1h", "1h x", "nan", "1.2.3s"):
        assert "is no duration, such as 90s" in complaint(
            folder, "run", "train.py", "--map", "rate=1", f"--budget={wrong}"
        )


# --- reading --------------------------------------------------------------------------------------------------------


def test_status_and_ls(sweep: Path) -> None:
    lines = mini(sweep, "status", "train", status=1).splitlines()
    assert lines[0] == "train on local: 4 DONE, 2 FAILED"
    assert re.fullmatch(r"  FAILED  \w+-4 \(\{'rate': 3, 'units': 8\}\)  ValueError: too much", lines[1])
    data = answer(sweep, "status", "train", status=1)
    assert list(data["counts"]) == STATES
    assert (data["name"], data["app"], data["counts"]["DONE"], data["counts"]["FAILED"]) == (
        "train",
        "local",
        4,
        2,
    )
    (launch,) = data["launches"]
    assert launch.keys() == {"id", "function", "launched", "launched_by", "jobs", "counts"}
    (name,) = answer(sweep, "ls")["names"]
    assert name.keys() == {"name", "app", "error", "counts", "launches", "launched"}
    assert re.fullmatch(
        r"train  local  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  4 DONE, 2 FAILED\n", mini(sweep, "ls")
    )
    assert "nothing was launched from here on ray" in mini(sweep, "ls", "--app", "ray")


def test_results_as_csv_json_and_files(sweep: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(mini(sweep, "results", "train", "--csv", status=1))))
    assert [row["input.rate"] for row in rows] == list("112233")
    assert [row["result.score"] for row in rows] == ["8", "16", "16", "32", "", ""]
    assert [row["error"] for row in rows] == [""] * 4 + ["ValueError: too much"] * 2
    assert float(rows[0]["metric.loss"]) == pytest.approx(1 / 9)
    job = answer(sweep, "results", "train", status=1)["jobs"][4]
    assert (job["state"], job["attempt"], job["inputs"]) == ("FAILED", 1, {"rate": 3, "units": 8})
    assert job["failure"]["type"] == "ValueError"
    assert 'train.py", line 8, in fit' in job["failure"]["traceback"]
    out = tmp_path / "out"
    mini(sweep, "results", "train", "--out", str(out), status=1)
    files = sorted(out.iterdir())
    assert len(files) == 5
    assert json.loads(files[0].read_text()) == {"score": 8, "tag": "plain"}
    assert files[-1].name == "results.csv"
    assert "choose one" in complaint(sweep, "results", "train", "--csv", "--json")
    assert "curves" not in job
    assert "--curves goes with" in complaint(sweep, "results", "train", "--curves")


def test_curves_as_csv_and_json_and_in_the_report(folder: Path) -> None:
    (folder / "fall.py").write_text(
        "import mini\n"
        "def fall(rate: float):\n"
        "    for step in range(4):\n"
        "        mini.emit_metrics(loss=rate**step, at={'x': float('nan')})\n"
    )
    mini(folder, "run", "fall.py", "--map", "rate=0.5,1")
    rows = list(csv.DictReader(io.StringIO(mini(folder, "results", "fall", "--csv", "--curves"))))
    assert [
        (r["index"], r["metric"], r["step"], float(r["value"])) for r in rows if r["metric"] == "loss"
    ] == [
        *(("0", "loss", str(n + 1), 0.5**n) for n in range(4)),
        *(("1", "loss", str(n + 1), 1.0) for n in range(4)),
    ]
    assert len(rows) == 16
    curves = answer(folder, "results", "fall", "--curves")["jobs"][0]["curves"]
    assert list(curves) == ["loss", "at.x"]
    assert [point["value"] for point in curves["loss"]] == [1.0, 0.5, 0.25, 0.125]
    assert curves["at.x"][0].keys() == {"step", "seconds", "value"}
    assert curves["at.x"][0]["value"] == "NaN"
    mini(folder, "report", "fall")
    assert '"series":[{"name":"loss","steps":[[1,2,3,4],' in (folder / "fall.html").read_text()


def test_results_of_every_kind_become_files(folder: Path) -> None:
    (folder / "kinds.py").write_text(
        "import enum, math\n"
        "class Colour(enum.Enum):\n"
        "    RED = 1\n"
        "VALUES = [b'\\0bytes', 'text', math.nan, Colour.RED, {1, 2}]\n"
        "def value(i): return VALUES[i]\n"
    )
    jobs = answer(folder, "run", "kinds.py", "--map", "i=0,1,2,3,4")["jobs"]
    assert [job["result"] for job in jobs] == [None, "text", "NaN", None, None]
    assert jobs[0]["result_repr"] == repr(b"\0bytes")
    assert jobs[3]["result_repr"] == "<Colour.RED: 1>"
    mini(folder, "results", "kinds", "--out", "out")
    files = {re.sub(r"^\w+-", "", file.name): file for file in (folder / "out").iterdir()}
    assert files.keys() == {"0.bin", "1.txt", "2.json", "3.pickle", "4.pickle", "results.csv"}
    assert files["0.bin"].read_bytes() == b"\0bytes"
    assert pickle.loads(files["4.pickle"].read_bytes()) == {1, 2}


def test_any_text_can_be_shown(folder: Path) -> None:
    (folder / "odd.py").write_text(
        "import mini\n"
        "def odd(x):\n"
        "    mini.emit_metrics(**{'\\udc80 [red]': '\\x1b[31m'})\n"
        "    print('\\udc80')\n"
        "    if x: raise ValueError('\\x1b[2J\\udc80')\n"
        "    return '\\udc80 [bold] é'\n"
    )
    shown = mini(folder, "run", "odd.py", "--map", "x=0,1", status=1)
    assert r"\udc80 [bold] é" in shown
    assert "\x1b" not in shown + mini(folder, "status", "odd", status=1)
    for arguments in (["--csv"], ["--json"], ["--out", "out"]):
        mini(folder, "results", "odd", *arguments, status=1)
        mini(folder, "results", "odd", *arguments, status=1, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert mini(folder, "logs", "odd", "0") == "\\udc80\n"
    mini(folder, "report", "odd")


WIDE = """
import mini

def fit(rate: float, units: int = 8, optimizer: str = "adam"):
    if rate > 1:
        again = "and too high " * 20
        raise ValueError(f"the rate {rate} is too high for the optimizer {optimizer}, {again}still")
    mini.emit_metrics(loss=rate / units, accuracy=0.98123)
    return rate * units
"""


def test_rows_of_many_parameters_have_a_column_for_each(folder: Path) -> None:
    (folder / "wide.py").write_text("def wide(**row): return len(row)\n")
    row = {f"p{n}": n for n in range(40)} | {
        "text": "x" * 900 + ", ...}",
        "deep": {str(n): n for n in range(40)},
    }
    (folder / "grid.json").write_text(json.dumps([row, row | {"large": "y" * 5_000}]))
    mini(folder, "run", "wide.py", "--grid", "grid.json")
    first, second = csv.DictReader(io.StringIO(mini(folder, "results", "wide", "--csv")))
    assert {key: first[f"input.{key}"] for key in row if key != "deep"} == {
        key: str(value) for key, value in row.items() if key != "deep"
    }
    deep = json.loads(first["input.deep"])
    assert (len(deep), deep["..."]) == (33, "...")
    assert second["input.p39"] == "39"
    assert re.fullmatch("y+[.]{3}y+", second["input.large"])
    jobs = answer(folder, "results", "wide")["jobs"]
    assert jobs[0]["inputs"] == {key: first["input.deep"] if key == "deep" else row[key] for key in row}


def test_a_row_that_is_too_large_for_a_record_says_so(folder: Path) -> None:
    (folder / "wide.py").write_text("def wide(**row): return len(row)\n")
    (folder / "grid.json").write_text(json.dumps([{f"p{n}": "x" * 900 for n in range(40)}]))
    (job,) = answer(folder, "run", "wide.py", "--grid", "grid.json")["jobs"]
    assert job["result"] == 40
    *names, last = job["inputs"]
    assert names == [f"p{n}" for n in range(len(names))]
    assert len(names) == 18
    assert (last, job["inputs"][last]) == ("...", "...")


def test_words_in_lists_are_shown_as_they_are(folder: Path) -> None:
    (folder / "words.py").write_text(
        "import mini\n"
        "def words(x):\n"
        "    mini.emit_metrics(seen=['métrique'])\n"
        "    return {'names': ['é', {'日': 1}]}\n"
    )
    table = mini(folder, "run", "words.py", "--map", 'x=["ü"]')
    for shown in (table, mini(folder, "results", "words", "--csv").replace('""', '"')):
        assert '["é", {"日": 1}]' in shown
        assert '["métrique"]' in shown
        assert '["ü"]' in shown


def test_a_table_is_as_wide_as_the_terminal_and_loses_no_column(folder: Path) -> None:
    (folder / "fit.py").write_text(WIDE)
    mini(folder, "run", "fit.py", "--map", "rate=0.1,3", "--map", "units=8,16", status=1)
    for width, tables in ((100, 1), (80, 1), (60, 2), (40, 2), (30, 3)):
        with Terminal([*COMMAND, "results", "fit"], columns=width, cwd=folder) as terminal:
            assert terminal.finish() == 1
        text = "\n".join(terminal.everything).strip()
        # A line that is longer than the screen would be on two of its rows.
        assert len(text.splitlines()) == 6 * tables - 1, text
        heads = [head for line in text.splitlines() if line.startswith("#") for head in line.split()[1:]]
        assert heads == ["state", "rate", "units", "loss", "accuracy", "result", "error"], text
        for cell in ("DONE", "FAILED", "0.1", "0.00625", "0.98123", "1.6", "ValueError: the"):
            assert f" {cell}" in text, text
        assert "still" not in text


def test_a_table_that_goes_through_a_pipe_has_whole_lines(folder: Path) -> None:
    (folder / "fit.py").write_text(WIDE)
    long = "a value of more than forty characters with blanks in it"
    lines = mini(
        folder, "run", "fit.py", "--map", "rate=3", "--map", f"optimizer={long}", status=1
    ).splitlines()
    assert len(lines) == 3
    assert lines[1].rstrip().endswith(f"for the optimizer {long}, {'and too high ' * 20}still")
    lines = mini(folder, "results", "fit", status=1, FORCE_COLOR="1").splitlines()
    assert len(lines) == 2
    assert lines[1].count(long) == 2


def test_a_result_that_cannot_be_read_costs_itself(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "class Bad:\n"
        "    def __reduce__(self): return (int, ('no number',))\n"
        "def bad(x): return Bad() if x else 7\n"
    )
    jobs = answer(folder, "run", "bad.py", "--map", "x=0,1")["jobs"]
    assert [job["result"] for job in jobs] == [7, None]
    assert "cannot be unpickled here: ValueError" in jobs[1]["error"]


def test_a_result_that_cannot_be_shown_costs_itself(folder: Path) -> None:
    (folder / "odd.py").write_text(
        "import math\n"
        "class Bad:\n"
        "    def __repr__(self): raise RuntimeError('no repr')\n"
        "def odd(kind: str):\n"
        "    if kind == 'int': return math.factorial(2000)\n"
        "    if kind == 'ints': return {'n': [math.factorial(2000)]}\n"
        "    if kind == 'bad': return Bad()\n"
        "    around = ['around']\n"
        "    around.append(around)\n"
        "    return around if kind == 'around' else 7\n"
    )
    done = run(folder, "run", "odd.py", "--map", "kind=int,ints,bad,around,fine")
    assert done.returncode == 0, done.stderr
    shown = [
        "<int: its repr raised ValueError>",
        "<dict: its repr raised ValueError>",
        "<Bad: its repr raised RuntimeError>",
        "['around', [...]]",
    ]
    assert [line.split(maxsplit=3)[3].strip() for line in done.stdout.splitlines()[1:6]] == [*shown, "7"]
    jobs = answer(folder, "results", "odd")["jobs"]
    assert [job.get("result_repr") for job in jobs] == [*shown, None]
    assert [job["result"] for job in jobs] == [None] * 4 + [7]
    rows = list(csv.DictReader(io.StringIO(mini(folder, "results", "odd", "--csv"))))
    assert [row["result"] for row in rows] == [*shown, "7"]
    mini(folder, "results", "odd", "--out", "out")
    files = {re.sub(r"^\w+-", "", file.name) for file in (folder / "out").iterdir()}
    assert files == {"0.pickle", "1.pickle", "2.pickle", "3.pickle", "4.json", "results.csv"}


def test_a_number_that_has_no_text_is_refused_where_it_is_reported(folder: Path) -> None:
    (folder / "long.py").write_text(
        "import mini\n"
        "def long(how: str):\n"
        "    if how == 'metric': mini.emit_metrics(fine=1, big=10**5000)\n"
        "    if how == 'step': mini.emit_progress(10**5000)\n"
        "    mini.emit_metrics(at={'big': [10**5000]}, large=10**300)\n"
    )
    jobs = answer(folder, "run", "long.py", "--map", "how=metric,step,inside", status=1)["jobs"]
    assert [job["state"] for job in jobs] == ["FAILED", "FAILED", "DONE"]
    assert jobs[0]["error"].startswith(
        "ValueError: big is too long a number to be reported: Exceeds the limit"
    )
    assert jobs[1]["error"].startswith("ValueError: step is too long a number to be reported")
    assert jobs[2]["metrics"] == {"at.big": '["an int of 16610 bits"]', "large": str(10**300)}


def test_logs(sweep: Path) -> None:
    lines = mini(sweep, "logs", "train").splitlines()
    assert [line.split("  ")[1] for line in lines] == [f"fitting {r} {u}" for r in (1, 2, 3) for u in (8, 16)]
    assert mini(sweep, "logs", "train", "3") == "fitting 2 16\n"
    job = lines[2].split()[0]
    assert answer(sweep, "logs", "train", job)["lines"] == [
        {"job": job, "index": 2, "stream": "stdout", "text": "fitting 2 8"}
    ]
    assert "train has no job '9'" in complaint(sweep, "logs", "train", "9")


def test_report(sweep: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert mini(sweep, "report", "train", "--out", str(file)).startswith(f"{file}: 6 jobs, 0.")
    assert "<h1>train</h1>" in file.read_text()
    assert '"rate"' in file.read_text()
    assert "cannot be written" in complaint(
        sweep, "report", "train", "--out", str(tmp_path / "no" / "x.html")
    )


def test_cost(sweep: Path) -> None:
    data = answer(sweep, "cost", "train")
    assert data["attempts"] == 6
    assert data["cpu_seconds"] == pytest.approx(2 * data["seconds"])
    assert (data["memory_gib_seconds"], data["gpu_seconds"]) == (None, {})
    assert re.search(r"CPU hours +[\d.e-]+\n.*memory +not declared", mini(sweep, "cost", "train"))


def test_cost_has_a_price_where_the_project_says_what_things_cost(folder: Path) -> None:
    project = '[project]\nname = "p"\nversion = "1"\n'
    (folder / "pyproject.toml").write_text(project)
    settings = ["-w", "cpu=2", "-w", "memory=2048", "--gpu", "L4:2"]
    mini(folder, "run", "train.py", "--map", "rate=1", *settings)
    data = answer(folder, "cost", "train")
    assert data["price"] is None
    hours = data["seconds"] / 3600
    table = "[tool.mini.prices]\ncurrency = 'USD'\ncpu = 3\nmemory = 0.5\ngpu = {L4 = 7}\n"
    (folder / "pyproject.toml").write_text(project + table)
    price = answer(folder, "cost", "train")["price"]
    assert price == {
        "amount": pytest.approx(hours * (2 * 3 + 2 * 0.5 + 2 * 7)),
        "currency": "USD",
        "without": [],
    }
    (folder / "pyproject.toml").write_text(
        f"{project}{table}[tool.mini.prices.local]\ncpu = 0\ngpu = {{T4 = 1}}\n"
    )
    assert answer(folder, "cost", "train")["price"]["amount"] == pytest.approx(hours * (2 * 0.5 + 2 * 7))
    (folder / "pyproject.toml").write_text(f"{project}[tool.mini.prices]\ncpu = 1\n")
    assert answer(folder, "cost", "train")["price"]["without"] == ["memory", "gpu L4"]
    assert re.search(r"price +[\d.e-]+\n  without memory, gpu L4, of which", mini(folder, "cost", "train"))
    (folder / "pyproject.toml").write_text(f"{project}[tool.mini.prices]\ncpu = 'much'\n")
    assert "cpu = 'much' is no price per hour" in complaint(folder, "cost", "train")
    (folder / "pyproject.toml").write_text(f"{project}[tool.mini.prices]\ncpus = 1\n")
    assert "[tool.mini.prices] has 'cpus'; what has a price is cpu, memory, gpu" in complaint(
        folder, "cost", "train"
    )


def test_a_name_without_jobs_says_where_it_looked(sweep: Path, tmp_path: Path) -> None:
    for verb in ("status", "watch", "results", "logs", "report", "retry", "cancel", "cost"):
        says = complaint(sweep, verb, "tain")
        assert f"no jobs called 'tain' on local (the default), in {sweep / '.mini'}" in says
        assert "there is train on local" in says
    assert "nothing was launched from here yet" in complaint(tmp_path, "status", "train")
    assert f"there is none in {tmp_path / '.mini'}" in mini(tmp_path, "ls")
    assert "is not a name for an apparatus" in complaint(tmp_path, "status", "../x")
    assert not (tmp_path / ".mini").exists()


@pytest.fixture
def powerless() -> list[str]:
    """The command for a user who is held to what folders permit, as root is not."""
    if os.geteuid() != 0:
        return COMMAND
    without = ["setpriv", "--bounding-set=-all"]
    if not shutil.which("setpriv") or subprocess.run([*without, "true"], check=False).returncode:
        pytest.skip("root cannot do without its rights here")
    return [*without, *COMMAND]


def permit(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.suffix == ".db":
            path.chmod(mode)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, powerless: list[str]) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    launch = ("run", "train.py", "--map", "rate=1")
    permit(tmp_path, 0o555)
    says = refusal(run(tmp_path, *launch, command=powerless))
    assert "make it writable for this user, or choose another data_dir" in says
    assert repr(str(tmp_path)) in says
    permit(tmp_path, 0o755)
    (tmp_path / ".mini").write_text("a file")
    says = refusal(run(tmp_path, *launch))
    assert "make it a directory, or choose another data_dir" in says
    assert repr(str(tmp_path / ".mini")) in says


def test_a_copy_that_cannot_be_written_to_can_be_read(
    sweep: Path, tmp_path: Path, powerless: list[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    permit(copy, 0o555)
    for verb in ("ls", "status", "watch", "results", "logs"):
        arguments = [verb] if verb == "ls" else [verb, "train"]
        done = run(copy, *arguments, command=powerless)
        there = run(sweep, *arguments)
        assert (done.returncode, done.stdout) == (there.returncode, there.stdout), done.stderr
        assert done.stdout
    for arguments in (["run", "train.py", "--map", "rate=1"], ["retry", "train"], ["rm", "train", "--yes"]):
        assert "writable for this user" in refusal(run(copy, *arguments, command=powerless))
    permit(copy, 0o000)
    copy.chmod(0o555)
    (copy / ".mini").chmod(0o555)
    (copy / ".mini" / "jobs").chmod(0o555)
    assert "cannot be read: Permission denied" in refusal(run(copy, "status", "train", command=powerless))
    permit(copy, 0o755)


def test_a_copy_of_what_ran_can_be_read_as_well(folder: Path, tmp_path: Path, powerless: list[str]) -> None:
    answer(folder, "run", "wait.py", "--map", f"pipe={folder / 'pipe'}", "--map", "x=1,2", "--detach")
    until(folder, "wait", "RUNNING")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(folder / ".mini", copy / ".mini")
    permit(copy, 0o555)
    assert (copy / ".mini/jobs/wait/jobs.db-wal").stat().st_size
    done = run(copy, "status", "wait", "--json", command=powerless)
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["counts"]["RUNNING"]
    mini(folder, "cancel", "wait")
    permit(copy, 0o755)


def test_the_backend_of_a_name_sticks(sweep: Path) -> None:
    assert answer(sweep, "status", "train", MINI_APP="ray", status=1)["app"] == "local"
    assert "no jobs called 'other' on nowhere" not in complaint(sweep, "status", "other")
    (sweep / ".mini" / "launched").mkdir(exist_ok=True)
    (sweep / ".mini" / "launched" / "afar").write_text("nowhere\n")
    assert "there is no backend 'nowhere'" in complaint(sweep, "status", "afar", status=3)
    assert "no jobs called 'afar' on local" in complaint(sweep, "status", "afar", "--app", "local")
    assert "afar was launched on nowhere: leave --app out" in complaint(
        sweep, "status", "afar", "--app", "local"
    )
    rows = {row["name"]: row for row in answer(sweep, "ls")["names"]}
    assert "there is no backend 'nowhere'" in rows["afar"]["error"]
    assert rows["train"]["error"] is None
    (sweep / ".mini" / "launched" / "afar").unlink()


def test_what_it_takes_to_find_jobs_again_is_noted_with_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (launched.backend_of("far"), launched.settings_of("far", "ray")) == (None, {})
    launched.remember("far", "ray", {"address": "head:6379"})
    assert launched.backend_of("far") == "ray"
    assert launched.settings_of("far", "ray") == {"address": "head:6379"}
    assert launched.settings_of("far", "modal") == {}
    launched.remember("far", "ray")
    assert launched.settings_of("far", "ray") == {}
    (tmp_path / ".mini" / "launched" / "far").write_text("ray\n{\n")
    assert (launched.backend_of("far"), launched.settings_of("far", "ray")) == ("ray", {})


def test_one_launch_of_several(folder: Path) -> None:
    first = answer(folder, "run", "train.py", "--map", "rate=3", status=1)["launch"]
    second = answer(folder, "run", "train.py", "--map", "rate=1,2")["launch"]
    assert [row["id"] for row in answer(folder, "status", "train", status=1)["launches"]] == [first, second]
    assert answer(folder, "status", "train", "--launch", "last")["counts"]["DONE"] == 2
    assert len(answer(folder, "results", "train", "--launch", first, status=1)["jobs"]) == 1
    assert f"train has no launch 'x'; the latest are {first}, {second}" in complaint(
        folder, "status", "train", "--launch", "x"
    )
    assert (
        mini(folder, "logs", "train", "0") == "fitting 1 8\n"
    )  # an index is of the latest launch that has it
    assert mini(folder, "rm", "train", "--launch", first, "--yes") == "1 job of train: forgotten\n"
    assert [row["id"] for row in answer(folder, "status", "train")["launches"]] == [second]


# --- changing -------------------------------------------------------------------------------------------------------


def test_what_failed_runs_again_with_the_code_that_it_was_launched_with(folder: Path) -> None:
    (folder / "flaky.py").write_text(
        "import mini\n"
        "def flaky(x):\n"
        "    if x and mini.current_job().attempt == 1:\n"
        "        raise OSError('not yet')\n"
        "    return x\n"
    )
    assert answer(folder, "run", "flaky.py", "--map", "x=0,1,2", status=1)["counts"]["FAILED"] == 2
    (folder / "flaky.py").write_text("def flaky(x): return 'edited'\n")
    assert len(answer(folder, "retry", "flaky", "1")["jobs"]) == 1
    mini(folder, "watch", "flaky", status=1)
    assert len(answer(folder, "retry", "flaky", "--failed")["jobs"]) == 1
    mini(folder, "watch", "flaky")
    jobs = answer(folder, "results", "flaky")["jobs"]
    assert [(job["result"], job["attempt"]) for job in jobs] == [(0, 1), (1, 2), (2, 2)]
    assert mini(folder, "retry", "flaky") == "nothing to run again: no job failed\n"
    assert "is DONE; only jobs that are FAILED" in complaint(folder, "retry", "flaky", "0")


def test_cancel_and_rm(folder: Path) -> None:
    pipe = f"pipe={folder / 'pipe'}"
    mini(folder, "run", "wait.py", "--map", pipe, "--map", "x=0,1,2", "--max-workers", "1", "--detach")
    until(folder, "wait", "RUNNING")
    assert mini(folder, "cancel", "wait", "2") == "1 job of wait: cancelled\n"
    assert answer(folder, "status", "wait", status=4)["counts"]["CANCELLED"] == 1
    assert mini(folder, "cancel", "wait") == "2 jobs of wait: cancelled\n"
    assert mini(folder, "cancel", "wait") == "nothing to cancel: all have ended\n"
    assert mini(folder, "status", "wait", status=1) == "wait on local: 3 CANCELLED\n"
    assert mini(folder, "retry", "wait") == "nothing to run again: no job failed\n"
    done = run(folder, "rm", "wait")
    assert done.returncode == 1  # nobody said yes
    assert "forget 3 jobs of wait, with their results?" in done.stderr
    assert mini(folder, "rm", "wait", "--yes") == "3 jobs of wait: forgotten\n"
    assert "no jobs called 'wait'" in complaint(folder, "status", "wait")
    assert answer(folder, "ls")["names"] == []


@pytest.mark.parametrize(
    ("arguments", "says", "state"),
    [
        (["watch", "wait"], "no longer watching; the jobs of wait run on", "RUNNING"),
        (["logs", "wait", "-f"], "no longer following; the jobs of wait run on", "RUNNING"),
        (["run", "wait.py", "--watch"], "no longer watching; the jobs of wait run on", "RUNNING"),
        (["run", "wait.py"], "cancelled; to go on: mini retry wait --cancelled", "CANCELLED"),
    ],
    ids=" ".join,
)
def test_ctrl_c(folder: Path, arguments: list[str], says: str, state: str) -> None:
    with beside_a_job(folder, arguments) as process:
        if arguments[0] == "logs":
            assert process.stdout is not None
            assert process.stdout.readline().endswith("  waiting\n")
        else:
            ready(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert says in errors
    assert answer(folder, "status", "wait", status=4 if state == "RUNNING" else 1)["counts"][state] == 1


# Ctrl-C, from within: when a runner is to be started, or when that has been done and the name is noted.
INTERRUPT = """
import os, signal, sys

def interrupt(event, arguments):
    runner = event == "subprocess.Popen" and "mini.local.runner" in str(arguments[1])
    noted = event == "open" and "/.mini/launched/." in str(arguments[0])
    if {"runner": runner, "noted": noted, "": False}[os.environ["WHEN"]]:
        os.environ["WHEN"] = ""  # once
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize("when", ["runner", "noted"])
@pytest.mark.parametrize("option", ["", "--watch", "--detach"])
def test_ctrl_c_at_the_moment_of_launching(folder: Path, when: str, option: str) -> None:
    (folder / "wait.py").write_text(WAIT + INTERRUPT)
    pipe = f"pipe={folder / 'pipe'}"
    process = start(folder, "run", "wait.py:wait", "--map", pipe, *filter(None, [option]), WHEN=when)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (4, ""), errors
    (launch,) = answer(folder, "status", "wait", status=4 if option and when == "noted" else 1)["launches"]
    if not option:
        assert f"cancelled; to go on: mini retry wait --cancelled --launch {launch['id']}\n" in errors
        assert launch["counts"]["CANCELLED"] == 1
        mini(folder, "retry", "wait", "--cancelled", "--launch", launch["id"])
    else:
        assert f"{'launched' if option == '--detach' else 'no longer watching'}; the jobs of wait " in errors
        if when == "runner":  # nobody was told to start them
            assert f"are 1 LOST; to go on: mini retry wait --failed --launch {launch['id']}\n" in errors
            mini(folder, "retry", "wait", "--failed", "--launch", launch["id"])
        else:
            assert "run on: mini watch wait\n" in errors
    until(folder, "wait", "RUNNING")
    (folder / "pipe").write_text("gone on")
    mini(folder, "watch", "wait")


@pytest.mark.parametrize("arguments", [["watch", "wait"], ["run", "wait.py"]], ids=" ".join)
def test_jobs_that_are_removed_meanwhile_are_not_done(folder: Path, arguments: list[str]) -> None:
    with beside_a_job(folder, arguments) as process:
        ready(process.pid)
        # As `mini rm` does in the end; before, it cancels them, which may be seen as well.
        store = open_board(folder / ".mini", "wait").store
        (group,) = store.groups()
        store.remove(group.id)
        printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (2, "")
    assert f"the jobs of wait were removed meanwhile (launch {group.id})" in errors


def start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """A command that runs on. What is ignored stays ignored in a child, and a test may run where Ctrl-C is."""
    program = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "runpy.run_module('mini', run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def beside_a_job(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command that launches a job that waits, or looks at one, as soon as the job runs."""
    pipe = ["--map", f"pipe={folder / 'pipe'}"]
    if arguments[0] == "run":
        arguments = [*arguments, *pipe]
    else:
        mini(folder, "run", "wait.py", *pipe, "--detach")
    process = start(folder, *arguments)
    try:
        until(folder, "wait", "RUNNING")
        yield process
    finally:
        process.kill()
        process.wait()


def ready(pid: int) -> None:
    """Wait until a process waits: it has read its modules, and sleeps between two looks."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        modules = Path(f"/proc/{pid}/maps").read_text()
        if "_sqlite3" in modules and " S " in Path(f"/proc/{pid}/stat").read_text():
            return
    pytest.fail("it never waits")


# --- volumes, backends ----------------------------------------------------------------------------------------------


def test_volume(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("hello")
    assert mini(tmp_path, "volume", "ls", "v") == ""
    assert mini(tmp_path, "volume", "put", "v", "data") == "data is v:data\n"
    assert mini(tmp_path, "volume", "put", "v", "data/a.txt", "b/c.txt") == "data/a.txt is v:b/c.txt\n"
    assert [file["path"] for file in answer(tmp_path, "volume", "ls", "v", "-r")["files"]] == [
        "b",
        "b/c.txt",
        "data",
        "data/a.txt",
    ]
    assert re.fullmatch(r" +5  [\d-]+ [\d:]+  data/a.txt\n", mini(tmp_path, "volume", "ls", "v", "data"))
    assert mini(tmp_path, "volume", "get", "v", "b/c.txt") == "v:b/c.txt is c.txt\n"
    assert (tmp_path / "c.txt").read_text() == "hello"
    mini(tmp_path, "volume", "rm", "v", "b", "data/a.txt")
    assert [file["path"] for file in answer(tmp_path, "volume", "ls", "v", "-r")["files"]] == ["data"]
    assert "gone" in complaint(tmp_path, "volume", "get", "v", "gone")
    assert "'..'" in complaint(tmp_path, "volume", "rm", "v", "../v")


def test_apps(tmp_path: Path) -> None:
    assert re.search(r"^\* local +mini-core [\d.]+ +this machine, \d+ core", mini(tmp_path, "apps", "local"))
    rows = {row["app"]: row for row in answer(tmp_path, "apps", "--offline")["apps"]}
    assert rows.keys() >= {"local", "modal", "ray"}
    assert rows["local"].keys() == {"app", "default", "package", "version", "reachable", "says"}
    assert [row["app"] for row in rows.values() if row["default"]] == ["local"]
    assert "no backend 'moon'; there is local, modal, ray" in complaint(tmp_path, "apps", "moon")


# --- what all commands have in common -------------------------------------------------------------------------------

READING = [
    ["status", "train"],
    ["ls"],
    ["watch", "train"],
    ["results", "train"],
    ["logs", "train"],
    ["report", "train"],
    ["cost", "train"],
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_imports_no_backend(sweep: Path, arguments: list[str]) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('mini', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "loaded = {'modal', 'ray', 'mini_modal', 'mini_ray', 'mini.engine', 'numpy', 'asyncio'} & set(sys.modules)\n"
        "print(loaded, file=sys.stderr)\n"
    )
    if arguments[0] == "report":
        arguments = [*arguments, "--out", os.devnull]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=sweep,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "set()"


def test_help_loads_no_command_and_shows_examples(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('mini', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print({m for m in sys.modules if m.startswith(('mini.cli.', 'mini.job', 'rich'))}, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "{'mini.cli._adapters'}"
    names = re.findall(r"^  (\w+)  ", done.stdout, re.MULTILINE)
    assert {"run", "ls", "status", "watch", "results", "logs", "report", "retry", "cancel", "rm"} <= set(
        names
    )
    for name in names[: names.index("check")]:
        text = mini(tmp_path, name, "--help")
        assert re.search(rf"Examples?:\n +mini {name}\b", text), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_names(sweep: Path, shell: str) -> None:
    env = environment(_MINI_COMPLETE=f"{shell}_source")
    script = subprocess.run(
        ["mini"], cwd=sweep, env=env | path(), capture_output=True, text=True, check=False
    )
    assert "_MINI_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "mini status tr", "COMP_CWORD": "tr" if shell == "fish" else "2"}
    env = environment(_MINI_COMPLETE=f"{shell}_complete", **words)
    done = subprocess.run(["mini"], cwd=sweep, env=env | path(), capture_output=True, text=True, check=False)
    assert "train" in done.stdout


def path() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_a_terminal_has_bars_and_colours(folder: Path) -> None:
    pipe = folder / "pipe"
    with Terminal(
        [*COMMAND, "run", "wait.py", "--map", f"pipe={pipe}", "--watch"], columns=100, cwd=folder
    ) as terminal:
        terminal.until(lambda: any("0/1" in line for line in terminal.lines))
        pipe.write_text("gone on")
        assert terminal.finish() == 0
        assert any("gone on" in line for line in terminal.everything)
        assert b"\x1b[32m" in terminal.raw


@pytest.mark.parametrize("arguments", [["ls"], ["status", "train"], ["results", "train"]], ids=" ".join)
def test_no_color_turns_colours_off_in_a_terminal(sweep: Path, arguments: list[str]) -> None:
    colour = re.compile(rb"\x1b\[[0-9;]*3[0-7]")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal([*COMMAND, *arguments], columns=100, cwd=sweep, env=env) as terminal:
            assert terminal.finish() == (0 if arguments == ["ls"] else 1)
            assert bool(colour.search(terminal.raw)) == coloured, terminal.raw


def test_a_wait_of_more_than_a_second_has_a_bar(tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from mini.cli._wait import waiting\n"
        "with waiting('counting', 10) as say:\n"
        "    say(4)\n"
        "    os.read(int(os.environ['GO']), 1)\n"
        "print('over')\n"
    )
    with Terminal([sys.executable, "-c", program], cwd=tmp_path) as terminal:
        terminal.until(lambda: any(re.match(r"counting .* 4/10 ", line) for line in terminal.lines))
        terminal.go()
        assert terminal.finish() == 0
        assert [line for line in terminal.lines if line] == ["over"]


@pytest.mark.slow
def test_ten_thousand_jobs_are_counted_in_no_time(folder: Path) -> None:
    (folder / "grid.csv").write_text("x\n" + "".join(f"{n}\n" for n in range(10_000)))
    (folder / "many.py").write_text("import time\ndef many(x): time.sleep(3600)\n")
    mini(folder, "run", "many.py", "--grid", "grid.csv", "--detach")
    until(folder, "many", "RUNNING")
    took = []
    for _ in range(5):
        began = os.times()
        mini(folder, "status", "many", status=4)
        ended = os.times()
        # The time that it has the processor: what else the machine is doing is none of its business.
        spent = ended.children_user + ended.children_system - began.children_user - began.children_system
        took.append(spent)
    assert min(took) < 0.3, took
