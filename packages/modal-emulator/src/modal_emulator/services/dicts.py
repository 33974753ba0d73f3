"""Dicts: keys and values of bytes, which the client makes of Python objects."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from ..named import Named, Registry
from ..rpc import Caller, fail, rpc
from . import Service

if TYPE_CHECKING:
    from ..plane import ControlPlane

__all__ = ["DictService"]

# Modal's own limits.
MOST_UPDATES = 10_000  # entries of one update
LARGEST = 100 << 20  # bytes of an entry
LONGEST_LEN = 100_000  # what `len` answers at most


class DictService(Service):
    """Dicts. They are in memory; with a store every entry is a row, named by the digest of its key."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self._registry = Registry(self.store, "Dict", "di", self._forget)
        self._entries: dict[str, dict[bytes, bytes]] = {}

    async def start(self) -> None:
        self._registry.start()
        self._entries = {found.id: {} for found in self._registry}
        for row, entry in list(self.store.items("dict-entry")):
            dict_id, _, _ = row.partition("/")
            if dict_id in self._entries:
                loaded = api_pb2.DictEntry.FromString(entry)
                self._entries[dict_id][loaded.key] = loaded.value
            else:
                self.store.delete("dict-entry", row)

    async def stop(self) -> None:
        self._registry.stop()

    async def drop_environment(self, name: str) -> None:
        self._registry.drop_environment(name)

    def drop_app(self, app_id: str) -> None:
        """An app has ended that will not run again: forget the dicts that it alone had."""
        self._registry.drop_app(app_id)

    def _of(self, dict_id: str) -> dict[bytes, bytes]:
        return self._entries[self._registry.get(dict_id).id]

    def _forget(self, found: Named) -> None:
        for key in self._entries.pop(found.id):
            self.store.delete("dict-entry", _row(found.id, key))

    def _put(self, dict_id: str, key: bytes, value: bytes) -> None:
        self._entries[dict_id][key] = value
        if self.store.keeps:
            entry = api_pb2.DictEntry(key=key, value=value)
            self.store.put("dict-entry", _row(dict_id, key), entry.SerializeToString())

    def _metadata(self, found: Named) -> api_pb2.DictMetadata:
        return api_pb2.DictMetadata(name=found.name, creation_info=found.creation_info)

    @rpc(reads="deployment_name environment_name object_creation_type data")
    async def dict_get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, caller: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            fail(Status.INVALID_ARGUMENT, "a Dict cannot be overwritten: clear it")
        found, new = self._registry.get_or_create(
            request.deployment_name, request.environment_name, request.object_creation_type
        )
        if new:
            self._entries[found.id] = {}
            for entry in request.data:
                self._put(found.id, entry.key, entry.value)
        return api_pb2.DictGetOrCreateResponse(dict_id=found.id, metadata=self._metadata(found))

    @rpc(reads="dict_id")
    async def dict_get_by_id(
        self, request: api_pb2.DictGetByIdRequest, caller: Caller
    ) -> api_pb2.DictGetByIdResponse:
        found = self._registry.get(request.dict_id)
        return api_pb2.DictGetByIdResponse(dict_id=found.id, metadata=self._metadata(found))

    @rpc(reads="environment_name pagination")
    async def dict_list(self, request: api_pb2.DictListRequest, caller: Caller) -> api_pb2.DictListResponse:
        dicts = [
            api_pb2.DictListResponse.DictInfo(
                name=found.name,
                created_at=found.created_at,
                dict_id=found.id,
                metadata=self._metadata(found),
            )
            for found in self._registry.page(request.environment_name, request.pagination)
        ]
        return api_pb2.DictListResponse(dicts=dicts, environment_name=request.environment_name)

    @rpc(reads="dict_id")
    async def dict_delete(self, request: api_pb2.DictDeleteRequest, caller: Caller) -> Empty:
        self._registry.delete(request.dict_id)
        return Empty()

    @rpc(reads="dict_id")
    async def dict_heartbeat(self, request: api_pb2.DictHeartbeatRequest, caller: Caller) -> Empty:
        self._registry.heartbeat(request.dict_id)
        return Empty()

    @rpc(reads="dict_id key")
    async def dict_get(self, request: api_pb2.DictGetRequest, caller: Caller) -> api_pb2.DictGetResponse:
        value = self._of(request.dict_id).get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @rpc(reads="dict_id key")
    async def dict_contains(
        self, request: api_pb2.DictContainsRequest, caller: Caller
    ) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._of(request.dict_id))

    @rpc(reads="dict_id key")
    async def dict_pop(self, request: api_pb2.DictPopRequest, caller: Caller) -> api_pb2.DictPopResponse:
        value = self._of(request.dict_id).pop(request.key, None)
        if value is not None:
            self.store.delete("dict-entry", _row(request.dict_id, request.key))
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @rpc(reads="dict_id")
    async def dict_len(self, request: api_pb2.DictLenRequest, caller: Caller) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=min(len(self._of(request.dict_id)), LONGEST_LEN))

    @rpc(reads="dict_id")
    async def dict_clear(self, request: api_pb2.DictClearRequest, caller: Caller) -> Empty:
        entries = self._of(request.dict_id)
        for key in entries:
            self.store.delete("dict-entry", _row(request.dict_id, key))
        entries.clear()
        return Empty()

    @rpc(reads="dict_id updates if_not_exists")
    async def dict_update(
        self, request: api_pb2.DictUpdateRequest, caller: Caller
    ) -> api_pb2.DictUpdateResponse:
        entries = self._of(request.dict_id)
        # The client looks for these words to tell that a request is too large.
        if len(request.updates) > MOST_UPDATES:
            fail(Status.INVALID_ARGUMENT, f"more than {MOST_UPDATES} entries in one update: status = '413'")
        if any(len(entry.key) + len(entry.value) > LARGEST for entry in request.updates):
            fail(Status.INVALID_ARGUMENT, f"an entry has more than {LARGEST} bytes: status = '413'")
        created = False
        for entry in request.updates:
            if not request.if_not_exists or entry.key not in entries:
                self._put(request.dict_id, entry.key, entry.value)
                created = True
        return api_pb2.DictUpdateResponse(created=created)

    @rpc(reads="dict_id keys values")
    async def dict_contents(
        self, request: api_pb2.DictContentsRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DictEntry]:
        # As it is now: what is put or popped while this goes on changes nothing.
        for key, value in list(self._of(request.dict_id).items()):
            # The key comes even if only values are asked for: the client names it in errors.
            yield api_pb2.DictEntry(key=key, value=value if request.values else b"")


def _row(dict_id: str, key: bytes) -> str:
    return f"{dict_id}/{hashlib.sha256(key).hexdigest()}"
