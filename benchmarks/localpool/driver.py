"""The process that owns one pool."""

from __future__ import annotations

import os

from . import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


def main(name: str, replies: int) -> None:
    """Measure when it is told to, until standard input ends."""
    from ..common.orders import serve_orders
    from . import scenarios

    pool: pools.Pool | None = None

    def measure(scenario: str, **parameters: Any) -> dict[str, Any]:
        nonlocal pool
        if scenario == "leak":
            from .leak import measure

            return measure(**parameters)
        if scenario == "efficiency" and name == "socketpair":
            return scenarios.efficiency_without_pool()
        if pool is None:
            pool = pools.load(name)()
        if scenario == "stream" and not pool.lazy:
            raise pools.Absent("takes all inputs first")
        return scenarios.ALL[scenario](pool, **parameters)

    try:
        serve_orders(replies, measure, pools.Absent)
    finally:
        if pool is not None:
            pool.close()


def first_result(name: str, replies: int) -> None:
    """Make a pool, have one call's result, say so, and leave without a word."""
    from .tasks import identity

    pool = pools.load(name)()
    assert pool.call(identity, 7) == 7
    os.write(replies, b"\n")
    pool.close()
