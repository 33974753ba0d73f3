"""Asynchronous twins of blocking methods: run in a thread, and over when they are cancelled.

A blocking method that may take long asks `check_stopped()` now and then, or waits with `pause()`. Called by itself
these do nothing special; under `in_thread` they raise Stopped once the awaiting task has been cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar

__all__ = ["Stopped", "check_stopped", "in_thread", "pause"]

P = ParamSpec("P")
T = TypeVar("T")


class Stopped(Exception):
    """Whoever awaited this was cancelled. It never reaches a user: the task raises CancelledError."""


_request: ContextVar[threading.Event | None] = ContextVar("mini_stop_request", default=None)


def check_stopped() -> None:
    """Raise Stopped if what this thread does is no longer wanted."""
    request = _request.get()
    if request is not None and request.is_set():
        raise Stopped


def pause(seconds: float) -> None:
    """Wait; raise Stopped at once if what this thread does is no longer wanted."""
    request = _request.get()
    if request is None:
        time.sleep(seconds)
    elif request.wait(seconds):
        raise Stopped


async def in_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` in a thread. When cancelled, ask it to stop, and raise CancelledError once it has."""
    import asyncio

    request = threading.Event()
    context = copy_context()
    context.run(_request.set, request)
    # Not asyncio.to_thread: what that returns is forgotten when cancelled, while its thread works on.
    work = asyncio.get_running_loop().run_in_executor(None, lambda: context.run(fn, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        request.set()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # its outcome is nobody's any more
        raise
