"""What runs in a container: a relay, and the way of messages to it and back."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import mmap
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import modal
from mini.adapter import Relay
from mini.local.pool import ProcessPool
from mini.wire import Frames, join_frames, split_frames
from modal.experimental import set_local_input_concurrency

from .messages import INSIDE, LARGEST_ITEM, Answer, Parcel, Setup

__all__ = ["Host"]

ORDERS_AFTER = 0.05
"""Seconds that a group must have run before orders for it are listened to; streams are ordered about at once."""
NEWS_AFTER = 0.25
"""Seconds that a group must have run before there is news of it; shorter ones say everything at their end."""
NEWS_EVERY = 0.1
MOST_PROGRAMS = 16


class Running:
    """A group that runs.

    Attributes:
        messages: what the relay has said and nobody has been told.
        news: how many pieces of news have gone through the queue.
    """

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.messages: list[bytes] = []
        self.news = 0
        self.said = asyncio.Event()


class Host:
    """The container's part: takes parcels, has a relay run them, answers.

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
        self._mount = Path(setup.mount)
        self._running: dict[int, Running] = {}
        self._programs: OrderedDict[str, None] = OrderedDict()
        self._relay = Relay(ProcessPool(1, {}), self._said)

    async def call(self, data: bytes) -> bytes:
        """Run a group; returns what comes of it. Raises nothing that a call raises."""
        parcel = Parcel.unpack(data)
        set_local_input_concurrency(2 if parcel.quick else 1)
        packed, head, _, keep = marshal.loads(parcel.message[0])
        group, flow = packed[0], packed[1]
        stream = head is not None and head[1] == "stream"
        # Modal runs the input of a container that died again, in another one: whoever comes second leaves it alone.
        claimed, _ = await asyncio.gather(
            self._claims.put.aio(group, True, skip_if_exists=True), self._reload()
        )
        if not claimed:
            return Answer(0, [], "its container died").pack()
        message = parcel.message
        if parcel.constant:
            message = [message[0], *await asyncio.to_thread(self._constant, parcel), *message[1:]]
        if keep:
            self._remember(flow)
        running = self._running[group] = Running(stream=stream)
        helpers = [
            asyncio.create_task(self._obey(group, flow, running)),
            asyncio.create_task(self._tell(group, running)),
        ]
        fault = ""
        try:
            await asyncio.to_thread(self._relay.run, message)
        except Exception as exc:
            fault = str(exc)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            del self._running[group]
        await self._volume.commit.aio()  # type: ignore[no-untyped-call]
        return Answer(running.news, running.messages, fault).pack()

    def close(self) -> None:
        self._relay.close()

    async def _reload(self) -> None:
        # Of another group that runs here files may be open; it was reloaded when that one began.
        with contextlib.suppress(modal.exception.Error, RuntimeError):
            await self._volume.reload.aio()  # type: ignore[no-untyped-call]

    def _remember(self, flow: str) -> None:
        self._programs[flow] = None
        self._programs.move_to_end(flow)
        while len(self._programs) > MOST_PROGRAMS:
            self._relay.forget(self._programs.popitem(last=False)[0])

    def _constant(self, parcel: Parcel) -> Frames:
        with (self._mount / parcel.constant).open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return split_frames(memoryview(memory), writable=False)

    def _said(self, group: int, message: Frames) -> None:
        """The relay says something; in its thread."""
        data = join_frames(message)
        self._loop.call_soon_threadsafe(self._note, group, data)

    def _note(self, group: int, data: bytes) -> None:
        # A report is of several groups; any of those that run takes it along.
        running = self._running.get(group) or next(iter(self._running.values()), None)
        if running is not None:
            running.messages.append(data)
            running.said.set()

    async def _obey(self, group: int, flow: str, running: Running) -> None:
        """Carry out orders about a group that runs for a while."""
        if not running.stream:
            await asyncio.sleep(ORDERS_AFTER)
        while True:
            order: Any = await self._orders.get.aio(partition=f"g{group}")
            match order:
                case ("give back",):
                    self._relay.give_back(group)
                case ("credit", int(count)):
                    self._relay.credit(flow, count)
                case ("doom", float(grace)):
                    self._relay.doom(flow, grace)

    async def _tell(self, group: int, running: Running) -> None:
        """Tell the caller what a group that runs for a while has said so far."""
        if not running.stream:
            await asyncio.sleep(NEWS_AFTER)
        while True:
            await running.said.wait()
            running.said.clear()
            pieces, running.messages = running.messages, []
            items = [(group, running.news + n, piece) for n, piece in enumerate(pieces)]
            running.news += len(items)
            if items:
                await asyncio.shield(self._put(items))
            if not running.stream:
                await asyncio.sleep(NEWS_EVERY)

    async def _put(self, items: list[tuple[int, int, bytes]]) -> None:
        for item in items:
            if len(item[2]) > LARGEST_ITEM:
                group, number, data = item
                key = f"{group}/{number}"
                await self._claims.put.aio(key, data)
                item = (group, number, b"")
            await self._news.put.aio(item)
