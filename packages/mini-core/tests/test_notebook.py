"""In a real Jupyter kernel: what cells define, a running event loop, and the display below the cell."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

PATIENCE = 60.0


@dataclass
class Output:
    """What a cell has put out so far, as a notebook keeps it."""

    stdout: str = ""
    stderr: str = ""
    result: str = ""
    error: str = ""
    traceback: str = ""
    shown: dict[str, list[str]] = field(default_factory=dict)
    """Per display, the texts that it has shown one after the other."""
    html: list[str] = field(default_factory=list)

    @property
    def now_shown(self) -> list[str]:
        return [texts[-1] for texts in self.shown.values()]


class Notebook:
    """A kernel and its cells. Progress is on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        environment = {name: value for name, value in os.environ.items() if name != "MINI_PROGRESS"}
        self._manager.start_kernel(env=environment, cwd=str(folder))
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()

    def start(self, code: str) -> str:
        return str(self._client.execute(code))

    def outputs(self, cell: str) -> Iterator[Output]:
        """What a started cell has put out, anew with each message, until it has ended."""
        output = Output()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message: dict[str, Any] = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            match message["header"]["msg_type"]:
                case "stream":
                    setattr(output, content["name"], getattr(output, content["name"]) + content["text"])
                case "execute_result":
                    output.result = content["data"]["text/plain"]
                case "error":
                    output.error = f"{content['ename']}: {content['evalue']}"
                    output.traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
                case "display_data" | "update_display_data" as kind:
                    texts = output.shown.setdefault(content["transient"]["display_id"], [])
                    assert bool(texts) == (kind == "update_display_data"), "made once, then updated"
                    texts.append(content["data"]["text/plain"])
                    output.html.append(content["data"]["text/html"])
                case "status" if content["execution_state"] == "idle":
                    # While ipykernel sends this reply it can miss the next request: ipython/ipykernel#1554.
                    while self._client.get_shell_msg(timeout=PATIENCE)["parent_header"].get("msg_id") != cell:
                        pass
                    yield output
                    return
            yield output
        raise AssertionError(f"the cell does not end: {output}")

    def run(self, code: str) -> Output:
        """Run a cell to its end."""
        *_, output = self.outputs(self.start(code))
        return output

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()


CELLS = """
import asyncio, os, pathlib, time
from dataclasses import dataclass
import mini

@dataclass
class Point:
    x: int

class TooFar(Exception):
    pass

factor = 2

def scale(point):
    if point.x > 100:
        raise TooFar(point)
    return Point(point.x * factor)

app = mini.apparatus("local", "notebook", max_workers=2)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        yield notebook
    finally:
        notebook.close()


@pytest.fixture
def notebook(shared: Notebook) -> Iterator[Notebook]:
    """The shared kernel, with the cells above run and an apparatus `app` that is closed afterwards."""
    output = shared.run(CELLS)
    assert not output.error, output.traceback
    yield shared
    assert not shared.run("app.close()").error


def test_classes_and_functions_of_cells_travel_and_keep_their_identity(notebook: Notebook) -> None:
    output = notebook.run("""
assert app.run(scale, Point(3)) == Point(6)
assert all(type(point) is Point for point in app.map(scale, map(Point, range(100))))
try:
    app.run(scale, Point(101))
except TooFar as error:
    assert error.args == (Point(101),)
    print("caught")
[app.run(lambda: factor * 21), app.run(Point(5).__eq__, Point(5))]
""")
    assert (output.error, output.stdout, output.result) == ("", "caught\n", "[42, True]")


def test_the_traceback_shows_the_line_of_the_cell(notebook: Notebook) -> None:
    output = notebook.run("list(app.map(scale, [Point(1), Point(200)]))")
    assert output.error == "TooFar: Point(x=200)"
    assert "raise TooFar(point)" in output.traceback


def test_a_cell_that_is_run_again_counts_from_then_on(notebook: Notebook) -> None:
    # The workers of the first call are warm and know the old definitions.
    assert notebook.run("app.run(scale, Point(3))").result == "Point(x=6)"
    notebook.run("factor = 3")
    assert notebook.run("app.run(scale, Point(3))").result == "Point(x=9)"
    notebook.run("""
@dataclass
class Point:
    x: int
    y: int = 0

def scale(point):
    return Point(point.x, point.x)
""")
    output = notebook.run("result = app.run(scale, Point(3)); assert type(result) is Point; result")
    assert (output.error, output.result) == ("", "Point(x=3, y=3)")


def test_run_and_map_work_while_the_event_loop_of_the_kernel_runs(notebook: Notebook) -> None:
    output = notebook.run("""
loop = asyncio.get_running_loop()
async def twice(x):
    await asyncio.sleep(0)
    return 2 * x
async def within():
    return app.run(twice, 1), list(app.map(twice, [2, 3]))
app.run(twice, 0), await within()
""")
    assert (output.error, output.result) == ("", "(0, (2, [4, 6]))")


def test_arun_and_amap_leave_the_loop_to_others(notebook: Notebook) -> None:
    output = notebook.run("""
ticks = 0
async def tick():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.01)
ticking = asyncio.create_task(tick())
def slow(x):
    time.sleep(0.2)
    return x
points = [point async for point in app.amap(scale, map(Point, range(50)))]
assert points == [Point(2 * x) for x in range(50)]
before = ticks
one, two = await asyncio.gather(app.arun(slow, 1), app.arun(slow, 2))
ticking.cancel()
one, two, ticks - before > 5
""")
    assert (output.error, output.result) == ("", "(1, 2, True)")


def test_what_calls_write_to_the_volume_the_next_cell_reads(notebook: Notebook) -> None:
    output = notebook.run("""
def save(x):
    (mini.get_data_dir() / f"{x}.txt").write_text(str(x))
list(app.map(save, range(3)))
""")
    assert not output.error, output.traceback
    output = notebook.run('sorted(entry.path for entry in app.volume.list()), app.volume.read_bytes("2.txt")')
    assert output.result == "(['0.txt', '1.txt', '2.txt'], b'2')"


def test_progress_is_one_output_that_changes_in_place(notebook: Notebook) -> None:
    # Each call waits until the test has seen what is shown of it.
    cell = notebook.start("""
def train(number):
    mini.emit_progress(number, 10, "epochs <b>")
    mini.emit_metrics(loss=0.125)
    print("not shown unless asked for")
    while not pathlib.Path(f"go-{number}").exists():
        time.sleep(0.01)
    if number == 3:
        raise ValueError(number)
print("before")
results = app.w(chunk=1, max_workers=1).map(train, [1, 2, 3], return_exceptions=True)
print([type(result).__name__ for result in results])
""")
    folder = notebook.folder
    output = Output()
    seen = 0
    for output in notebook.outputs(cell):
        html = output.html[-1] if output.html else ""
        if seen < 3 and f"{seen + 1}/10 epochs" in html and f"{seen}/3" in html:
            assert "epochs &lt;b&gt;" in html, "escaped"
            assert "loss 0.125" in html
            assert html.count("<progress") == 2, "one overall and one for the worker"
            seen += 1
            (folder / f"go-{seen}").touch()
    assert (output.error, seen) == ("", 3)
    assert output.stdout == "before\n['NoneType', 'NoneType', 'ValueError']\n"
    assert output.stderr == ""
    (texts,) = output.shown.values()
    assert texts[0].startswith("train: 0/3")
    assert re.fullmatch(r"train: 3/3 in .* s, .*, 1 failed", texts[-1])
    assert "1 failed" in output.html[-1]
    assert "<progress" not in output.html[-1]


def test_the_display_is_below_the_cell_that_started_the_call(notebook: Notebook) -> None:
    code = "app.w(chunk=1).map(time.sleep, [0.4] * 4)"
    assert not notebook.run(f"pending = {code}").error
    output = notebook.run(f"list({code}); time.sleep(0)")
    assert output.now_shown
    assert output.now_shown[-1].startswith("sleep: 4/4 in ")
    assert not notebook.run("pending.close()").error


def test_a_single_call_leaves_nothing_below_the_cell(notebook: Notebook) -> None:
    output = notebook.run("app.run(time.sleep, 1)")
    (texts,) = output.shown.values()
    assert texts[0].startswith("sleep: 0/1")
    assert texts[-1] == ""


def test_live_output_appears_below_the_cell(notebook: Notebook) -> None:
    output = notebook.run("list(app.w(logs=True).map(print, ['one', 'two']))")
    assert sorted(output.stderr.splitlines()) == ["[0] one", "[1] two"]


def test_progress_can_be_forbidden(notebook: Notebook, tmp_path: Path) -> None:
    assert not notebook.run("app.w(progress=False).run(time.sleep, 0.8)").shown
    notebook.run('os.environ["MINI_PROGRESS"] = "0"')
    try:
        assert not notebook.run("app.run(time.sleep, 0.8)").shown
    finally:
        notebook.run('del os.environ["MINI_PROGRESS"]')


def test_interrupting_a_cell_ends_its_calls_and_leaves_the_notebook_usable(notebook: Notebook) -> None:
    cell = notebook.start("""
def endless(x):
    mini.emit_progress(0, 1, f"in process {os.getpid()}")
    while True:
        time.sleep(0.1)
list(app.map(endless, range(2)))
""")
    interrupted = 0.0
    output, pids = Output(), list[str]()
    for output in notebook.outputs(cell):
        if output.html and not interrupted:
            pids = re.findall(r"in process (\d+)", output.html[-1])
        if len(pids) == 2 and not interrupted:
            notebook.interrupt()
            interrupted = time.monotonic()
    assert output.error.startswith("KeyboardInterrupt"), output
    assert time.monotonic() - interrupted < 2.0
    assert output.now_shown[-1].endswith("stopped early")
    assert not any(alive(int(pid)) for pid in pids)
    assert notebook.run("app.run(scale, Point(1))").result == "Point(x=2)"


def test_a_kernel_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    try:
        assert not notebook.run(CELLS).error
        output = notebook.run("set(app.map(lambda _: (time.sleep(0.05), os.getpid())[1], range(8)))")
    finally:
        notebook.close()
    pids = [int(pid) for pid in re.findall(r"\d+", output.result)]
    assert len(pids) == 2, output
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
