"""Limits on processors and memory by control groups, version 1 or 2, where this process may make some."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cgroups", "Group"]

PERIOD = 100_000  # microseconds


@dataclass(slots=True)
class Group:
    """The control group of one container: a folder in each hierarchy that limits it."""

    folders: list[Path]
    events: Path | None

    def open(self) -> list[int]:
        """Descriptors to which a process writes "0" to join. Permission is that of who opened them."""
        return [os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders]

    @property
    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        if self.events is None:
            return 0
        try:
            words = self.events.read_text().split()
        except OSError:
            return 0
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0

    def remove(self) -> None:
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class Cgroups:
    """Control groups below that of this process.

    Attributes:
        cpu, memory: whether there can be limits on it.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self._name = f"modal-emulator-{os.getpid()}-{secrets.token_hex(3)}"
        self._parents: dict[str, Path] = {}
        self._unified = False
        for kind, parent in _hierarchies().items():
            folder = parent / self._name
            try:
                folder.mkdir()
            except OSError:
                continue
            if kind == "unified":
                if self._delegate(folder):
                    self._unified = True
                    self._parents = {"cpu": folder, "memory": folder}
                    break
                folder.rmdir()
            else:
                self._parents[kind] = folder

    @property
    def cpu(self) -> bool:
        return "cpu" in self._parents

    @property
    def memory(self) -> bool:
        return "memory" in self._parents

    @staticmethod
    def _delegate(folder: Path) -> bool:
        """Whether the groups below `folder` can limit both."""
        try:
            if not {"cpu", "memory"} <= set((folder / "cgroup.controllers").read_text().split()):
                return False
            (folder / "cgroup.subtree_control").write_text("+cpu +memory")
        except OSError:
            return False
        return True

    def make(self, name: str, milli_cpu: int, memory_mib: int) -> Group | None:
        """A group with these limits; None if there is none to enforce here."""
        folders: list[Path] = []
        events: Path | None = None
        try:
            if memory_mib and self.memory:
                folders.append(self._parents["memory"] / name)
                folders[-1].mkdir()
                self._limit_memory(folders[-1], memory_mib * 1024 * 1024)
                events = folders[-1] / ("memory.events" if self._unified else "memory.oom_control")
            if milli_cpu and self.cpu:
                if not (self._unified and folders):
                    folders.append(self._parents["cpu"] / name)
                    folders[-1].mkdir()
                quota = max(milli_cpu * PERIOD // 1000, 1000)
                if self._unified:
                    (folders[-1] / "cpu.max").write_text(f"{quota} {PERIOD}")
                else:
                    (folders[-1] / "cpu.cfs_period_us").write_text(str(PERIOD))
                    (folders[-1] / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError:
            Group(folders, None).remove()
            return None
        return Group(folders, events) if folders else None

    def _limit_memory(self, folder: Path, limit: int) -> None:
        if self._unified:
            (folder / "memory.max").write_text(str(limit))
            for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with contextlib.suppress(OSError):
                    (folder / name).write_text(value)
        else:
            (folder / "memory.limit_in_bytes").write_text(str(limit))
            with contextlib.suppress(OSError):  # absent where swap is not accounted for
                (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))

    def close(self) -> None:
        for folder in set(self._parents.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._parents.clear()


def _remove_abandoned() -> None:
    """Remove the groups of servers that were killed."""
    for parent in _hierarchies().values():
        for folder in parent.glob("modal-emulator-*"):
            pid = folder.name.split("-")[2]
            if not Path("/proc", pid).exists():
                for group in folder.glob("*/"):
                    with contextlib.suppress(OSError):
                        group.rmdir()
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _hierarchies() -> dict[str, Path]:
    """Where groups of this process's go: "cpu" and "memory" of version 1, or "unified"."""
    mounts: dict[str, Path] = {}
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        before, _, after = line.partition(" - ")
        where = Path(before.split()[4])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            mounts["unified"] = where
        elif kind == "cgroup":
            for name in {"cpu", "memory"} & set(options.replace(" ", ",").split(",")):
                mounts[name] = where
    if "memory" in mounts or "cpu" in mounts:
        mounts.pop("unified", None)  # the controllers are where version 1 has them
    found: dict[str, Path] = {}
    for line in own:
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ["unified"]:
            if name in mounts:
                folder = mounts[name] / path.lstrip("/")
                # In a container, the path may be one of the host's.
                found[name] = folder if folder.is_dir() else mounts[name]
    return found
