"""What containers print, kept by app and streamed to those who follow."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from ..rpc import Caller, rpc
from . import Service

__all__ = ["LogService", "Origin"]

Request = api_pb2.AppGetLogsRequest | api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest

MOST_ENTRIES = 100_000
MOST_TEXT = 32 << 20
"""Characters. The oldest of an app's entries are dropped when it has more, and those of the app that has been silent
for longest when all together have more than twice as much."""
LONGEST_WAIT = 60.0  # seconds; the client asks for 55 at most
MOST_IN_BATCH = 500
LONGEST_ITEM = 64 * 1024  # characters

STDOUT, STDERR = api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something was printed: a container, and the function that it is of.

    Attributes:
        variant_id: of the function with options or parameters, if it is one.
    """

    app_id: str
    function_id: str
    variant_id: str
    task_id: str


@dataclass(slots=True)
class Entry:
    number: int
    origin: Origin
    log: api_pb2.TaskLogs


@dataclass(slots=True)
class Journal:
    """The log of one app."""

    entries: deque[Entry] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    done: bool = False
    newest: int = 0
    size: int = 0

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def add(self, origin: Origin, log: api_pb2.TaskLogs) -> None:
        self.newest += 1
        self.entries.append(Entry(self.newest, origin, log))
        self.size += len(log.data)

    def drop(self) -> int:
        """Forget the oldest entry; returns its size."""
        size = len(self.entries.popleft().log.data)
        self.size -= size
        return size

    def after(self, number: int) -> Iterator[Entry]:
        """The entries since one, the oldest first."""
        # From the end: those who follow a long log have had nearly all of it.
        newest = itertools.takewhile(lambda entry: entry.number > number, reversed(self.entries))
        return reversed(list(newest))


class LogService(Service):
    """The RPCs about logs."""

    async def start(self) -> None:
        self._journals: OrderedDict[str, Journal] = OrderedDict()
        self._size = 0

    def write(
        self, origin: Origin, descriptor: int, text: str, *, call_id: str = "", input_id: str = ""
    ) -> None:
        """Note what a container has printed, and during which call and input, if that is known."""
        for start in range(0, len(text), LONGEST_ITEM):
            now = time.time()
            log = api_pb2.TaskLogs(
                data=text[start : start + LONGEST_ITEM],
                timestamp=now,
                timestamp_ns=int(now * 1e9),
                file_descriptor=STDERR if descriptor == 2 else STDOUT,
                function_call_id=call_id,
                input_id=input_id,
                container_id=origin.task_id,
            )
            self._append(origin, log)

    def state(self, origin: Origin, state: api_pb2.TaskState.ValueType) -> None:
        """Note what a container is doing, for the client's status line."""
        self._append(origin, api_pb2.TaskLogs(task_state=state, timestamp=time.time()))

    def finish(self, app_id: str) -> None:
        """Nothing more will be printed by an app; those who follow it are told."""
        journal = self._journal(app_id)
        journal.done = True
        journal.notify()

    def _append(self, origin: Origin, log: api_pb2.TaskLogs) -> None:
        journal = self._journal(origin.app_id)
        self._journals.move_to_end(origin.app_id)
        journal.add(origin, log)
        self._size += len(log.data)
        while len(journal.entries) > MOST_ENTRIES or journal.size > MOST_TEXT:
            self._size -= journal.drop()
        while self._size > 2 * MOST_TEXT:
            silent = next(each for each in self._journals.values() if each.entries)
            self._size -= silent.drop()
        journal.notify()

    def _journal(self, app_id: str) -> Journal:
        journal = self._journals.get(app_id)
        if journal is None:
            journal = self._journals[app_id] = Journal()
        return journal

    @rpc(
        reads="app_id task_id timeout last_entry_id function_id parametrized_function_id function_call_id input_id"
        " file_descriptor search_text"
    )
    async def app_get_logs(
        self, request: api_pb2.AppGetLogsRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        app_id = request.app_id or self.plane.containers.app_of(request.task_id)
        self.plane.apps.get(app_id)
        journal = self._journal(app_id)
        wanted = _filter(request, request.file_descriptor)
        last = _number(request.last_entry_id)
        deadline = time.monotonic() + min(request.timeout, LONGEST_WAIT)
        while True:
            changed = journal.changed
            for batch in _batches(entry for entry in journal.after(last) if wanted(entry)):
                yield batch
            if journal.entries:
                last = max(last, journal.entries[-1].number)
            if journal.done:
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            left = deadline - time.monotonic()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return

    @rpc(
        reads="app_id since until limit source function_id parametrized_function_id function_call_id task_id"
        " search_text",
    )
    async def app_fetch_logs(
        self, request: api_pb2.AppFetchLogsRequest, caller: Caller
    ) -> api_pb2.AppFetchLogsResponse:
        found = self._between(request)
        newest = found[-request.limit :] if request.limit else found
        return api_pb2.AppFetchLogsResponse(batches=_batches(newest))

    @rpc(
        reads="app_id task_id function_id parametrized_function_id function_call_id search_text since until"
        " bucket_secs source"
    )
    async def app_count_logs(
        self, request: api_pb2.AppCountLogsRequest, caller: Caller
    ) -> api_pb2.AppCountLogsResponse:
        width = max(1, request.bucket_secs)
        answer = api_pb2.AppCountLogsResponse(app_id=request.app_id)
        for start, entries in itertools.groupby(
            self._between(request), lambda entry: int(entry.log.timestamp // width) * width
        ):
            kinds = [entry.log.file_descriptor for entry in entries]
            answer.buckets.add(
                bucket_start_at=Timestamp(seconds=start),
                stdout_logs=kinds.count(STDOUT),
                stderr_logs=kinds.count(STDERR),
            )
        return answer

    def _between(self, request: api_pb2.AppFetchLogsRequest | api_pb2.AppCountLogsRequest) -> list[Entry]:
        self.plane.apps.get(request.app_id)
        since = request.since.ToNanoseconds() / 1e9
        until = request.until.ToNanoseconds() / 1e9 if request.HasField("until") else float("inf")
        wanted = _filter(request, request.source)
        return [
            entry
            for entry in self._journal(request.app_id).entries
            if entry.log.data and wanted(entry) and since <= entry.log.timestamp <= until
        ]


def _filter(request: Request, descriptor: int) -> Callable[[Entry], bool]:
    """Which entries a request asks for."""
    input_id = request.input_id if isinstance(request, api_pb2.AppGetLogsRequest) else ""

    def wanted(entry: Entry) -> bool:
        origin, log = entry.origin, entry.log
        return (
            (not request.task_id or origin.task_id == request.task_id)
            and (not request.function_id or request.function_id in (origin.function_id, origin.variant_id))
            and (
                not request.parametrized_function_id or origin.variant_id == request.parametrized_function_id
            )
            and (not request.function_call_id or log.function_call_id == request.function_call_id)
            and (not input_id or log.input_id == input_id)
            and (not log.data or not descriptor or log.file_descriptor == descriptor)
            and (not log.data or request.search_text in log.data)
        )

    return wanted


def _number(entry_id: str) -> int:
    head = entry_id.split("-")[0]
    return int(head) if head.isdecimal() and len(head) < 16 else 0


def _batches(entries: Iterable[Entry]) -> list[api_pb2.TaskLogsBatch]:
    """Entries as the client takes them: those of one container that follow each other in one batch."""
    batches: list[api_pb2.TaskLogsBatch] = []
    for entry in entries:
        last = batches[-1] if batches else None
        if last is None or last.task_id != entry.origin.task_id or len(last.items) >= MOST_IN_BATCH:
            last = api_pb2.TaskLogsBatch(task_id=entry.origin.task_id, function_id=entry.origin.function_id)
            batches.append(last)
        last.items.append(entry.log)
        last.entry_id = f"{entry.number}-0"
    return batches
