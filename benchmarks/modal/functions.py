"""What is called. A copy of this module is in the project that the benchmark makes: containers know it from there."""

from __future__ import annotations

import os
import time


def identity(x: int) -> int:
    return x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def where(seconds: float) -> str:
    """The container, which is kept busy so that another call goes to another one."""
    time.sleep(seconds)
    return os.environ["MODAL_TASK_ID"]


def size(x: int, data: bytes) -> int:
    return x + len(data)
