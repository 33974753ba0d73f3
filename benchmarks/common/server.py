"""The server and its processes, as the system sees them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from modal_emulator import Emulator

from ..common.child import family

psutil: Any = import_module("psutil")  # for mypy, which runs where it has no types

CGROUPS = Path("/sys/fs/cgroup")


def memory(server: Emulator) -> float:
    """MB that the server and the process that starts its containers have. What they share counts for each."""
    return _sum(family(server.pid), lambda process: process.memory_info().rss) / 1e6


def processor_seconds(server: Emulator) -> float:
    return _sum(family(server.pid), _processor_seconds)


def processor_seconds_of(pid: int, *, children: bool = False) -> float:
    """What a process has used, or all that have come from it and live."""
    return _sum(family(pid)[1:] if children else family(pid)[:1], _processor_seconds)


def load(server: Emulator, seconds: float) -> float:
    """Per cent of one processor that it uses."""
    begin, before = time.monotonic(), processor_seconds(server)
    time.sleep(seconds)
    return 100 * (processor_seconds(server) - before) / (time.monotonic() - begin)


def reset_peak(server: Emulator) -> None:
    """Make the most memory that the server has had what it has now."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def peak(server: Emulator) -> float:
    """MB that the server has had at most since then."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError("VmHWM")


def holdings(server: Emulator, folder: Path) -> dict[str, int]:
    """What there is of the server and its clients, whose files are in `folder`: what must not grow by being used."""
    processes = family(server.pid)
    return {
        "processes": len(processes),
        "descriptors": int(_sum(processes, lambda process: process.num_fds())),
        "sockets": _sockets(folder),
        "mounts": _mounts([process.pid for process in processes]),
        "files": sum(len(folders) + len(files) for _, folders, files in os.walk(folder)),
        "shm": _count(Path("/dev/shm")),
        "cgroups": sum(
            len(folders) for path, folders, _ in os.walk(CGROUPS) if f"modal-emulator-{server.pid}-" in path
        ),
    }


def steady(server: Emulator, folder: Path, limit: float = 30.0) -> dict[str, int]:
    """What there is when it has been the same for two seconds."""
    end, since, found = time.monotonic() + limit, time.monotonic(), holdings(server, folder)
    while (moment := time.monotonic()) < min(since + 2, end):
        time.sleep(0.1)
        if (again := holdings(server, folder)) != found:
            found, since = again, moment
    return found


def settled(server: Emulator, folder: Path, before: dict[str, int], limit: float = 20.0) -> dict[str, int]:
    """What there is when nothing is more than it was, or else after `limit` seconds."""
    end = time.monotonic() + limit
    while any((found := holdings(server, folder))[kind] > before[kind] for kind in before):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return found


def _processor_seconds(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _sum(processes: list[Any], measure: Callable[[Any], float]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += measure(process)
    return total


def _sockets(folder: Path) -> int:
    """Unix sockets that are bound to a path in `folder`."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(str(folder) in line for line in lines)


def _mounts(pids: list[int]) -> int:
    """Mounts that this process and those see, each of their namespaces once."""
    namespaces: dict[str, int] = {}
    for pid in [os.getpid(), *pids]:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/ns/mnt").readlink().name
            if name not in namespaces:
                namespaces[name] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return sum(namespaces.values())


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0
