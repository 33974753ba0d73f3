"""Ends what is left of a Ray instance when the process that has started it is no more, however that ended.

Run as a program, with the instance's directory: `python guard.py DIRECTORY`. It waits until its standard input, a pipe
from that process, is closed. The system ends most of Ray's processes with the one that has started them; its agents
try to reach the dead for another minute, and files stay for ever.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from os import kill
from pathlib import Path

DRIVER_LOG = "python-core-driver-"
"""What Ray calls the log of a process that makes calls; that one, and forked copies of it, are not the instance's."""
MOST_SECONDS = 10.0


def processes(directory: str) -> list[int]:
    """The processes of an instance: each has a log open in its directory, whatever it has made of its own name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            logs = [
                str(link) for fd in process.glob("fd/*") if (link := fd.readlink()).is_relative_to(directory)
            ]
            if logs and not any(DRIVER_LOG in log for log in logs):
                found.append(int(process.name))
    return found


def main(directory: str) -> None:
    sys.stdin.buffer.read()
    deadline = time.monotonic() + MOST_SECONDS
    # Some may be about to start others.
    while (left := processes(directory)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
