"""Going on after Modal could not be reached for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["OUTAGE_SECONDS", "PAUSE_SECONDS", "Attempts", "Patience", "is_gone"]

log = logging.getLogger("mini")
T = TypeVar("T")

OUTAGE_SECONDS = 60.0
"""How long Modal may be gone while calls run. It ends the apps of clients that it has not heard of for as long."""
PAUSE_SECONDS = 0.5
LASTING_SECONDS = 10.0
"""What was on its way for as long had reached Modal."""


class Patience:
    """Tries again what fails because Modal cannot be reached; whoever uses it says what may be tried twice.

    It says once that Modal is gone, however many questions wait for it.
    """

    def __init__(self) -> None:
        self._told = False

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """What `question` returns, as soon as Modal can be reached; else, after a minute, what it raises."""
        attempts = Attempts(self)
        while True:
            try:
                answer = await question()
            except Exception as exc:
                await attempts.failed(exc)
            else:
                self._told = False
                return answer

    def tell(self) -> None:
        if not self._told:
            self._told = True
            log.warning("Modal cannot be reached; calls go on when it can, if that is within a minute")


class Attempts:
    """Those at one question."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since: float | None = None
        """When the first of those that failed one after the other did (monotonic seconds)."""
        self._began = time.monotonic()

    async def failed(self, exc: Exception) -> None:
        """Return when it is time for the next attempt; raises `exc` if that would not help, or not any more."""
        if not is_gone(exc):
            raise exc
        now = time.monotonic()
        # What cannot be had by HTTP, with all else in order, is behind a firewall, which lets nothing be known at once.
        if now - self._began > LASTING_SECONDS and not _is_http(exc):
            self._since = None
        if self._since is None:
            self._since = now
        elif now - self._since > OUTAGE_SECONDS:
            raise exc
        self._patience.tell()
        await asyncio.sleep(PAUSE_SECONDS)
        self._began = time.monotonic()


def _is_http(exc: Exception) -> bool:
    """Whether it was about the arguments or results that are too large for Modal itself."""
    return type(exc).__module__.partition(".")[0] == "aiohttp"


def is_gone(exc: BaseException) -> bool:
    """Whether an error means that there was no way to Modal. Its client has tried some three times by then."""
    from grpclib.exceptions import StreamTerminatedError
    from modal.exception import ConnectionError as ModalConnectionError
    from modal.exception import ServiceError

    return isinstance(exc, ModalConnectionError | ServiceError | StreamTerminatedError | OSError)
