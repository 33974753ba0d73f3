"""Speaks the protocol byte by byte, as a client that does not mean well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import StreamTerminatedError
from modal_emulator import Emulator
from modal_emulator.rpc import SERVICE

__all__ = ["Answer", "RawCodec", "Wire", "headers_of", "ids_in"]

T = TypeVar("T")


class RawCodec(CodecBase):
    """Messages are the bytes that they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return message if isinstance(message, bytes) else bytes(message.SerializeToString())

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        status: None if no answer came in time.
        replies: the messages.
    """

    status: Status | None
    message: str = ""
    replies: list[bytes] = field(default_factory=list)

    @property
    def is_bug(self) -> bool:
        """Whether the server did not know what it was doing."""
        return (
            self.status in (Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS) or "has a bug" in self.message
        )


def headers_of(token: tuple[str, str]) -> dict[str, str]:
    return {
        "x-modal-token-id": token[0],
        "x-modal-token-secret": token[1],
        "x-modal-python-version": "3.12.1",
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
    }


class Wire:
    """A connection to a server."""

    def __init__(self, server: Emulator, headers: Mapping[str, str] | None = None) -> None:
        address = urlsplit(server.url)
        self._loop = asyncio.new_event_loop()
        self._address = (address.hostname, address.port)
        self.headers = dict(headers_of(server.token) if headers is None else headers)
        self._channel = self._connect()

    def _connect(self) -> Channel:
        async def connect() -> Channel:
            return Channel(*self._address, codec=RawCodec())

        return self.run(connect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def call(self, name: str, request: Message | bytes, seconds: float = 10.0) -> Answer:
        return self.run(self._call(name, request, seconds))

    def ask(self, name: str, request: Message, seconds: float = 30.0) -> Any:
        """The reply to a call that has to work."""
        answer = self.call(name, request, seconds)
        assert answer.status is Status.OK, answer
        return _reply_type(name).FromString(answer.replies[0])

    def all(
        self, calls: Iterable[tuple[str, Message | bytes]], seconds: float = 10.0, at_once: int = 16
    ) -> list[tuple[str, bytes, Answer]]:
        """Make many calls, several at a time."""

        async def work() -> list[tuple[str, bytes, Answer]]:
            waiting, done = iter(calls), []

            async def worker() -> None:
                for name, request in waiting:
                    data = request if isinstance(request, bytes) else request.SerializeToString()
                    done.append((name, data, await self._call(name, data, seconds)))

            await asyncio.gather(*(worker() for _ in range(at_once)))
            return done

        return self.run(work())

    async def _call(self, name: str, request: Message | bytes, seconds: float) -> Answer:
        method = SERVICE.methods_by_name[name]
        kind = Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY
        replies: list[bytes] = []
        try:
            async with asyncio.timeout(seconds):
                async with self._channel.request(
                    f"/{SERVICE.full_name}/{name}", kind, bytes, bytes, metadata=self.headers
                ) as stream:
                    await stream.send_message(request, end=True)  # type: ignore[arg-type]
                    while (reply := await stream.recv_message()) is not None:
                        replies.append(reply)
        except TimeoutError:
            return Answer(None, replies=replies)
        except GRPCError as exc:
            return Answer(exc.status, exc.message or "", replies)
        except (StreamTerminatedError, ConnectionError, AttributeError) as exc:
            # An AttributeError is what grpclib makes of a connection that broke off before it asked.
            return Answer(Status.UNAVAILABLE, repr(exc), replies)
        return Answer(Status.OK, replies=replies)


def _reply_type(name: str) -> type[Message]:
    return GetMessageClass(SERVICE.methods_by_name[name].output_type)


def ids_in(messages: Iterable[bytes], newest: int = 5) -> list[str]:
    """The ids of objects that serialized messages mention, of each kind the last few: those before may be gone."""
    found: dict[str, dict[str, None]] = {}
    for data in messages:
        for each in re.findall(rb"\b[a-z]{2}-[0-9A-Za-z]{22}(?![0-9A-Za-z])", data):
            found.setdefault(each[:2].decode(), {}).setdefault(each.decode())
    return [each for kind in found.values() for each in list(kind)[-newest:]]
