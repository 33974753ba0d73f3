"""Containers: when they are started and ended, which inputs they get, and the RPCs that they call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import time
from collections import deque
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from ..containers import AT_ONCE, Container, Pool
from ..ids import new_id
from ..lines import Lines
from ..rpc import Caller, declare, fail, rpc
from ..runtime import Bind, BuildError, ContainerSpec, Layer
from ..runtime.client import client_tree
from . import Service
from .calls import Input, Result
from .functions import Function
from .logs import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..plane import ControlPlane

__all__ = ["ContainerService"]

log = logging.getLogger(__name__)

GROW_SECONDS = 0.5
MOST = 64
"""Containers of a function that does not say how many it may have."""
MOST_CRASHES = 3
"""After so many containers that ended under it, an input fails; likewise all of a function that cannot start one."""
DEFAULT_MILLI_CPU, MORE_MILLI_CPU = 125, 16_000
"""Thousandths of a core that Modal reserves for a function that asks for none, and that one may use beyond what it has
asked for, unless it says itself how many."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 30.0
"""Seconds before the next container after one that could not start; they double, up to the second figure."""
HEARTBEAT_POLL = 14.0
"""Seconds that a heartbeat is held, so that a cancellation reaches the container at once; it sends one every 15."""

SOCKET = "/__modal/socket"
ARGUMENTS = "/__modal/arguments"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

declare(
    api_pb2.FunctionPutOutputsItem,
    reads="input_id result input_started_at output_created_at data_format retry_count",
    moot="function_call_id function_map_idx from_input_plane",
)


class ContainerService(Service):
    """Starts and ends containers, and answers them."""

    async def start(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._containers: dict[str, Container] = {}
        self._ended: deque[Container] = deque(maxlen=1000)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets = self.plane.settings.work / "c"
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        self._stopping = False
        self.plane.images.run_builder = self.run_builder

    async def stop(self) -> None:
        self._stopping = True
        for container in list(self._containers.values()):
            container.kill("the server has been stopped")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)

    # --- for the other services ---

    def running(self) -> list[Container]:
        """Those that have not ended."""
        return list(self._containers.values())

    def queue(self, item: Input, *, balance: bool = True, again: bool = False) -> None:
        """An input is to run, perhaps `again`: give it to a container that waits, or have it wait for one."""
        if item.result is not None:
            return
        pool = self._pool(item.call.function)
        if not pool.pending and not pool.containers:
            pool.crashes, pool.not_before = 0, 0.0  # it has its own chance, whatever was before
        for container in pool.containers:
            if (
                container.usable
                and container.revision == pool.function.current_revision
                and container.give(item)
            ):
                self._given(container, item)
                return
        if again:
            pool.pending.appendleft(item)
        else:
            pool.pending.append(item)
        if balance:
            self._balance(pool)

    def balance(self, function: Function) -> None:
        """Start as many containers as a function needs now."""
        self._balance(self._pool(function))

    def function_changed(self, function: Function) -> None:
        """A function has been published, or its scaling changed: replace containers of an older definition."""
        pool = self._pool(function)
        for container in list(pool.containers):
            if container.revision != function.current_revision:
                container.retire()
        self._balance(pool)

    def end_function(self, function_id: str) -> None:
        """A function is no longer part of its app."""
        for pool in list(self._pools.values()):
            if function_id in (pool.function.id, pool.function.base and pool.function.base.id):
                gone = Result(
                    status=Result.GENERIC_STATUS_TERMINATED,
                    exception=f"the app no longer has the function {pool.function.name}",
                )
                waiting, pool.pending = pool.pending, deque()
                for item in waiting:
                    self.plane.calls.finish(item, gone)
                for container in list(pool.containers):
                    container.retire()

    async def end_app(self, app_id: str) -> None:
        """End the containers of an app; their exit hooks run."""
        for pool in [p for p in self._pools.values() if p.function.app_id == app_id]:
            if pool.again is not None:
                pool.again.cancel()
            for container in pool.containers:
                container.interrupt()
        # Each has a limited time for its end, after which it is killed.
        await asyncio.gather(
            *(c.ended.wait() for c in list(self._containers.values()) if c.function.app_id == app_id)
        )
        for pool in [p for p in self._pools.values() if p.function.app_id == app_id]:
            del self._pools[pool.function.id]

    def count(self, app_id: str) -> int:
        """How many containers an app has."""
        return sum(container.function.app_id == app_id for container in self._containers.values())

    def app_of(self, task_id: str) -> str:
        return self._task(task_id).function.app_id

    def pending(self, function: Function) -> deque[Input]:
        """The inputs of a function that wait for a container, and some that do not any more: those have a result."""
        return self._pool(function).pending

    def has_backlog(self, function: Function) -> bool:
        """Whether inputs of a function wait for a container."""
        return bool(self._pool(function).pending)

    def stats(self, function: Function) -> api_pb2.FunctionStats:
        pool = self._pool(function)
        running = sum(container.busy for container in pool.containers)
        room = sum(function.scaling.concurrency for container in pool.containers if container.usable)
        return api_pb2.FunctionStats(
            backlog=len(pool.pending),
            num_total_tasks=len(pool.containers),
            num_running_inputs=running,
            input_headroom=max(0, room - running),
        )

    # --- scaling ---

    def _pool(self, function: Function) -> Pool:
        pool = self._pools.get(function.id)
        if pool is None:
            pool = self._pools[function.id] = Pool(function)
        return pool

    def _balance(self, pool: Pool) -> None:
        if self._stopping or not self.plane.apps.get(pool.function.app_id).runs:
            return
        scaling = pool.function.scaling
        usable = [c for c in pool.containers if c.usable and c.revision == pool.function.current_revision]
        work = len(pool.pending) + sum(container.busy for container in usable)
        if not work:
            pool.allowed = AT_ONCE
        wanted = math.ceil(work / scaling.concurrency)
        if wanted:
            wanted += scaling.spare
        wanted = max(scaling.least, min(wanted, pool.allowed, scaling.most or MOST))
        missing = wanted - len(usable)
        if missing <= 0 and pool.pending and len(usable) < (scaling.most or MOST):
            self._look_again(pool, GROW_SECONDS)
        if missing <= 0:
            return
        wait = pool.not_before - time.monotonic()
        if wait > 0:
            self._look_again(pool, wait)
            return
        for _ in range(missing):
            self._start(pool)
        if pool.pending:
            self._look_again(pool, GROW_SECONDS)

    def _look_again(self, pool: Pool, seconds: float) -> None:
        if pool.again is None:
            pool.again = asyncio.get_running_loop().call_later(seconds, self._grow, pool)

    def _grow(self, pool: Pool) -> None:
        """Inputs have waited for a while: allow more containers, unless some are about to come."""
        pool.again = None
        if pool.pending and all(container.ready for container in pool.containers):
            usable = sum(container.usable for container in pool.containers)
            if usable >= pool.allowed:
                pool.allowed = usable + AT_ONCE
        self._balance(pool)

    # --- one container ---

    def _add(self, pool: Pool) -> Container:
        container = Container(new_id("ta"), pool, pool.function.current_revision)
        pool.containers.append(container)
        self._containers[container.id] = container
        return container

    async def run_builder(
        self,
        function_id: str,
        given: api_pb2.FunctionInput | None,
        layer: Layer,
        changes: Path,
        say: Callable[[str], None],
    ) -> None:
        """Call a function whose changes to the file system become an image: `Image.run_function`.

        Raises:
            BuildError: the function failed, or its container could not be started or ended.
        """
        function = self.plane.functions.get(function_id)
        item = self.plane.calls.new_builder_call(function, given or api_pb2.FunctionInput())
        pool = Pool(function, deque([item]))
        container = self._add(pool)
        container.single_use = True
        reason = ""
        try:
            code = await self._live(container, layer, changes, lambda _, text: say(text))
            reason = container.cause or _describe_exit(code, container)
        except (OSError, GRPCError) as exc:
            reason = f"its container could not be started: {exc}"
        finally:
            self._remove(container)
            missing = container.failure or Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=reason)
            self.plane.calls.finish(item, missing)
        assert item.result is not None
        result = item.result.result
        if result.status != Result.GENERIC_STATUS_SUCCESS:
            say(result.traceback or f"{result.exception}\n")
            raise BuildError(f"the function {function.name} failed: {result.exception}")

    def _start(self, pool: Pool) -> None:
        container = self._add(pool)
        task = asyncio.create_task(self._run(pool, container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, pool: Pool, container: Container) -> None:
        """The life of a container, from its start until nothing is left of it."""
        function = container.function
        reason = ""
        try:
            code = await self._live(container)
            reason = container.cause or _describe_exit(code, container)
        except (BuildError, OSError, GRPCError) as exc:
            reason = f"the container could not be started: {exc}"
        except Exception as exc:
            log.exception("a container of %s failed", function.name)
            reason = f"modal-emulator has a bug: {type(exc).__name__}: {exc}"
        finally:
            self._remove(container)
            self.plane.logs.state(_origin(container), api_pb2.TASK_STATE_COMPLETED)
        container.result = _result(container, reason)
        self._after(pool, container, reason)

    def _remove(self, container: Container) -> None:
        container.ended.set()
        container.finished_at = time.time()
        container.pool.containers.remove(container)
        del self._containers[container.id]
        self._ended.append(container)
        if container.idle is not None:
            container.idle.cancel()
        self.plane.billing.ended(container)

    async def _live(
        self,
        container: Container,
        layer: Layer | None = None,
        changes: Path | None = None,
        say: Callable[[int, str], None] | None = None,
    ) -> int:
        """Start a container and wait for its end.

        Args:
            layer, changes, say: for a builder function: the image so far, where what it changes of it stays, and what
                takes its output in place of the app's log.
        """
        function, plane = container.function, self.plane
        definition = function.definition
        plane.logs.state(_origin(container), api_pb2.TASK_STATE_CREATING_CONTAINER)
        image_id = definition.image_id
        layer = layer or plane.images.layer(image_id)
        builder = plane.images.builder_version(image_id)
        client = await client_tree(plane.settings, (function.base or function).client, layer.python, builder)
        folder = self._sockets / container.id[-12:]
        folder.mkdir(mode=0o700)
        container.attachment = await plane.volumes.attach(
            definition.volume_mounts, container.id, plane.runtime
        )
        lines = container.lines = Lines(say or _log_of(plane, container))
        try:
            socket, arguments = folder / "s", folder / "a"
            async with plane.socket_for(container, socket):
                arguments.write_bytes(self._arguments(container).SerializeToString())
                spec = ContainerSpec(
                    name=container.id,
                    layer=layer,
                    command=["python", "-m", "modal._container_entrypoint"],
                    env=self._environment(container, layer.env),
                    workdir=layer.workdir,
                    binds=[
                        Bind(socket, SOCKET, read_only=False),
                        Bind(arguments, ARGUMENTS),
                        *client.binds,
                        *plane.mounts.binds(definition.mount_ids),
                        *container.attachment.binds,
                        *(Bind(folder, str(folder), read_only=False) for folder in plane.settings.share),
                    ],
                    overlays=container.attachment.overlays,
                    output=lines.write,
                    changes=changes,
                    milli_cpu=_most_cpu(definition.resources),
                    memory_mib=definition.resources.memory_mb_max,
                )
                container.process = await plane.runtime.start(spec)
                container.started_at = time.time()
                timer = asyncio.get_running_loop().call_later(
                    function.startup_timeout, self._startup_timed_out, container
                )
                if container.retiring:  # it was to end while it started
                    container.process.kill()
                try:
                    return await container.process.wait()
                finally:
                    timer.cancel()
        finally:
            lines.close()
            await container.attachment.detach()
            shutil.rmtree(folder, ignore_errors=True)

    def _arguments(self, container: Container) -> api_pb2.ContainerArguments:
        function = container.function
        app = self.plane.apps.get(function.app_id)
        layout = self.plane.functions.layout(app)
        origin = function.base or function
        if not any(described.object_id == origin.id for described in layout.objects):
            # It runs before its app is published, as a builder function does.
            layout.objects.add(object_id=origin.id, function_handle_metadata=origin.metadata)
            layout.function_ids[origin.name] = origin.id
        return api_pb2.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app_id,
            function_def=function.definition,
            serialized_params=function.params,
            environment_name=app.environment,
            app_layout=layout,
        )

    def _environment(self, container: Container, image: Mapping[str, str]) -> dict[str, str]:
        env: dict[str, str] = {
            "PATH": DEFAULT_PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }
        env.update(image)
        own = env.get("PYTHONPATH")
        definition = container.function.definition
        env.update(self.plane.secrets.env(definition.secret_ids))
        gpu = definition.resources.gpu_config
        app = self.plane.apps.get(container.function.app_id)
        env.update(
            {
                "PYTHONPATH": "/root:/pkg" + (f":{own}" if own else ""),
                "MODAL_IS_REMOTE": "1",
                "MODAL_SERVER_URL": f"unix://{SOCKET}",
                "MODAL_CONTAINER_ARGUMENTS_PATH": ARGUMENTS,
                "MODAL_TASK_ID": container.id,
                "MODAL_IMAGE_ID": definition.image_id,
                "MODAL_ENVIRONMENT": app.environment,
                "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_EMULATOR",
                "MODAL_REGION": "local",
            }
        )
        if gpu.count:
            env["MODAL_GPU_TYPE"], env["MODAL_GPU_COUNT"] = gpu.gpu_type, str(gpu.count)
        return env

    def _startup_timed_out(self, container: Container) -> None:
        if not container.ready:
            container.kill(f"it had not started after {container.function.startup_timeout:g} s")

    def _after(self, pool: Pool, container: Container, reason: str) -> None:
        """A container has ended: see to the inputs that it was running, and whether another one is needed."""
        orphans, container.inputs = list(container.inputs.values()), {}
        for item in orphans:
            self._unassign(item)
            item.crashes += not container.cause  # what was killed for another input's sake is not to blame
            if item.crashes >= MOST_CRASHES:
                status = Result.GENERIC_STATUS_INTERNAL_FAILURE
                if container.process is not None and container.process.oom:
                    status = Result.GENERIC_STATUS_KERNEL_OOM_KILL
                result = Result(
                    status=status, exception=f"{reason}; the input has been tried {item.crashes} times"
                )
                self.plane.calls.finish(item, result, task_id=container.id)
            else:
                self.queue(item, balance=False, again=True)
        if container.ready or (container.retiring and not container.cause):
            pool.crashes = 0
        elif not self._stopping:
            self._failed_to_start(pool, container, reason)
        if not self._stopping:
            self._balance(pool)

    def _failed_to_start(self, pool: Pool, container: Container, reason: str) -> None:
        """
        A container has ended before it asked for an input: wait for longer and longer before the next one, or give up
        what waits, if it has said itself what is wrong, or if it is one of too many.
        """
        pool.crashes += 1
        backoff = FIRST_BACKOFF * 2 ** min(pool.crashes - 1, 20)
        pool.not_before = time.monotonic() + min(backoff, LONGEST_BACKOFF)
        if pool.crashes < MOST_CRASHES and container.failure is None:
            return
        if any(other.ready for other in pool.containers):
            return
        result = container.failure or Result(
            status=Result.GENERIC_STATUS_INIT_FAILURE,
            exception=f"{reason}; {pool.crashes} containers in a row did not get as far as to run an input",
        )
        waiting, pool.pending = pool.pending, deque()
        for item in waiting:
            item.call.broken = result
            self.plane.calls.finish(item, result, task_id=container.id)

    # --- inputs ---

    def _given(self, container: Container, item: Input) -> None:
        """A container has got an input."""
        item.started_at = time.time()
        item.timer = asyncio.get_running_loop().call_later(container.function.timeout, self._timed_out, item)
        if container.idle is not None:
            container.idle.cancel()
            container.idle = None
        if container.single_use:
            container.retiring = True

    def _unassign(self, item: Input) -> None:
        if item.timer is not None:
            item.timer.cancel()
            item.timer = None
        item.container = None

    def _timed_out(self, item: Input) -> None:
        container = item.container
        if container is None or item.result is not None:
            return
        container.cancel_input(item)
        self._unassign(item)
        result = Result(
            status=Result.GENERIC_STATUS_TIMEOUT,
            exception=f"the function has not finished within its timeout of {container.function.timeout:g} s",
        )
        self.plane.calls.failed(item, result, api_pb2.DATA_FORMAT_UNSPECIFIED, container.id)

    def _next(self, pool: Pool) -> Input | None:
        while pool.pending:
            item = pool.pending.popleft()
            if item.result is None:
                return item
        return None

    def _idle(self, container: Container) -> None:
        """A container that has waited for its scaledown window ends, unless it is one that is to stay."""
        container.idle = None
        if container.busy or not container.usable:
            return
        if sum(other.usable for other in container.pool.containers) > container.function.scaling.least:
            container.retire()
        else:
            self._watch_idle(container)

    def _watch_idle(self, container: Container) -> None:
        if container.idle is None and not container.busy:
            container.idle = asyncio.get_running_loop().call_later(
                container.function.scaling.idle_seconds, self._idle, container
            )

    # --- what containers call ---

    @rpc()
    async def container_hello(self, request: Empty, caller: Caller) -> Empty:
        self._own(caller)
        return Empty()

    @rpc(moot="canceled_inputs_return_outputs canceled_inputs_return_outputs_v2")
    async def container_heartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = self._own(caller)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(container.cancels.wait(), HEARTBEAT_POLL)
        answer = api_pb2.ContainerHeartbeatResponse()
        if container.cancels.is_set():
            container.cancels.clear()
            answer.cancel_input_event.input_ids.extend(container.dropped)
        return answer

    @rpc(reads="function_id input_concurrency", moot="batch_max_size batch_linger_ms")
    async def function_get_inputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        container = self._own(caller)
        pool = container.pool
        if not container.ready:
            container.ready = True
            pool.crashes = 0
            self.plane.logs.state(_origin(container), api_pb2.TASK_STATE_ACTIVE)
        item: Input | None = None
        if container.usable:
            item = self._next(pool)
            if item is not None:
                container.take(item)
                self._given(container, item)
            else:
                future: asyncio.Future[Input | None] = asyncio.get_running_loop().create_future()
                container.waiting.append(future)
                self._watch_idle(container)
                try:
                    item = await future
                except asyncio.CancelledError:
                    if future.done() and not future.cancelled() and (late := future.result()) is not None:
                        container.inputs.pop(late.id, None)
                        self._unassign(late)
                        self.queue(late)
                    raise
        if item is None:
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        return api_pb2.FunctionGetInputsResponse(
            inputs=[
                api_pb2.FunctionGetInputsItem(
                    input_id=item.id,
                    input=item.data,
                    function_call_id=item.call.id,
                    function_call_invocation_type=item.call.invocation,
                    retry_count=item.attempt,
                    function_map_idx=item.idx,
                )
            ]
        )

    @rpc(reads="outputs", moot="requested_at")
    async def function_put_outputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        container = self._own(caller)
        if container.process is not None and container.lines is not None:
            # What it has printed comes before its result, and is known to belong to it.
            container.process.drain()
            container.lines.flush()
        for output in request.outputs:
            item = container.done(output.input_id)
            if item is None:  # it was cancelled or timed out in the meantime
                continue
            self._unassign(item)
            if output.result.status == Result.GENERIC_STATUS_SUCCESS:
                self.plane.calls.finish(
                    item, output.result, output.data_format, output.input_started_at, container.id
                )
            else:
                self.plane.calls.failed(item, output.result, output.data_format, container.id)
        return Empty()

    @rpc(reads="result", moot="termination_reason")
    async def task_result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        self._own(caller).failure = request.result
        return Empty()

    def _own(self, caller: Caller) -> Container:
        if caller.container is None:
            fail(Status.PERMISSION_DENIED, "only a container may call this")
        return caller.container

    # --- what clients ask of containers ---

    def _task(self, task_id: str) -> Container:
        container = self._containers.get(task_id) or next((c for c in self._ended if c.id == task_id), None)
        if container is None:
            fail(Status.NOT_FOUND, f"there is no container {task_id!r}")
        return container

    @rpc(reads="task_id graceful")
    async def container_stop(
        self, request: api_pb2.ContainerStopRequest, caller: Caller
    ) -> api_pb2.ContainerStopResponse:
        container = self._task(request.task_id)
        if request.graceful:
            container.retire()
        else:
            for item in list(container.inputs.values()):  # they run elsewhere
                container.cancel_input(item)
                self._unassign(item)
                self.queue(item)
            container.interrupt()
        return api_pb2.ContainerStopResponse()

    @rpc(reads="environment_name app_id")
    async def task_list(self, request: api_pb2.TaskListRequest, caller: Caller) -> api_pb2.TaskListResponse:
        answer = api_pb2.TaskListResponse()
        for container in self._containers.values():
            app = self.plane.apps.get(container.function.app_id)
            if request.app_id in ("", app.id) and request.environment_name in ("", app.environment):
                answer.tasks.add(
                    task_id=container.id,
                    app_id=app.id,
                    app_description=app.description,
                    started_at=container.started_at,
                    enqueued_at=container.enqueued_at,
                )
        return answer

    @rpc(reads="task_id")
    async def task_get_info(
        self, request: api_pb2.TaskGetInfoRequest, caller: Caller
    ) -> api_pb2.TaskGetInfoResponse:
        container = self._task(request.task_id)
        info = api_pb2.TaskInfo(
            id=container.id,
            started_at=container.started_at,
            finished_at=container.finished_at,
            enqueued_at=container.enqueued_at,
            gpu_config=container.function.definition.resources.gpu_config,
            result=container.result,
        )
        return api_pb2.TaskGetInfoResponse(app_id=container.function.app_id, info=info)


def _most_cpu(asked: api_pb2.Resources) -> int:
    """Thousandths of a core that a container may use; 0 for all that this machine has."""
    most = asked.milli_cpu_max or (asked.milli_cpu or DEFAULT_MILLI_CPU) + MORE_MILLI_CPU
    return most if most < 1000 * (os.cpu_count() or 1) else 0


def _describe_exit(code: int, container: Container) -> str:
    if container.process is not None and container.process.oom:
        limit = container.function.definition.resources.memory_mb_max
        return f"the container ran out of memory: it used more than its {limit} MiB"
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
    return f"the container {how}"


def _result(container: Container, reason: str) -> Result:
    """How a container has ended, as TaskGetInfo has it."""
    if container.failure is not None:
        return container.failure
    if container.process is not None and container.process.oom:
        return Result(status=Result.GENERIC_STATUS_KERNEL_OOM_KILL, exception=reason)
    if container.retiring and not container.cause:
        return Result(status=Result.GENERIC_STATUS_SUCCESS)
    return Result(status=Result.GENERIC_STATUS_FAILURE, exception=reason)


def _origin(container: Container) -> Origin:
    function = container.function
    base = function.base
    if base is None:
        return Origin(function.app_id, function.id, "", container.id)
    return Origin(function.app_id, base.id, function.id, container.id)


def _log_of(plane: ControlPlane, container: Container) -> Callable[[int, str], None]:
    origin = _origin(container)

    def take(descriptor: int, text: str) -> None:
        call_id, input_id = container.at_work_on
        plane.logs.write(origin, descriptor, text, call_id=call_id, input_id=input_id)

    return take
