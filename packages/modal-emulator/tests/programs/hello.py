"""For `modal run`: a function, an entrypoint with an argument, and what they print."""

from __future__ import annotations

import sys

import modal

app = modal.App("test-hello")


@app.function()
def greet(name: str = "world", times: int = 1) -> str:
    for i in range(times):
        print(f"hello {name}, {i}")
    print("to stderr", file=sys.stderr)
    return f"greeted {name}"


@app.local_entrypoint()
def main(name: str = "you") -> None:
    print(greet.remote(name, 3))


@app.local_entrypoint()
def fails() -> None:
    greet.remote("nobody")
    raise RuntimeError("the entrypoint fails")
