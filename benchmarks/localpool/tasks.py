"""What the pools are given to do: the same functions on the same data for each of them."""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False  # workers import this module before their first result; `typing` would be measured too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SPIN_SECONDS = 0.010
RESULT_BYTES = 10_000_000
CONSTANT_BYTES = 100_000_000


def identity(x: int) -> int:
    return x


def spin(x: int, seconds: float = SPIN_SECONDS) -> int:
    """Use the processor for `seconds`, not counting what other processes take of it meanwhile."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return x


def array(x: int) -> Any:
    """A result of `RESULT_BYTES`."""
    import numpy as np

    return np.full(RESULT_BYTES // 8, float(x))


class Constant:
    """An object of `CONSTANT_BYTES` that counts how often this process has pickled it."""

    pickled = 0

    def __init__(self) -> None:
        import numpy as np

        self.array = np.ones(CONSTANT_BYTES // 8)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        Constant.pickled += 1
        return _constant_of, (self.array,)


def _constant_of(array: Any) -> Constant:
    constant = Constant.__new__(Constant)
    constant.array = array
    return constant


def use_constant(x: int, constant: Constant) -> float:
    return float(constant.array[x]) + x


class Counted:
    """A generator's worth of integers that counts how many have been taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for x in range(self.count):
            self.pulled += 1
            yield x


def note(path: str, text: str) -> None:
    """Append a line to a file at once, so that it is there even if this process is killed next."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (text + "\n").encode())
    os.close(fd)


class Mortal:
    """A call of 10 ms that notes in a file that it runs; the one for `fatal` then kills its worker."""

    def __init__(self, path: str, fatal: int) -> None:
        self.path = path
        self.fatal = fatal

    def __call__(self, x: int) -> int:
        note(self.path, str(x))
        if x == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return spin(x)


class Long:
    """A call that uses the processor for two seconds and notes in a file that it has begun."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, x: int) -> int:
        note(self.path, str(x))
        return spin(x, 2)


def closure(x: int, size: int) -> Callable[[], int]:
    """A function that holds `size` bytes which no other holds."""
    data = x.to_bytes(8, "little") * (size // 8)

    def ends() -> int:
        return data[0] + data[-1]

    return ends


def call(fn: Callable[[], int]) -> int:
    return fn()
