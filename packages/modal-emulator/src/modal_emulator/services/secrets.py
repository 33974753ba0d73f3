"""Secrets: environment variables that containers get. Their values are in no log, and on disk only in files of the
user alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..named import Named, Registry
from ..rpc import Caller, fail, rpc
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["SecretService"]

LIFETIME = 86400.0  # seconds: clients make ephemeral secrets and send no heartbeats for them
LARGEST = 1 << 16  # bytes of a value; execve takes no more than twice that


class _Values(dict[str, str]):
    """Variables whose values do not appear in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


class SecretService(Service):
    """Secrets, from a dict, a dotenv file or by name: the client reads the file."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self._folder = plane.settings.data / "secrets"
        self._registry = Registry(self.store, "Secret", "st", self._forget, LIFETIME)
        self._values: dict[str, _Values] = {}
        self._used: dict[str, float] = {}

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._registry.start()
        for found in self._registry:
            try:
                self._values[found.id] = _Values(json.loads((self._folder / found.id).read_text()))
            except FileNotFoundError:
                self._registry.delete(found.id)  # the server before was killed while it was made

    async def stop(self) -> None:
        self._registry.stop()

    async def drop_environment(self, name: str) -> None:
        self._registry.drop_environment(name)

    def env(self, secret_ids: Iterable[str]) -> dict[str, str]:
        """The variables of several secrets; of two with a name, the later secret's. NOT_FOUND if one is missing."""
        env = _Values()
        for secret_id in secret_ids:
            env |= self._values[self._registry.get(secret_id).id]
            self._used[secret_id] = time.time()
        return env

    def drop_app(self, app_id: str) -> None:
        """An app has ended that will not run again: forget the secrets that it alone had."""
        self._registry.drop_app(app_id)

    def _forget(self, found: Named) -> None:
        self._values.pop(found.id, None)
        self._used.pop(found.id, None)
        (self._folder / found.id).unlink(missing_ok=True)

    def _keep(self, secret_id: str, values: Mapping[str, str]) -> None:
        self._values[secret_id] = _Values(values)
        temporary = self._folder / f"{secret_id}.tmp"
        temporary.unlink(missing_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as writer:
            json.dump(values, writer)
        temporary.rename(self._folder / secret_id)

    def _metadata(self, found: Named) -> api_pb2.SecretMetadata:
        metadata = api_pb2.SecretMetadata(
            name=found.name,
            creation_info=found.creation_info,
            keys=sorted(self._values[found.id]),
            environment_name=found.environment,
        )
        if "last_used_at" in metadata.DESCRIPTOR.fields_by_name:  # since 1.6.4
            metadata.last_used_at = self._used.get(found.id, 0.0)
        return metadata

    @rpc(reads="deployment_name environment_name object_creation_type env_dict app_id required_keys")
    async def secret_get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        _check(request.env_dict)
        found, new = self._registry.get_or_create(
            request.deployment_name, request.environment_name, request.object_creation_type, request.app_id
        )
        if new or request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            self._keep(found.id, dict(request.env_dict))
        missing = [key for key in request.required_keys if key not in self._values[found.id]]
        if missing:
            fail(
                Status.FAILED_PRECONDITION,
                f"Secret {found.name!r} is missing key(s): {', '.join(sorted(missing))}",
            )
        return api_pb2.SecretGetOrCreateResponse(secret_id=found.id, metadata=self._metadata(found))

    @rpc(reads="secret_id")
    async def secret_get_info(
        self, request: api_pb2.SecretGetInfoRequest, caller: Caller
    ) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=self._metadata(self._registry.get(request.secret_id)))

    @rpc(reads="secret_id updates")
    async def secret_update(self, request: api_pb2.SecretUpdateRequest, caller: Caller) -> Empty:
        found = self._registry.get(request.secret_id)
        values = dict(self._values[found.id])
        for update in request.updates:
            if update.HasField("value"):
                values[update.key] = update.value
            else:
                values.pop(update.key, None)
        _check(values)
        self._keep(found.id, values)
        return Empty()

    @rpc(reads="environment_name pagination")
    async def secret_list(
        self, request: api_pb2.SecretListRequest, caller: Caller
    ) -> api_pb2.SecretListResponse:
        items = [
            api_pb2.SecretListItem(
                label=found.name,
                created_at=found.created_at,
                last_used_at=self._used.get(found.id, 0.0),
                environment_name=found.environment,
                secret_id=found.id,
                metadata=self._metadata(found),
            )
            for found in self._registry.page(request.environment_name, request.pagination)
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=request.environment_name)

    @rpc(reads="secret_id")
    async def secret_delete(self, request: api_pb2.SecretDeleteRequest, caller: Caller) -> Empty:
        self._registry.delete(request.secret_id)
        return Empty()


def _check(values: Mapping[str, str]) -> None:
    for key, value in values.items():
        if not key or "=" in key or "\0" in key:
            fail(Status.INVALID_ARGUMENT, f"{key[:80]!r} cannot be the name of an environment variable")
        if "\0" in value:
            fail(Status.INVALID_ARGUMENT, f"the value of {key[:80]!r} has a NUL in it")
        if len(value.encode()) > LARGEST:
            fail(Status.INVALID_ARGUMENT, f"the value of {key[:80]!r} has more than {LARGEST} bytes")
