"""Queues, through the real client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import modal
import pytest
from covers import covers
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from modal.exception import InvalidError, NotFoundError, RequestSizeError
from modal_emulator.rpc import Caller
from modal_emulator.services import queues
from modal_emulator.settings import Settings
from modal_proto import api_pb2
from storage_plane import Plane, connected, serving

pytestmark = pytest.mark.slow

PARTITIONS = st.sampled_from([None, "a", "b"])


class QueueMachine(RuleBasedStateMachine):
    """Every partition of a Queue does what a deque does."""

    client: modal.Client

    @initialize()
    def make(self) -> None:
        self.stack = contextlib.ExitStack()
        self.real = self.stack.enter_context(modal.Queue.ephemeral(client=self.client))
        self.model: dict[str | None, deque[int]] = {None: deque(), "a": deque(), "b": deque()}

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    @rule(partition=PARTITIONS, values=st.lists(st.integers(), min_size=1, max_size=4))
    def put(self, partition: str | None, values: list[int]) -> None:
        self.real.put_many(values, partition=partition)
        self.model[partition].extend(values)

    @rule(partition=PARTITIONS)
    def get(self, partition: str | None) -> None:
        expected = self.model[partition].popleft() if self.model[partition] else None
        assert self.real.get(block=False, partition=partition) == expected

    @rule(partition=PARTITIONS, count=st.integers(1, 5))
    def get_many(self, partition: str | None, count: int) -> None:
        there = self.model[partition]
        expected = [there.popleft() for _ in range(min(count, len(there)))]
        assert self.real.get_many(count, block=False, partition=partition) == expected

    @rule(partition=PARTITIONS)
    def clear(self, partition: str | None) -> None:
        self.real.clear(partition=partition)
        self.model[partition].clear()

    @rule()
    def clear_all(self) -> None:
        self.real.clear(all=True)
        for there in self.model.values():
            there.clear()

    @rule(partition=PARTITIONS)
    def iterate(self, partition: str | None) -> None:
        assert list(self.real.iterate(partition=partition)) == list(self.model[partition])

    @invariant()
    def lengths(self) -> None:
        if hasattr(self, "real"):
            assert self.real.len(total=True) == sum(map(len, self.model.values()))
            assert self.real.len(partition="a") == len(self.model["a"])


@covers("QueueGetOrCreate", "QueuePut", "QueueGet", "QueueLen", "QueueClear")
def test_a_queue_does_what_a_deque_does(client: modal.Client) -> None:
    QueueMachine.client = client
    QueueMachine.TestCase.settings = hypothesis_settings(
        max_examples=12, stateful_step_count=15, deadline=None
    )
    QueueMachine.TestCase().runTest()


def waiting(plane: Plane, handle: modal.Queue, count: int, partition: bytes = b"") -> None:
    """Wait until so many wait in a partition."""
    done = threading.Event()

    def look() -> None:
        there = plane.queues._queues[handle.object_id].get(partition)
        if there is not None and len(there.waiting) == count:
            done.set()
        else:
            plane.loop.call_later(0.005, look)

    plane.loop.call_soon_threadsafe(look)
    assert done.wait(20)


@covers("QueueGet", "QueuePut")
def test_a_get_waits_for_a_put(client: modal.Client, plane: Plane) -> None:
    with modal.Queue.ephemeral(client=client) as handle, ThreadPoolExecutor(8) as threads:
        gets: list[Future[object]] = [threads.submit(handle.get) for _ in range(8)]
        waiting(plane, handle, 8)
        handle.put_many([0, 1, 2])
        handle.put_many([3, 4])
        waiting(plane, handle, 3)
        handle.put_many([5, 6, 7])
        assert sorted(get.result(20) for get in gets) == list(range(8))  # type: ignore[type-var]


def test_a_get_that_gives_up_raises_empty(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as handle:
        with pytest.raises(queue.Empty):
            handle.get(timeout=0.05)
        with pytest.raises(queue.Empty):
            handle.get_many(3, timeout=0)


def test_a_cancelled_get_loses_no_item(client: modal.Client, plane: Plane) -> None:
    """Cancelled when it has been woken, but has not run yet: the next one gets the item."""

    async def scenario(queue_id: str) -> list[bytes]:
        request = api_pb2.QueueGetRequest(queue_id=queue_id, timeout=50, n_values=1)
        caller = Caller(None, {})
        gone = asyncio.ensure_future(plane.queues.queue_get(request, caller))
        stays = asyncio.ensure_future(plane.queues.queue_get(request, caller))
        while len(plane.queues._queues[queue_id].get(b"", queues.Partition()).waiting) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await plane.queues.queue_put(api_pb2.QueuePutRequest(queue_id=queue_id, values=[b"item"]), caller)
        gone.cancel()
        return list((await stays).values)

    with modal.Queue.ephemeral(client=client) as handle:
        assert plane.run(scenario(handle.object_id)) == [b"item"]


def test_a_poll_ends_with_its_client(client: modal.Client, plane: Plane) -> None:
    with modal.Queue.ephemeral(client=client) as handle:
        program = f"import modal; modal.Queue.from_id({handle.object_id!r}).get()"
        process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | plane.environ)
        waiting(plane, handle, 1)
        process.kill()
        process.wait()
        waiting(plane, handle, 0)
        handle.put("still here")
        assert handle.get() == "still here"


def test_iterating_waits_for_the_next_item(client: modal.Client, plane: Plane) -> None:
    with modal.Queue.ephemeral(client=client) as handle, ThreadPoolExecutor(2) as threads:
        handle.put(0)
        items = threads.submit(lambda: list(handle.iterate(item_poll_timeout=0.6)))
        waiting(plane, handle, 1)
        get = threads.submit(handle.get, partition="other")
        waiting(plane, handle, 1, b"other")
        handle.put(1, partition="other")
        assert get.result(20) == 1
        handle.put(2)
        assert items.result(20) == [0, 2]
        assert handle.len() == 2


def test_one_who_iterates_does_not_keep_one_who_gets_waiting(client: modal.Client, plane: Plane) -> None:
    with modal.Queue.ephemeral(client=client) as handle, ThreadPoolExecutor(2) as threads:
        items = threads.submit(lambda: list(handle.iterate(item_poll_timeout=1)))
        waiting(plane, handle, 1)
        get = threads.submit(handle.get)
        waiting(plane, handle, 2)
        handle.put("one")
        assert get.result(20) == "one"
        items.result(20)


@covers("QueueNextItems")
def test_long_iterations_come_in_pages(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as handle:
        handle.put_many(list(range(250)))
        assert list(handle.iterate()) == list(range(250))


def test_a_full_partition_refuses(client: modal.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MOST_ITEMS", 3)
    with modal.Queue.ephemeral(client=client) as handle, ThreadPoolExecutor(1) as threads:
        handle.put_many([1, 2])
        with pytest.raises(queue.Full):
            handle.put_many([3, 4], block=False)
        with pytest.raises(queue.Full):
            handle.put_many([3, 4], timeout=0.2)
        handle.put(3, block=False)
        handle.put(1, block=False, partition="another")
        put = threads.submit(handle.put, 4)
        assert handle.get() == 1
        put.result(20)
        assert handle.get_many(9) == [2, 3, 4]
        with pytest.raises(RequestSizeError):
            handle.put_many([1, 2, 3, 4])


def test_items_that_are_too_large_are_refused(client: modal.Client) -> None:
    with modal.Queue.ephemeral(client=client) as handle:
        with pytest.raises(RequestSizeError):
            handle.put(bytes((1 << 20) + 1))
        handle.put(bytes(1 << 19))
        assert handle.get() == bytes(1 << 19)


def test_partitions_expire(client: modal.Client, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5000.0]
    monkeypatch.setattr(plane.queues, "_clock", lambda: now[0])
    with modal.Queue.ephemeral(client=client) as handle:
        handle.put(1, partition="short", partition_ttl=60)
        handle.put(1, partition="long")
        now[0] += 50
        handle.put(2, partition="short", partition_ttl=60)
        now[0] += 50
        assert handle.len(partition="short") == 2
        now[0] += 11
        assert handle.len(partition="short") == 0
        assert handle.len(total=True) == 1
        handle.put(3, partition="short")
        assert handle.get(partition="short") == 3
        now[0] += 86_400
        assert handle.len(total=True) == 0
        for ttl in (-1, 8 * 86_400):
            with pytest.raises(InvalidError):
                handle.put(1, partition_ttl=ttl)


@covers("QueueDelete")
def test_a_queue_that_is_deleted_lets_go_of_who_waits(client: modal.Client, plane: Plane, name: str) -> None:
    handle = modal.Queue.from_name(name, create_if_missing=True, client=client).hydrate()
    with ThreadPoolExecutor(1) as threads:
        get = threads.submit(handle.get)
        waiting(plane, handle, 1)
        modal.Queue.objects.delete(name, client=client)
        with pytest.raises(NotFoundError):
            get.result(20)


@covers("QueueList", "QueueGetById")
def test_queues_are_listed(client: modal.Client, name: str) -> None:
    modal.Queue.objects.create(name, environment_name=name, client=client)
    (found,) = modal.Queue.objects.list(environment_name=name, client=client)
    assert found.name == name
    assert modal.Queue.from_id(found.object_id, client=client).len() == 0


def test_queues_survive_a_restart(tmp_path: Path) -> None:
    model: deque[int] = deque()
    for start in range(0, 30, 10):
        settings = Settings(work=tmp_path / f"work{start}", state=tmp_path / "state")
        with serving(settings) as plane, connected(plane.environ) as client:
            handle = modal.Queue.from_name("kept", create_if_missing=True, client=client)
            assert list(handle.iterate(partition="p")) == list(model)
            handle.put_many(list(range(start, start + 10)), partition="p")
            model.extend(range(start, start + 10))
            assert handle.get_many(4, partition="p") == [model.popleft() for _ in range(4)]
