"""What runs in the container."""

from __future__ import annotations

from .shared import app, shout


@app.function()
def greet(name: str) -> str:
    return shout(f"hello {name} from {__name__}")
