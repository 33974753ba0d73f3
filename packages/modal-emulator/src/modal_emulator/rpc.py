"""How a remote procedure call finds its handler, and what is refused on the way there.

A service marks its handlers with `@rpc`, giving the request's fields that it reads and those that make no difference
here (`moot`). A field that is set and named in neither is refused: a program that asks for something gets it, or is
told. Nested messages are declared with `declare`. Whatever no service handles answers UNIMPLEMENTED.
"""

from __future__ import annotations

import errno
import inspect
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError
from modal_proto import api_pb2

if TYPE_CHECKING:
    from grpclib.server import Stream

    from .containers import Container

__all__ = ["Caller", "Router", "declare", "fail", "rpc", "snake"]

log = logging.getLogger(__name__)

Authorize = Callable[[str, Mapping[str, str]], "Caller"]
F = TypeVar("F", bound=Callable[..., Any])

LARGEST_REQUEST = 128 << 20
"""Bytes. An entry of a Dict may have 100 MiB; what else is large travels over HTTP."""
LONGEST_MESSAGE = 2000
"""Characters of an error's message. It is sent as a header, and a client hangs up on headers that are too long."""
LAST_SECOND = 60 * 10**9
"""Of times in requests, since or before the epoch: some 1900 years."""
REAL = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)

SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a container of ours, or a client.

    Attributes:
        container: the container whose socket the call came in by; None for a client.
        metadata: the call's headers.
    """

    container: Container | None
    metadata: Mapping[str, str]

    @property
    def python(self) -> str:
        """The minor version of the caller's Python, such as "3.12"; empty if it did not say."""
        return ".".join(self.metadata.get("x-modal-python-version", "").split(".")[:2])

    @property
    def client_version(self) -> str:
        return self.metadata.get("x-modal-client-version", "")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a message that are read, and those that make no difference here."""

    known: frozenset[str]

    @classmethod
    def of(cls, reads: str, moot: str) -> Fields:
        return cls(frozenset((reads + " " + moot).split()))


_nested: dict[Any, Fields] = {}  # by descriptor


def declare(message: type[Message], reads: str = "", moot: str = "") -> None:
    """Say which fields of a nested message are honoured; those of one that is not declared all are."""
    names = Fields.of(reads, moot)
    unknown = names.known - set(message.DESCRIPTOR.fields_by_name)
    # An older client's protocol lacks what a newer one's has; a slip of the pen is caught by the tests.
    _nested[message.DESCRIPTOR] = Fields(names.known - unknown)


def rpc(reads: str = "", moot: str = "", partial: str = "") -> Callable[[F], F]:
    """Mark a method as the handler of the RPC of its name: `volume_put_files2` handles VolumePutFiles2.

    The handler takes (request, caller) and returns the response, or is an async generator of responses for RPCs that
    stream.

    Args:
        reads: names of the request's fields that are honoured, separated by blanks.
        moot: names of those that make no difference here.
        partial: what is missing, for docs/reference/emulator-coverage.md; empty if nothing is.
    """

    def mark(function: F) -> F:
        function.__rpc__ = (Fields.of(reads, moot), partial)  # type: ignore[attr-defined]
        return function

    return mark


def snake(name: str) -> str:
    """FunctionGetOutputs -> function_get_outputs, VolumePutFiles2 -> volume_put_files2."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def fail(status: Status, message: str) -> NoReturn:
    raise GRPCError(status, message)


class Router:
    """The table of all RPCs of Modal's protocol for grpclib, over the handlers of our services.

    Args:
        lost: RPCs whose first answer to each container is lost: they are done, and that is not known there.

    Attributes:
        handlers: what is there, by the RPC's name.
        counts: how often each RPC was called.
        strangers: handlers of RPCs that the protocol does not have.
    """

    def __init__(self, services: Iterable[object], *, lenient: bool, lost: Collection[str] = ()) -> None:
        self.lenient = lenient
        self._lost = lost
        self._losers: set[tuple[str, str]] = set()
        self.handlers: dict[str, Callable[[Any, Caller], Any]] = {}
        self.counts: dict[str, int] = {}
        self.strangers: list[str] = []
        self._fields: dict[Any, Fields] = {}  # by descriptor
        self._said: set[str] = set()
        by_snake = {snake(method.name): method for method in SERVICE.methods}
        for service in services:
            for name, function in inspect.getmembers(service, lambda member: hasattr(member, "__rpc__")):
                if name not in by_snake:
                    # An older client's protocol lacks what a newer one's has.
                    self.strangers.append(f"{type(service).__name__}.{name}")
                    continue
                method = by_snake[name]
                self.handlers[method.name] = function
                self._fields[method.input_type] = function.__rpc__[0]

    def mapping(self, authorize: Authorize) -> dict[str, Handler]:
        """grpclib's table of handlers; `authorize` makes a Caller of an RPC's name and headers, or raises GRPCError."""
        return {
            f"/{SERVICE.full_name}/{method.name}": Handler(
                self._handler(method.name, authorize),
                Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY,
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
            )
            for method in SERVICE.methods
        }

    def _handler(self, name: str, authorize: Authorize) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
        function = self.handlers.get(name)
        request_type = GetMessageClass(SERVICE.methods_by_name[name].input_type)

        async def handle(stream: Stream[Any, Any]) -> None:
            self.counts[name] = self.counts.get(name, 0) + 1
            caller = authorize(name, stream.metadata)  # type: ignore[arg-type]  # a MultiDict of headers
            if function is None:
                fail(Status.UNIMPLEMENTED, f"modal-emulator does not do {name}")
            request = await _receive(stream, request_type)
            try:
                self._check(request, name)
                answer = function(request, caller)
                if isinstance(answer, AsyncIterator):
                    async for message in answer:
                        await stream.send_message(message)
                else:
                    response = await answer
                    if name in self._lost:
                        self._lose(name, caller)
                    await stream.send_message(response)
            except GRPCError as exc:
                if exc.message is not None and len(exc.message) > LONGEST_MESSAGE:
                    raise GRPCError(exc.status, exc.message[:LONGEST_MESSAGE] + "…", exc.details) from None
                raise
            except StreamTerminatedError:
                raise
            except Exception as exc:
                if isinstance(exc, OSError) and exc.errno in FULL:
                    raise GRPCError(
                        Status.RESOURCE_EXHAUSTED, f"this machine is out of something: {exc.strerror}"
                    ) from exc
                log.exception("%s failed", name)
                raise GRPCError(
                    Status.INTERNAL, f"modal-emulator has a bug in {name}: {type(exc).__name__}: {exc}"
                ) from exc

        return handle

    def _lose(self, name: str, caller: Caller) -> None:
        if caller.container is not None and (name, caller.container.id) not in self._losers:
            self._losers.add((name, caller.container.id))
            fail(Status.UNAVAILABLE, "the answer is lost on its way")

    def _check(self, message: Message, path: str) -> None:
        """Refuse what is set in `message` and would have no effect, and numbers that are none."""
        descriptor = message.DESCRIPTOR
        fields = self._fields.get(descriptor) or _nested.get(descriptor)
        if isinstance(message, Timestamp) and not (
            abs(message.seconds) <= LAST_SECOND and 0 <= message.nanos < 10**9
        ):
            fail(Status.INVALID_ARGUMENT, f"{path} is no time")
        for field, value in message.ListFields():
            name = f"{path}.{field.name}"
            if fields is not None and field.name not in fields.known:
                self._refuse(name)
            elif field.message_type is not None:
                if field.message_type.GetOptions().map_entry:
                    value = value.values() if field.message_type.fields_by_name["value"].message_type else ()
                for inner in value if field.is_repeated else (value,):
                    self._check(inner, name)
            elif field.cpp_type in REAL and not all(
                map(math.isfinite, value if field.is_repeated else (value,))
            ):
                # A wait of NaN seconds is over at once and never comes to its end.
                fail(Status.INVALID_ARGUMENT, f"{name} is not a finite number")

    def _refuse(self, name: str) -> None:
        if not self.lenient:
            fail(
                Status.UNIMPLEMENTED,
                f"modal-emulator does not honour {name}; start it with --lenient to go on without",
            )
        if name not in self._said:
            self._said.add(name)
            log.warning("%s is ignored", name)


async def _receive(stream: Stream[Any, Any], message: type[Message]) -> Message:
    """The request of a call: as grpclib's `recv_message`, with a limit, and answers to what is malformed."""
    body = stream._stream
    try:
        head = await body.recv_data(5)
        if len(head) != 5:
            fail(Status.INVALID_ARGUMENT, "there is no request")
        size = int.from_bytes(head[1:], "big")
        if head[0]:
            fail(Status.UNIMPLEMENTED, "modal-emulator does not do compressed messages")
        if size > LARGEST_REQUEST:
            fail(
                Status.RESOURCE_EXHAUSTED,
                f"a request of {size} bytes, of which {LARGEST_REQUEST} are allowed",
            )
        return message.FromString(await body.recv_data(size))
    except (DecodeError, AssertionError):  # an AssertionError: fewer bytes came than were announced
        fail(Status.INVALID_ARGUMENT, f"this is no {message.DESCRIPTOR.name}")
