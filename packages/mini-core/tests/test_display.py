"""The display as users see it: in a terminal (a real pty, read by an emulator), through a pipe, and not at all.

A notebook's display is in test_notebook.py. Here the flows are made by hand, so that each moment of one can be held.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mini import display
from mini.context import RunningGroup, enter_group
from mini.display.meter import Meter, clock, count, describe, fraction, pace, span, summary
from mini.status import FlowStatus, LogLine, Progress, WorkerStatus
from pty_terminal import Terminal

# What the scripts below have in common. `pause()` waits until the test has seen what it wants to see.
PRELUDE = """
import logging, os, subprocess, sys, threading, time
from mini import display
from mini.status import FlowStatus, LogLine, Progress, WorkerStatus

def pause():
    os.read(int(os.environ["GO"]), 1)

def flow(name="train", total=24, workers=2, age=0.5):
    status = FlowStatus(name, name, total, time.monotonic() - age)
    for number in range(workers):
        status.workers[str(number)] = WorkerStatus(f"worker {number}")
    return status

def finish(status, state="DONE"):
    status.state = state
    display.hide(status)
"""

BAR = re.compile(r"[━╸#=]{2}")


def program(tmp_path: Path, code: str) -> list[str | Path]:
    """The command that runs `code` after the prelude."""
    path = tmp_path / "script.py"
    path.write_text(PRELUDE + code)
    return [sys.executable, path]


def assert_given_back(terminal: Terminal) -> None:
    """No bars are left, the whole screen scrolls, and the cursor is visible."""
    assert terminal.screen.margins in (None, (0, terminal.screen.lines - 1)), terminal.screen.margins
    assert not terminal.screen.cursor.hidden
    assert not [line for line in terminal.lines if BAR.search(line)], terminal.lines


# --- on a terminal ---


def test_a_terminal_shows_a_bar_per_worker_and_an_overall_one(tmp_path: Path) -> None:
    code = """
status = flow()
one, two = status.workers.values()
one.index, one.since, one.progress, one.metrics = 12, time.monotonic(), Progress(15, 30, "epochs"), {"loss": 0.12345}
status.done = 12
display.show(status)
pause()
two.index, two.since = 13, time.monotonic()
one.progress, status.done = Progress(30, 30, "epochs"), 13
pause()
finish(status)
print("that was it")
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("12/24", "15/30 epochs  loss 0.1235", "idle")
        overall, first, second = terminal.lines[-3:]
        assert re.match(r"train ━+╸?━+  12/24  .*/s  0:0\d  0:0\d left$", overall), overall
        assert re.match(r"  worker 0  #12  .* ms  ━+  15/30", first) or " s  ━" in first, first
        assert re.match(r"  worker 1 +idle$", second), second
        terminal.go()
        terminal.shows("13/24", "30/30 epochs", "#13")
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert re.match(r"✓ train: 13/24 in \d\.\d s", terminal.lines[0]), terminal.lines
        assert terminal.lines[1] == "that was it"
        assert not any(terminal.lines[2:])


def test_failures_and_retries_are_counted_as_they_happen(tmp_path: Path) -> None:
    code = """
status = flow()
display.show(status)
pause()
status.failed += 1; status.done += 1
pause()
status.retried += 2
pause()
finish(status)
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("0/24")
        assert "failed" not in terminal.lines[-3]
        assert "retried" not in terminal.lines[-3]
        terminal.go()
        terminal.shows("1/24", "1 failed")
        assert "retried" not in terminal.lines[-3]
        terminal.go()
        terminal.shows("1 failed", "2 retried")
        terminal.go()
        assert terminal.finish() == 0
        assert re.match(r"! train: 1/24 in .*, 1 failed, 2 retried$", terminal.lines[0]), terminal.lines


@pytest.mark.parametrize(
    ("state", "mark", "words"),
    [("DONE", "✓", ""), ("FAILED", "✗", ""), ("CANCELLED", "■", ", stopped early")],
)
def test_the_last_word_says_how_it_ended(tmp_path: Path, state: str, mark: str, words: str) -> None:
    code = f"status = flow()\nstatus.done = 1\ndisplay.show(status)\npause()\nfinish(status, {state!r})"
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("1/24")
        terminal.go()
        assert terminal.finish() == 0
        assert re.fullmatch(rf"{mark} train: 1/24 in [\d.]+ (s|ms){words}", terminal.lines[0]), terminal.lines


def test_a_single_call_that_went_well_leaves_no_trace(tmp_path: Path) -> None:
    code = "status = flow(total=1)\ndisplay.show(status)\npause()\nstatus.done = 1\nfinish(status)"
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("0/1")
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert not any(terminal.everything)


def test_whatever_is_printed_meanwhile_arrives_whole(tmp_path: Path) -> None:
    # A handler that was bound to stderr before the bars came, writes past sys.stdout, other processes: all at once,
    # one line after the other, so that only the display can come between the pieces of one.
    code = """
logging.basicConfig(level="INFO", format="%(message)s")
status = flow(total=None)
display.show(status)
pause()
one_line = threading.Lock()

def write(name, line):
    for number in range(60):
        with one_line:
            line(f"{name} {number} " + "x" * (number * 7 % 150))
        status.done += 1
        time.sleep(0.01)

def in_pieces(text):
    for piece in text.partition(" "):
        print(piece, end="", flush=True)
        time.sleep(0.001)
    print()

writers = {
    "print": print,
    "pieces": in_pieces,
    "stderr": lambda text: print(text, file=sys.stderr),
    "log": logging.info,
    "raw": lambda text: os.write(2, text.encode() + b"\\n"),
    "process": lambda text: subprocess.run(["echo", text], check=True),
}
threads = [threading.Thread(target=write, args=item) for item in writers.items()]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
pause()
finish(status)
"""
    with Terminal(program(tmp_path, code), columns=200) as terminal:
        terminal.shows("train")
        terminal.go()
        terminal.shows("360")
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        seen = terminal.everything
        names = ("print", "pieces", "stderr", "log", "raw", "process")
        for name in names:
            expected = [f"{name} {number} {'x' * (number * 7 % 150)}".rstrip() for number in range(60)]
            assert [line for line in seen if line.startswith(f"{name} ")] == expected
        others = [line for line in seen if line and line.split()[0] not in names]
        assert len(others) == 1, others
        assert others[0].startswith("✓ train: 360 in ")


def test_a_line_can_be_written_in_pieces_and_rewritten(tmp_path: Path) -> None:
    code = """
status = flow()
print("loading ... ", end="", flush=True)
display.show(status)
pause()
print("done")
for percent in range(0, 101, 10):
    sys.stderr.write(f"\\r{percent:3} %")
pause()
sys.stderr.write("\\n")
finish(status)
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("loading ...", "0/24")
        assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (0, len("loading ... "))
        terminal.go()
        terminal.shows("loading ... done", "100 %")
        terminal.go()
        assert terminal.finish() == 0
        assert terminal.lines[:2] == ["loading ... done", "100 %"]


def test_the_last_word_does_not_run_into_an_unfinished_line(tmp_path: Path) -> None:
    code = """
status = flow()
display.show(status)
pause()
print("loading", end="", flush=True)
finish(status)
print("on")
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("0/24")
        terminal.go()
        assert terminal.finish() == 0
        assert terminal.lines[0] == "loading"
        assert terminal.lines[1].startswith("✓ train: 0/24")
        assert terminal.lines[2] == "on"


def test_a_question_can_be_asked_and_answered(tmp_path: Path) -> None:
    code = """
status = flow()
display.show(status)
name = input("What is your name? ")
pause()
finish(status)
print("hello", name)
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("What is your name?", "0/24")
        terminal.type("Ada")
        terminal.shows("What is your name? Ada", "0/24")
        terminal.type("\r")
        terminal.go()
        assert terminal.finish() == 0
        assert terminal.lines[0] == "What is your name? Ada"
        assert terminal.lines[2] == "hello Ada"


def test_stdout_to_a_file_has_only_what_was_printed(tmp_path: Path) -> None:
    code = """
sys.stdout = open("out.txt", "w")
status = flow()
display.show(status)
pause()
print("a result")
status.log.append(LogLine("j", 3, "stdout", "logged"))
finish(status)
"""
    with Terminal(program(tmp_path, code), cwd=tmp_path) as terminal:
        terminal.shows("0/24")
        terminal.go()
        assert terminal.finish() == 0
        assert "[3] logged" in terminal.lines
        assert "a result" not in terminal.lines
    assert (tmp_path / "out.txt").read_text() == "a result\n"


def test_what_calls_print_appears_live_with_the_index_of_the_input(tmp_path: Path) -> None:
    code = r"""
status = flow()
display.show(status, bars=sys.argv[1:] != ["logs only"])
status.log.append(LogLine("j-3", 3, "stdout", "plain"))
status.log.append(LogLine("j-4", 4, "stderr", "\x1b[31mred\x1b[0m and \x1b[2J\x1b[1;1Hwild\x07"))
status.log.append(LogLine("j-4", 4, "stdout", "é [bold]not markup[/bold] " + "x" * 100))
pause()
finish(status)
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("[3] plain", "[4] red and wild", "[4] é [bold]not markup[/bold] xxxxx", "0/24")
        assert terminal.screen.buffer[terminal.lines.index("[4] red and wild")][4].fg == "red"
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert sum(line.count("x") for line in terminal.lines) == 100
    with Terminal([*program(tmp_path, code), "logs only"]) as terminal:
        terminal.shows("[4] é [bold]not markup[/bold] xxxxx")
        assert "0/24" not in "".join(terminal.lines)
        terminal.go()
        assert terminal.finish() == 0
        assert "train" not in "".join(terminal.everything)


@pytest.mark.parametrize(
    "ending", ["raise ValueError('as raised')", "sys.exit(3)", "'the end'", "pause()", "input()"]
)
def test_the_terminal_is_given_back_however_the_program_ends(tmp_path: Path, ending: str) -> None:
    # None of them hides the flow, as a program that fell out of its own loop would not.
    with Terminal(program(tmp_path, f"status = flow()\ndisplay.show(status)\npause()\n{ending}")) as terminal:
        terminal.shows("0/24")
        terminal.go()
        # Ctrl-C, as often as it takes: just before a read that blocks, Python does not notice one.
        while ending.endswith("()") and not terminal.ended():
            terminal.type("\x03")
            terminal.settle()  # each Ctrl-C also makes the kernel forget what was on its way to the screen
        status = terminal.finish()
        assert_given_back(terminal)
        text = "\n".join(terminal.everything)
        if "raise" in ending:
            assert status == 1
            assert "ValueError: as raised" in text
        elif ending.endswith("()"):
            assert status in (-signal.SIGINT, 1)
            assert "KeyboardInterrupt" in text
        else:
            assert status == (3 if "exit" in ending else 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_the_terminal_is_given_back_when_the_program_is_killed(tmp_path: Path, number: int) -> None:
    with Terminal(
        program(tmp_path, 'print("so far")\nstatus = flow()\ndisplay.show(status)\npause()')
    ) as terminal:
        terminal.shows("0/24")
        assert terminal.screen.margins is not None
        os.kill(terminal.pid, number)
        assert terminal.finish() == -number
        assert_given_back(terminal)
        assert [line for line in terminal.lines if line] == ["so far"]


def test_nothing_stays_behind_once_nothing_is_shown(tmp_path: Path) -> None:
    code = """
import resource
def inventory():
    children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read() if sys.platform == "linux" else ""
    return len(os.listdir("/dev/fd")), threading.active_count(), children

before = inventory()
for number in range(3):
    status = flow()
    display.show(status)
    pause()
    finish(status)
    assert inventory() == before, (before, inventory(), threading.enumerate())
print("nothing")
"""
    with Terminal(program(tmp_path, code)) as terminal:
        for rounds in range(3):
            terminal.shows("0/24")
            terminal.go()
            terminal.until(lambda done=rounds + 1: len(re.findall("✓", "\n".join(terminal.lines))) == done)  # type: ignore[misc]
        assert terminal.finish() == 0
        assert terminal.lines[3] == "nothing"
        assert_given_back(terminal)


def test_bars_come_back_after_a_stop_and_leave_the_terminal_to_the_shell_meanwhile(tmp_path: Path) -> None:
    # A small shell: it takes the terminal back when its job stops, and lets it go on behind, then in front.
    shell = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
def pause():
    os.read(int(os.environ["GO"]), 1)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
os.waitpid(job, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
print("stopped", flush=True)
pause()
os.kill(job, signal.SIGCONT)
print("in the background", flush=True)
pause()
os.tcsetpgrp(0, job)
print("in front again", flush=True)
pause()
os.kill(job, signal.SIGUSR1)
_, status = os.waitpid(job, 0)
os.tcsetpgrp(0, os.getpgrp())
"""
    (tmp_path / "shell.py").write_text(shell)
    code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
status = flow()
display.show(status)
signal.sigwait([signal.SIGUSR1])
finish(status)
"""
    with Terminal([sys.executable, tmp_path / "shell.py", program(tmp_path, code)[1]]) as terminal:
        terminal.shows("0/24")
        terminal.type("\x1a")  # Ctrl-Z
        terminal.shows("stopped")
        terminal.go()
        terminal.shows("in the background")
        terminal.until(lambda: "0/24" not in "".join(terminal.lines))
        assert_given_back(terminal)
        terminal.go()
        terminal.shows("in front again", "0/24")
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert "✓ train: 0/24" in "".join(terminal.lines)


@pytest.mark.parametrize("size", [(30, 100), (30, 50), (12, 100), (12, 50), (7, 30)])
def test_bars_follow_a_change_of_size(tmp_path: Path, size: tuple[int, int]) -> None:
    code = """
print("text " * 100)
status = flow()
display.show(status)
pause()
print("more")
pause()
finish(status)
"""
    with Terminal(program(tmp_path, code), rows=20, columns=80) as terminal:
        terminal.shows("0/24", "worker 1")
        terminal.resize(*size)
        terminal.until(
            lambda: terminal.screen.margins == (0, size[0] - 4) and "worker 1" in terminal.lines[-1]
        )
        assert len([line for line in terminal.lines if "0/24" in line]) == 1
        terminal.go()
        terminal.shows("more", "0/24")
        assert len([line for line in terminal.lines if "0/24" in line]) == 1
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert "more" in terminal.lines


@pytest.mark.parametrize("columns", [20, 30, 45, 60, 79, 80, 200])
def test_bars_fit_a_terminal_of_any_width(tmp_path: Path, columns: int) -> None:
    code = """
status = flow("a_function_with_quite_a_long_name" * 2, total=100_000, workers=3, age=4000)
status.done, status.failed, status.retried = 54_321, 12, 34
for worker in status.workers.values():
    worker.index, worker.since, worker.progress = 99_999, time.monotonic() - 70, Progress(1, 3, "深い学習 " * 9)
display.show(status)
pause()
print("text")
finish(status)
"""
    with Terminal(program(tmp_path, code), columns=columns) as terminal:
        terminal.shows("54321/100000" if columns >= 30 else "54321", "#99999")
        overall, *workers = terminal.lines[-4:]
        assert overall.startswith("a_")
        assert all(line.startswith("  worker") for line in workers)
        assert ("12 failed" in overall) == (columns >= 45), overall
        assert all(len(line.encode("utf-32")) // 4 - 1 < columns for line in (overall, *workers))
        terminal.go()
        assert terminal.finish() == 0
        assert terminal.everything[0] == "text"
        assert_given_back(terminal)


def test_a_low_terminal_keeps_half_of_its_rows_for_text_and_says_who_is_not_shown(tmp_path: Path) -> None:
    code = """
one, two = flow("one", workers=40), flow("two", workers=40)
one.workers["39"].index = 7
display.show(one)
pause()
display.show(two)
pause()
finish(one)
pause()
finish(two)
"""
    with Terminal(program(tmp_path, code), rows=16) as terminal:
        terminal.shows("0/24", "34 more workers")
        assert terminal.lines[-8].startswith("one")
        assert "worker 39" in terminal.lines[-7], "the busy ones are shown first"
        assert not any(terminal.lines[:-8])
        terminal.go()
        terminal.shows("one", "two")
        assert [line.split()[0] for line in terminal.lines if "0/24" in line] == ["one", "two"]
        assert not any(terminal.lines[:-8])
        terminal.go()
        terminal.until(lambda: [line.split()[0] for line in terminal.lines if "0/24" in line] == ["✓", "two"])
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)


def test_an_unknown_total_shows_a_count_and_a_bar_without_an_end(tmp_path: Path) -> None:
    code = "status = flow(total=None)\nstatus.done = 17\ndisplay.show(status)\npause()\nfinish(status)"
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("train", "17")
        assert re.match(r"train ━+  17  .*/s  0:00$", terminal.lines[-3]), terminal.lines
        terminal.go()
        assert terminal.finish() == 0


SHOWN = """
status = flow(total=5)
status.done = 2
display.show(status)
pause()
finish(status)
"""


def test_no_color_means_no_colour(tmp_path: Path) -> None:
    with Terminal(program(tmp_path, SHOWN), env={"NO_COLOR": "1"}) as terminal:
        terminal.shows("2/5")
        overall = terminal.screen.buffer[terminal.screen.lines - 3]
        assert {overall[column].fg for column in range(80)} == {"default"}
        done, rest = terminal.lines[-3].split("━ ")[0], terminal.lines[-3].split("2/5")[0].count(" ")
        assert done.startswith("train ━"), "what is done"
        assert rest > 10, "and what is not, which colour alone would tell apart"
        terminal.go()
        assert terminal.finish() == 0


def test_ascii_where_nothing_else_can_be_written(tmp_path: Path) -> None:
    code = SHOWN.replace("total=5", "'naïve', total=5")
    with Terminal(program(tmp_path, code), env={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}) as terminal:
        terminal.shows("na?ve ####", "2/5")
        terminal.go()
        assert terminal.finish() == 0
        assert terminal.raw.isascii()
        assert terminal.lines[0].startswith("+ na?ve: 2/5")


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_dumb_terminal_gets_lines(tmp_path: Path, env: dict[str, str]) -> None:
    with Terminal(program(tmp_path, SHOWN.replace("total=5", "total=5, age=9")), env=env) as terminal:
        terminal.shows("mini: train: 2/5")
        terminal.go()
        assert terminal.finish() == 0
        assert b"\033" not in terminal.raw
        assert len([line for line in terminal.lines if line.startswith("mini: train: 2/5")]) == 2


def test_a_terminal_without_a_size_gets_lines(tmp_path: Path) -> None:
    with Terminal(program(tmp_path, SHOWN.replace("total=5", "total=5, age=9"))) as terminal:
        terminal.resize(1, 1)
        terminal.screen.resize(24, 80)
        terminal.shows("mini: train: 2/5")
        terminal.go()
        assert terminal.finish() == 0
        assert b"\033" not in terminal.raw


# --- through a pipe ---


def piped(tmp_path: Path, code: str, **env: str) -> tuple[str, str]:
    """What a program that runs `code` writes to stdout and stderr; it may not fail."""
    done = subprocess.run(
        program(tmp_path, code),
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_pipe_gets_a_line_now_and_then_and_a_last_one(tmp_path: Path) -> None:
    code = """
status = flow(age=62)
status.done, status.failed = 12, 1
read, write = os.pipe()
real, sys.stderr = sys.stderr, open(write, "w")
display.show(status)
print(os.read(read, 1000).decode(), end="")
status.done = 24
finish(status)
print(os.read(read, 1000).decode(), end="")
print("rich" in sys.modules)
"""
    out, err = piped(tmp_path, code)
    assert err == ""
    first, last, rich = out.splitlines()
    assert re.fullmatch(r"mini: train: 12/24, 5.2 s each, 1:02 elapsed, 1:02 left, 1 failed", first), first
    assert re.fullmatch(r"mini: train: 24/24 in 1:02, 2.6 s each, 1 failed", last), last
    assert rich == "False", "what is not needed is not imported"


def test_a_short_flow_in_a_pipe_leaves_one_line(tmp_path: Path) -> None:
    out, err = piped(
        tmp_path, 'status = flow()\ndisplay.show(status)\nstatus.done = 24\nfinish(status)\nprint("result")'
    )
    assert out == "result\n"
    assert re.fullmatch(r"mini: train: 24/24 in 0\.\d s, \d\d/s\n", err), err


def test_a_short_call_in_a_pipe_leaves_none(tmp_path: Path) -> None:
    out, err = piped(
        tmp_path, "status = flow(total=1)\ndisplay.show(status)\nstatus.done = 1\nfinish(status)"
    )
    assert (out, err) == ("", "")


def test_what_calls_print_goes_to_a_pipe_as_it_is(tmp_path: Path) -> None:
    code = """
status = flow(total=1)
status.log.extend([LogLine("j", 0, "stdout", "one"), LogLine("j", 12, "stderr", "\x1b[31mtwo")])
display.show(status, bars=False)
finish(status)
"""
    assert piped(tmp_path, code) == ("", "[0] one\n[12] \x1b[31mtwo\n")


def test_a_closed_stderr_is_no_reason_to_fail(tmp_path: Path) -> None:
    code = """
for broken in (None, open(os.devnull, "w"), open("/dev/full", "w")):
    sys.stderr = broken
    if broken is not None and broken.name == os.devnull:
        broken.close()
    status = flow()
    display.show(status)
    status.log.append(LogLine("j", 0, "stdout", "lost"))
    finish(status)
sys.stderr = None
print("fine", threading.active_count())
"""
    assert piped(tmp_path, code)[0] == "fine 1\n"


# --- whether to show at all ---


def test_progress_is_shown_unless_it_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINI_PROGRESS", raising=False)
    assert display.enabled(None)
    assert display.enabled(True)
    assert not display.enabled(False)
    for value in ("0", "false", "no", " OFF "):
        monkeypatch.setenv("MINI_PROGRESS", value)
        assert not display.enabled(None)
        assert not display.enabled(True)
    monkeypatch.setenv("MINI_PROGRESS", "1")
    assert display.enabled(None)
    assert not display.enabled(False)


def test_a_map_within_a_call_shows_nothing_unless_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINI_PROGRESS", raising=False)
    group = RunningGroup("flow", 0, 1, "app", None, lambda: 0, lambda *_: None)
    before = enter_group(group, process_wide=False)
    try:
        assert not display.enabled(None)
        assert display.enabled(True)
    finally:
        enter_group(before, process_wide=False)


# --- any number of flows, from any thread ---


def test_flows_come_and_go_from_many_threads_while_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    threads_before = threading.active_count()

    def run(number: int) -> None:
        for turn in range(5):
            status = FlowStatus(f"f{number}-{turn}", f"f{number}", 100, time.monotonic() - 100)
            display.show(status)
            display.show(status)
            for call in range(100):
                worker = status.workers.setdefault(str(call % 7), WorkerStatus("w"))
                worker.index, worker.progress = call, Progress(call, 100)
                worker.metrics[f"m{call}"] = call
                status.log.append(LogLine("j", call, "stdout", f"f{number}-{turn}"))
                status.done += 1
            status.state = "DONE"
            display.hide(status)
            display.hide(status)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() == threads_before
    lines = written.getvalue().splitlines()
    for number in range(8):
        assert len([line for line in lines if line.startswith(f"mini: f{number}: 100/100 in")]) == 5
        for turn in range(5):
            assert [line for line in lines if line.endswith(f"] f{number}-{turn}")] == [
                f"[{call}] f{number}-{turn}" for call in range(100)
            ]


def test_a_forked_child_neither_shows_nor_waits_and_leaves_the_display_to_its_parent(tmp_path: Path) -> None:
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is the point here
status = flow()
display.show(status)
pause()
child = os.fork()
if child == 0:
    finish(status)
    other = flow("child", age=10)
    other.done = 1
    print("in the child", flush=True)
    sys.exit()
os.waitpid(child, 0)
status.done = 5
pause()
finish(status)
"""
    with Terminal(program(tmp_path, code)) as terminal:
        terminal.shows("0/24")
        terminal.go()
        terminal.shows("in the child", "5/24")
        terminal.go()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        assert len([line for line in terminal.everything if "✓" in line]) == 1


# --- with the engine behind it ---

SWEEP = """
import os, sys, time
from pathlib import Path
import mini

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)

def train(number):
    print("call", number, "prints this")
    mini.emit_progress(number + 1, 10, "epochs")
    mini.emit_metrics(loss=number / 8)
    wait_for(f"go-{number}")
    if number == 1:
        raise ValueError("no luck")
    if number == 2 and mini.current_job().attempt == 1:
        raise OSError("try again")
    return number

app = mini.apparatus("local", "sweep", max_workers=1).w(chunk=1, retries=0)
print("before")
"""


def test_the_engine_shows_what_its_calls_do(tmp_path: Path) -> None:
    code = """
for result in app.w(retries=1).map(train, range(4), return_exceptions=True):
    print("result", repr(result))
print("after")
"""
    with Terminal(program(tmp_path, SWEEP + code), cwd=tmp_path, columns=120) as terminal:
        terminal.shows("0/4", "#0", "1/10 epochs  loss 0")
        (tmp_path / "go-0").touch()
        terminal.shows("1/4", "#1", "2/10 epochs  loss 0.125", "result 0")
        (tmp_path / "go-1").touch()
        terminal.shows("2/4", "3/10 epochs  loss 0.25", "1 failed", "retried", "result ValueError('no luck')")
        (tmp_path / "go-2").touch()
        # The one that is tried again waits behind the last.
        terminal.shows("2/4", "4/10 epochs", "1 failed", "2 retried")
        (tmp_path / "go-3").touch()
        assert terminal.finish() == 0
        assert_given_back(terminal)
        *results, last, after = [line for line in terminal.everything if line]
        assert results == ["before", "result 0", "result ValueError('no luck')", "result 2", "result 3"]
        assert re.match(r"! train: 4/4 in .*, 1 failed, 2 retried$", last), last
        assert after == "after"


def test_the_engine_shows_what_its_calls_print_if_asked_to(tmp_path: Path) -> None:
    code = "list(app.w(logs=True, progress=len(sys.argv) == 1).map(train, [0, 3]))"
    for name in ("go-0", "go-3"):
        (tmp_path / name).touch()
    with Terminal(program(tmp_path, SWEEP + code), cwd=tmp_path) as terminal:
        assert terminal.finish() == 0
        assert_given_back(terminal)
        first, *lines, last = [line for line in terminal.everything if line]
        assert first == "before"
        assert lines == ["[0] call 0 prints this", "[1] call 3 prints this"]
        assert last.startswith("✓ train: 2/2")
    with Terminal([*program(tmp_path, SWEEP + code), "without bars"], cwd=tmp_path) as terminal:
        assert terminal.finish() == 0
        lines = [line for line in terminal.everything if line]
        assert lines == ["before", "[0] call 0 prints this", "[1] call 3 prints this"]


@pytest.mark.parametrize("call", ["app.w(progress=False).run(time.sleep, 0.8)", "app.run(time.sleep, 0.8)"])
def test_the_engine_shows_nothing_where_it_is_forbidden(tmp_path: Path, call: str) -> None:
    env = {} if "False" in call else {"MINI_PROGRESS": "0"}
    with Terminal(program(tmp_path, SWEEP + call), env=env) as terminal:
        assert terminal.finish() == 0
        assert terminal.raw == b"before\r\n"


def test_ctrl_c_ends_a_map_and_gives_the_terminal_back(tmp_path: Path) -> None:
    with Terminal(program(tmp_path, SWEEP + "list(app.map(train, range(4)))"), cwd=tmp_path) as terminal:
        terminal.shows("0/4", "1/10 epochs")
        terminal.type("\x03")
        begun = time.monotonic()
        assert terminal.finish() in (1, -signal.SIGINT)
        assert time.monotonic() - begun < 2.0
        assert_given_back(terminal)
        text = "\n".join(terminal.everything)
        assert text.count("Traceback") == 1
        assert "KeyboardInterrupt" in text
        assert "■ train: 0/4" in text


def test_an_exception_in_the_loop_gives_the_terminal_back(tmp_path: Path) -> None:
    (tmp_path / "go-0").touch()
    code = 'for result in app.map(train, range(4)):\n    wait_for("seen")\n    raise LookupError(result)'
    with Terminal(program(tmp_path, SWEEP + code), cwd=tmp_path) as terminal:
        terminal.shows("1/4", "2/10 epochs")
        (tmp_path / "seen").touch()
        assert terminal.finish() == 1
        assert_given_back(terminal)
        assert "LookupError: 0" in terminal.everything


def test_a_breakpoint_works_below_the_bars(tmp_path: Path) -> None:
    (tmp_path / "go-0").touch()
    code = 'for result in app.map(train, range(4)):\n    wait_for("seen")\n    breakpoint()\n    break'
    with Terminal(program(tmp_path, SWEEP + code), cwd=tmp_path, env={"PYTHONBREAKPOINT": ""}) as terminal:
        terminal.shows("1/4", "2/10 epochs")
        (tmp_path / "seen").touch()
        terminal.shows("(Pdb)", "1/4")
        terminal.type("p 'a', result + 41\r")
        terminal.shows("('a', 41)", "1/4")
        terminal.type("continue\r")
        assert terminal.finish() == 0
        assert_given_back(terminal)


def test_a_breakpoint_in_a_call_works_inline(tmp_path: Path) -> None:
    code = """
import mini
def train(x):
    breakpoint()
    return 2 * x
with mini.LocalApparatus("debug", data_dir=".", workers="inline") as app:
    print("got", list(app.map(train, [20, 30])))
"""
    with Terminal(program(tmp_path, code), cwd=tmp_path, env={"PYTHONBREAKPOINT": ""}) as terminal:
        for shown in ("21", "31"):
            terminal.shows("(Pdb)")
            terminal.type("p 'x', x + 1\r")
            terminal.shows(f"('x', {shown})")
            terminal.type("continue\r")
        assert terminal.finish() == 0
        assert "got [40, 60]" in terminal.lines
        assert_given_back(terminal)


# --- figures ---


def test_the_pace_is_the_recent_one_and_the_time_left_follows_it() -> None:
    status = FlowStatus("f", "train", 1000, 0.0)
    meter = Meter(status, True, threading.current_thread())
    assert meter.read(1.0).rate is None
    assert meter.read(1.0).left is None
    for second in range(2, 102):  # one call a second
        status.done += 1
        meter.read(float(second))
    for second in range(102, 202):  # then four
        status.done += 4
        figures = meter.read(float(second))
    assert figures.rate == pytest.approx(4.0, rel=0.05)
    assert figures.left == pytest.approx((1000 - 500) / 4.0, rel=0.05)
    assert figures.elapsed == 201.0
    meter.ended = True
    assert meter.read(201.0).rate == pytest.approx(500 / 201)


def test_a_meter_of_days_keeps_few_samples() -> None:
    status = FlowStatus("f", "train", None, 0.0)
    meter = Meter(status, True, threading.current_thread())
    for tick in range(20_000):
        status.done += 1
        meter.read(tick / 8)
    assert len(meter._samples) < 2100
    assert meter.read(2500.0).rate == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(3, 24), "3/24"),
        (count(12_345_678, 100_000_000), "12345678/100000000"),
        (count(1.5, None), "1.5"),
        (clock(7), "0:07"),
        (clock(3723.9), "1:02:03"),
        (span(0.0482), "48 ms"),
        (span(3.21), "3.2 s"),
        (span(65), "1:05"),
        (pace(0.1234), "8.1 s each"),
        (pace(0.005), "3:20 each"),
        (pace(3.44), "3.4/s"),
        (pace(1234), "1234/s"),
        (pace(123_456), "123k/s"),
        (pace(1.2e7), "12M/s"),
    ],
)
def test_durations_and_rates_read_well(text: str, expected: str) -> None:
    assert text == expected


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_what_calls_emit_is_cut_to_one_harmless_line() -> None:
    metrics = {
        "loss": 0.123456,
        "n": 12345678,
        "best": True,
        "text": "two\nlines\x1b[2J",
        "list": list(range(100)),
    }
    text = describe(Progress(0.5, None, "half\tway\r\n"), metrics)
    assert (
        text
        == "0.5 half way  loss 0.1235  n 12345678  best True  text two lines [2J  list [0, 1, 2, 3, 4, 5, ...]"
    )
    assert describe(None, {"awkward": Awkward()}).startswith("awkward <Awkward instance at 0x")
    assert describe(None, {}) == ""
    wrong = Progress("half", [1], "of it")  # type: ignore[arg-type]
    assert describe(wrong, {}) == "half/[1] of it"
    assert [fraction(progress) for progress in (wrong, Progress(1, 0), Progress(float("nan"), 3), None)] == [
        None
    ] * 4
    assert [fraction(Progress(step, 10)) for step in (-1, 5, 11)] == [0.0, 0.5, 1.0]


def test_the_summary_says_what_went_wrong() -> None:
    status = FlowStatus("f", "train", 24, 0.0, done=24, failed=2, retried=1, state="DONE")
    figures = Meter(status, True, threading.current_thread()).read(12.34)
    assert summary(figures) == "train: 24/24 in 12.3 s, 1.9/s, 2 failed, 1 retried"


def test_a_line_of_a_backends_goes_where_progress_goes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    display.tell("here it is")
    display.tell("not wanted", False)
    monkeypatch.setenv("MINI_PROGRESS", "0")
    display.tell("not wanted either", True)
    monkeypatch.setattr(sys, "stderr", None)  # as for programs without a console
    display.tell("nowhere")
    assert capfd.readouterr() == ("", "mini: here it is\n")
