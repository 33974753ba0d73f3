"""What mini-core's tests share."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import mini.conformance.base  # noqa: F401  # see there: it imports what must not be imported in threads
import pytest

RunScript = Callable[[str], "subprocess.Popen[str]"]


def pytest_configure() -> None:
    # A shell that runs tests in the background has them ignore Ctrl-C, and all that they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def run_script(tmp_path: Path) -> Iterator[RunScript]:
    """Starts a script, in which `app` is a local apparatus; what still runs after the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(
            "import os, signal, sys, time\nfrom pathlib import Path\nimport mini\n"
            f"app = mini.LocalApparatus('s', max_workers=2, data_dir={str(tmp_path)!r}).w(progress=False)\n"
            + textwrap.dedent(code)
        )
        command = [sys.executable, str(script)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()  # its workers end with it
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
