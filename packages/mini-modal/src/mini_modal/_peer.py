"""A look at who answers in a server's place, to name the CA that is not trusted.

Python's certificate errors do not say who signed. A connection of its own that checks nothing shows it: nothing is sent
over it, and nothing that is read from it is believed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

__all__ = ["Peer", "look"]

LOOK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Peer:
    """What a server presents.

    Attributes:
        issuer: who signed its certificate, for people; "" if that cannot be read.
        protocol: what it chose of HTTP/2 and HTTP/1, as ALPN calls them; None if it did not choose.
    """

    issuer: str
    protocol: str | None


async def look(host: str, port: int) -> Peer | None:
    """What the server, or who answers in its place, presents; None if it cannot be reached."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            transport = await _connect(host, port)
    except Exception:
        return None
    try:
        connection: ssl.SSLObject = transport.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True)
        return Peer(issuer_of(der or b""), connection.selected_alpn_protocol())
    finally:
        transport.abort()


async def _connect(host: str, port: int) -> asyncio.Transport:
    from modal._utils.proxy_support import create_proxied_connection, get_proxy_url

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    proxy = get_proxy_url(host, use_ssl=True)
    if proxy is None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(_Silent, host, port, ssl=context)
        return transport
    protocol = await create_proxied_connection(_Silent, host, port, proxy_url=proxy, ssl_context=context)
    return cast(_Silent, protocol).transport


class _Silent(asyncio.Protocol):
    """Says nothing and hears nothing."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)


# --- as much of X.509 as it takes to read an issuer -----------------------------------------------------------------

COMMON_NAME, ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")


def issuer_of(certificate: bytes) -> str:
    """The name of who signed a certificate, which is in DER; "" if it cannot be read."""
    try:
        ((_, whole),) = _items(certificate)
        fields = [body for tag, body in _items(next(_items(whole))[1]) if tag != 0xA0]  # A0: the version
        names = {}
        for _, relative in _items(fields[2]):  # after the serial number and the algorithm
            for _, pair in _items(relative):
                (_, kind), (tag, text) = _items(pair)
                names[kind] = text.decode("utf-16-be" if tag == 0x1E else "utf-8", "replace")
    except (ValueError, IndexError, StopIteration):
        return ""
    found = [names[kind] for kind in (COMMON_NAME, ORGANIZATION) if names.get(kind)]
    # It is anybody's text, and goes to a terminal.
    return " of ".join("".join(filter(str.isprintable, name))[:80] for name in dict.fromkeys(found))


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each item."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size])
            at += size
        if at + length > len(der):
            raise ValueError("cut short")
        yield tag, der[at : at + length]
        at += length
