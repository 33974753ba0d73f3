"""Asking Modal from any thread: what goes wrong is an error of mini's, and what a moment mends is tried again."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from mini import BackendUnavailable, MiniError, OptionError

from .patience import OUTAGE_SECONDS, PAUSE_SECONDS, is_full, is_gone, pause_before

if TYPE_CHECKING:
    import modal

__all__ = ["Missing", "are_running", "ask", "gather", "in_client", "our_error", "patiently", "this_client"]

T = TypeVar("T")
log = logging.getLogger("mini")

AT_ONCE = 64
"""Questions of the same kind that are on their way at the same time."""


class Missing(LookupError):
    """Modal has nothing of that name or id."""


def ask(work: Callable[[], T]) -> T:
    """Call what blocks in Modal's client, in a thread without an event loop.

    It is called again, for a minute, when Modal refuses it because there is too much of something for now.

    Raises:
        Missing: Modal does not have what was asked for.
        AuthError, BackendUnavailable, OptionError: see `our_error`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _told(work)
    # Modal warns of calls that block a loop. Whoever makes one here has asked for it: there are async twins.
    with ThreadPoolExecutor(1, thread_name_prefix="mini-modal-ask") as thread:
        return thread.submit(_told, work).result()


def _told(work: Callable[[], T]) -> T:
    began = time.monotonic()
    for attempt in itertools.count():
        try:
            return _tried(work)
        except Exception as exc:
            cause = exc.__cause__
            if cause is None or not is_full(cause) or time.monotonic() - began > OUTAGE_SECONDS:
                raise
        if attempt == 0:
            log.warning("Modal limits how fast it is asked; it is asked again")
        time.sleep(pause_before(attempt))
    raise AssertionError("a count does not end")


def _tried(work: Callable[[], T]) -> T:
    try:
        return work()
    except (MiniError, FileExistsError):
        raise
    except Exception as exc:
        from modal.exception import NotFoundError

        if isinstance(exc, NotFoundError | FileNotFoundError):
            raise Missing(str(exc)) from exc
        if (known := our_error(exc)) is None:
            raise
        raise known from known.__cause__ or exc


def our_error(exc: BaseException) -> MiniError | None:
    """What an error of Modal's client means; None if it is none of Modal's."""
    from grpclib.exceptions import GRPCError
    from modal.exception import Error, InvalidError

    from .connect import explain

    if isinstance(exc, MiniError):
        return exc
    if (known := explain(exc)) is not None:
        return known
    if isinstance(exc, InvalidError):
        return OptionError(f"Modal refuses this: {exc}")
    if isinstance(exc, Error | GRPCError):
        return BackendUnavailable(f"Modal cannot do this: {type(exc).__name__}: {exc}")
    return None


def patiently(work: Callable[[], T]) -> T:
    """Try again, for a minute, what fails because Modal cannot be reached; it may be done twice."""
    since: float | None = None
    while True:
        try:
            return work()
        except Exception as exc:
            now = time.monotonic()
            since = since or now
            if now - since > OUTAGE_SECONDS or not is_gone(exc.__cause__ or exc):
                raise
            log.warning("Modal cannot be reached from a job's container; it tries again")
            time.sleep(PAUSE_SECONDS)


def this_client() -> modal.Client | None:
    """Modal's client for this process, connected; None in a container, where it knows by itself."""
    import os

    if os.environ.get("MODAL_IS_REMOTE") == "1":
        return None
    from .connect import client, run

    return run(client)


def in_client(work: Callable[..., Awaitable[T]]) -> Callable[..., T]:
    """A blocking function of a coroutine function that runs in the thread of Modal's client.

    A question there costs no way from one thread to another. It gets Modal's objects as they are inside.
    """
    from modal._utils.async_utils import synchronizer

    blocking: Any = synchronizer.create_blocking(work)
    return blocking  # type: ignore[no-any-return]


async def gather(questions: Iterable[Awaitable[T]]) -> list[T]:
    """The answers to several questions, of which not too many are asked at the same time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(question: Awaitable[T]) -> T:
        async with room:
            return await question

    return await asyncio.gather(*map(one, questions))


async def are_running(client: Any, apps: Sequence[str]) -> list[bool]:
    """Whether each of some apps runs; in the thread of Modal's client."""
    from modal.exception import NotFoundError
    from modal_proto import api_pb2

    async def one(app: str) -> bool:
        try:
            answer = await client._stub.AppGetLifecycle(api_pb2.AppGetLifecycleRequest(app_id=app))
        except NotFoundError:
            return False
        stopped = (api_pb2.APP_STATE_STOPPED, api_pb2.APP_STATE_STOPPING)
        return answer.lifecycle.app_state not in stopped

    return await gather(map(one, apps))
