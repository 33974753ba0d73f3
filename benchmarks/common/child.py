"""Child processes of the benchmark: started, asked, interrupted and cleared away, each within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from .samples import Missing

psutil: Any = import_module("psutil")  # for mypy, which runs where it has no types

now = time.perf_counter

ROOT = Path(__file__).parents[2]

THAW_SECONDS = 0.3


def start(
    code: str, *, log: Any = subprocess.DEVNULL, environ: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a Python that runs `code`, in a session of its own, as a terminal's Ctrl-C finds it.

    It can import the suites: `benchmarks.localpool.tasks`.
    """
    # Nothing of what Python may be told, for instance to compile modules anew each time.
    inherited = {
        name: value for name, value in (environ or os.environ).items() if not name.startswith("PYTHON")
    }
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stderr=log,
        stdout=log,
        start_new_session=True,
        **options,
    )


def family(pid: int) -> list[Any]:
    """A process and all that it has started, as they are now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def clear_away(processes: list[Any]) -> None:
    """Kill what is left of these processes."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # knows a process from another that has got its number
    psutil.wait_procs(processes, timeout=5)


def lives(process: Any) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


class Driver:
    """A process that measures when asked. It has an end of a pipe for its replies.

    A driver that has once been too late or has died is given up: it answers nothing more.

    Args:
        code: what it runs; `{replies}` in it is the pipe's descriptor.
    """

    def __init__(self, code: str, environ: Mapping[str, str] | None = None) -> None:
        self.gone: str | None = None
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the driver)
        receive, send = os.pipe()
        self.process = start(
            code.format(replies=send),
            log=self.log,
            environ=environ,
            stdin=subprocess.PIPE,
            pass_fds=(send,),
        )
        os.close(send)
        self._replies = receive
        self._seen: dict[int, Any] = {}
        """All processes that there were after an order: to find those that have left the family since."""

    def ask(self, scenario: str, limit: float, **parameters: Any) -> dict[str, Any]:
        """Have it measure something. Raises Missing if there is nothing to be had within `limit` seconds."""
        self.order(scenario, **parameters)
        line = self._line(limit)
        if not line:
            self.gone = f"hangs (> {limit:.0f} s)" if self.process.poll() is None else "its process died"
            self.end(limit=0)
            raise Missing(self.gone)
        self._remember()
        reply: dict[str, Any] = json.loads(line)
        if "result" in reply:
            result: dict[str, Any] = reply["result"]
            return result
        raise Missing(reply.get("absent") or "failed: " + reply["failed"])

    def order(self, scenario: str, **parameters: Any) -> None:
        """Have it begin something, without waiting."""
        if self.gone:
            raise Missing(self.gone)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"scenario": scenario, **parameters}).encode() + b"\n")
            self.process.stdin.flush()

    def freeze(self) -> None:
        """Stop it and all that it has started, so that they take nothing of the machine until `thaw`."""
        self._remember()
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with a moment for what its timers have missed."""
        self._signal(signal.SIGCONT)
        time.sleep(THAW_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def interrupt(self, limit: float) -> tuple[float, float]:
        """Press Ctrl-C. The seconds until the driver has ended, and until all that it had started has.

        What takes longer than `limit` is reported as infinite, and killed.
        """
        self._remember()
        processes = list(self._seen.values())
        begin = now()
        os.killpg(self.process.pid, signal.SIGINT)
        parent = every = float("inf")
        while (elapsed := now() - begin) < limit:
            if parent > limit and self.process.poll() is not None:
                parent = elapsed
            if parent < limit and not any(map(lives, processes)):
                every = elapsed
                break
            time.sleep(0.001)
        self.end(limit=0)
        return parent, every

    def _remember(self) -> None:
        for process in family(self.process.pid):
            self._seen.setdefault(process.pid, process)

    def end(self, limit: float = 15.0) -> None:
        """Let it end in good order, and kill what has not ended by then. Idempotent."""
        if self._replies < 0:
            return
        self.gone = self.gone or "ended"
        self._remember()
        self._signal(signal.SIGCONT)
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(limit)
        clear_away(list(self._seen.values()))
        self.process.wait()
        os.close(self._replies)
        self._replies = -1
        self.log.close()

    def _line(self, limit: float) -> bytes:
        line, end = b"", now() + limit
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._replies], [], [], max(0.0, end - now()))
            got = os.read(self._replies, 65536) if ready else b""
            if not got:
                return b""
            line += got
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()


def seconds_of(code: str) -> float:
    """How long a new interpreter takes that only runs `code`."""
    begin = now()
    process = start(code)
    if process.wait(60):
        raise Missing("failed")
    return now() - begin
