"""Apps: programs that run, and programs that were deployed and wait for calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..ids import new_id
from ..named import check_name
from ..rpc import Caller, declare, fail, rpc
from ..store import join_parts, split_parts
from . import Service
from .deployments import Deployment

__all__ = ["App", "AppService"]

EPHEMERAL, DETACHED = api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_DETACHED
DEPLOYED, STOPPED = api_pb2.APP_STATE_DEPLOYED, api_pb2.APP_STATE_STOPPED
DISCONNECTED = api_pb2.APP_STATE_DETACHED_DISCONNECTED
INITIALIZING = api_pb2.APP_STATE_INITIALIZING

declare(
    api_pb2.CommitInfo,
    reads="vcs branch commit_hash commit_timestamp dirty author_name author_email repo_url",
)


@dataclass(eq=False, slots=True)
class App:
    """An app.

    Attributes:
        name: what it was deployed as; empty if it was not.
        heard: when its client was last heard of, on the monotonic clock.
        objects: the ids of the functions and classes that it publishes, by their tags.
        history: one entry for each deployment, the newest last.
    """

    id: str
    description: str
    environment: str
    state: api_pb2.AppState.ValueType
    name: str = ""
    created_at: float = field(default_factory=time.time)
    stopped_at: float = 0.0
    deployed_at: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    history: list[api_pb2.AppDeploymentHistory] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.state != STOPPED

    @property
    def version(self) -> int:
        return len(self.history)

    def lifecycle(self) -> api_pb2.AppLifecycle:
        return api_pb2.AppLifecycle(
            app_state=self.state,
            created_at=self.created_at,
            deployed_at=self.deployed_at,
            version=self.version,
            stopped_at=self.stopped_at,
        )

    def pack(self) -> bytes:
        """Itself as bytes, for the store: as the messages that the protocol has for its parts."""
        info = api_pb2.AppHandleMetadata(
            app_id=self.id,
            description=self.description,
            environment_name=self.environment,
            lifecycle=self.lifecycle(),
        )
        layout = api_pb2.AppLayout(function_ids=self.function_ids, class_ids=self.class_ids)
        tags = api_pb2.AppGetTagsResponse(tags=self.tags)
        history = api_pb2.AppDeploymentHistoryResponse(app_deployment_histories=self.history)
        name = api_pb2.AppGetByDeploymentNameRequest(name=self.name)
        return join_parts(*(part.SerializeToString() for part in (info, layout, tags, history, name)))

    @classmethod
    def unpack(cls, data: bytes) -> App:
        parts = split_parts(data)
        info = api_pb2.AppHandleMetadata.FromString(parts[0])
        layout = api_pb2.AppLayout.FromString(parts[1])
        return cls(
            info.app_id,
            info.description,
            info.environment_name,
            info.lifecycle.app_state,
            name=api_pb2.AppGetByDeploymentNameRequest.FromString(parts[4]).name,
            created_at=info.lifecycle.created_at,
            stopped_at=info.lifecycle.stopped_at,
            deployed_at=info.lifecycle.deployed_at,
            function_ids=dict(layout.function_ids),
            class_ids=dict(layout.class_ids),
            tags=dict(api_pb2.AppGetTagsResponse.FromString(parts[2]).tags),
            history=list(api_pb2.AppDeploymentHistoryResponse.FromString(parts[3]).app_deployment_histories),
        )


class AppService(Service):
    """The RPCs whose names start with App."""

    async def start(self) -> None:
        self._apps: dict[str, App] = {}
        for _, data in self.store.items("app"):
            app = App.unpack(data)
            if app.state not in (DEPLOYED, STOPPED):  # its server is gone, and its containers with it
                app.state, app.stopped_at = STOPPED, time.time()
            self._apps[app.id] = app
        self._deployments: dict[tuple[str, int], Deployment] = {}
        """By the app's id and its version then."""
        for key, data in self.store.items("deployment"):
            app_id, _, version = key.partition("/")
            self._deployments[app_id, int(version)] = Deployment.unpack(data)
        self._ending: set[asyncio.Task[None]] = set()
        self._watch = asyncio.create_task(self._stop_abandoned())

    def resume(self) -> None:
        """All services have started: go on where the server before was stopped."""
        for app in self.all():
            if app.state == DEPLOYED:
                self.plane.functions.published(app)
            else:
                self._drop(app)

    async def stop(self) -> None:
        self._watch.cancel()
        if self._ending:
            await asyncio.wait(self._ending)

    async def drop_environment(self, name: str) -> None:
        for app in self.all():
            if app.environment == name:
                self.end(app)

    def get(self, app_id: str) -> App:
        app = self._apps.get(app_id)
        if app is None:
            fail(Status.NOT_FOUND, f"there is no app {app_id!r}")
        return app

    def find(self, app_id: str) -> App | None:
        return self._apps.get(app_id)

    def deployed(self, name: str, environment: str) -> App | None:
        """The app of that name that waits for calls, if there is one."""
        return next((app for app in self._named(name, environment) if app.state == DEPLOYED), None)

    def all(self) -> list[App]:
        return list(self._apps.values())

    def end(self, app: App) -> None:
        """Stop an app: what it runs is cancelled, and soon its containers have ended."""
        if app.runs:
            app.state, app.stopped_at = STOPPED, time.time()
            self._keep(app)
            self.plane.calls.cancel_app(app.id)
            task = asyncio.create_task(self._wind_up(app))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _wind_up(self, app: App) -> None:
        await self.plane.containers.end_app(app.id)
        self.plane.logs.finish(app.id)
        self._drop(app)

    def _drop(self, app: App) -> None:
        """Forget what an app was made of: nothing of it runs, and nothing will."""
        plane = self.plane
        for service in (plane.calls, plane.functions, plane.volumes, plane.mounts, plane.secrets):
            service.drop_app(app.id)
        for entry in app.history:
            self._deployments.pop((app.id, entry.version), None)
            self.store.delete("deployment", f"{app.id}/{entry.version}")

    def _leave(self, app: App) -> None:
        """An app's client is gone: it ends, or if it is detached, when its work does."""
        if app.state in (DETACHED, DISCONNECTED) and self.plane.calls.has_work(app.id):
            app.state = DISCONNECTED
            self.plane.calls.when_idle(app.id, lambda: self._has_finished(app))
        elif app.state != DEPLOYED:
            self.end(app)

    def _has_finished(self, app: App) -> None:
        if app.state == DISCONNECTED:  # else its client is back
            self.end(app)

    def _named(self, name: str, environment: str) -> list[App]:
        """Apps that were deployed under a name, the newest first."""
        environment = self.plane.session.environment(environment)
        found = [app for app in self._apps.values() if app.name == name and app.environment == environment]
        return sorted(found, key=lambda app: app.deployed_at, reverse=True)

    def _keep(self, app: App) -> None:
        self.store.put("app", app.id, app.pack())

    async def _stop_abandoned(self) -> None:
        """End the ephemeral apps whose clients have vanished."""
        while True:
            limit = self.plane.settings.heartbeat_limit
            await asyncio.sleep(limit / 6)
            late = time.monotonic() - limit
            for app in self.all():
                if app.heard < late and app.state in (EPHEMERAL, INITIALIZING, DETACHED):
                    self._leave(app)

    def _new(self, description: str, environment: str, state: api_pb2.AppState.ValueType) -> App:
        app = App(new_id("ap"), description, self.plane.session.environment(environment), state)
        self._apps[app.id] = app
        self._keep(app)
        return app

    def _url(self, app: App) -> str:
        return f"{self.plane.session.web_url}/apps/{app.id}"

    # --- a client's session with its app ---

    @rpc(reads="description environment_name app_state tags", moot="client_id")
    async def app_create(
        self, request: api_pb2.AppCreateRequest, caller: Caller
    ) -> api_pb2.AppCreateResponse:
        app = self._new(request.description, request.environment_name, request.app_state or EPHEMERAL)
        app.tags.update(request.tags)
        return api_pb2.AppCreateResponse(
            app_id=app.id, app_page_url=self._url(app), app_logs_url=self._url(app)
        )

    @rpc(reads="app_name environment_name object_creation_type")
    async def app_get_or_create(
        self, request: api_pb2.AppGetOrCreateRequest, caller: Caller
    ) -> api_pb2.AppGetOrCreateResponse:
        app = self.deployed(request.app_name, request.environment_name)
        if app is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                fail(Status.NOT_FOUND, f"there is no app called {request.app_name!r}")
            check_name(request.app_name, "App")
            app = self._new(request.app_name, request.environment_name, DEPLOYED)
            app.name, app.deployed_at = request.app_name, time.time()
            self._keep(app)
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=self._metadata(app))

    @rpc(
        reads="app_id name deployment_tag app_state function_ids class_ids definition_ids client_version"
        " commit_info tags",
        moot="deployment_type",
    )
    async def app_publish(
        self, request: api_pb2.AppPublishRequest, caller: Caller
    ) -> api_pb2.AppPublishResponse:
        app = self.get(request.app_id)
        if request.app_state == DEPLOYED:
            check_name(request.name, "App")
        if not app.runs:
            fail(Status.FAILED_PRECONDITION, f"app {app.id} has been stopped")
        for object_id in [*request.function_ids.values(), *request.class_ids.values()]:
            self.plane.functions.check_belongs(object_id, app.id)
        self.plane.functions.check_drafts(dict(request.definition_ids))
        if request.app_state == DEPLOYED:
            other = self.deployed(request.name, app.environment)
            if other is not None and other is not app:
                fail(Status.ALREADY_EXISTS, f"another app is deployed as {request.name!r}")
            app.name = app.description = request.name
            entry = self._enter(app, caller)
            entry.tag = request.deployment_tag
            if request.HasField("commit_info"):
                entry.commit_info.CopyFrom(request.commit_info)
        if request.tags:
            app.tags = dict(request.tags)
        if request.app_state:
            app.state = request.app_state
        self._publish(app, request.function_ids, request.class_ids)
        return api_pb2.AppPublishResponse(url=self._url(app), deployed_at=app.deployed_at)

    def _enter(self, app: App, caller: Caller) -> api_pb2.AppDeploymentHistory:
        """Begin a deployment of an app: make its entry in the history."""
        app.deployed_at = time.time()
        entry = api_pb2.AppDeploymentHistory(
            app_id=app.id,
            version=app.version + 1,
            client_version=caller.client_version,
            deployed_at=app.deployed_at,
            deployed_by=self.plane.settings.workspace,
            rollback_allowed=True,
        )
        app.history.append(entry)
        return entry

    def _publish(self, app: App, function_ids: Mapping[str, str], class_ids: Mapping[str, str]) -> None:
        """Have an app be what its functions were last defined as, and those alone."""
        before = set(app.function_ids.values())
        app.function_ids, app.class_ids = dict(function_ids), dict(class_ids)
        self._keep(app)
        self.plane.functions.published(app)
        for function_id in before - set(app.function_ids.values()):
            self.plane.containers.end_function(function_id)
        if app.state == DEPLOYED:
            deployment = Deployment(app.function_ids, app.class_ids, self.plane.functions.drafts(app))
            self._deployments[app.id, app.version] = deployment
            self.store.put("deployment", f"{app.id}/{app.version}", deployment.pack())

    @rpc(reads="app_id version")
    async def app_rollback(
        self, request: api_pb2.AppRollbackRequest, caller: Caller
    ) -> api_pb2.AppRollbackResponse:
        app = self._get_deployed(request.app_id)
        version = request.version if request.version >= 0 else app.version - 1
        deployment = self._deployments.get((app.id, version))
        if deployment is None:
            fail(Status.NOT_FOUND, f"app {app.name} has no version v{version} to go back to")
        self._enter(app, caller).rollback_version = version
        self.plane.functions.redraft(deployment.drafts)
        self._publish(app, deployment.function_ids, deployment.class_ids)
        return api_pb2.AppRollbackResponse(url=self._url(app), deployed_at=app.deployed_at)

    @rpc(reads="app_id")
    async def app_rollover(
        self, request: api_pb2.AppRolloverRequest, caller: Caller
    ) -> api_pb2.AppRolloverResponse:
        app = self._get_deployed(request.app_id)
        self._enter(app, caller)
        # As they are: an earlier deployment that failed may have left drafts of another definition.
        self.plane.functions.redraft(self.plane.functions.drafts(app), renew=True)
        self._publish(app, app.function_ids, app.class_ids)
        return api_pb2.AppRolloverResponse(url=self._url(app), deployed_at=app.deployed_at)

    def _get_deployed(self, app_id: str) -> App:
        app = self.get(app_id)
        if app.state != DEPLOYED:
            fail(Status.FAILED_PRECONDITION, f"app {app.id} is not deployed")
        return app

    @rpc(reads="app_id")
    async def app_heartbeat(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> Empty:
        app = self.get(request.app_id)
        app.heard = time.monotonic()
        if app.state == DISCONNECTED:
            app.state = DETACHED
        return Empty()

    @rpc(reads="app_id", moot="reason exception")
    async def app_client_disconnect(
        self, request: api_pb2.AppClientDisconnectRequest, caller: Caller
    ) -> Empty:
        self._leave(self.get(request.app_id))
        return Empty()

    @rpc(reads="app_id", moot="source")
    async def app_stop(self, request: api_pb2.AppStopRequest, caller: Caller) -> Empty:
        self.end(self.get(request.app_id))
        return Empty()

    # --- what there is ---

    @rpc(reads="environment_name name")
    async def app_get_by_deployment_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, caller: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self.plane.session.environment(request.environment_name)
        answer = api_pb2.AppGetByDeploymentNameResponse(environment_name=environment)
        named = self._named(request.name, environment)
        if named and named[0].state == DEPLOYED:
            answer.app_id = named[0].id
        elif named:
            answer.previous_app_id = named[0].id
        if named:
            answer.lifecycle.CopyFrom(named[0].lifecycle())
        return answer

    @rpc(reads="app_id")
    async def app_get_layout(
        self, request: api_pb2.AppGetLayoutRequest, caller: Caller
    ) -> api_pb2.AppGetLayoutResponse:
        app = self.get(request.app_id)
        if not app.runs:
            fail(Status.FAILED_PRECONDITION, f"app {app.id} has been stopped")
        return api_pb2.AppGetLayoutResponse(app_layout=self.plane.functions.layout(app))

    @rpc(reads="app_id")
    async def app_get_lifecycle(
        self, request: api_pb2.AppGetLifecycleRequest, caller: Caller
    ) -> api_pb2.AppGetLifecycleResponse:
        return api_pb2.AppGetLifecycleResponse(lifecycle=self.get(request.app_id).lifecycle())

    @rpc(reads="app_id")
    async def app_get_info(
        self, request: api_pb2.AppGetInfoRequest, caller: Caller
    ) -> api_pb2.AppGetInfoResponse:
        app = self.get(request.app_id)
        answer = api_pb2.AppGetInfoResponse(info=self._metadata(app))
        for function_id in app.function_ids.values() if app.runs else ():
            gpus = self.plane.functions.gpus(function_id)
            answer.function_info_summaries[function_id].gpu_config.extend(gpus)
        return answer

    def _metadata(self, app: App) -> api_pb2.AppHandleMetadata:
        return api_pb2.AppHandleMetadata(
            app_id=app.id,
            description=app.description,
            environment_name=app.environment,
            lifecycle=app.lifecycle(),
            functions=app.function_ids,
        )

    @rpc(reads="environment_name")
    async def app_list(self, request: api_pb2.AppListRequest, caller: Caller) -> api_pb2.AppListResponse:
        environment = self.plane.session.environment(request.environment_name)
        return api_pb2.AppListResponse(
            apps=[
                api_pb2.AppListResponse.AppListItem(
                    app_id=app.id,
                    description=app.description,
                    state=app.state,
                    created_at=app.created_at,
                    stopped_at=app.stopped_at,
                    n_running_tasks=self.plane.containers.count(app.id),
                    name=app.name,
                    metadata=self._metadata(app),
                )
                for app in self.all()
                if app.environment == environment
            ]
        )

    @rpc(reads="app_id")
    async def app_deployment_history(
        self, request: api_pb2.AppDeploymentHistoryRequest, caller: Caller
    ) -> api_pb2.AppDeploymentHistoryResponse:
        app = self.get(request.app_id)
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=app.history, production_app_version=app.version
        )

    @rpc(reads="app_id tags")
    async def app_set_tags(self, request: api_pb2.AppSetTagsRequest, caller: Caller) -> Empty:
        app = self.get(request.app_id)
        app.tags = dict(request.tags)
        self._keep(app)
        return Empty()

    @rpc(reads="app_id")
    async def app_get_tags(
        self, request: api_pb2.AppGetTagsRequest, caller: Caller
    ) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=self.get(request.app_id).tags)
