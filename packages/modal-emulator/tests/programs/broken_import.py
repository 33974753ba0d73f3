"""A program whose module cannot be imported in its container."""

from __future__ import annotations

import modal

app = modal.App("test-broken-import")

if not modal.is_local():
    raise ImportError("only at home")


@app.function()
def f() -> None:
    pass


if __name__ == "__main__":
    with app.run():
        f.remote()
