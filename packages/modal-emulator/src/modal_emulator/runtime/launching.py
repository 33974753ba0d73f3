"""Containers as processes of the launcher: the server's end of `launcher.py`."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ContainerSpec, Overlay, Process
from .cgroups import Group
from .layers import remove_tree
from .memory import MemoryWatch

__all__ = ["Launched", "Launcher", "LauncherUnavailable", "describe_overlay"]

MAX_PACKET = 65536
SOME = 65536  # bytes that are read from a container at a time: as many as a pipe holds
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


class LauncherUnavailable(Exception):
    """The kernel does not let us; the message says what failed."""


def describe_overlay(overlay: Overlay) -> dict[str, Any]:
    return {
        "target": overlay.target,
        "lower": str(overlay.lower),
        "upper": str(overlay.upper),
        "work": str(overlay.work),
        "read_only": overlay.read_only,
    }


class Launched(Process):
    watch: MemoryWatch | None = None

    def __init__(
        self,
        launcher: Launcher,
        spec: ContainerSpec,
        folder: Path,
        group: Group | None,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        self.pid = 0
        self.oom = False
        self._launcher = launcher
        self._spec = spec
        self._folder = folder
        self._group = group
        self._tidy = tidy
        self._id = self._launcher.new_id()
        self._pipes: list[_Pipe] = []
        self._end: asyncio.Task[int] | None = None

    async def run(self, description: dict[str, Any], *, watch: bool) -> None:
        """Start it; `watch` its memory."""
        try:
            await self._begin(description)
        except BaseException:
            self.kill()
            await self.wait()
            raise
        if watch:
            self.watch = MemoryWatch(self.pid, self._spec.memory_mib, self.out_of_memory)

    async def _begin(self, description: dict[str, Any]) -> None:
        fds: list[int] = []
        memory = os.memfd_create("container")
        try:
            os.write(memory, json.dumps(description).encode())
            os.lseek(memory, 0, os.SEEK_SET)
            fds.append(memory)
            for number in (1, 2):
                read, write = os.pipe2(os.O_CLOEXEC)
                fds.append(write)
                self._pipes.append(_Pipe(read, number, self._spec.output))
            if self._group is not None:
                fds.extend(self._group.open())
            self.pid = await self._launcher.start(self._id, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def wait(self) -> int:
        if self._end is None:
            self._end = asyncio.ensure_future(self._finish())
        return await asyncio.shield(self._end)

    async def _finish(self) -> int:
        status = await self._launcher.ended(self._id)
        for pipe in self._pipes:
            await pipe.at_end()
        if self.watch is not None:
            self.watch.stop()
        if self._group is not None:
            # A child that was killed for its memory need not be the end of the container.
            if self._group.oom_kills and status != 0:
                self.oom = True
            self._group.remove()
        if self._tidy is not None:
            self._tidy()
        await asyncio.to_thread(remove_tree, self._folder)
        return status

    def out_of_memory(self) -> None:
        self.oom = True
        self.kill()

    def interrupt(self) -> None:
        self._launcher.signal(self._id, signal.SIGINT)

    def kill(self) -> None:
        self._launcher.signal(self._id, signal.SIGKILL)

    def drain(self) -> None:
        for pipe in self._pipes:
            pipe.read()

    async def remount(self, overlay: Overlay) -> None:
        await self._launcher.remount(self._id, describe_overlay(overlay))


class _Pipe:
    """The reading end of what a container writes."""

    def __init__(self, fd: int, number: int, output: Callable[[int, bytes], None]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._number = number
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(fd, self._read_some)

    def read(self) -> None:
        """Hand on all that has been written."""
        while not self._ended.is_set() and self._read_some() == SOME:
            pass

    def _read_some(self) -> int:
        """Hand on the next piece; its size."""
        try:
            data = os.read(self._fd, SOME)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if data:
            self._output(self._number, data)
        else:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._ended.set()
        return len(data)

    async def at_end(self) -> None:
        await self._ended.wait()


class Launcher:
    """The process that containers are forked from, as seen from here; `launcher.py` is the other end.

    Args:
        absent: seconds for which nothing is mounted while an overlay takes the place of another.

    Attributes:
        full: whether containers have all user ids, or only root's.
    """

    def __init__(self, scratch: Path, mode: str, absent: float = 0.0) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._ids = 0
        self._started: dict[int, asyncio.Future[int]] = {}
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._remounts: dict[int, asyncio.Future[None]] = {}
        self._absent = absent
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone = False
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix="probe-"))
        script = Path(__file__).with_name("launcher.py")
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", script, str(theirs.fileno()), folder, mode],
                    pass_fds=[theirs.fileno()],
                    env={"PATH": PATH},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None,
                    start_new_session=True,  # a Ctrl-C at the terminal is the server's to handle
                )
            self.full = self._greet()
        except BaseException:
            ours.close()
            with contextlib.suppress(AttributeError):
                self._process.wait()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        ours.setblocking(False)

    def _greet(self) -> bool:
        self._socket.settimeout(30)
        full = False
        while True:
            try:
                data = self._socket.recv(MAX_PACKET)
            except TimeoutError:
                data = b""
            if not data:
                raise LauncherUnavailable("the process that starts containers has ended")
            message = json.loads(data)
            match message["event"]:
                case "unshared":
                    full = self._map_all_ids()
                    self._socket.send(b"mapped" if full else b"no")
                case "ready":
                    return full
                case _:
                    raise LauncherUnavailable(message["error"])

    def _map_all_ids(self) -> bool:
        """Give the user namespace the ids that this one has, if we may."""
        if os.geteuid() != 0:
            return False
        try:
            for kind in ("uid", "gid"):
                ranges = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
                text = "".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges)
                Path(f"/proc/{self._process.pid}/{kind}_map").write_text(text)
                if sum(int(count) for _, _, count in ranges) < 65536:
                    return True  # mapped, but apt's user is not among them
        except OSError:
            return False
        return True

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    def _attach(self) -> None:
        """Listen in the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            message = json.loads(data)
            match message["event"]:
                case "started":
                    _settle(self._started.pop(message["id"], None), message["pid"])
                case "failed":
                    self._ended.pop(message["id"], None)
                    _refuse(self._started.pop(message["id"], None), OSError(message["error"]))
                case "ended":
                    _settle(self._ended.get(message["id"]), message["status"])
                case "remounted":
                    future = self._remounts.pop(message["call"], None)
                    if message["error"]:
                        _refuse(future, OSError(message["error"], os.strerror(message["error"])))
                    else:
                        _settle(future, None)

    def _lost(self) -> None:
        """The process has ended, and with it all containers."""
        self._gone = True
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        for started in self._started.values():
            _refuse(started, OSError("the process that starts containers has ended"))
        for remount in self._remounts.values():
            _refuse(remount, OSError("the process that starts containers has ended"))
        for ended in self._ended.values():
            _settle(ended, -signal.SIGKILL)

    async def start(self, container: int, fds: list[int]) -> int:
        """Start a container; returns the pid of its first process."""
        self._attach()
        loop = asyncio.get_running_loop()
        if self._gone:
            raise OSError("the process that starts containers has ended")
        started = self._started[container] = loop.create_future()
        self._ended[container] = loop.create_future()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        await self._send({"op": "start", "id": container}, rights)
        pid: int = await started
        return pid

    async def ended(self, container: int) -> int:
        future = self._ended.get(container)
        if future is None:
            return -signal.SIGKILL
        status: int = await asyncio.shield(future)
        self._ended.pop(container, None)
        return status

    def signal(self, container: int, number: int) -> None:
        future = self._ended.get(container)
        if future is not None and not future.done() and not self._gone:
            task = asyncio.ensure_future(self._send({"op": "signal", "id": container, "signal": int(number)}))
            task.add_done_callback(lambda done: done.exception())

    async def remount(self, container: int, overlay: dict[str, Any]) -> None:
        call = self.new_id()
        future = self._remounts[call] = asyncio.get_running_loop().create_future()
        await self._send({"op": "remount", "id": container, "call": call, "absent": self._absent, **overlay})
        await future

    async def _send(self, message: dict[str, Any], rights: list[Any] | None = None) -> None:
        data = json.dumps(message).encode()
        while True:
            try:
                self._socket.sendmsg([data], rights or [])
                return
            except BlockingIOError:
                writable = asyncio.Event()
                loop = asyncio.get_running_loop()
                loop.add_writer(self._socket, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(self._socket)

    async def close(self) -> None:
        """Kill all containers, wait until they are gone, and end the process."""
        pending = {container: ended for container, ended in self._ended.items() if not ended.done()}
        for container in pending:
            self.signal(container, signal.SIGKILL)
        if pending:
            await asyncio.wait(pending.values(), timeout=10)
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        self._lost_after_close()
        await asyncio.to_thread(self._process.wait)

    def _lost_after_close(self) -> None:
        self._gone = True
        for ended in self._ended.values():
            _settle(ended, -signal.SIGKILL)


def _settle(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[Any] | None, error: Exception) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
