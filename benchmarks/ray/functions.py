"""What is called, by both sides. Workers import this module."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any


def identity(x: int) -> int:
    return x


def identities(xs: list[int]) -> list[int]:
    """A chunk of calls, as one makes them by hand."""
    return [identity(x) for x in xs]


def where(seconds: float) -> int:
    """The process, which is kept busy so that another call goes to another one."""
    time.sleep(seconds)
    return os.getpid()


def size(x: int, data: Any) -> int:
    return x + int(data.nbytes)


def count_up(count: int) -> Iterator[int]:
    x = 0
    while x < count:  # Ray's own generators cannot `yield from` a range
        yield x
        x += 1
