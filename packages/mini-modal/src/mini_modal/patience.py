"""Going on after Modal could not be reached for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["OUTAGE_SECONDS", "Patience"]

log = logging.getLogger("mini")
T = TypeVar("T")

OUTAGE_SECONDS = 60.0
"""How long Modal may be gone while calls run. It ends the apps of clients that it has not heard of for as long."""
PAUSE_SECONDS = 0.5


class Patience:
    """Tries again what fails because Modal cannot be reached; whoever uses it says what may be tried twice."""

    def __init__(self) -> None:
        self._since: float | None = None
        """When Modal was found to be gone, if it is (monotonic seconds)."""

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """What `question` returns, as soon as Modal can be reached; else, after a minute, what it raises."""
        while True:
            try:
                answer = await question()
            except Exception as exc:
                await self.wait(exc)
            else:
                self._since = None
                return answer

    async def wait(self, exc: Exception) -> None:
        """Return when it is time to try again; raises `exc` if that would not help, or not any more."""
        if not _gone(exc):
            raise exc
        now = time.monotonic()
        if self._since is None:
            self._since = now
            log.warning("Modal cannot be reached; calls go on when it can, if that is within a minute")
        elif now - self._since > OUTAGE_SECONDS:
            raise exc
        await asyncio.sleep(PAUSE_SECONDS)


def _gone(exc: Exception) -> bool:
    """Whether an error means that there was no way to Modal. Its client has tried some three times by then."""
    from grpclib.exceptions import StreamTerminatedError
    from modal.exception import ConnectionError as ModalConnectionError
    from modal.exception import ServiceError

    return isinstance(exc, ModalConnectionError | ServiceError | StreamTerminatedError | OSError)
