"""A Modal app that runs for a carrier: started with the first group, ended with the carrier.

All of it lives in the event loop of one thread. What is called from elsewhere says so.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mini import MiniError
from mini.answering import Answer, News
from mini.wire import join_frames

from .asking import are_running, in_client
from .messages import TAKEN_BACK, Claim, Order, Parcel, Setup
from .patience import Attempts, Patience
from .volume import RESERVED

if TYPE_CHECKING:
    import modal

__all__ = ["ContainerDied", "Definition", "Session"]

CALL_SECONDS = 24 * 60 * 60
"""What Modal lets a call run at most. `timeout` is kept by the worker, which kills the call and not the container."""
CONSTANTS = f"{RESERVED}constants"
CLOSE_SECONDS = 10.0
NEWS_SECONDS = 3600.0
"""For how long the queue of news is listened to at a time."""


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
        progress: the option of the first call, which decides whether it is said where the app can be looked at.
    """

    name: str
    volume: str
    mount: str
    image: Callable[[], modal.Image]
    options: Mapping[str, Any]
    env: Mapping[str, str]
    progress: bool | None = None


class ContainerDied(Exception):
    """The container that ran a group has ended.

    Attributes:
        out_of_memory: for want of memory.
    """

    def __init__(self, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


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
        self._patience = Patience()
        self._with_news: set[int] = set()
        """Groups that have been answered and may wait for news."""
        self._deaf: BaseException | None = None
        """Why there are no news any more."""
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
        """The name of what a program's frames are, in the session's folder."""
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(frame)
        return digest.hexdigest()

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
        from mini.display import tell

        from .building import check_python, explain_image, python_of
        from .connect import client as connect
        from .containers import make_app, page_of

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
        tell(f"the app is at {await page_of(app)}", definition.progress)
        self._client, self._orders, self._claims, self._volume = client, orders, claims, volume
        # Its own, so that it can be removed: another session may have the same constants.
        self._folder = f"{CONSTANTS}/{app.app_id}"
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
                parcel = replace(parcel, constant=f"{self._folder}/{parcel.constant}")
                await self._upload(parcel.constant, constant)
            data = await self._ask(call, group, parcel.pack())
            if data is None:
                self._untouched(group)
                return
            answer = Answer.unpack(data)
            if answer.fault:
                raise await self._death(group, answer.fault)
        except Exception as exc:
            self._answered(group, await _explained(exc))
            return
        if answer.news:
            if self._deaf is not None:
                self._answered(group, self._deaf)
                return
            self._with_news.add(group)
        self._answered(group, answer)

    async def _ask(self, call: Any, group: int, data: bytes) -> bytes | None:
        """Have a container run a group, once, even if Modal cannot be reached or has no room for it meanwhile.

        None if it was taken back before one had it.
        """
        import modal

        claim: Claim | None = None
        attempts = Attempts(self._patience, room=True)
        while True:
            try:
                if claim is None:
                    answer: bytes = await call.remote.aio(data)
                else:
                    earlier: modal.FunctionCall[bytes] = modal.FunctionCall.from_id(claim[0], self._client)
                    answer = await earlier.get.aio()
            except Exception as exc:
                await attempts.failed(exc)
            else:
                if answer:
                    return answer
            # Whether Modal had taken the call, or which of several runs the group: who runs it has said so.
            claim = await self._patience.ask(partial(self._claims.get.aio, str(group)))
            if claim == TAKEN_BACK:
                return None

    async def _death(self, group: int, fault: str) -> ContainerDied:
        """Why the container that ran a group has ended, as far as Modal says."""
        from modal_proto import api_pb2

        from .containers import task_result

        # It is for an error message, which must not be replaced by another.
        with contextlib.suppress(Exception):
            _, container = await self._claims.get.aio(str(group))
            result = await task_result(self._client, container)
            out_of_memory = result.status == api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL
            return ContainerDied(f"{fault}: {result.exception}" if result.exception else fault, out_of_memory)
        return ContainerDied(fault)

    async def _listen(self, news: modal.Queue) -> None:
        """Take the news of groups that run for a while."""
        attempts = Attempts(self._patience)
        while True:
            try:
                await self._read(news)
            except Exception as exc:
                try:
                    await attempts.failed(exc)
                except Exception:
                    self._deaf = await _explained(exc)
                    for group in self._with_news:  # those that are over take no notice
                        self._answered(group, self._deaf)
                    return

    async def _read(self, news: modal.Queue) -> None:
        """Read the queue from its beginning, until nothing comes any more.

        What has been read is taken out afterwards: if it were taken out to be read, it would be lost together with an
        answer of Modal's. So some may be read twice, which does no harm.
        """
        read = 0
        taking: asyncio.Task[None] | None = None

        async def take(count: int) -> None:
            # Once only: whoever does not know the outcome would take too much.
            with contextlib.suppress(Exception):
                await news.get_many.aio(count, block=False)

        try:
            async for group, number, message, parts in news.iterate.aio(item_poll_timeout=NEWS_SECONDS):
                if parts:
                    message = await self._fetch(f"{group}/{number}", parts)
                self._told([(group, number, message)])
                read += 1
                if taking is None or taking.done():
                    taking = self._loop.create_task(take(read))
                    read = 0
        finally:
            if taking is not None:
                await taking

    async def _fetch(self, name: str, parts: int) -> bytes:
        """A message that was too large for a queue."""
        found = b""
        for part in range(1, parts + 1):
            key = f"{name}/{part}"
            # It is gone if it was read before.
            found += await self._patience.ask(partial(self._claims.get.aio, key)) or b""
            with contextlib.suppress(Exception):  # not at once: if the answer is lost, so is what was in it
                await self._claims.pop.aio(key)
        return found

    async def _order(self, group: int, order: Order) -> None:
        # What goes wrong here goes wrong for the group as well, and is told about there.
        with contextlib.suppress(Exception):
            await self._ready()
            await self._patience.ask(partial(self._orders.put.aio, order, partition=f"g{group}"))

    async def _take_back(self, group: int) -> None:
        with contextlib.suppress(Exception):  # likewise
            await self._ready()
            # Whoever claims it has it: a container that comes later leaves it alone.
            take = partial(self._claims.put.aio, str(group), TAKEN_BACK, skip_if_exists=True)
            if await self._patience.ask(take):
                self._untouched(group)
            else:
                await self._order(group, ("give back",))

    async def _upload(self, name: str, frames: Callable[[], list[Any]]) -> None:
        """Put what all calls of a map share into the volume, once."""
        if name not in self._constants:
            if not self._constants:
                self._spawn(self._tidy())
            put = self._patience.ask(partial(self._put, name, frames))
            self._constants[name] = self._loop.create_task(put)
        await asyncio.shield(self._constants[name])

    async def _put(self, name: str, frames: Callable[[], list[Any]]) -> None:
        import io

        async with self._volume.batch_upload.aio(force=True) as batch:
            batch.put_file(io.BytesIO(join_frames(frames())), name)

    async def _tidy(self) -> None:
        """Remove what sessions have left in the volume that were killed: their apps have ended."""
        with contextlib.suppress(Exception):  # the next session does it
            entries = await self._volume.listdir.aio(f"/{CONSTANTS}")
            folders = {entry.path.rpartition("/")[2]: entry.path for entry in entries}
            apps = [app for app in folders if app.startswith("ap-")]
            running = await asyncio.to_thread(in_client(are_running), self._client, apps)
            for app, runs in zip(apps, running, strict=True):
                if not runs:
                    await self._volume.remove_file.aio(folders[app], recursive=True)

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


async def _explained(exc: Exception) -> BaseException:
    """What an error of Modal's client means, as far as mini knows."""
    from .connect import explain

    # What mini itself says is said already.
    known = None if isinstance(exc, MiniError) else await asyncio.to_thread(explain, exc)
    return exc if known is None else known
