"""What the pool and its worker processes say to each other.

The *data* connection carries calls and outcomes; the worker's main thread reads it between groups. The *control*
connection carries small fixed-size orders that a helper thread of the worker obeys while calls run. Its end of file
means that the pool is gone.
"""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = ["CONTROL", "FLOW_ID_SIZE", "Data", "Order"]


class Data(IntEnum):
    """Messages on the data connection; each names its frames."""

    # to the worker
    GROUP = 1  # what `MessageCarrier.pack` made of a group
    SINGLE = 2  # the same, and nothing more is expected to come soon
    PROGRAM = 3  # marshal(program head, frame sizes); the frames come as a constant
    FORGET = 4  # flow id
    STOP = 5
    # from the worker
    SAID = 6  # what its `Station` sends
    PLACED = (
        7  # marshal(where the others are), then those frames of what its `Station` sends that are in no slot
    )


class Order(IntEnum):
    """Orders on the control connection, each with a flow id and a number."""

    CONSTANT = 1  # a file descriptor comes along: the program's frames; number: bytes
    GIVE_BACK = 2  # number: a group
    CREDIT = 3  # number: how many more items of the stream may be sent; 0 ends it
    RELEASE = 4  # number: a slot that nobody holds any more


FLOW_ID_SIZE = 16
CONTROL = struct.Struct(f"<B{FLOW_ID_SIZE}sQ")
