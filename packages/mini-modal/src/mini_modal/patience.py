"""Going on after Modal could not be reached for a while, or would take no more for a while."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["OUTAGE_SECONDS", "PAUSE_SECONDS", "Attempts", "Patience", "is_full", "is_gone", "pause_before"]

log = logging.getLogger("mini")
T = TypeVar("T")

OUTAGE_SECONDS = 60.0
"""How long Modal may be gone while calls run. It ends the apps of clients that it has not heard of for as long."""
PAUSE_SECONDS = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0
"""Before what Modal had no room for is tried again; each pause is about twice as long as the one before."""
LASTING_SECONDS = 10.0
"""What was on its way for as long had reached Modal."""


class Patience:
    """Tries again what fails because Modal cannot be reached; whoever uses it says what may be tried twice.

    It says once that Modal is gone, however many questions wait for it, and once that it takes no more for now.
    """

    def __init__(self) -> None:
        self._told = False
        self._told_full = False

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

    def tell_full(self) -> None:
        # Calls succeed meanwhile, and the next one may wait again: that is no news.
        if not self._told_full:
            self._told_full = True
            log.warning(
                "Modal limits how many calls may wait there, or how fast they come; more go when it takes them"
            )


class Attempts:
    """Those at one question.

    Args:
        patience: says what they wait for.
        room: Modal has some again sooner or later, so that it is waited for without end. Else it may be that there
            is too much of something, and after a minute that is an error.
    """

    def __init__(self, patience: Patience, *, room: bool = False) -> None:
        self._patience = patience
        self._room = room
        self._full = 0
        """How often in a row Modal has had no room."""
        self._since: float | None = None
        """When the first of those that failed one after the other, for the same reason, did (monotonic seconds)."""
        self._began = time.monotonic()

    async def failed(self, exc: Exception) -> None:
        """Return when it is time for the next attempt; raises `exc` if that would not help, or not any more."""
        full = is_full(exc)
        if not full and not is_gone(exc):
            raise exc
        now = time.monotonic()
        if full != bool(self._full):
            self._full, self._since = 0, None
        # What cannot be had by HTTP, with all else in order, is behind a firewall, which lets nothing be known at once.
        if now - self._began > LASTING_SECONDS and not _is_http(exc):
            self._since = None
        if self._since is None:
            self._since = now
        elif now - self._since > OUTAGE_SECONDS and not (full and self._room):
            raise exc
        if full:
            self._patience.tell_full()
            await asyncio.sleep(pause_before(self._full))
            self._full += 1
        else:
            self._patience.tell()
            await asyncio.sleep(PAUSE_SECONDS)
        self._began = time.monotonic()


def pause_before(attempt: int) -> float:
    """Seconds before what Modal had no room for is tried again, the first time with 0; not all wait equally long."""
    most: float = min(FIRST_PAUSE_SECONDS * 2 ** min(attempt, 20), LONGEST_PAUSE_SECONDS)
    return most * random.uniform(0.5, 1)


def _is_http(exc: Exception) -> bool:
    """Whether it was about the arguments or results that are too large for Modal itself."""
    return type(exc).__module__.partition(".")[0] == "aiohttp"


def is_gone(exc: BaseException) -> bool:
    """Whether an error means that there was no way to Modal. Its client has tried some three times by then."""
    from grpclib.exceptions import StreamTerminatedError
    from modal.exception import ConnectionError as ModalConnectionError
    from modal.exception import ServiceError

    return isinstance(exc, ModalConnectionError | ServiceError | StreamTerminatedError | OSError)


def is_full(exc: BaseException) -> bool:
    """Whether an error means that Modal has refused something for now, because there is much of it already."""
    from modal.exception import ResourceExhaustedError

    return isinstance(exc, ResourceExhaustedError)
