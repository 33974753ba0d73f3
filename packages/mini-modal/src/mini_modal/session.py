"""A Modal app that runs for a carrier: started with the first group, ended with the carrier.

All of it lives in the event loop of one thread. What is called from elsewhere says so.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mini import MiniError
from mini.answering import Answer, News
from mini.wire import join_frames

from .messages import Order, Parcel, Setup
from .volume import RESERVED

if TYPE_CHECKING:
    import modal

__all__ = ["Definition", "Session"]

CALL_SECONDS = 24 * 60 * 60
"""What Modal lets a call run at most. `timeout` is kept by the worker, which kills the call and not the container."""
CONSTANTS = f"{RESERVED}constants"
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Definition:
    """What an app is made of.

    Attributes:
        name: of the app.
        volume: of the volume.
        mount: where containers see it.
        image: makes the image; called when the app is started.
        options: of `modal.App.cls`.
        env: variables of the containers.
    """

    name: str
    volume: str
    mount: str
    image: Callable[[], modal.Image]
    options: Mapping[str, Any]
    env: Mapping[str, str]


class Session:
    """Runs groups in the containers of an app.

    Args:
        definition: of the app.
        answered: called with (group, answer) when a group is over, and with (group, error) when it is lost with its
            container or cannot be had at all.
        told: called with news in between.
        untouched: called with a group that was taken back before a container had it.
        All of them in the session's thread.
    """

    def __init__(
        self,
        definition: Definition,
        answered: Callable[[int, Answer | BaseException], None],
        told: Callable[[list[News]], None],
        untouched: Callable[[int], None],
    ) -> None:
        self._definition = definition
        self._answered = answered
        self._told = told
        self._untouched = untouched
        self._loop = asyncio.new_event_loop()
        self._started: asyncio.Task[Any] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._constants: dict[str, asyncio.Task[None]] = {}
        # Its own, so that it can be removed: another session may have the same constants.
        self._folder = f"{CONSTANTS}/{uuid.uuid4().hex}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="mini-modal", daemon=True)
        self._thread.start()

    # --- from any thread ---

    def send(self, group: int, parcel: Parcel, constant: Callable[[], list[Any]] | None) -> None:
        """Have a group run. `constant` gives the frames of its program, if they are not in the parcel."""
        self._spawn(self._run(group, parcel, constant))

    def order(self, group: int, order: Order) -> None:
        """Send an order to the container that runs a group."""
        self._spawn(self._order(group, order))

    def take_back(self, group: int) -> None:
        """Have those calls of a group given back that have not started."""
        self._spawn(self._take_back(group))

    def constant_name(self, frames: list[Any]) -> str:
        """The name in the volume of what a program's frames are."""
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(frame)
        return f"{self._folder}/{digest.hexdigest()}"

    def close(self) -> None:
        """End the app with its containers, and the thread. Idempotent."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        future = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        with contextlib.suppress(Exception):
            future.result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def _spawn(self, work: Any) -> None:
        def start() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(start)

    # --- in the session's thread ---

    async def _start(self) -> Any:
        """Start the app; returns the worker's method that runs a group."""
        import modal

        from .building import check_python, explain_image, python_of
        from .connect import client as connect
        from .containers import make_app

        definition = self._definition
        client = await connect()
        # Before Modal's own end, which was registered when it was imported.
        atexit.register(self.close)
        enter = self._stack.enter_async_context
        news: modal.Queue = await enter(modal.Queue.ephemeral(client=client))
        orders: modal.Queue = await enter(modal.Queue.ephemeral(client=client))
        claims: modal.Dict = await enter(modal.Dict.ephemeral(client=client))
        volume = modal.Volume.from_name(definition.volume, create_if_missing=True, client=client)
        await volume.hydrate.aio()
        setup = Setup(news.object_id, orders.object_id, claims.object_id, volume.object_id, definition.mount)
        image = await asyncio.to_thread(definition.image)  # it asks uv
        app, worker = make_app(definition, image, setup, volume)
        try:
            await enter(app.run.aio(client=client))
        except modal.exception.Error as exc:
            known = await explain_image(exc, image, client)
            if known is None:
                raise
            raise known from exc
        check_python(python_of(image))
        self._orders, self._claims, self._volume = orders, claims, volume
        listening = self._loop.create_task(self._listen(news))
        self._tasks.add(listening)
        return worker().call

    async def _ready(self) -> Any:
        if self._started is None:
            self._started = self._loop.create_task(self._start())
        return await asyncio.shield(self._started)

    async def _run(self, group: int, parcel: Parcel, constant: Callable[[], list[Any]] | None) -> None:
        try:
            call = await self._ready()
            if constant is not None:
                await self._upload(parcel.constant, constant)
            answer = Answer.unpack(await call.remote.aio(parcel.pack()))
        except Exception as exc:
            from .connect import explain

            # What mini itself says is said already.
            known = None if isinstance(exc, MiniError) else await asyncio.to_thread(explain, exc)
            self._answered(group, exc if known is None else known)
            return
        self._answered(group, answer)

    async def _listen(self, news: modal.Queue) -> None:
        """Take the news of groups that run for a while."""
        while True:
            items: list[Any] = await news.get_many.aio(100)
            pieces = [
                (group, number, message or await self._claims.pop.aio(f"{group}/{number}"))
                for group, number, message in items
            ]
            self._told(pieces)

    async def _order(self, group: int, order: Order) -> None:
        # What goes wrong here goes wrong for the group as well, and is told about there.
        with contextlib.suppress(Exception):
            await self._ready()
            await self._orders.put.aio(order, partition=f"g{group}")

    async def _take_back(self, group: int) -> None:
        with contextlib.suppress(Exception):  # likewise
            await self._ready()
            # Whoever claims it has it: a container that comes later leaves it alone.
            if await self._claims.put.aio(group, True, skip_if_exists=True):
                self._untouched(group)
            else:
                await self._order(group, ("give back",))

    async def _upload(self, name: str, frames: Callable[[], list[Any]]) -> None:
        """Put what all calls of a map share into the volume, once."""
        if name not in self._constants:
            self._constants[name] = self._loop.create_task(self._put(name, frames))
        await asyncio.shield(self._constants[name])

    async def _put(self, name: str, frames: Callable[[], list[Any]]) -> None:
        import io

        async with self._volume.batch_upload.aio(force=True) as batch:
            batch.put_file(io.BytesIO(join_frames(frames())), name)

    async def _close(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        if self._started is not None and not self._started.done():
            tasks.append(self._started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._stack.aclose()
            if self._constants:
                await self._volume.remove_file.aio(self._folder, recursive=True)
        finally:
            await self._loop.shutdown_default_executor()
