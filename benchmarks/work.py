"""What the pools are given to do: the same functions on the same data for all of them."""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False  # a worker imports this module before its first result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

RESULT_BYTES = 10_000_000
CONSTANT_BYTES = 100_000_000


def identity(x: int) -> int:
    return x


def spin(seconds: float) -> None:
    """Use the processor for `seconds`, not counting what other processes take of it meanwhile."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def spin_10_ms(x: int) -> int:
    spin(0.010)
    return x


def large(x: int) -> Any:
    """An array of 10 MB."""
    import numpy as np

    return np.full(RESULT_BYTES // 8, float(x))


class Constant:
    """100 MB, and how often this process has pickled it."""

    pickled = 0

    def __init__(self) -> None:
        import numpy as np

        self.array = np.ones(CONSTANT_BYTES // 8)

    def __reduce__(self) -> tuple[Callable[[Any], Constant], tuple[Any]]:
        Constant.pickled += 1
        return Constant._made_of, (self.array,)

    @classmethod
    def _made_of(cls, array: Any) -> Constant:
        made = cls.__new__(cls)
        made.array = array
        return made


def read_constant(x: int, constant: Constant) -> float:
    return float(constant.array[x]) + x


class Counted:
    """The first `count` integers as a generator gives them, and how many have been taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for x in range(self.count):
            self.pulled += 1
            yield x


class NotingCall:
    """10 ms of work that notes in a file that it has begun; call number `fatal` then kills its process."""

    def __init__(self, path: str, fatal: int) -> None:
        self.path = path
        self.fatal = fatal

    def __call__(self, x: int) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{x}\n".encode())
        os.close(fd)
        if x == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return spin_10_ms(x)


class LongCall:
    """Two seconds of work that notes in a file that it has begun."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, x: int) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{os.getpid()}\n".encode())
        os.close(fd)
        spin(2)
        return x


def closure(size: int, x: int) -> Callable[[], int]:
    """A function over `size` bytes of its own."""
    data = x.to_bytes(8, "little") + bytes(size - 8)

    def first() -> int:
        return int.from_bytes(data[:8], "little")

    return first


def call(fn: Callable[[], int]) -> int:
    return fn()
