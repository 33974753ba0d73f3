"""One container of a function, as the control plane sees it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

if TYPE_CHECKING:
    from .lines import Lines
    from .runtime import Process
    from .services.calls import Input
    from .services.functions import Function
    from .volumes.working import Attachment

__all__ = ["AT_ONCE", "Container", "Pool"]

CANCEL_GRACE = 5.0
"""Seconds that an input has to end after it was cancelled or timed out, before its container is killed."""
EXIT_GRACE = 30.0
"""Seconds that a container has for its exit hooks; Modal gives as much."""


AT_ONCE = max(2, len(os.sched_getaffinity(0)))
"""Containers that a function may have at once when it is called; more come if inputs go on waiting."""


@dataclass(eq=False, slots=True)
class Pool:
    """The containers of a function, and its inputs that wait for one.

    Attributes:
        allowed: how many containers it may have now, of as many as it may have at all.
        crashes: containers in a row that ended before they had asked for an input.
        not_before: when the next one may be started, on the monotonic clock.
    """

    function: Function
    pending: deque[Input] = field(default_factory=deque)
    containers: list[Container] = field(default_factory=list)
    allowed: int = AT_ONCE
    crashes: int = 0
    not_before: float = 0.0
    again: asyncio.TimerHandle | None = None


@dataclass(eq=False, slots=True)
class Container:
    """
    Attributes:
        id: of the task, as Modal calls it.
        revision: of the function's definition that it was started with.
        lines: what it writes goes through.
        inputs: those that it runs, by id.
        waiting: the FunctionGetInputs of it that wait for an input.
        ready: whether it has asked for an input.
        single_use: it runs one input only.
        retiring: it gets no more inputs.
        failure: what it said of its own failure to start.
        result: how it has ended, if it has.
        cause: why it was killed, if it was.
        dropped: inputs that were cancelled or timed out and have not ended.
    """

    id: str
    pool: Pool
    revision: int
    process: Process | None = None
    attachment: Attachment | None = None
    lines: Lines | None = None
    inputs: dict[str, Input] = field(default_factory=dict)
    waiting: list[asyncio.Future[Input | None]] = field(default_factory=list)
    ready: bool = False
    retiring: bool = False
    single_use: bool = False
    enqueued_at: float = field(default_factory=time.time)
    started_at: float = 0.0
    finished_at: float = 0.0
    failure: api_pb2.GenericResult | None = None
    result: api_pb2.GenericResult | None = None
    cause: str = ""
    dropped: set[str] = field(default_factory=set)
    idle: asyncio.TimerHandle | None = None
    cancels: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        definition = self.function.definition
        self.single_use = definition.single_use_containers or definition.max_inputs == 1

    @property
    def function(self) -> Function:
        return self.pool.function

    @property
    def busy(self) -> int:
        """Inputs that it runs, those that nobody waits for any more included."""
        return len(self.inputs) + len(self.dropped)

    @property
    def usable(self) -> bool:
        """Whether it may get more inputs."""
        return not self.retiring and not self.ended.is_set()

    @property
    def at_work_on(self) -> tuple[str, str]:
        """The ids of the call and the input that it runs, as far as there is only one; else empty strings."""
        if len(self.inputs) == 1:
            (item,) = self.inputs.values()
            return item.call.id, item.id
        calls = {item.call.id for item in self.inputs.values()}
        return (calls.pop() if len(calls) == 1 else ""), ""

    def give(self, item: Input) -> bool:
        """Hand an input to a FunctionGetInputs that waits; False if none does."""
        while self.waiting:
            future = self.waiting.pop(0)
            if not future.done():
                self.take(item)
                future.set_result(item)
                return True
        return False

    def take(self, item: Input) -> None:
        item.container = self
        self.inputs[item.id] = item

    def retire(self) -> None:
        """Let it end: it gets no more inputs and runs its exit hooks when it has finished."""
        if self.retiring:
            return
        self.retiring = True
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()
        if not self.ready and self.process is not None:
            self.process.kill()  # it has not begun, so there is nothing to end
        if not self.busy:
            self._kill_after(EXIT_GRACE)

    def done(self, input_id: str) -> Input | None:
        """An input has ended in it; None if nobody waits for that one any more."""
        item = self.inputs.pop(input_id, None)
        self.dropped.discard(input_id)
        if self.retiring and not self.busy:
            self._kill_after(EXIT_GRACE)
        return item

    def cancel_input(self, item: Input) -> None:
        """Interrupt an input whose result nobody wants."""
        if self.inputs.pop(item.id, None) is not None:
            self.dropped.add(item.id)
            self.cancels.set()
            loop = asyncio.get_running_loop()
            loop.call_later(CANCEL_GRACE, self._kill_if_dropped, item.id)

    def interrupt(self) -> None:
        """Have it stop what it runs, and end."""
        self.retire()
        if self.process is not None and self.busy:
            self.process.interrupt()
            self._kill_after(CANCEL_GRACE)

    def kill(self, cause: str) -> None:
        """End it at once."""
        self.cause = self.cause or cause
        self.retiring = True
        if self.process is not None:
            self.process.kill()

    def _kill_if_dropped(self, input_id: str) -> None:
        if input_id in self.dropped:
            self.kill("an input did not end when it was cancelled")

    def _kill_after(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.kill, "it did not end in time")
