"""What the program and its function both import."""

from __future__ import annotations

import modal

app = modal.App("test-pack")


def shout(text: str) -> str:
    return text.upper() + "!"
