"""Detached and abandoned apps: a program that goes, or is killed, while its work goes on. Prints JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import modal

app = modal.App(f"test-detached-{sys.argv[2]}" if modal.is_local() and len(sys.argv) > 2 else "test-detached")
gate = modal.Queue.from_name("test-detached-gate", create_if_missing=True)


@app.function()
def held(name: str) -> str:
    print(f"{name} works")
    gate.put("started", partition=f"{name}-started")
    told = gate.get(partition=name, timeout=500)
    print(f"{name} is told {told}")
    return f"{name}: {told}"


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def start(name: str, *, detach: bool, killed: bool) -> None:
    with app.run(detach=detach):
        call = held.spawn(name)
        gate.get(partition=f"{name}-started", timeout=500)
        report("call", call.object_id)
        report("app", app.app_id)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)


def read(name: str, call_id: str, word: str) -> None:
    if word:
        gate.put(word, partition=name)
    try:
        report("result", modal.FunctionCall.from_id(call_id).get(timeout=500))
    except Exception as exc:
        report("error", [type(exc).__name__, str(exc)])


if __name__ == "__main__":
    action, name, *rest = sys.argv[1:]
    if action == "read":
        read(name, *rest)
    else:
        start(name, detach="detached" in rest, killed="killed" in rest)
