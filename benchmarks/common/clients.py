"""What drivers that call something have in common."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .orders import serve_orders

if TYPE_CHECKING:
    import modal

__all__ = ["Orders", "Result", "latencies", "serve_session", "wait_for_containers"]

Result = dict[str, Any]
Orders = dict[str, Callable[..., Result]]

now = time.perf_counter


def serve_session(session: AbstractContextManager[Orders], replies: int) -> None:
    """Measure when it is told to, until standard input ends; "ready" waits until it can."""
    with session as orders:
        orders["ready"] = dict
        serve_orders(replies, lambda order, **parameters: orders[order](**parameters))


def latencies(call: Callable[[], object], seconds: float) -> Result:
    """Seconds of single calls, one after the other."""
    call()
    samples: list[float] = []
    end = now() + seconds
    while (begin := now()) < end:
        call()
        samples.append(now() - begin)
    samples.sort()
    return {
        "median": statistics.median(samples),
        "p99": samples[int(len(samples) * 0.99)],
        "calls": len(samples),
    }


def wait_for_containers(function: modal.Function[..., Any, Any], count: int, limit: float = 60.0) -> None:
    end = now() + limit
    while function.get_current_stats().num_total_runners != count:
        if now() > end:
            raise TimeoutError(f"there are not {count} containers after {limit:g} s")
        time.sleep(0.05)
