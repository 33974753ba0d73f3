"""Calls a function that does not end, so that something can happen to the server in the meantime."""

from __future__ import annotations

import sys
import time

import modal

app = modal.App("test-waits")
gate = modal.Queue.from_name("test-waits-gate", create_if_missing=True)


@app.function()
def forever(x: int) -> None:
    gate.put("started")
    time.sleep(3600)


def main() -> None:
    with app.run():
        call = forever.spawn(1)
        gate.get(timeout=500)
        print('["started", true]', flush=True)
        if sys.argv[1] == "remote":
            forever.remote(2)
        elif sys.argv[1] == "map":
            list(forever.map([2, 3]))
        else:
            call.get()


if __name__ == "__main__":
    main()
