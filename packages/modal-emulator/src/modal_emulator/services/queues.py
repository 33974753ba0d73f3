"""Queues: first in, first out, in partitions, with long polls for who waits."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..named import Named, Registry
from ..rpc import Caller, fail, rpc
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["QueueService"]

# Modal's own limits.
MOST_PARTITIONS = 100_000
MOST_ITEMS = 5_000  # of a partition
LARGEST_ITEM = 1 << 20  # bytes
LARGEST_PARTITION = 64 << 20  # bytes
LONGEST_KEY = 64  # bytes
TTL = 86_400  # seconds
LONGEST_TTL = 7 * 86_400
LONGEST_WAIT = 60.0  # seconds of one long poll; the client asks for 50 at most, and asks again
PAGE = 100  # items that an iteration gets at a time


@dataclass(slots=True)
class Partition:
    """Items by ascending number, and who waits for the next.

    Attributes:
        expires: when it is cleared; it has been put into since.
    """

    expires: float = 0.0
    size: int = 0
    items: deque[tuple[int, bytes]] = field(default_factory=deque)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def wake(self, count: int) -> None:
        """Wake the first `count` of who wait. Nothing is handed over: who is gone by then loses nothing."""
        while count > 0 and self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    async def wait(self, seconds: float) -> None:
        """Wait to be woken, at most so long. If it is cancelled when it has been woken, the next one is."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        try:
            # Not wait_for: that of Python 3.11 forgets that it was cancelled if the waiter is done.
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake(1)
            raise
        finally:
            if waiter in self.waiting:
                self.waiting.remove(waiter)


class QueueService(Service):
    """Queues. They are in memory; with a store every item is a row."""

    def __init__(self, plane: ControlPlane, clock: Callable[[], float] = time.time) -> None:
        super().__init__(plane)
        self._clock = clock
        self._registry = Registry(self.store, "Queue", "qu", self._forget)
        self._queues: dict[str, dict[bytes, Partition]] = {}
        self._number = 0

    async def start(self) -> None:
        self._registry.start()
        self._queues = {found.id: {} for found in self._registry}
        for row, expires in list(self.store.items("queue-partition")):
            queue_id, key = _place(row)
            if queue_id in self._queues:
                self._queues[queue_id][key] = Partition(json.loads(expires))
            else:
                self.store.delete("queue-partition", row)
        for row, value in list(self.store.items("queue-item")):
            place, _, number = row.rpartition("/")
            queue_id, key = _place(place)
            partition = self._queues.get(queue_id, {}).get(key)
            if partition is None:
                self.store.delete("queue-item", row)
                continue
            partition.items.append((int(number), value))
            partition.size += len(value)
            self._number = max(self._number, int(number))

    async def stop(self) -> None:
        self._registry.stop()

    async def drop_environment(self, name: str) -> None:
        self._registry.drop_environment(name)

    def drop_app(self, app_id: str) -> None:
        """An app has ended that will not run again: forget the queues that it alone had."""
        self._registry.drop_app(app_id)

    def _forget(self, found: Named) -> None:
        for key, partition in self._queues.pop(found.id).items():
            self._clear(found.id, key, partition)
            partition.wake(len(partition.waiting))  # they find that there is no queue any more

    def _clear(self, queue_id: str, key: bytes, partition: Partition) -> None:
        for number, _ in partition.items:
            self.store.delete("queue-item", _row(queue_id, key, number))
        self.store.delete("queue-partition", _row(queue_id, key))
        partition.items.clear()
        partition.size = 0

    def _of(self, queue_id: str) -> dict[bytes, Partition]:
        """The partitions of a queue; what has expired is gone."""
        partitions = self._queues[self._registry.get(queue_id).id]
        now = self._clock()
        for key in [key for key, one in partitions.items() if one.expires <= now and not one.waiting]:
            self._clear(queue_id, key, partitions.pop(key))
        return partitions

    def _partition(self, queue_id: str, key: bytes) -> Partition:
        """A partition to look into; one that has not been put into is forgotten when nobody waits for it."""
        if len(key) > LONGEST_KEY:
            fail(Status.INVALID_ARGUMENT, f"a partition key has at most {LONGEST_KEY} bytes")
        partitions = self._of(queue_id)
        partition = partitions.get(key)
        if partition is None:
            partition = partitions[key] = Partition()
        elif partition.expires <= self._clock():
            self._clear(queue_id, key, partition)
        return partition

    def _metadata(self, found: Named) -> api_pb2.QueueMetadata:
        return api_pb2.QueueMetadata(name=found.name, creation_info=found.creation_info)

    @rpc(reads="deployment_name environment_name object_creation_type")
    async def queue_get_or_create(
        self, request: api_pb2.QueueGetOrCreateRequest, caller: Caller
    ) -> api_pb2.QueueGetOrCreateResponse:
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            fail(Status.INVALID_ARGUMENT, "a Queue cannot be overwritten: clear it")
        found, new = self._registry.get_or_create(
            request.deployment_name, request.environment_name, request.object_creation_type
        )
        if new:
            self._queues[found.id] = {}
        return api_pb2.QueueGetOrCreateResponse(queue_id=found.id, metadata=self._metadata(found))

    @rpc(reads="queue_id")
    async def queue_get_by_id(
        self, request: api_pb2.QueueGetByIdRequest, caller: Caller
    ) -> api_pb2.QueueGetByIdResponse:
        found = self._registry.get(request.queue_id)
        return api_pb2.QueueGetByIdResponse(queue_id=found.id, metadata=self._metadata(found))

    @rpc(reads="environment_name total_size_limit pagination")
    async def queue_list(
        self, request: api_pb2.QueueListRequest, caller: Caller
    ) -> api_pb2.QueueListResponse:
        queues = []
        for found in self._registry.page(request.environment_name, request.pagination):
            full = [one for one in self._of(found.id).values() if one.items]
            total = sum(len(one.items) for one in full)
            queues.append(
                api_pb2.QueueListResponse.QueueInfo(
                    name=found.name,
                    created_at=found.created_at,
                    num_partitions=len(full),
                    total_size=min(total, request.total_size_limit or total),
                    queue_id=found.id,
                    metadata=self._metadata(found),
                )
            )
        return api_pb2.QueueListResponse(queues=queues, environment_name=request.environment_name)

    @rpc(reads="queue_id")
    async def queue_delete(self, request: api_pb2.QueueDeleteRequest, caller: Caller) -> Empty:
        self._registry.delete(request.queue_id)
        return Empty()

    @rpc(reads="queue_id")
    async def queue_heartbeat(self, request: api_pb2.QueueHeartbeatRequest, caller: Caller) -> Empty:
        self._registry.heartbeat(request.queue_id)
        return Empty()

    @rpc(reads="queue_id values partition_key partition_ttl_seconds")
    async def queue_put(self, request: api_pb2.QueuePutRequest, caller: Caller) -> Empty:
        queue_id, key, values = request.queue_id, request.partition_key, request.values
        ttl = request.partition_ttl_seconds or TTL
        if not 0 < ttl <= LONGEST_TTL:
            fail(
                Status.INVALID_ARGUMENT,
                f"a partition lives at most {LONGEST_TTL} seconds, and some time at all",
            )
        partition = self._partition(queue_id, key)
        # The client looks for these words to tell that a request is too large. Waiting would not help.
        if any(len(value) > LARGEST_ITEM for value in values):
            fail(Status.INVALID_ARGUMENT, f"an item has more than {LARGEST_ITEM} bytes: status = '413'")
        size = sum(len(value) for value in values)
        if len(values) > MOST_ITEMS or size > LARGEST_PARTITION:
            fail(Status.INVALID_ARGUMENT, "more than a partition can ever have: status = '413'")
        if len(partition.items) + len(values) > MOST_ITEMS or partition.size + size > LARGEST_PARTITION:
            fail(Status.RESOURCE_EXHAUSTED, "the partition of the queue is full")
        if not partition.items and len(self._queues[queue_id]) > MOST_PARTITIONS:
            fail(Status.RESOURCE_EXHAUSTED, f"the queue has {MOST_PARTITIONS} partitions already")
        partition.expires = self._clock() + ttl
        self.store.put("queue-partition", _row(queue_id, key), json.dumps(partition.expires).encode())
        for value in values:
            self._number += 1
            partition.items.append((self._number, value))
            self.store.put("queue-item", _row(queue_id, key, self._number), value)
        partition.size += size
        partition.wake(len(values))
        return Empty()

    @rpc(reads="queue_id timeout n_values partition_key")
    async def queue_get(self, request: api_pb2.QueueGetRequest, caller: Caller) -> api_pb2.QueueGetResponse:
        queue_id, key = request.queue_id, request.partition_key
        if request.n_values < 0:
            fail(Status.INVALID_ARGUMENT, "n_values is negative")
        await self._something(queue_id, key, request.timeout, 0)
        # From here on nothing is awaited: who is cancelled has taken nothing.
        partition = self._partition(queue_id, key)
        values: list[bytes] = []
        while partition.items and len(values) < max(1, request.n_values):
            number, value = partition.items.popleft()
            partition.size -= len(value)
            self.store.delete("queue-item", _row(queue_id, key, number))
            values.append(value)
        if partition.items:
            partition.wake(len(partition.items))
        return api_pb2.QueueGetResponse(values=values)

    @rpc(reads="queue_id partition_key last_entry_id item_poll_timeout")
    async def queue_next_items(
        self, request: api_pb2.QueueNextItemsRequest, caller: Caller
    ) -> api_pb2.QueueNextItemsResponse:
        queue_id, key = request.queue_id, request.partition_key
        last = request.last_entry_id or "0"
        if not (last.isascii() and last.isdecimal() and len(last) < 20):
            fail(Status.INVALID_ARGUMENT, f"{last[:40]!r} is not the id of an entry")
        await self._something(queue_id, key, request.item_poll_timeout, int(last))
        found = []
        partition = self._partition(queue_id, key)
        partition.wake(len(partition.items))  # this one takes nothing away from those who would
        for number, value in partition.items:
            if number > int(last):
                found.append(api_pb2.QueueItem(value=value, entry_id=str(number)))
                if len(found) == PAGE:
                    break
        return api_pb2.QueueNextItemsResponse(items=found)

    async def _something(self, queue_id: str, key: bytes, seconds: float, after: int) -> None:
        """Wait until a partition has an item with a higher number than `after`, but only so long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(0.0, seconds), LONGEST_WAIT)
        while True:
            partition = self._partition(queue_id, key)
            if partition.items and partition.items[-1][0] > after:
                return
            left = deadline - loop.time()
            if not left > 0:
                return
            await partition.wait(left)

    @rpc(reads="queue_id partition_key total")
    async def queue_len(self, request: api_pb2.QueueLenRequest, caller: Caller) -> api_pb2.QueueLenResponse:
        if request.total:
            if request.partition_key:
                fail(Status.INVALID_ARGUMENT, "the total length is not that of one partition")
            return api_pb2.QueueLenResponse(
                len=sum(len(one.items) for one in self._of(request.queue_id).values())
            )
        return api_pb2.QueueLenResponse(
            len=len(self._partition(request.queue_id, request.partition_key).items)
        )

    @rpc(reads="queue_id partition_key all_partitions")
    async def queue_clear(self, request: api_pb2.QueueClearRequest, caller: Caller) -> Empty:
        queue_id, key = request.queue_id, request.partition_key
        if request.all_partitions:
            if key:
                fail(Status.INVALID_ARGUMENT, "either all partitions are cleared or one")
            for one, partition in self._of(queue_id).items():
                self._clear(queue_id, one, partition)
        else:
            self._clear(queue_id, key, self._partition(queue_id, key))
        return Empty()


def _row(queue_id: str, key: bytes, number: int | None = None) -> str:
    """The key of a row; they sort as the items do."""
    row = f"{queue_id}/{key.hex()}"
    return row if number is None else f"{row}/{number:020d}"


def _place(row: str) -> tuple[str, bytes]:
    queue_id, _, key = row.partition("/")
    return queue_id, bytes.fromhex(key)
