"""A function whose container ends before it can run anything. Prints JSON."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import modal

app = modal.App("test-crashes-early")
starts = modal.Queue.from_name("test-crashes-early-starts", create_if_missing=True)

if not modal.is_local():
    starts.put(time.time())
    os._exit(7)


@app.function()
def f(x: int) -> None:
    pass


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


if __name__ == "__main__":
    starts.clear()
    with app.run():
        try:
            f.remote(1)
        except Exception as exc:
            report("error", [type(exc).__name__, str(exc)])
        report("starts", starts.len())
        outcomes = list(f.map(range(200), return_exceptions=True))
        report("map", sorted({type(outcome).__name__ for outcome in outcomes}))
        report("starts for a map", starts.len())
