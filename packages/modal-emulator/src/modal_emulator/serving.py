"""A server, from its start to its end, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import ssl
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .folders import FolderInUse, new_work_folder, remove_leftovers, remove_tree, state_lock, work_lock

if TYPE_CHECKING:
    from pathlib import Path

    from .settings import Settings

__all__ = ["CannotServe", "Ready", "serve", "variables"]

log = logging.getLogger(__name__)

STOP_SECONDS = 20.0  # that containers and connections have for their end


class CannotServe(Exception):
    """A server cannot start. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What somebody has to know of a server that is there.

    Attributes:
        url: of the control plane.
        config: an empty configuration file for Modal's client, so that the user's own is left alone.
        ca_file: the certificate to trust, with TLS.
    """

    url: str
    pid: int
    token_id: str
    token_secret: str
    config: str
    ca_file: str | None = None


def variables(ready: Ready) -> dict[str, str | None]:
    """The environment variables that make Modal's client use a server; None for those that must not be set."""
    return {
        "MODAL_SERVER_URL": ready.url,
        "MODAL_TOKEN_ID": ready.token_id,
        "MODAL_TOKEN_SECRET": ready.token_secret,
        "MODAL_CONFIG_PATH": ready.config,
        "MODAL_ENVIRONMENT": "main",
        # The server is on this machine: a proxy could not find it.
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_EMULATOR_CA_FILE": ready.ca_file,
        # What a user has set for the real Modal would be mixed with the above.
        "MODAL_PROFILE": None,
        "MODAL_OAUTH_REFRESH_TOKEN": None,
        "MODAL_OAUTH_CLIENT_ID": None,
        "MODAL_OAUTH_CLIENT_SECRET": None,
        "MODAL_OAUTH_JWT_KEY": None,
        "MODAL_OVERRIDE_HEADERS": None,
    }


def serve(
    make_settings: Callable[[Path], Settings],
    work: Path | None,
    ready: Callable[[Ready], None],
    *,
    attached: bool = False,
) -> None:
    """Run a server until SIGINT or SIGTERM comes.

    Args:
        make_settings: makes the settings for a work folder.
        work: the work folder, which is made; None for a new one. It is gone afterwards, however this ends.
        ready: called when clients can connect.
        attached: end, too, when standard input does: the process that has its other end is gone.

    Raises:
        CannotServe: if the server cannot start.
    """
    remove_leftovers()
    if work is None:
        work = new_work_folder()
    else:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(work_lock(work))
            settings = make_settings(work)
            if settings.state is not None:
                try:
                    stack.enter_context(state_lock(settings.state))
                except FolderInUse as exc:
                    raise CannotServe(str(exc)) from None
                except OSError as exc:
                    raise CannotServe(
                        f"the state folder {settings.state} cannot be used: {exc.strerror}"
                    ) from exc
            asyncio.run(_serve(settings, ready, attached))
    finally:
        remove_tree(work)


async def _serve(settings: Settings, ready: Callable[[Ready], None], attached: bool) -> None:
    from .plane import ControlPlane

    # From here on: a signal while the server starts is heeded when it has.
    with _stop_signals() as stopped:
        plane = ControlPlane(settings)
        context, ca_file = _tls(settings) if settings.tls else (None, None)
        try:
            try:
                port = await plane.start(context)
            except OSError as exc:
                if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                raise CannotServe(
                    f"port {settings.port} cannot be had ({os.strerror(exc.errno).lower()}):"
                    " choose another one, or leave it out for a free one"
                ) from None
            config = settings.work / "modal.toml"
            config.touch(0o600)
            ready(
                Ready(
                    url=f"{'http' if context is None else 'https'}://127.0.0.1:{port}",
                    pid=os.getpid(),
                    token_id=settings.token_id,
                    token_secret=settings.token_secret,
                    config=str(config),
                    ca_file=ca_file,
                )
            )
            if attached:
                asyncio.get_running_loop().add_reader(0, _at_end_of_input, stopped)
            await stopped.wait()
            stopped.clear()
        finally:
            await _stop(plane.stop(), stopped)


async def _stop(stopping: Coroutine[object, object, None], again: asyncio.Event) -> None:
    """Stop in good order, but not for ever: a second signal, or too long a time, ends it."""
    stop = asyncio.create_task(stopping)
    hurry = asyncio.create_task(again.wait())
    try:
        await asyncio.wait({stop, hurry}, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            log.warning("not everything has ended in good order")
    finally:
        hurry.cancel()
        stop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stop


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    # A shell has what it runs in the background ignore Ctrl-C.
    heeded = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
    for each in heeded:
        loop.add_signal_handler(each, stopped.set)
    try:
        yield stopped
    finally:
        for each in heeded:
            loop.remove_signal_handler(each)


def _at_end_of_input(stopped: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stopped.set()


def _tls(settings: Settings) -> tuple[ssl.SSLContext, str]:
    from .tls import Authority

    authority = Authority.kept(settings.data)
    return authority.issue().context(), str(settings.data / "ca.pem")
