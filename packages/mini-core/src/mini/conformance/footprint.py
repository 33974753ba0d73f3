"""What a process has, such as children and threads: for tests that nothing is started, or left behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

__all__ = ["Footprint", "alive", "bystanders", "descendants", "shared_memory"]

bystanders: set[int] = set()
"""Processes that are no part of what is tested, such as a server that a suite has started; what they start is none."""

_LINUX = Path("/proc/self/stat").exists()


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process."""
    if not _LINUX:
        ps = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in ps.stdout.splitlines()]
        return {
            int(pid): (int(parent), state[0]) for pid, parent, state in rows if int(parent) != os.getpid()
        }
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in parentheses, may have spaces and parentheses in it.
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            found[int(entry.name)] = (int(parent), state)
    return found


def descendants(pid: int | None = None) -> frozenset[int]:
    """The children of a process (of this one by default), and theirs, those included that have ended unnoticed."""
    children = defaultdict(set)
    for child, (parent, _) in _processes().items():
        children[parent].add(child)
    found: set[int] = set()
    todo = [pid or os.getpid()]
    while todo:
        new = children[todo.pop()] - found - bystanders
        found |= new
        todo += new
    return frozenset(found)


def alive(pid: int) -> bool:
    """Whether there is a process `pid` that has not ended."""
    return _processes().get(pid, (0, "Z"))[1] != "Z"


@dataclass(frozen=True)
class Footprint:
    """What this process has at a moment."""

    children: frozenset[str]
    threads: frozenset[str]
    descriptors: frozenset[str]
    shared_memory: frozenset[str]
    temporary_files: frozenset[str]

    @classmethod
    def now(cls, *, unowned: bool = False) -> Self:
        """What it has now; with `unowned`, files in shared memory that nobody uses count as its own."""
        return cls(
            frozenset(map(str, descendants())),
            _threads(),
            _descriptors(),
            shared_memory(unowned=unowned),
            frozenset(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        )

    def new_since(self, before: Footprint) -> list[str]:
        """What there is and was not before."""
        return [
            f"{field.name}: {thing}"
            for field in fields(self)
            for thing in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def _threads() -> frozenset[str]:
    # One event loop of a library's own may live as long as the process. It starts the threads of its executor as it
    # needs them, up to a bound, and keeps them; a second one of the same name is of another loop.
    found, of_a_loop = set(), set()
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio_") and thread.name not in of_a_loop:
            of_a_loop.add(thread.name)
        else:
            found.add(f"{thread.name} {thread.ident}")
    return frozenset(found)


def _descriptors() -> frozenset[str]:
    found = set()
    for entry in Path("/dev/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink() if _LINUX else ''}")
        except OSError:  # the one that lists the directory
            continue
    return frozenset(found)


def shared_memory(*, unowned: bool) -> frozenset[str]:
    """Files in shared memory that this process or a descendant uses; with `unowned` also those that nobody uses.

    Whose they are that nobody uses cannot be told: another program on this machine may have left them.
    """
    directory = Path("/dev/shm")
    if not directory.is_dir():
        return frozenset()
    files: dict[str, tuple[int, int]] = {}
    for path in directory.iterdir():
        try:
            found = path.lstat()
        except OSError:
            continue
        if found.st_uid == os.getuid():
            files[path.name] = found.st_dev, found.st_ino
    if not files:
        return frozenset()
    family = {os.getpid(), *descendants()}
    if not unowned:
        return frozenset().union(*(_in_use_by(pid, files) for pid in family))
    names = set(files)
    for pid in _processes().keys() - family:
        names -= _in_use_by(pid, files)
    # What is gone by now was somebody's who has ended meanwhile.
    return frozenset(name for name in names if (directory / name).exists())


def _in_use_by(pid: int, files: Mapping[str, tuple[int, int]]) -> set[str]:
    """Which of the files a process has open or mapped; those of another user nobody can tell.

    They are told by device and number: a semaphore is mapped under another name than it has in the directory.
    """
    process = Path(f"/proc/{pid}")
    used = set()
    try:
        for link in (process / "fd").iterdir():
            if str(link.readlink()).startswith("/dev/shm/"):
                found = link.stat()
                used.add((found.st_dev, found.st_ino))
        for line in (process / "maps").read_text(errors="replace").splitlines():
            if "/dev/shm/" in line:
                major, minor = line.split()[3].split(":")
                used.add((os.makedev(int(major, 16), int(minor, 16)), int(line.split()[4])))
    except OSError:
        pass
    return {name for name, file in files.items() if file in used}
