"""What tests send to workers: gates that hold calls up, tallies that count them, and small functions.

Workers import this module, so it needs nothing but the standard library. All paths in it lie in a directory that
caller and workers share.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Gate",
    "Heavy",
    "Held",
    "Tally",
    "Unopened",
    "in_background",
    "until",
    "where",
]

POLL = 0.003


class Unopened(Exception):
    """Something that a call or a test waited for did not happen in time."""


def until(condition: Any, seconds: float, what: str = "it") -> None:
    """Wait until `condition()` is true; raise Unopened after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unopened(f"{what} did not happen within {seconds:g} s")
        time.sleep(POLL)


def in_background(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call a function in a thread of its own, which keeps nobody from leaving."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


@dataclass(frozen=True)
class Gate:
    """Closed until somebody, in whatever process, opens it."""

    path: str
    patience: float

    def open(self) -> None:
        Path(self.path).touch()

    @property
    def is_open(self) -> bool:
        return Path(self.path).exists()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is open; raises Unopened after `seconds`, or after its patience is at an end."""
        until(lambda: self.is_open, seconds or self.patience, "the opening of the gate")


@dataclass(frozen=True)
class Tally:
    """Counts things in a file, so that nothing is lost when a worker dies."""

    path: str

    def add(self, text: object) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(fd, f"{text}\n".encode())  # a line at a time is never torn
        finally:
            os.close(fd)

    def read(self) -> list[str]:
        try:
            return Path(self.path).read_text().splitlines()
        except FileNotFoundError:
            return []

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until it has `count` lines."""
        until(lambda: len(self.read()) >= count, seconds, f"line {count} of the tally")


@dataclass(frozen=True)
class Held:
    """Tells whether a call still runs: the call holds a lock, which the system takes away from it when it ends."""

    path: str

    @contextmanager
    def hold(self) -> Iterator[None]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def free(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(fd)


class Heavy:
    """A large constant that notes each time it is pickled and each time it is unpickled."""

    def __init__(self, packed: Tally, unpacked: Tally, data: bytes) -> None:
        self.packed, self.unpacked, self.data = packed, unpacked, data

    def __reduce__(self) -> tuple[Any, ...]:
        self.packed.add(where())
        return _unpack_heavy, (self.packed, self.unpacked, self.data)


def _unpack_heavy(packed: Tally, unpacked: Tally, data: bytes) -> Heavy:
    unpacked.add(where())
    return Heavy(packed, unpacked, data)


def where() -> str:
    """Names the worker: its process and its thread."""
    return f"{os.getpid()}-{threading.get_ident()}"
