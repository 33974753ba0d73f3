"""A terminal that tests and the documentation's pictures run programs in: a real pty, read by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

PATIENCE = 60.0
"""Seconds after which what a test waits for is taken not to come."""

# A shell of few words: it has the terminal, runs the program in front, and says how it ended. It stays until all that
# the program left behind has ended too, because with the leader of a session the kernel hangs up the terminal.
_SHELL = """
import ctypes, os, signal, sys
os.login_tty(0)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become children of this process
report = int(sys.argv[1])
keys = [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU]
for key in keys:
    signal.signal(key, signal.SIG_IGN)
program = os.fork()
if program == 0:
    os.close(report)
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    for key in keys:
        signal.signal(key, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])
os.write(report, b"%d\\n" % program)
while True:
    try:
        ended, status = os.wait()
    except ChildProcessError:
        break
    if ended == program:
        os.write(report, b"%d\\n" % os.waitstatus_to_exitcode(status))
"""


class Terminal:
    """A program in a terminal of its own, from its start to its end; a context manager that leaves nothing behind.

    The program waits for `go()` with `os.read(int(os.environ["GO"]), 1)`.

    Attributes:
        raw: all bytes that came out of it.
        screen: what a user sees, as the emulator keeps it.
        pid: the program's process.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        rows: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.raw = b""
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = os.openpty()
        wait, self._go = os.pipe()
        reports, report = os.pipe()
        self.resize(rows, columns)
        ours = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "MINI_PROGRESS", "PYTHONIOENCODING"}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        full = {**inherited, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "GO": str(wait), **(env or {})}
        self._shell = subprocess.Popen(
            [sys.executable, "-S", "-c", _SHELL, str(report), *map(str, argv)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=full,
            cwd=cwd,
            pass_fds=(wait, report),
        )
        for fd in (slave, wait, report):
            os.close(fd)
        self._reports = os.fdopen(reports)
        self.pid = int(self._reports.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._shell.kill()  # and its end is the program's
        self._shell.wait()
        self._reports.close()
        os.close(self._master)
        os.close(self._go)

    @property
    def lines(self) -> list[str]:
        """The rows of the screen, without trailing blanks."""
        return [row.rstrip() for row in self.screen.display]

    @property
    def everything(self) -> list[str]:
        """What scrolled off the screen, and the screen."""
        scrolled = [
            "".join(row[column].data for column in range(self.screen.columns))
            for row in self.screen.history.top
        ]
        return [row.rstrip() for row in scrolled] + self.lines

    def read(self, seconds: float) -> bool:
        """Take in what comes out within `seconds`; False once nothing can come any more."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way of saying that all ends are closed
            data = b""
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def settle(self) -> None:
        """Read until nothing has come for half a second."""
        before = -1
        while len(self.raw) > before:
            before = len(self.raw)
            self.read(0.5)

    def until(self, seen: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Read until `seen()`; what is asked for has to come up before the program ends."""
        deadline = time.monotonic() + patience
        while not seen():
            going = self.read(1.0)
            assert going or seen(), "the program has ended; the screen:\n" + "\n".join(self.lines)
            assert time.monotonic() < deadline, "it does not come; the screen:\n" + "\n".join(self.lines)

    def shows(self, *words: str) -> None:
        """Read until all `words` are on the screen at once."""
        self.until(lambda: all(word in "\n".join(self.lines) for word in words))

    def go(self) -> None:
        os.write(self._go, b"\n")

    def ended(self) -> bool:
        return self._shell.poll() is not None

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def finish(self, patience: float = PATIENCE) -> int:
        """Read until the program and all that it left in this terminal has ended; its exit status."""
        deadline = time.monotonic() + patience
        while self.read(1.0):
            assert time.monotonic() < deadline, "it does not end; the screen:\n" + "\n".join(self.lines)
        self._shell.wait()
        return int(self._reports.readline())
