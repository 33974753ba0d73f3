"""A function, a map over it, and an entry point: enough to see a Modal program run.

modal-emulator run -- modal run examples/modal_hello.py
"""

from __future__ import annotations

import modal

app = modal.App("hello")


@app.function()
def square(x: int) -> int:
    print(f"squaring {x}")
    return x * x


@app.local_entrypoint()
def main(n: int = 5) -> None:
    print("here", square.local(n), "there", square.remote(n))
    print("mapped", list(square.map(range(n))))
