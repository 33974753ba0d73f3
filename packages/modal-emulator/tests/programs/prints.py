"""What functions print, as the log has it. Runs on Modal as well, where a line may come in other pieces."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta

import modal

app = modal.App("test-prints")


@app.function()
def speak() -> None:
    print("a line", "of several", "words")
    print("two\nlines")
    print("by", end=" ", flush=True)
    print("and by")
    print("to stderr", file=sys.stderr)
    os.write(1, "half a charac\u00e9".encode()[:-1])
    os.write(1, "\u00e9".encode()[-1:] + b"\n")
    print("no end", end="", flush=True)


@app.function()
def wait(gate: modal.Queue) -> None:
    """Says something that is no line, and goes on until that has been read."""
    print("50 %", end="", flush=True)
    gate.get(timeout=300)


def say(name: str, value: object) -> None:
    print(json.dumps([name, value]), flush=True)


def main() -> None:
    since = datetime.now(UTC) - timedelta(minutes=30)
    with app.run(), modal.Queue.ephemeral() as gate:
        call = speak.spawn()
        call.get()
        say("spoken", [[e.message, e.source] for e in call.logs.fetch(since=since)])
        waiting = wait.spawn(gate)
        deadline = time.monotonic() + 200
        while not (entries := [e.message for e in waiting.logs.fetch(since=since)]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        gate.put("read")
        waiting.get()
        say("while it runs", entries)


if __name__ == "__main__":
    main()
