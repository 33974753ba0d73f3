"""Calls of functions: their inputs, their outputs, and what becomes of inputs that fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..ids import new_id
from ..rpc import Caller, declare, fail, rpc
from ..store import join_parts, split_parts
from . import Service
from .functions import Function

if TYPE_CHECKING:
    from ..containers import Container

__all__ = ["Call", "CallService", "Input"]

Result = api_pb2.GenericResult
SUCCESS, FAILURE, TERMINATED = (
    Result.GENERIC_STATUS_SUCCESS,
    Result.GENERIC_STATUS_FAILURE,
    Result.GENERIC_STATUS_TERMINATED,
)
ASYNC = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
MAP = api_pb2.FUNCTION_CALL_TYPE_MAP

NOTHING = api_pb2.FunctionInput()

MOST_OUTPUTS = 1000
"""Outputs in one answer, which also may have no more than this many bytes, unless a single one has:"""
MOST_BYTES = 32 * 1024 * 1024
KEPT_CLEARED = 256
"""Calls whose outputs have been taken are kept until there are this many, for a client that asks once more."""
STREAM_GRACE = 2.0
"""Seconds that a client has to ask for what a generator yielded before it failed."""
HEAD_START = 0.05
"""Seconds by which that is sent before the failure, which the client raises at once, whatever it has yet to read."""
UNTAKEN = 600.0
"""Seconds that the outputs of a call are kept for a client that waits for them, and may be gone."""
GATHER_SECONDS = 0.0005
"""Seconds for each unfinished input of a map that a new output waits for others, and at most this long:"""
MOST_GATHER_SECONDS = 0.05
MOST_SPAWNED = 1_000_000
"""Inputs of `.spawn` that may wait for a container of their function; of others, as many as the settings say."""
LONGEST_WAIT = 60.0  # seconds; the client asks for 55 at most

declare(api_pb2.FunctionInput, reads="args args_blob_id data_format method_name final_input")
# How the upload of a blob went is of interest to Modal only.
declare(
    api_pb2.FunctionPutInputsItem,
    reads="idx input",
    moot="r2_failed r2_throughput_bytes_s blob_upload_results",
)


@dataclass(eq=False, slots=True)
class Input:
    """One input of a call.

    Attributes:
        attempt: how often it has been tried before, because its function failed and has retries.
        crashes: how often its container has ended under it.
        container: where it runs.
        result: what came of it, once that is final.
    """

    id: str
    idx: int
    call: Call
    data: api_pb2.FunctionInput
    attempt: int = 0
    crashes: int = 0
    container: Container | None = None
    started_at: float = 0.0
    timer: asyncio.TimerHandle | None = None
    result: api_pb2.FunctionGetOutputsItem | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One call of a function, with one input or many.

    Attributes:
        parent: the input during which it was made; empty if it was made by a client.
        outputs: the final outputs, in the order in which they came.
        chunks: what a generator has yielded.
        streamed: how many of them have been sent to the client.
        changed: set, and replaced, when there is something new.
        taken: how many of the outputs that came first have been let go of, because the client has them.
        unfinished: inputs without a result.
        finished_at: when there were last none of them.
        cancelled: no input starts any more.
        cleared: its client has what it wants, or is gone.
        broken: why its function cannot run at all; further inputs are not tried.
    """

    id: str
    function: Function
    is_map: bool
    invocation: api_pb2.FunctionCallInvocationType.ValueType
    parent: str = ""
    created_at: float = field(default_factory=time.time)
    inputs: dict[int, Input] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    chunks: list[api_pb2.DataChunk] = field(default_factory=list)
    streamed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    taken: int = 0
    unfinished: int = 0
    finished_at: float = 0.0
    cancelled: bool = False
    cleared: bool = False
    broken: Result | None = None

    @property
    def patience(self) -> float:
        """Seconds by which an answer about a map may be late, so that fewer and larger ones do."""
        return min(GATHER_SECONDS * self.unfinished, MOST_GATHER_SECONDS)

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class CallService(Service):
    """The RPCs that call functions and take their results."""

    async def start(self) -> None:
        self._calls: dict[str, Call] = {}
        self._inputs: dict[str, Input] = {}
        self._cleared: deque[Call] = deque()
        self._children: dict[str, list[Call]] = {}
        """The calls that an input has made."""
        self._working: dict[str, int] = {}
        """Unfinished inputs of each app."""
        self._when_idle: dict[str, Callable[[], None]] = {}
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        self._sweeping.cancel()

    async def _sweep(self) -> None:
        """Forget the calls whose clients have gone without taking what they waited for."""
        while True:
            await asyncio.sleep(UNTAKEN / 10)
            late = time.time() - UNTAKEN
            for call in list(self._calls.values()):
                if (
                    call.invocation != ASYNC
                    and call.inputs
                    and not call.unfinished
                    and call.finished_at < late
                ):
                    self._clear(call)

    # --- for the other services ---

    def get(self, call_id: str) -> Call:
        call = self._calls.get(call_id) or self._recall(call_id)
        if call is None:
            fail(Status.NOT_FOUND, f"there is no function call {call_id!r}")
        return call

    def has_work(self, app_id: str) -> bool:
        return bool(self._working.get(app_id))

    def when_idle(self, app_id: str, job: Callable[[], None]) -> None:
        """Have `job` run when no input of an app is unfinished."""
        self._when_idle[app_id] = job

    def cancel_app(self, app_id: str) -> None:
        """Cancel all calls of an app's functions."""
        self._when_idle.pop(app_id, None)
        for call in list(self._calls.values()):
            if call.function.app_id == app_id and call.unfinished:
                self.cancel(call, f"app {app_id} has been stopped")

    def drop_app(self, app_id: str) -> None:
        """An app has ended: of its calls, those that were spawned can still be asked about; forget the rest."""
        for call in list(self._calls.values()):
            if call.function.app_id == app_id and call.invocation != ASYNC:
                self._clear(call)

    def cancel(self, call: Call, reason: str) -> None:
        """End what has not finished of a call, and of the calls that it has made."""
        call.cancelled = True
        for item in list(call.inputs.values()):
            if item.result is None:
                container = item.container
                self.finish(item, Result(status=TERMINATED, exception=reason))
                if container is not None:
                    container.cancel_input(item)
            for child in self._children.get(item.id, ()):
                if child.unfinished:
                    self.cancel(child, reason)

    def finish(
        self,
        item: Input,
        result: Result,
        data_format: api_pb2.DataFormat.ValueType = api_pb2.DATA_FORMAT_UNSPECIFIED,
        started_at: float = 0.0,
        task_id: str = "",
    ) -> None:
        """Give an input its final result."""
        if item.result is not None:
            return
        call = item.call
        item.result = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=item.idx,
            input_id=item.id,
            data_format=data_format,
            task_id=task_id,
            input_started_at=started_at or item.started_at,
            output_created_at=time.time(),
            # The client compares this with its own count of retries, which are the server's here.
            retry_count=0,
        )
        if item.data.args_blob_id:
            self.plane.blobs.delete(item.data.args_blob_id)
        item.data = NOTHING  # nobody needs it any more, and there may be a million of them
        call.outputs.append(item.result)
        call.unfinished -= 1
        call.finished_at = item.result.output_created_at
        call.notify()
        self._remember_output(call, item)
        app_id = call.function.app_id
        self._working[app_id] -= 1
        if not self._working[app_id]:
            del self._working[app_id]
            job = self._when_idle.pop(app_id, None)
            if job is not None:
                job()

    def failed(
        self, item: Input, result: Result, data_format: api_pb2.DataFormat.ValueType, task_id: str
    ) -> None:
        """An attempt at an input has failed: try again if its function has retries left, else that is its result."""
        policy = item.call.function.definition.retry_policy
        if result.status == TERMINATED or item.attempt >= policy.retries or item.call.cancelled:
            self.finish(item, result, data_format, task_id=task_id)
            return
        # The client allows no more than a factor of 10; there is no number for any factor and any attempt.
        delay = policy.initial_delay_ms * min(policy.backoff_coefficient or 1.0, 10.0) ** min(
            item.attempt, 100
        )
        item.attempt += 1
        asyncio.get_running_loop().call_later(
            min(delay, policy.max_delay_ms or delay) / 1000, self.plane.containers.queue, item
        )

    def new_builder_call(self, function: Function, data: api_pb2.FunctionInput) -> Input:
        """A call that the server makes itself, while it builds an image; it is not queued."""
        call = Call(new_id("fc"), function, False, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        item = Input(new_id("in"), 0, call, data)
        call.inputs[0] = item
        call.unfinished = 1
        self._working[function.app_id] = self._working.get(function.app_id, 0) + 1
        return item

    # --- calling ---

    @rpc(
        reads="function_id parent_input_id function_call_type pipelined_inputs function_call_invocation_type",
        # The client keeps exceptions apart from results itself, and a map is no different for being spawned.
        moot="return_exceptions from_spawn_map",
    )
    async def function_map(
        self, request: api_pb2.FunctionMapRequest, caller: Caller
    ) -> api_pb2.FunctionMapResponse:
        function = self.plane.functions.get(request.function_id)
        app = self.plane.apps.get(function.app_id)
        if not app.runs:
            fail(
                Status.FAILED_PRECONDITION,
                f"app {app.id} has been stopped, so its functions cannot be called",
            )
        definition = function.definition
        call = Call(
            new_id("fc"),
            function,
            request.function_call_type == MAP,
            request.function_call_invocation_type,
            request.parent_input_id,
        )
        self._check_room(call, len(request.pipelined_inputs))
        self._calls[call.id] = call
        if call.parent:
            self._children.setdefault(call.parent, []).append(call)
        self._remember_call(call)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=self._put(call, request.pipelined_inputs),
            retry_policy=definition.retry_policy,
            function_call_jwt=call.id,
            sync_client_retries_enabled=False,
            max_inputs_outstanding=1000,
        )

    @rpc(reads="function_id function_call_id inputs")
    async def function_put_inputs(
        self, request: api_pb2.FunctionPutInputsRequest, caller: Caller
    ) -> api_pb2.FunctionPutInputsResponse:
        call = self.get(request.function_call_id)
        self._check_room(call, sum(item.idx not in call.inputs for item in request.inputs))
        answer = api_pb2.FunctionPutInputsResponse(inputs=self._put(call, request.inputs))
        if call.is_map and self.plane.containers.has_backlog(call.function):
            # The client makes up its next batch meanwhile, which is the larger for it.
            await asyncio.sleep(call.patience)
        return answer

    def _check_room(self, call: Call, count: int) -> None:
        """Refuse more inputs of a function than may wait for a container; what comes alone is never too much."""
        spawned = call.invocation == ASYNC
        most = MOST_SPAWNED if spawned else self.plane.settings.pending_limit
        pending = self.plane.containers.pending(call.function)
        if len(pending) + count > most:
            waiting = sum(
                item.result is None and (item.call.invocation == ASYNC) == spawned for item in pending
            )
            if waiting and waiting + count > most:
                fail(
                    Status.RESOURCE_EXHAUSTED,
                    f"{waiting} inputs of {call.function.name} wait for a container, of {most} that may; try again",
                )

    def _put(
        self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        answer = []
        app_id = call.function.app_id
        for item in items:
            added = call.inputs.get(item.idx)
            if added is None:  # else the client has sent it again, because it did not get the answer
                added = Input(new_id("in"), item.idx, call, item.input)
                call.inputs[item.idx] = added
                self._inputs[added.id] = added
                call.unfinished += 1
                self._working[app_id] = self._working.get(app_id, 0) + 1
                if call.cancelled or not self.plane.apps.get(app_id).runs:
                    self.finish(added, Result(status=TERMINATED, exception="the call has been cancelled"))
                elif call.broken is not None:
                    self.finish(added, call.broken)
                else:
                    self.plane.containers.queue(added, balance=False)
            answer.append(
                api_pb2.FunctionPutInputsResponseItem(idx=added.idx, input_id=added.id, input_jwt=added.id)
            )
        self.plane.containers.balance(call.function)
        self._remember_call(call)
        return answer

    @rpc(reads="function_id function_call_id num_inputs")
    async def function_finish_inputs(
        self, request: api_pb2.FunctionFinishInputsRequest, caller: Caller
    ) -> Empty:
        call = self.get(request.function_call_id)
        if request.num_inputs != len(call.inputs):
            fail(
                Status.FAILED_PRECONDITION, f"{len(call.inputs)} of {request.num_inputs} inputs have arrived"
            )
        return Empty()

    # --- results ---

    @rpc(
        reads="function_call_id max_values timeout last_entry_id clear_on_success start_idx end_idx",
        # Inputs are not lost here, so nobody has to say which ones are waited for.
        moot="requested_at input_jwts",
    )
    async def function_get_outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self.get(request.function_call_id)
        deadline = time.monotonic() + min(request.timeout, LONGEST_WAIT)
        by_index = request.HasField("start_idx") or request.HasField("end_idx")
        at = 0 if by_index else _entry(request.last_entry_id)
        while True:
            changed = call.changed
            if by_index:
                last = request.end_idx if request.HasField("end_idx") else max(call.inputs, default=0)
                wanted: Iterable[int] = range(
                    max(0, request.start_idx), min(last, max(call.inputs, default=-1)) + 1
                )
                if len(wanted) > 2 * len(call.inputs):  # type: ignore[arg-type]
                    wanted = sorted(idx for idx in call.inputs if idx in wanted)  # indices with gaps
                found = [
                    item.result
                    for idx in wanted
                    if (item := call.inputs.get(idx)) is not None and item.result
                ]
            else:
                if at > call.taken and call.invocation != ASYNC:
                    _let_go(call, at)
                at = max(at, call.taken)
                found = call.outputs[at - call.taken :]
            left = deadline - time.monotonic()
            if found and call.streamed < len(call.chunks) and found[0].result.status != SUCCESS:
                left = found[0].output_created_at + STREAM_GRACE - time.time()
                if left <= 0:
                    break
            elif found and call.chunks and found[0].result.status != SUCCESS:
                await asyncio.sleep(HEAD_START)
                break
            elif found or left <= 0 or (call.unfinished == 0 and call.inputs and by_index):
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()
        if call.is_map and found and call.unfinished and not by_index:
            # Many small answers would cost the client and us more than what they answer.
            await asyncio.sleep(call.patience)
            at = max(at, call.taken)
            found = call.outputs[at - call.taken :]
        found = _some(found, request.max_values if request.max_values > 0 else MOST_OUTPUTS)
        answer = api_pb2.FunctionGetOutputsResponse(
            idxs=[output.idx for output in found],
            outputs=found,
            last_entry_id=f"{at + len(found)}-0",
            num_unfinished_inputs=call.unfinished,
        )
        if request.clear_on_success and (found or not request.timeout):
            self._clear(call)
        return answer

    def _clear(self, call: Call) -> None:
        """The client has what it wants of a call: forget it, after a while."""
        if call.cleared:
            return
        call.cleared = True
        if call.unfinished:  # a map whose client has had enough
            self.cancel(call, "the client does not want more results")
        self._cleared.append(call)
        while len(self._cleared) > KEPT_CLEARED:
            self._forget(self._cleared.popleft())

    def _forget(self, call: Call) -> None:
        del self._calls[call.id]
        for item in call.inputs.values():
            self._inputs.pop(item.id, None)
            self._children.pop(item.id, None)
            if item.result is not None and item.result.result.data_blob_id:
                self.plane.blobs.delete(item.result.result.data_blob_id)

    @rpc(reads="function_call_id last_index")
    async def function_call_get_data_out(
        self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self.get(request.function_call_id)
        at = request.last_index
        deadline = time.monotonic() + LONGEST_WAIT
        while True:
            changed = call.changed
            while at < len(call.chunks):
                at += 1
                yield call.chunks[at - 1]
            if at > call.streamed:
                call.streamed = at
                call.notify()
                continue
            left = deadline - time.monotonic()
            if left <= 0 or call.cleared:
                return
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return

    @rpc(reads="function_call_id data_chunks")
    async def function_call_put_data_out(
        self, request: api_pb2.FunctionCallPutDataRequest, caller: Caller
    ) -> Empty:
        call = self.get(request.function_call_id)
        if caller.container is None or not any(
            item.call is call for item in caller.container.inputs.values()
        ):
            fail(Status.PERMISSION_DENIED, "only the container that runs a call may send what it yields")
        for chunk in request.data_chunks:
            if chunk.index == len(call.chunks) + 1:  # else it is known from an attempt before
                call.chunks.append(chunk)
        call.notify()
        return Empty()

    # --- a call by its id ---

    @rpc(reads="function_call_id")
    async def function_call_from_id(
        self, request: api_pb2.FunctionCallFromIdRequest, caller: Caller
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self.get(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id,
            num_inputs=len(call.inputs),
            metadata=api_pb2.FunctionCallHandleMetadata(
                app_id=call.function.app_id, function_id=call.function.id
            ),
        )

    @rpc(reads="function_call_id terminate_containers function_id")
    async def function_call_cancel(self, request: api_pb2.FunctionCallCancelRequest, caller: Caller) -> Empty:
        call = self.get(request.function_call_id)
        containers = {item.container for item in call.inputs.values() if item.container is not None}
        self.cancel(call, "the call has been cancelled")
        if request.terminate_containers:
            for container in containers:
                container.kill("an input was cancelled together with its container")
        return Empty()

    @rpc(reads="function_id function_call_id")
    async def function_call_get_info(
        self, request: api_pb2.FunctionCallGetInfoRequest, caller: Caller
    ) -> api_pb2.FunctionCallGetInfoResponse:
        call = self.get(request.function_call_id)
        info = api_pb2.FunctionCallInfo(
            function_call_id=call.id,
            created_at=call.created_at,
            scheduled_at=call.created_at,
            total_inputs=len(call.inputs),
        )
        info.pending_inputs.total = call.unfinished
        kinds = {
            SUCCESS: info.succeeded_inputs,
            Result.GENERIC_STATUS_TIMEOUT: info.timeout_inputs,
            TERMINATED: info.cancelled_inputs,
        }
        for item in call.inputs.values():
            if item.result is not None:
                kinds.get(item.result.result.status, info.failed_inputs).total += 1
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    @rpc(reads="function_call_id")
    async def function_get_call_graph(
        self, request: api_pb2.FunctionGetCallGraphRequest, caller: Caller
    ) -> api_pb2.FunctionGetCallGraphResponse:
        call = self.get(request.function_call_id)
        while (parent := self._inputs.get(call.parent)) is not None:
            call = parent.call
        answer = api_pb2.FunctionGetCallGraphResponse()
        calls = [call]
        while calls:
            call = calls.pop()
            answer.function_calls.add(
                function_call_id=call.id,
                parent_input_id=call.parent,
                function_name=call.function.name,
                module_name=call.function.definition.module_name if call.function.defined else "",
            )
            for item in call.inputs.values():
                answer.inputs.add(
                    input_id=item.id,
                    status=item.result.result.status if item.result else Result.GENERIC_STATUS_UNSPECIFIED,
                    function_call_id=call.id,
                    task_id=item.result.task_id
                    if item.result
                    else (item.container.id if item.container else ""),
                )
                calls += self._children.get(item.id, ())
        return answer

    # --- what survives a restart ---

    def _remember_call(self, call: Call) -> None:
        if self.store.keeps and call.invocation == ASYNC:
            parts = (
                call.function.id.encode(),
                str(len(call.inputs)).encode(),
                str(int(call.is_map)).encode(),
                call.function.app_id.encode(),
                call.function.name.encode(),
            )
            self.store.put("call", call.id, join_parts(*parts))

    def _remember_output(self, call: Call, item: Input) -> None:
        if self.store.keeps and call.invocation == ASYNC:
            assert item.result is not None
            self.store.put("output", f"{call.id}/{item.idx:010}", item.result.SerializeToString())

    def _recall(self, call_id: str) -> Call | None:
        """A call that was made before the server was restarted."""
        row = self.store.get("call", call_id)
        if row is None:
            return None
        function_id, count, is_map, app_id, name = (part.decode() for part in split_parts(row))
        # Of an app that has ended, the function is gone, but not what it gave.
        function = self.plane.functions.find(function_id) or Function(
            function_id, app_id, api_pb2.FunctionData(), api_pb2.FunctionHandleMetadata(function_name=name)
        )
        call = Call(call_id, function, is_map == "1", ASYNC)
        outputs = {
            output.idx: output
            for _, data in self.store.items("output", f"{call_id}/")
            for output in [api_pb2.FunctionGetOutputsItem.FromString(data)]
        }
        for idx in range(int(count)):
            output = outputs.get(idx)
            if output is None:
                lost = Result(
                    status=Result.GENERIC_STATUS_INTERNAL_FAILURE,
                    exception="modal-emulator was stopped before this input had finished",
                )
                output = api_pb2.FunctionGetOutputsItem(result=lost, idx=idx, input_id=new_id("in"))
            item = Input(output.input_id, idx, call, api_pb2.FunctionInput(), result=output)
            call.inputs[idx] = item
            call.outputs.append(output)
            self._inputs[item.id] = item
        self._calls[call.id] = call
        return call


def _entry(entry_id: str) -> int:
    """How many outputs a client has had, of the id of the last one."""
    head = entry_id.split("-")[0]
    return int(head) if head.isdecimal() and len(head) < 16 else 0


def _let_go(call: Call, count: int) -> None:
    """Forget the first outputs of a call, which its client has: there may be a million of them."""
    outputs = call.outputs[: count - call.taken]
    for output in outputs:
        if not output.result.data_blob_id:  # it may still have to fetch that
            call.inputs[output.idx].result = _bare(output.result.status, output.task_id)
    del call.outputs[: len(outputs)]
    call.taken += len(outputs)


@functools.lru_cache(maxsize=1000)
def _bare(status: Result.GenericStatus.ValueType, task_id: str) -> api_pb2.FunctionGetOutputsItem:
    """What is kept of an output that the client has."""
    return api_pb2.FunctionGetOutputsItem(result=Result(status=status), task_id=task_id)


def _some(outputs: list[api_pb2.FunctionGetOutputsItem], most: int) -> list[api_pb2.FunctionGetOutputsItem]:
    """As many of the first outputs as fit into one answer."""
    sizes = itertools.accumulate(output.ByteSize() for output in outputs)
    fit = sum(1 for size in sizes if size <= MOST_BYTES)
    return outputs[: min(most, max(1, fit))]
