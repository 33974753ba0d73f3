"""What a driver does: it measures when it is told to, and sleeps otherwise.

Orders are lines of JSON on standard input, replies are lines of JSON on a descriptor of their own, so that nothing
that a library prints gets between them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["serve_orders"]


def serve_orders(
    replies: int, measure: Callable[..., dict[str, Any]], absent: type[Exception] | tuple[()] = ()
) -> None:
    """Answer until standard input ends.

    Args:
        measure: takes what is to be measured, and the order's parameters by their names.
        absent: what it raises to say why there is nothing to measure.
    """

    def reply(**what: Any) -> None:
        os.write(replies, (json.dumps(what) + "\n").encode())

    # A benchmark in the background of a shell has Ctrl-C ignored, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            reply(result=measure(order.pop("scenario"), **order))
        except absent as exc:
            reply(absent=str(exc))
        except ImportError as exc:
            reply(absent=f"not installed ({exc.name})")
        except Exception as exc:
            traceback.print_exc()
            reply(failed=f"{type(exc).__name__}: {exc}".splitlines()[0][:100])
