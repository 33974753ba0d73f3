"""The processes that own the pools."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
from pathlib import Path

from ..common import child
from ..common.child import clear_away, family, now, start
from ..common.samples import Missing


class Driver(child.Driver):
    """A process that owns the pool `name` and measures when asked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"from benchmarks.localpool.driver import main; main({name!r}, {{replies}})")

    def end(self, limit: float = 15.0) -> None:
        super().end(limit)
        for folder in Path("/dev/shm").glob(f"joblib_memmapping_folder_{self.process.pid}_*"):
            shutil.rmtree(folder, ignore_errors=True)  # joblib's, which a killed process leaves


def seconds_to_first_result(name: str, limit: float = 60.0) -> float:
    """From the start of a new interpreter to the first result of a pool."""
    receive, send = os.pipe()
    begin = now()
    code = f"from benchmarks.localpool.driver import first_result; first_result({name!r}, {send})"
    process = start(code, pass_fds=(send,))
    os.close(send)
    try:
        ready, _, _ = select.select([receive], [], [], limit)
        got = os.read(receive, 1) if ready else b""
        seconds = now() - begin
        if not got:
            raise Missing("failed" if ready else f"hangs (> {limit:.0f} s)")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        return seconds
    finally:
        os.close(receive)
        clear_away(family(process.pid))
        process.wait()
