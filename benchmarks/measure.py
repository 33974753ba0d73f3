"""Runs one child at a time, within a limit, and leaves no process of it behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
WORKERS = 2

clock = time.perf_counter


@dataclass
class Outcome:
    """What came of one measurement: `values`, or the reason why there are none.

    `foreign` is the share of the machine's processors that other processes used meanwhile.
    """

    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    absent: str | None = None
    foreign: float = 0.0


class TimedOut(Exception):
    pass


class Children:
    """Starts children in a folder of their own, with the same environment for all.

    Orphans of children become children of this process, so that they can be found, counted and ended.
    """

    def __init__(self) -> None:
        pr_set_child_subreaper = 36
        if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot become the reaper of orphans")
        self._folder = tempfile.TemporaryDirectory(prefix="mb-")  # Ray's sockets need short paths
        self.folder = Path(self._folder.name)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MINI_", "RAY_", "DASK_"))},
            "PYTHONPATH": str(HERE),
            "TMPDIR": str(self.folder),
            "RAY_TMPDIR": str(self.folder),
            "PYTHONHASHSEED": "0",
        }

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """A Python with `arguments`, leader of a process group and session of its own."""
        with (self.folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
                **{"stdout": subprocess.DEVNULL, **options},
            )

    def ended(self, status: int | None) -> Unmeasured:
        """The error for a child that ended without what was wanted of it."""
        lines = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
        return Unmeasured(": ".join([f"ended with status {status}", *lines[-1:]]))

    def sweep(self) -> int:
        """Kill whatever is left of a child; how many processes that were."""
        count = 0
        while left := psutil.Process().children(recursive=True):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        count += 1
                        process.kill()
            psutil.wait_procs(left, timeout=5)
            reap()
        return count

    def measure(self, take: Callable[[], dict[str, Any]]) -> Outcome:
        """What `take` returns, with everything that it may raise, and what others did meanwhile."""
        began, busy, own = clock(), machine_seconds(), own_seconds()
        outcome = Outcome()
        try:
            outcome.values = take()
        except TimedOut as exc:
            outcome.error = str(exc)
        except Unmeasured as exc:
            outcome.error, outcome.absent = exc.error, exc.absent
        finally:
            self.sweep()
        wall = clock() - began
        foreign = (machine_seconds() - busy) - (own_seconds() - own)
        outcome.foreign = max(0.0, foreign / wall / (os.cpu_count() or 1))
        return outcome

    # --- the kinds of measurements ---

    def drive(self, scenario: str, peer: str, limit: float, **parameters: Any) -> dict[str, Any]:
        """What drive.py reports of a scenario."""
        out = self.folder / "report.json"
        out.unlink(missing_ok=True)
        child = self.start(
            str(HERE / "drive.py"),
            scenario,
            peer,
            str(out),
            json.dumps({"workers": WORKERS, **parameters}),
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(limit)
        if not out.exists() or not (text := out.read_text()):
            if child.returncode is None:
                raise TimedOut(f"nothing after {limit:g} s")
            raise self.ended(child.returncode)
        report = json.loads(text)
        if "values" not in report:
            raise Unmeasured(report.get("error"), report.get("absent"))
        values: dict[str, Any] = report["values"]
        return values

    def cold(self, peer: str, limit: float) -> dict[str, Any]:
        """Seconds from the start of a Python until it has the result of a first call."""
        read, write = os.pipe()
        began = clock()
        child = self.start(str(HERE / "cold.py"), peer, str(WORKERS), stdout=write)
        os.close(write)
        try:
            while True:
                if not select.select([read], [], [], max(0, began + limit - clock()))[0]:
                    raise TimedOut(f"no result after {limit:g} s")
                data = os.read(read, 4096)
                if b"first result\n" in data:
                    return {"wall": clock() - began}
                if not data:
                    raise self.ended(child.wait(limit))
        finally:
            os.close(read)
            # Pools may end as they like, unmeasured, but not into the next measurement.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)

    def run_code(self, code: str, limit: float) -> dict[str, Any]:
        """Seconds for a Python to start, run `code` and end."""
        began = clock()
        child = self.start("-c", code)
        try:
            status = child.wait(limit)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"still there after {limit:g} s") from None
        if status:
            raise self.ended(status)
        return {"wall": clock() - began}

    def interrupt(self, peer: str, limit: float) -> dict[str, Any]:
        """Seconds from Ctrl-C, while both workers are busy, until the parent has ended, and until all have."""
        noted = self.folder / "running"
        noted.unlink(missing_ok=True)
        out = self.folder / "report.json"
        out.unlink(missing_ok=True)
        parameters = json.dumps({"workers": WORKERS, "path": str(noted)})
        child = self.start(str(HERE / "drive.py"), "interrupted", peer, str(out), parameters)
        until = clock() + limit
        while len(set(noted.read_text().split()) if noted.exists() else ()) < WORKERS:
            if child.poll() is not None:
                report = json.loads(out.read_text()) if out.exists() else {}
                raise Unmeasured(report.get("error", "it ended too early"), report.get("absent"))
            if clock() > until:
                raise TimedOut(f"no two workers after {limit:g} s")
            time.sleep(0.01)
        time.sleep(0.3)
        others = psutil.Process(child.pid).children(recursive=True)
        began = clock()
        os.killpg(child.pid, signal.SIGINT)
        parent = None
        while parent is None or any(alive(process) for process in others):
            if parent is None and child.poll() is not None:
                parent = clock() - began
            reap(but=child.pid)
            if clock() > began + limit:
                left = sum(alive(process) for process in others)
                raise TimedOut(f"{left} workers and {int(parent is None)} parent there after {limit:g} s")
            time.sleep(0.001)
        return {"parent": parent, "all": clock() - began}


class Unmeasured(Exception):
    """There is nothing to measure: an error, or something that the peer does not have."""

    def __init__(self, error: str | None, absent: str | None = None) -> None:
        super().__init__(error or absent)
        self.error = error
        self.absent = absent


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def reap(but: int = -1) -> None:
    """Collect orphans that have ended; `but` is somebody else's to wait for."""
    for process in psutil.Process().children():
        if process.pid != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def machine_seconds() -> float:
    """Processor seconds that all processes of the machine have used, also those that a hypervisor kept."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def own_seconds() -> float:
    """Processor seconds of this process and of its descendants that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


@contextlib.contextmanager
def children() -> Iterator[Children]:
    made = Children()
    try:
        yield made
    finally:
        made.sweep()
        made.close()
