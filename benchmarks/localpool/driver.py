"""The process that owns one pool: it measures when it is told to, and sleeps otherwise.

Orders are lines of JSON on standard input, replies are lines of JSON on a descriptor of their own, so that nothing
that a library prints gets between them.
"""

from __future__ import annotations

import os
import sys

from . import pools

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


def main(name: str, replies: int) -> None:
    """Serve until standard input ends."""
    import json
    import signal
    import traceback

    from . import scenarios

    def reply(**what: Any) -> None:
        os.write(replies, (json.dumps(what) + "\n").encode())

    # A benchmark in the background of a shell has Ctrl-C ignored, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool: pools.Pool | None = None
    try:
        for line in sys.stdin:
            order = json.loads(line)
            scenario = order.pop("scenario")
            try:
                if scenario == "leak":
                    from .leak import measure

                    reply(result=measure(**order))
                    continue
                if scenario == "efficiency" and name == "socketpair":
                    reply(result=scenarios.efficiency_without_pool())
                    continue
                if pool is None:
                    pool = pools.load(name)()
                if scenario == "stream" and not pool.lazy:
                    raise pools.Absent("takes all inputs first")
                reply(result=scenarios.ALL[scenario](pool, **order))
            except pools.Absent as exc:
                reply(absent=str(exc))
            except ImportError as exc:
                reply(absent=f"not installed ({exc.name})")
            except Exception as exc:
                traceback.print_exc()
                reply(failed=f"{type(exc).__name__}: {exc}".splitlines()[0][:100])
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
