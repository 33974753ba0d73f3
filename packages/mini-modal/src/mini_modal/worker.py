"""What runs in a container: a responder, and the way of messages to it and back."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import mmap
import os
import tempfile
from collections import OrderedDict, deque
from functools import partial
from pathlib import Path
from typing import Any

import modal
from mini.answering import Answer, News, Responder
from mini.local.pool import ProcessPool
from mini.wire import Frames, split_frames
from modal.experimental import set_local_input_concurrency

from .gate import VolumeGate
from .messages import INSIDE, LARGEST_ENTRY, LARGEST_ITEM, Claim, Parcel, Setup
from .patience import Patience

__all__ = ["Host"]

ORDERS_AFTER, LONE_ORDERS_AFTER = 0.05, 0.2
"""Seconds that a group must have run before orders for it are listened to. A lone call has nothing to give back, and
can only be ended; streams are ordered about at once."""
MOST_ITEMS = 100
"""Items that a queue takes at once."""
MOST_PROGRAMS = 16
MOST_BEGUN = 1000


class Host:
    """The container's part: takes parcels, has a responder run them, answers.

    Args:
        setup: what it shares with the caller.
    """

    def __init__(self, setup: Setup) -> None:
        os.environ[INSIDE] = "1"
        self._loop = asyncio.get_running_loop()
        self._news = modal.Queue.from_id(setup.news)
        self._orders = modal.Queue.from_id(setup.orders)
        self._claims = modal.Dict.from_id(setup.claims)
        self._volume = modal.Volume.from_id(setup.volume)
        self._gate = VolumeGate(self._volume, Path(setup.mount))
        self._patience = Patience()
        self._begun: deque[int] = deque(maxlen=MOST_BEGUN)
        """The last groups that were claimed here."""
        self._listening: dict[int, asyncio.Task[None]] = {}
        self._programs: OrderedDict[str, Frames] = OrderedDict()
        """What came through the volume of those that are kept, by flow."""
        self._responder = Responder(ProcessPool(1, self._gate.variables), self._tell)
        self._relay = self._responder.relay

    async def begin(self) -> None:
        """Open the gate to the volume; before the first call."""
        # Modal itself would have a second input come early where many wait, and a long call would hold it up.
        set_local_input_concurrency(1)
        await self._gate.open()

    async def call(self, data: bytes) -> bytes:
        """Run a group; returns what comes of it, or nothing if another call runs it."""
        parcel = Parcel.unpack(data)
        set_local_input_concurrency(2 if parcel.quick else 1)
        # A container that dies takes along what waits in it, unless that is claimed: so it waits before.
        async with self._gate.around() as reload:
            if (fault := await self._claim(parcel, reload=reload)) is not None:
                return fault
            # What Modal's client raises where the caller is has to be about the way there and nothing else.
            try:
                return await self._run(parcel)
            except Exception as exc:
                return Answer(0, [], f"its container had a problem: {type(exc).__name__}: {exc}").pack()

    async def _claim(self, parcel: Parcel, *, reload: bool) -> bytes | None:
        """Have nobody else run a group, unless somebody does: then, what to answer."""
        group = marshal.loads(parcel.message[0])[0][0]
        # Modal runs the input of a container that died again, in another one, and a caller whose call was cut off may
        # have made it again: whoever comes second leaves it alone.
        mine: Claim = (modal.current_function_call_id() or "", os.environ.get("MODAL_TASK_ID", ""))
        claim = self._patience.ask(partial(self._claims.put.aio, str(group), mine, skip_if_exists=True))
        if reload:
            claimed, _ = await asyncio.gather(claim, self._gate.reload())
        else:
            claimed = await claim
        if not claimed:
            first: Claim = tuple(await self._claims.get.aio(str(group)))
            # If Modal's answer was lost the client has asked again, and what was in the way is our own.
            if first != mine or group in self._begun:
                return Answer(0, [], "its container died").pack() if first[0] == mine[0] else b""
        self._begun.append(group)
        return None

    async def _run(self, parcel: Parcel) -> bytes:
        """Run a group that is claimed; returns what comes of it."""
        packed, head, _, keep = marshal.loads(parcel.message[0])
        group, flow, _, count, _ = packed
        message = parcel.message
        frames: Frames = []
        if parcel.constant:
            frames = self._programs.get(flow) or await self._fetch(parcel.constant)
            message = [message[0], *frames, *message[1:]]
        if keep:
            self._remember(flow, frames)
        stream = head is not None and head[1] == "stream"
        after = 0.0 if stream else ORDERS_AFTER if count > 1 else LONE_ORDERS_AFTER
        obedience = self._loop.call_later(after, self._listen, group, flow)
        try:
            (answer,) = await self._respond(message)
        finally:
            obedience.cancel()
            if (listening := self._listening.pop(group, None)) is not None:
                listening.cancel()
        if self._gate.passed:
            await self._gate.commit()
        return answer.pack()

    def _respond(self, message: Frames) -> asyncio.Future[list[Answer]]:
        # Without a thread that waits: waking it, and having it wake this one, takes as long as a call.
        answers: asyncio.Future[list[Answer]] = self._loop.create_future()

        def resolve(found: list[Answer]) -> None:
            if not answers.done():  # else nobody waits for it any more
                answers.set_result(found)

        def done(found: list[Answer]) -> None:
            with contextlib.suppress(RuntimeError):  # the container is at its end
                self._loop.call_soon_threadsafe(resolve, found)

        self._responder.start([message], done)
        return answers

    def close(self) -> None:
        self._responder.close()
        self._gate.close()

    def _remember(self, flow: str, frames: Frames) -> None:
        self._programs[flow] = frames
        self._programs.move_to_end(flow)
        while len(self._programs) > MOST_PROGRAMS:
            self._relay.forget(self._programs.popitem(last=False)[0])

    async def _fetch(self, path: str) -> Frames:
        """The frames of a program that is in the volume.

        Not from where it is mounted: an open file would keep it from being reloaded, and a new one is not there before.
        """
        with tempfile.TemporaryFile() as file:
            async for part in self._volume.read_file.aio(path):
                file.write(part)
            file.flush()
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return split_frames(memoryview(memory), writable=False)

    def _listen(self, group: int, flow: str) -> None:
        """A group runs for a while: there may be orders about it."""
        self._listening[group] = self._loop.create_task(self._obey(group, flow))

    async def _obey(self, group: int, flow: str) -> None:
        # What goes wrong here goes wrong for the group as well, and is told about there.
        with contextlib.suppress(Exception):
            while True:
                order: Any = await self._orders.get.aio(partition=f"g{group}")
                match order:
                    case ("give back",):
                        self._relay.give_back(group)
                    case ("credit", int(count)):
                        self._relay.credit(flow, count)
                    case ("doom", float(grace)):
                        self._relay.doom(flow, grace)

    def _tell(self, news: list[News]) -> None:
        """Put news into the queue; in the responder's thread."""
        asyncio.run_coroutine_threadsafe(self._put(news), self._loop).result()

    async def _put(self, news: list[News]) -> None:
        items = []
        for group, number, message in news:
            parts = 0
            if len(message) > LARGEST_ITEM:
                for parts, begin in enumerate(range(0, len(message), LARGEST_ENTRY), 1):
                    part = message[begin : begin + LARGEST_ENTRY]
                    await self._claims.put.aio(f"{group}/{number}/{parts}", part)
                message = b""
            items.append((group, number, message, parts))
        # Those that are small enough go together: a request takes longer than what is in it.
        while items:
            size, count = 0, 0
            for _, _, message, _ in items[:MOST_ITEMS]:
                size += len(message)
                if size > LARGEST_ITEM and count:
                    break
                count += 1
            await self._news.put_many.aio(items[:count])
            del items[:count]
