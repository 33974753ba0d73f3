"""Functions and classes: what an app defines, and how each of them is to run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from ..ids import new_id
from ..rpc import Caller, declare, fail, rpc
from ..store import join_parts, split_parts
from . import Service

if TYPE_CHECKING:
    from .apps import App

__all__ = ["Draft", "Function", "FunctionService"]

DEFAULT_TIMEOUT = 300  # seconds: Modal's
DEFAULT_SCALEDOWN = 60  # seconds: Modal's
MOST_KEPT = 64
# Modal refuses a function that asks for more than any of its machines has (modal.com/docs/guide/resources), and does
# not say how much that is.
MOST_CPU = 64
MOST_MEMORY = 336 * 1024
"""Containers that a function may keep ready: they are processes of this machine."""
SHAPE = (
    "module_name function_name implementation_name function_type autoscaler_settings method_definitions"
    " method_definitions_set timeout_secs startup_timeout_secs concurrency_limit warm_pool_size"
    " task_idle_timeout_secs _experimental_buffer_containers is_class class_parameter_info is_method function_schema"
    " supported_input_formats supported_output_formats"
)

declare(
    api_pb2.Function,
    reads=SHAPE
    + " mount_ids image_id function_serialized class_serialized definition_type resources secret_ids"
    " retry_policy app_name volume_mounts max_concurrent_inputs target_concurrent_inputs object_dependencies"
    " is_builder_function max_inputs single_use_containers mount_client_dependencies"
    " _experimental_concurrent_cancellations",
    # Where a container runs, on what kind of machine, and whether it starts from a snapshot cannot be told from inside.
    moot="cloud_provider cloud_provider_str scheduler_placement runtime runtime_debug runtime_perf_record worker_id"
    " is_auto_snapshot checkpointing_enabled is_checkpointing_function snapshot_debug routing_region"
    " enable_gpu_snapshot _experimental_enable_gpu_snapshot",
)
declare(
    api_pb2.FunctionData,
    reads=SHAPE + " ranked_functions",
    moot="worker_id snapshot_debug runtime_perf_record routing_region _experimental_enable_gpu_snapshot",
)
declare(
    api_pb2.Resources,
    reads="memory_mb memory_mb_max milli_cpu milli_cpu_max gpu_config",
    # Room on disk is asked for, not a limit; there is as much as the host has.
    moot="ephemeral_disk_mb skip_num_threads_env_vars",
)
declare(
    api_pb2.AutoscalerSettings,
    reads="min_containers max_containers buffer_containers scaledown_window target_concurrency",
    moot="scaleup_window scaledown_rate_limit target_concurrency_float",
)
declare(
    api_pb2.FunctionOptions,
    reads="secret_ids replace_secret_ids resources retry_policy concurrency_limit timeout_secs task_idle_timeout_secs"
    " warm_pool_size volume_mounts replace_volume_mounts target_concurrent_inputs max_concurrent_inputs"
    " buffer_containers mount_ids",
    moot="scheduler_placement cloud_provider_str routing_region",
)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many containers a function has."""

    least: int
    most: int
    """0 if the function does not say."""
    spare: int
    idle_seconds: float
    concurrency: int
    """Inputs that one container runs at a time."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a function will be when its app is published."""

    data: api_pb2.FunctionData
    metadata: api_pb2.FunctionHandleMetadata
    python: str
    client: str


@dataclass(eq=False, slots=True)
class Function:
    """A function, a class, or either of them with other options or with parameters.

    Attributes:
        data: its definition; the definition of the base if there is one.
        python, client: the minor version of the Python, and the version of the client, that it was defined with.
        base: what it is a variant of; None for what an app defines.
        params: what a class is constructed with, serialized by the client.
        options: what the variant has otherwise than its base.
        overrides: what was changed while it runs.
        revision: goes up when it is defined anew.
        draft: what a deployment in progress has defined it as.
    """

    id: str
    app_id: str
    data: api_pb2.FunctionData
    metadata: api_pb2.FunctionHandleMetadata
    python: str = ""
    client: str = ""
    base: Function | None = None
    params: bytes = b""
    options: api_pb2.FunctionOptions = field(default_factory=api_pb2.FunctionOptions)
    overrides: api_pb2.AutoscalerSettings = field(default_factory=api_pb2.AutoscalerSettings)
    revision: int = 0
    draft: Draft | None = None
    _definition: tuple[int, api_pb2.Function] | None = None

    @property
    def defined(self) -> bool:
        return bool((self.base or self).data.ranked_functions)

    @property
    def current_revision(self) -> int:
        return (self.base or self).revision

    @property
    def definition(self) -> api_pb2.Function:
        """How it runs: the first of the alternatives that were given, with the options of this variant."""
        origin = self.base or self
        if self._definition is None or self._definition[0] != origin.revision:
            if not origin.data.ranked_functions:
                fail(Status.FAILED_PRECONDITION, f"function {self.id} has not been created yet")
            definition = api_pb2.Function()
            definition.CopyFrom(origin.data.ranked_functions[0].function)
            _apply(self.options, definition)
            self._definition = (origin.revision, definition)
        return self._definition[1]

    def adopt(self, draft: Draft) -> None:
        """Become what a draft says."""
        before = self.data.SerializeToString(deterministic=True)
        self.revision += before != draft.data.SerializeToString(deterministic=True)
        self.data, self.metadata = draft.data, draft.metadata
        self.python, self.client = draft.python, draft.client
        self.draft = None

    @property
    def name(self) -> str:
        return self.metadata.function_name

    @property
    def timeout(self) -> float:
        """Seconds that an input may run."""
        return self.definition.timeout_secs or DEFAULT_TIMEOUT

    @property
    def startup_timeout(self) -> float:
        """Seconds that a container may take to start."""
        given = self.definition.startup_timeout_secs
        # A client that was told nothing of it sends the timeout, which says nothing of how quick this machine is.
        return (
            given if given and given != self.definition.timeout_secs else max(self.timeout, DEFAULT_TIMEOUT)
        )

    @property
    def scaling(self) -> Scaling:
        definition = self.definition
        wanted = api_pb2.AutoscalerSettings(  # as clients have said it in the past
            min_containers=definition.warm_pool_size,
            max_containers=definition.concurrency_limit,
            buffer_containers=definition._experimental_buffer_containers,
            scaledown_window=definition.task_idle_timeout_secs,
        )
        wanted.MergeFrom(definition.autoscaler_settings)
        wanted.MergeFrom(self.overrides)  # a 0 in it counts: no limit, or none at all
        return Scaling(
            least=wanted.min_containers,
            most=wanted.max_containers,
            spare=wanted.buffer_containers,
            idle_seconds=wanted.scaledown_window or DEFAULT_SCALEDOWN,
            concurrency=max(1, definition.target_concurrent_inputs or definition.max_concurrent_inputs),
        )


def _apply(options: api_pb2.FunctionOptions, definition: api_pb2.Function) -> None:
    """Change a definition as the options of a variant say."""
    if options.replace_secret_ids:
        del definition.secret_ids[:]
    definition.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts:
        del definition.volume_mounts[:]
    definition.volume_mounts.extend(options.volume_mounts)
    definition.mount_ids.extend(options.mount_ids)
    given = {field.name for field, _ in options.ListFields()}
    for message in ("resources", "retry_policy"):
        if message in given:
            getattr(definition, message).MergeFrom(getattr(options, message))
    for name in ("timeout_secs", "target_concurrent_inputs", "max_concurrent_inputs"):
        if name in given:
            setattr(definition, name, getattr(options, name))
    scaling = {
        "concurrency_limit": "max_containers",
        "warm_pool_size": "min_containers",
        "buffer_containers": "buffer_containers",
        "task_idle_timeout_secs": "scaledown_window",
    }
    for name, setting in scaling.items():
        if name in given:
            setattr(definition.autoscaler_settings, setting, getattr(options, name))


class FunctionService(Service):
    """The RPCs that define functions and classes and look them up."""

    async def start(self) -> None:
        self._functions: dict[str, Function] = {}
        self._classes: dict[str, str] = {}
        """The app of each class."""
        for class_id, owner in self.store.items("class"):
            self._classes[class_id] = owner.decode()
        rows = [split_parts(data) for _, data in self.store.items("function")]
        for parts in sorted(
            rows, key=lambda parts: bool(parts[4])
        ):  # variants after what they are variants of
            function_id, app_id, python, base_id = (
                part.decode() for part in (parts[0], parts[1], parts[3], parts[4])
            )
            self._functions[function_id] = Function(
                function_id,
                app_id,
                api_pb2.FunctionData.FromString(parts[2]),
                api_pb2.FunctionHandleMetadata.FromString(parts[5]),
                python,
                parts[8].decode(),
                self._functions[base_id] if base_id else None,
                parts[6],
                api_pb2.FunctionOptions.FromString(parts[7]),
            )

    def _keep(self, function: Function) -> None:
        row = join_parts(
            function.id.encode(),
            function.app_id.encode(),
            function.data.SerializeToString(),
            function.python.encode(),
            function.base.id.encode() if function.base else b"",
            function.metadata.SerializeToString(),
            function.params,
            function.options.SerializeToString(),
            function.client.encode(),
        )
        self.store.put("function", function.id, row)

    # --- for the other services ---

    def find(self, function_id: str) -> Function | None:
        return self._functions.get(function_id)

    def get(self, function_id: str) -> Function:
        function = self._functions.get(function_id)
        if function is None:
            fail(Status.NOT_FOUND, f"there is no function {function_id!r}")
        return function

    def check_belongs(self, object_id: str, app_id: str) -> None:
        """Refuse an id that is not a function or class of an app."""
        owner = self._classes.get(object_id)
        if owner is None:
            owner = self.get(object_id).app_id
        if owner != app_id:
            fail(Status.INVALID_ARGUMENT, f"{object_id} belongs to another app")

    def gpus(self, function_id: str) -> list[api_pb2.GPUConfig]:
        ranked = self.get(function_id).data.ranked_functions
        return [
            item.function.resources.gpu_config for item in ranked if item.function.resources.gpu_config.count
        ]

    def layout(self, app: App) -> api_pb2.AppLayout:
        """All that an app has: its functions and classes, and what those depend on."""
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        seen = set()
        for function_id in app.function_ids.values():
            function = self.get(function_id)
            layout.objects.add(object_id=function_id, function_handle_metadata=function.metadata)
            for dependency in function.definition.object_dependencies if function.defined else ():
                seen.add(dependency.object_id)
        for class_id in app.class_ids.values():
            layout.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
        for object_id in sorted(seen):
            described = layout.objects.add(object_id=object_id)
            if object_id.startswith("vo-"):
                described.volume_metadata.CopyFrom(self.plane.volumes.metadata(object_id))
            elif object_id.startswith("mo-"):
                described.mount_handle_metadata.CopyFrom(
                    api_pb2.MountHandleMetadata(
                        content_checksum_sha256_hex=self.plane.mounts.digest(object_id)
                    )
                )
        return layout

    def check_drafts(self, definition_ids: dict[str, str]) -> None:
        """Refuse definitions that are not the last ones of their functions."""
        for function_id, definition_id in definition_ids.items():
            draft = self.get(function_id).draft
            if draft is not None and definition_id != draft.metadata.definition_id:
                fail(
                    Status.ABORTED,
                    "the app is being deployed by somebody else at the same time: deploy it again",
                )

    def published(self, app: App) -> None:
        """
        An app has been published: its functions are what they were last defined as, have containers of no other
        definition, and may have some before they are called.
        """
        changed = {function_id: self.get(function_id) for function_id in app.function_ids.values()}
        for function in changed.values():
            if function.draft is not None:
                function.adopt(function.draft)
                self._keep(function)
            function.overrides.Clear()
        for function in list(self._functions.values()):
            if function.base is not None and function.base.id in changed:
                function.overrides.Clear()
                self.plane.containers.function_changed(function)
        for function in changed.values():
            self.plane.containers.function_changed(function)

    def drafts(self, app: App) -> dict[str, Draft]:
        """What an app's functions are, by their ids."""
        functions = map(self.get, app.function_ids.values())
        return {each.id: Draft(each.data, each.metadata, each.python, each.client) for each in functions}

    def redraft(self, drafts: Mapping[str, Draft], *, renew: bool = False) -> None:
        """Make functions what drafts say, when their app is published; with `renew` they count as changed anyhow."""
        for function_id, draft in drafts.items():
            function = self.get(function_id)
            function.draft = draft
            function.revision += renew

    def drop_app(self, app_id: str) -> None:
        """Drop what an app defined that nobody can call any more."""
        for function in [f for f in self._functions.values() if f.app_id == app_id]:
            del self._functions[function.id]
            self.store.delete("function", function.id)
        for class_id in [c for c, owner in self._classes.items() if owner == app_id]:
            del self._classes[class_id]
            self.store.delete("class", class_id)

    # --- defining ---

    @rpc(
        reads="app_id function_name existing_function_id function_type method_definitions function_schema"
        " supported_input_formats supported_output_formats",
    )
    async def function_precreate(
        self, request: api_pb2.FunctionPrecreateRequest, caller: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        app = self.plane.apps.get(request.app_id)
        function = self._existing(app, request.existing_function_id)
        metadata = _metadata(function, request)
        if not function.defined:
            function.metadata = metadata
        return api_pb2.FunctionPrecreateResponse(function_id=function.id, handle_metadata=metadata)

    def _existing(self, app: App, function_id: str) -> Function:
        """A function to define: an app's own, or a new one."""
        if not app.runs:
            fail(Status.FAILED_PRECONDITION, f"app {app.id} has been stopped")
        if function_id:
            self.check_belongs(function_id, app.id)
            return self.get(function_id)
        function = Function(new_id("fu"), app.id, api_pb2.FunctionData(), api_pb2.FunctionHandleMetadata())
        self._functions[function.id] = function
        return function

    @rpc(reads="function app_id existing_function_id function_data")
    async def function_create(
        self, request: api_pb2.FunctionCreateRequest, caller: Caller
    ) -> api_pb2.FunctionCreateResponse:
        app = self.plane.apps.get(request.app_id)
        data = api_pb2.FunctionData()
        if request.HasField("function_data"):
            data.CopyFrom(request.function_data)
        else:
            data = _data_of(request.function)
        if not data.ranked_functions:
            fail(Status.INVALID_ARGUMENT, "a function without a definition")
        for ranked in data.ranked_functions:
            self._check(ranked.function, caller)
        function = self._existing(app, request.existing_function_id)
        metadata = _metadata(function, data)
        metadata.definition_id = new_id("de")
        draft = Draft(data, metadata, caller.python, caller.client_version)
        if function.id in app.function_ids.values():
            # Until the app is published, and for good if it is not, the function stays what it is.
            function.draft = draft
        else:
            function.adopt(draft)
            self._keep(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=data.ranked_functions[0].function,
            function_data=data,
            handle_metadata=metadata,
        )

    def _check(self, definition: api_pb2.Function, caller: Caller) -> None:
        """Refuse what could only fail, or fail in odd ways, in a container."""
        for method in definition.method_definitions.values():
            if method.HasField("webhook_config") and method.webhook_config.type:
                fail(Status.UNIMPLEMENTED, "modal-emulator does not do web endpoints")
        if definition.is_method:
            fail(
                Status.UNIMPLEMENTED, "modal-emulator does not do classes as clients before 0.67 define them"
            )
        _check_resources(definition.resources)
        _check_kept(
            definition.autoscaler_settings.min_containers,
            definition.autoscaler_settings.buffer_containers,
            definition.warm_pool_size,
            definition._experimental_buffer_containers,
        )
        layer = self.plane.images.layer(definition.image_id)
        serialized = definition.definition_type == api_pb2.Function.DEFINITION_TYPE_SERIALIZED
        if serialized and caller.python and layer.python != caller.python:
            fail(
                Status.INVALID_ARGUMENT,
                f"function {definition.function_name} was serialized by Python {caller.python}, but its image has"
                f" Python {layer.python}, which cannot read that; use the same version in both, for instance"
                f' modal.Image.debian_slim(python_version="{caller.python}")',
            )
        for mount in definition.volume_mounts:
            self.plane.volumes.metadata(mount.volume_id)  # NOT_FOUND if there is none
        self.plane.secrets.env(definition.secret_ids)

    @rpc(reads="function_id serialized_params function_options environment_name")
    async def function_bind_params(
        self, request: api_pb2.FunctionBindParamsRequest, caller: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        base = self.get(request.function_id)
        base = base.base or base
        # The id says what it is, so that equal variants share their containers, also after a restart.
        content = request.serialized_params + request.function_options.SerializeToString(deterministic=True)
        digest = hashlib.sha256(base.id.encode() + content).hexdigest()
        function_id = f"fu-{digest[:22]}"
        function = self._functions.get(function_id)
        metadata = api_pb2.FunctionHandleMetadata()
        metadata.CopyFrom(base.metadata)
        metadata.base_function_id = base.id
        if function is not None:
            function.metadata = metadata  # what it is a variant of may have been defined anew
        else:
            function = Function(
                function_id,
                base.app_id,
                api_pb2.FunctionData(),
                metadata,
                base.python,
                base.client,
                base,
                request.serialized_params,
                request.function_options,
            )
            self._check(function.definition, caller)
            self._functions[function_id] = function
            self._keep(function)
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=function_id, handle_metadata=function.metadata
        )

    @rpc(reads="app_id existing_class_id only_class_function")
    async def class_create(
        self, request: api_pb2.ClassCreateRequest, caller: Caller
    ) -> api_pb2.ClassCreateResponse:
        if not request.only_class_function:
            fail(
                Status.UNIMPLEMENTED, "modal-emulator does not do classes as clients before 0.67 define them"
            )
        self.plane.apps.get(request.app_id)
        class_id = request.existing_class_id or new_id("cs")
        if request.existing_class_id:
            self.check_belongs(class_id, request.app_id)
        self._classes[class_id] = request.app_id
        self.store.put("class", class_id, request.app_id.encode())
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    # --- looking up ---

    def _app(self, name: str, environment: str, version: int) -> App:
        app = self.plane.apps.deployed(name, environment)
        if app is None:
            where = self.plane.session.environment(environment)
            fail(Status.NOT_FOUND, f"App '{name}' not found in environment '{where}'")
        if version and version != app.version:
            fail(
                Status.UNIMPLEMENTED,
                f"modal-emulator keeps only the newest version of an app, now {app.version}",
            )
        return app

    @rpc(reads="app_name object_tag environment_name app_version")
    async def function_get(
        self, request: api_pb2.FunctionGetRequest, caller: Caller
    ) -> api_pb2.FunctionGetResponse:
        app = self._app(request.app_name, request.environment_name, request.app_version)
        function_id = app.function_ids.get(request.object_tag)
        if function_id is None:
            is_class = request.object_tag in app.class_ids
            raise GRPCError(
                Status.NOT_FOUND,
                f"app {app.name!r} has no function {request.object_tag!r}",
                [api_pb2.FunctionLookupError(reason=api_pb2.FunctionLookupError.REASON_CLASS_NAME_USED)]
                if is_class
                else None,
            )
        function = self.get(function_id)
        return api_pb2.FunctionGetResponse(
            function_id=function.id, handle_metadata=function.metadata, function=function.data
        )

    @rpc(reads="function_id")
    async def function_get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, caller: Caller
    ) -> api_pb2.FunctionGetByIdResponse:
        function = self.get(request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            function=(function.base or function).data, handle_metadata=function.metadata
        )

    @rpc(reads="app_name object_tag environment_name only_class_function app_version")
    async def class_get(self, request: api_pb2.ClassGetRequest, caller: Caller) -> api_pb2.ClassGetResponse:
        app = self._app(request.app_name, request.environment_name, request.app_version)
        class_id = app.class_ids.get(request.object_tag)
        if class_id is None:
            fail(Status.NOT_FOUND, f"app {app.name!r} has no class {request.object_tag!r}")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    # --- how many containers ---

    @rpc(reads="function_id")
    async def function_get_current_stats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, caller: Caller
    ) -> api_pb2.FunctionStats:
        return self.plane.containers.stats(self.get(request.function_id))

    @rpc(reads="function_id warm_pool_size_override settings")
    async def function_update_scheduling_params(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, caller: Caller
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        function = self.get(request.function_id)
        settings = request.settings
        _check_kept(request.warm_pool_size_override, settings.min_containers, settings.buffer_containers)
        if request.warm_pool_size_override:
            function.overrides.min_containers = request.warm_pool_size_override
        function.overrides.MergeFrom(request.settings)
        self.plane.containers.function_changed(function)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=_settings(function))

    @rpc(reads="function_id")
    async def function_get_scheduling_params(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, caller: Caller
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        function = self.get(request.function_id)
        return api_pb2.FunctionGetSchedulingParamsResponse(
            autoscaler_configuration=api_pb2.AutoscalerConfiguration(
                settings=_settings(function),
                static_settings=function.definition.autoscaler_settings,
                override_settings=function.overrides,
            )
        )

    @rpc(reads="function_id target_concurrency max_concurrency")
    async def function_get_dynamic_concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, caller: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        # More than the target only while inputs are waiting that no container has room for.
        waiting = self.plane.containers.stats(self.get(request.function_id)).backlog
        least, most = request.target_concurrency, request.max_concurrency
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=min(most, least + waiting))


def _check_resources(asked: api_pb2.Resources) -> None:
    if asked.milli_cpu > 1000 * MOST_CPU or asked.memory_mb > MOST_MEMORY:
        fail(
            Status.INVALID_ARGUMENT,
            f"modal-emulator takes requests for at most {MOST_CPU} CPU cores and {MOST_MEMORY} MiB of memory",
        )


def _check_kept(*counts: int) -> None:
    if any(count > MOST_KEPT for count in counts):
        fail(
            Status.INVALID_ARGUMENT,
            f"modal-emulator keeps at most {MOST_KEPT} containers of a function ready",
        )


def _settings(function: Function) -> api_pb2.AutoscalerSettings:
    scaling = function.scaling
    settings = api_pb2.AutoscalerSettings(
        min_containers=scaling.least,
        buffer_containers=scaling.spare,
        scaledown_window=math.ceil(scaling.idle_seconds),
    )
    if scaling.most:
        settings.max_containers = scaling.most
    return settings


def _data_of(definition: api_pb2.Function) -> api_pb2.FunctionData:
    """What a definition says of its shape, with the definition as the only alternative."""
    data = api_pb2.FunctionData()
    for name in SHAPE.split():
        value = getattr(definition, name)
        if name == "method_definitions":
            for method, described in value.items():
                data.method_definitions[method].CopyFrom(described)
        elif hasattr(value, "CopyFrom"):
            if value.ListFields():
                getattr(data, name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(data, name).extend(value)
        else:
            setattr(data, name, value)
    data.ranked_functions.add(rank=0, function=definition)
    return data


def _metadata(
    function: Function, shape: api_pb2.FunctionData | api_pb2.FunctionPrecreateRequest
) -> api_pb2.FunctionHandleMetadata:
    """What a client has to know of a function to call it."""
    metadata = api_pb2.FunctionHandleMetadata(
        function_name=shape.function_name,
        function_type=shape.function_type,
        function_schema=shape.function_schema,
        supported_input_formats=shape.supported_input_formats,
        supported_output_formats=shape.supported_output_formats,
        app_id=function.app_id,
        definition_id=function.metadata.definition_id,
    )
    if isinstance(shape, api_pb2.FunctionData):
        metadata.is_method = shape.is_method
        metadata.class_parameter_info.CopyFrom(shape.class_parameter_info)
    for name, method in shape.method_definitions.items():
        metadata.method_handle_metadata[name].CopyFrom(
            api_pb2.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                is_method=True,
                use_method_name=name,
                function_schema=method.function_schema,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
                app_id=function.app_id,
            )
        )
    return metadata
