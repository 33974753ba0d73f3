"""What a caller and the containers say to each other, beside the messages of `mini.adapter`.

A group goes to a container as the argument of a Modal call, and what comes of it comes back as the call's result. What
cannot wait for that goes through two queues: *news*, from the containers to the caller, and *orders*, from the caller
to the container that runs a group, each group in a partition of its own.
"""

from __future__ import annotations

import marshal
from dataclasses import dataclass
from typing import Any

from mini.wire import Frames, join_frames, split_frames

__all__ = ["INSIDE", "LARGEST_ENTRY", "LARGEST_ITEM", "TAKEN_BACK", "Claim", "Order", "Parcel", "Setup"]

INSIDE = "MINI_MODAL_CONTAINER"
"""A variable that is set where calls run."""
LARGEST_ITEM = 900 * 1024
"""Bytes that an item of a queue may have; Modal takes 1 MiB."""
LARGEST_ENTRY = 64 << 20
"""Bytes that an entry of a dict may have; Modal takes 100 MiB."""

Claim = tuple[str, str]
"""Who runs a group: the ids of the Modal call, and of the container. Under the group's number in the dict of claims."""
TAKEN_BACK: Claim = ("", "")
"""The claim of the caller itself: nobody is to run it."""

Order = tuple[Any, ...]
"""("give back",), ("credit", count) or ("doom", grace): the methods of `mini.adapter.Relay`."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A group on its way to a container.

    Attributes:
        message: of `MessageCarrier.pack`. If there is a `constant`, without the frames of the program.
        constant: name of the file in the volume that has them, joined; empty if there is none.
        quick: the container should get the next group before it is done with this one.
    """

    message: Frames
    constant: str = ""
    quick: bool = False

    def pack(self) -> bytes:
        return join_frames([marshal.dumps((self.constant, self.quick)), *self.message])

    @classmethod
    def unpack(cls, data: bytes) -> Parcel:
        head, *message = split_frames(data)
        return cls(message, *marshal.loads(head))


@dataclass(frozen=True, slots=True)
class Setup:
    """What a container has to know: names of what it shares with the caller.

    Attributes:
        news, orders, claims: ids of two queues and of the dict in which each group is claimed by who runs it.
        mount: where the volume is.
    """

    news: str
    orders: str
    claims: str
    volume: str
    mount: str
