"""What containers write, put together again from the pieces that it comes in."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable

__all__ = ["Lines"]

PATIENCE = 0.1
"""Seconds that what is no whole line waits for its end, which Python without a buffer writes by itself."""
LONGEST = 64 * 1024
"""Characters that wait at most."""


class Lines:
    """Hands on what one container writes, by descriptor: whole lines, and characters that are whole in any case."""

    def __init__(self, take: Callable[[int, str], None]) -> None:
        self._take = take
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {1: decoder("replace"), 2: decoder("replace")}
        self._descriptor = 1
        self._held = ""
        """Text of that descriptor that waits for the end of its line."""
        self._timer: asyncio.TimerHandle | None = None

    def write(self, descriptor: int, data: bytes) -> None:
        if descriptor != self._descriptor:
            self.flush()  # what was written first comes first
            self._descriptor = descriptor
        text = self._held + self._decoders[descriptor].decode(data)
        end = len(text) if len(text) > LONGEST else max(text.rfind("\n"), text.rfind("\r")) + 1
        if end:
            self._hand_on(text[:end])
        self._held = text[end:]
        if self._held and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self.flush)

    def flush(self) -> None:
        """Hand on what waits."""
        self._hand_on(self._held)
        self._held = ""

    def close(self) -> None:
        """Nothing more comes."""
        self.flush()
        for descriptor, decoder in self._decoders.items():
            self._descriptor = descriptor
            self._hand_on(decoder.decode(b"", final=True))

    def _hand_on(self, text: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if text:
            self._take(self._descriptor, text)
