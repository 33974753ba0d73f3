"""The pages of a server: what modal.com is to the real one.

On one somebody says yes to a new token, in the flow of `modal token new`. The address of an app leads to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Flow", "Pages"]

LIFETIME = 600.0  # seconds in which a flow has to be approved
AT_MOST = 100  # flows at a time: anybody may begin one
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that look alike

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>modal-emulator</title>
<style>body {{ font: 1.1rem/1.5 sans-serif; max-width: 34rem; margin: 4rem auto; padding: 0 1rem }}
code {{ font-size: 1.6rem; letter-spacing: .1em }} button {{ font: inherit; padding: .5rem 1.5rem }}</style>
<h1>modal-emulator</h1>{body}</html>
"""
QUESTION = """<p>A program on this machine asks for a token of the workspace <b>{workspace}</b>. It shows this code:</p>
<p><code>{code}</code></p>
<form method="post"><input type="hidden" name="code" value="{code}"><button>approve</button></form>
<p>Approve it only if you see the code in your own terminal.</p>
"""


@dataclass(eq=False, slots=True)
class Flow:
    """A program that waits for a token.

    Attributes:
        id: what the page's address ends in; whoever does not know it cannot approve.
        code: what the person compares.
        wait_secret: what the program has to present to get the token.
        expires_in: for how many seconds the token is to be valid; 0 for no end.
        approved: set when the person has said yes.
    """

    expires_in: int
    id: str = field(default_factory=lambda: "tf-" + secrets.token_urlsafe(24))
    code: str = field(default_factory=lambda: "".join(secrets.choice(LETTERS) for _ in range(8)))
    wait_secret: str = field(default_factory=lambda: "ws-" + secrets.token_urlsafe(24))
    until: float = field(default_factory=lambda: time.monotonic() + LIFETIME)
    approved: asyncio.Event = field(default_factory=asyncio.Event)


class Pages:
    """The pages, on a loopback port of their own, and the flows that are under way."""

    def __init__(self, workspace: str) -> None:
        self._workspace = workspace
        self._flows: dict[str, Flow] = {}
        self._runner: web.AppRunner | None = None
        self.url = ""

    def begin(self, expires_in: int) -> tuple[Flow, str]:
        """A new flow, and the address of its page."""
        self._forget_old()
        while len(self._flows) >= AT_MOST:
            del self._flows[next(iter(self._flows))]
        flow = Flow(expires_in)
        self._flows[flow.id] = flow
        return flow, f"{self.url}/token-flow/{flow.id}"

    def flow(self, flow_id: str, wait_secret: str) -> Flow | None:
        """The flow of these, if there is one."""
        self._forget_old()
        flow = self._flows.get(flow_id)
        same = compare_digest(flow.wait_secret.encode() if flow else b"", wait_secret.encode())
        return flow if same else None

    def end(self, flow: Flow) -> bool:
        """Take a flow out; False if it was not there, so that of those who wait only one gets a token."""
        return self._flows.pop(flow.id, None) is not None

    async def open(self) -> None:
        """Serve; `url` says where."""
        from aiohttp import web

        app = web.Application(client_max_size=4096)
        app.router.add_get("/token-flow/{id}", self._show)
        app.router.add_post("/token-flow/{id}", self._approve)
        app.router.add_get(r"/apps/{id:ap-\w+}", self._app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop serving. Those who wait for a flow are left to time out."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _forget_old(self) -> None:
        now = time.monotonic()
        for flow in [flow for flow in self._flows.values() if flow.until < now]:
            del self._flows[flow.id]

    async def _show(self, request: web.Request) -> web.Response:
        flow = self._find(request)
        return _page(QUESTION.format(workspace=html.escape(self._workspace), code=html.escape(flow.code)))

    async def _approve(self, request: web.Request) -> web.Response:
        flow = self._find(request)
        form = await request.post()
        if not compare_digest(str(form.get("code", "")).encode(), flow.code.encode()):
            return _page("<p>This is not the code that the program shows.</p>", status=403)
        flow.approved.set()
        return _page("<p>Approved. You can close this page; the program goes on.</p>")

    async def _app(self, request: web.Request) -> web.Response:
        app_id = html.escape(request.match_info["id"])
        return _page(f"<p>What this app prints is shown by</p><pre>modal app logs {app_id}</pre>")

    def _find(self, request: web.Request) -> Flow:
        from aiohttp import web

        if not _is_ours(request):
            # Any user of this machine can begin a flow: to approve one takes the user whose server this is.
            raise web.HTTPForbidden(text="This page is for the user who runs modal-emulator.")
        self._forget_old()
        flow = self._flows.get(request.match_info["id"])
        if flow is None:
            raise web.HTTPNotFound(text="This login is unknown, too old, or done.")
        return flow


def _page(body: str, status: int = 200) -> web.Response:
    from aiohttp import web

    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self';"
        " frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }
    return web.Response(text=PAGE.format(body=body), status=status, content_type="text/html", headers=headers)


def _is_ours(request: web.Request) -> bool:
    """Whether the other end of a connection belongs to the user of this process, or to root, and not to a container."""
    if request.transport is None:
        return False
    peer, own = (request.transport.get_extra_info(name) for name in ("peername", "sockname"))
    found = _owner(peer, own)
    return found is not None and found[0] in (os.geteuid(), 0) and not _is_in_a_container(found[1])


def _owner(peer: tuple[str, int], own: tuple[str, int]) -> tuple[int, str] | None:
    """The user whose socket at `peer` is connected to ours at `own`, and its inode; both are on this machine."""
    wanted = [_kernel_address(peer), _kernel_address(own)]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[1:3] == wanted:
            return int(columns[7]), columns[9]
    return None


def _is_in_a_container(inode: str) -> bool:
    """Whether a process that came of this one has the socket: containers are on this machine's network, too."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    for pid in parents:
        above = pid
        while above in parents and above != str(os.getpid()):
            above = parents[above]
        if above != str(os.getpid()) or pid == above:
            continue
        try:
            for descriptor in Path("/proc", pid, "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if os.readlink(descriptor) == f"socket:[{inode}]":  # noqa: PTH115
                        return True
        except FileNotFoundError:
            continue
        except PermissionError:
            return True  # who can tell
    return False


def _kernel_address(address: tuple[str, int]) -> str:
    """An IPv4 address and port as /proc/net/tcp has it: a number of this machine's byte order, in hex."""
    return f"{int.from_bytes(socket.inet_aton(address[0]), sys.byteorder):08X}:{address[1]:04X}"
