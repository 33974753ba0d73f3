"""Requests that no client would send."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from modal_emulator.rpc import SERVICE

PREFIXES = {
    "app": "ap", "function": "fu", "function_call": "fc", "volume": "vo", "dict": "di", "queue": "qu", "secret": "st",
    "image": "im", "mount": "mo", "class": "cs", "task": "ta", "input": "in", "blob": "bl", "environment": "en",
    "existing_function": "fu", "existing_class": "cs", "build_function": "fu", "context_mount": "mo",
    "secret_ids": "st", "mount_ids": "mo", "args_blob": "bl", "data_blob": "bl", "parent_input": "in", "object": "fu",
}  # fmt: skip
"""What the ids in a field start with, by the field's name without `_id`."""

__all__ = ["CANARY", "mutated", "request_type", "requests"]

CANARY = "canary-of-the-emulators-tests"
"""Part of every path that leads out of a folder: a file with this name shows that one was followed."""

STRINGS = (
    "",
    ".",
    "..",
    "/",
    "//",
    f"../../../../../../../../tmp/{CANARY}",
    f"/tmp/{CANARY}",
    f"a/../../../../../../../../tmp/{CANARY}",
    f"/{CANARY}",
    f"~/{CANARY}",
    "%2e%2e%2f",
    "*",
    "**",
    "a/",
    "a\nb",
    "a\0b",
    "é\u202e😀\ufffe",
    "-1",
    "nan",
    "9" * 5000,
    "٣",
    "x" * 256,
    "x/" * 2100,
    "x" * 70_000,
    "main",
    "test-everything",
    "FROM scratch",
    "$(id)",
    "'; DROP TABLE rows; --",
    "0-0",
    "1-0",
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.01, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"))
BYTES = (b"", b"\0", b"\xff\xfe", b"x" * 65, b"x" * 70_000, b"some bytes")
WIDTH = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
DEEPEST = 4


def request_type(name: str) -> type[Message]:
    return GetMessageClass(SERVICE.methods_by_name[name].input_type)


@st.composite
def requests(draw: DrawFn, name: str, ids: Sequence[str], seeds: Sequence[bytes]) -> Message:
    """A request of one RPC: a valid one with some fields changed, or one made of odd values only."""
    message = request_type(name)()
    if seeds and draw(st.sampled_from((True, False))):
        message.ParseFromString(_renewed(draw, draw(st.sampled_from(seeds)), ids))
    _fill(draw, message, ids, 0)
    return message


def _renewed(draw: DrawFn, data: bytes, ids: Sequence[str]) -> bytes:
    """A recorded request with ids of objects that are still there."""

    def other(found: re.Match[bytes]) -> bytes:
        same = [each for each in ids if each.startswith(found[0][:3].decode())]
        return draw(st.sampled_from(same)).encode() if same else found[0]

    return re.sub(rb"\b[a-z]{2}-[0-9A-Za-z]{22}(?![0-9A-Za-z])", other, data)


def _fill(draw: DrawFn, message: Message, ids: Sequence[str], depth: int) -> None:
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    chosen: list[Any] = draw(
        st.lists(st.sampled_from(fields), min_size=0 if depth else 1, max_size=4, unique_by=lambda f: f.name)
    )
    for field in chosen:
        if field.is_repeated:
            _repeat(draw, message, field, ids, depth)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            if depth < DEEPEST:
                _fill(draw, getattr(message, field.name), ids, depth + 1)
        else:
            setattr(message, field.name, draw(_scalars(field, ids)))


def _repeat(draw: DrawFn, message: Message, field: FieldDescriptor, ids: Sequence[str], depth: int) -> None:
    there: Any = getattr(message, field.name)
    if draw(st.booleans()):
        message.ClearField(field.name)
        there = getattr(message, field.name)
    count = draw(st.sampled_from((0, 1, 2, 3000)))
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[each] for each in ("key", "value"))
        for _ in range(min(count, 3)):
            drawn = draw(_scalars(key, ids))
            if value.message_type is None:
                there[drawn] = draw(_scalars(value, ids))
            elif depth < DEEPEST:
                _fill(draw, there[drawn], ids, depth + 1)
    elif field.message_type is not None:
        if depth < DEEPEST:
            one = GetMessageClass(field.message_type)()
            _fill(draw, one, ids, depth + 1)
            there.extend([one] * min(count, 3000 if one.ByteSize() < 100 else 2))
    else:
        value = draw(_scalars(field, ids))
        small = not isinstance(value, str | bytes) or len(value) < 100
        there.extend([value] * min(count, 3000 if small else 2))


def _scalars(field: FieldDescriptor, ids: Sequence[str]) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.one_of(st.sampled_from(BYTES), st.binary(max_size=20))
        prefix = PREFIXES.get(field.name.removesuffix("_id"), "")
        known = st.sampled_from(list(ids))
        if fitting := [each for each in ids if prefix and each.startswith(prefix)]:
            fits = st.sampled_from(fitting)
            return st.one_of(fits, fits, fits, fits, known, st.sampled_from(STRINGS))
        return st.one_of(
            known,
            st.sampled_from(STRINGS),
            st.sampled_from(STRINGS),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        )
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return st.sampled_from([*(v.number for v in field.enum_type.values), 99, -1])
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.one_of(st.sampled_from(FLOATS), st.floats(width=32))
    low, high = WIDTH[kind]
    return st.one_of(st.sampled_from((0, 1, 2, low, high)), st.integers(low, high))


def mutated(rng: random.Random, data: bytes, ids: Sequence[str], others: Sequence[bytes]) -> bytes:
    """A serialized message with its bytes changed, which need no longer be one."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(9):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del result[at:]
            case 2:
                result[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
            case 3:
                result[at : at + rng.randrange(20)] = b""
            case 4:
                result += _unknown(rng)
            case 5:
                result += rng.choice(others)
            case 6 if ids:  # an id of the same length in an id's place
                old, new = rng.choice(ids).encode(), rng.choice(ids).encode()
                result = bytearray(bytes(result).replace(old, new))
            case 7:
                result += b"\x0a\x04\xff\xc0\xaf\x80"  # a string that is not UTF-8
            case _:
                result += _nested(rng.choice((10, 90, 200, 5000)))
    return bytes(result)


def _unknown(rng: random.Random) -> bytes:
    """A field that no message has, or one with a length that is not there."""
    number = rng.choice((500, 19_000, 536_870_911))
    tag = _varint(number << 3 | rng.choice((0, 1, 2, 3, 5, 6, 7)))
    return tag + rng.choice((b"", b"\x01", struct.pack("<d", float("nan")), _varint(1 << 40), b"\xff" * 11))


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x0a" + _varint(len(data)) + data
        if len(data) > 100_000:
            break
    return data


def _varint(number: int) -> bytes:
    result = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        result.append(low | (0x80 if number else 0))
        if not number:
            return bytes(result)
