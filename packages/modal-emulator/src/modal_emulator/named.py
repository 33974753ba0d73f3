"""Objects that have a name in an environment, or none: what Dict, Queue, Volume and Secret have in common."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from grpclib import Status
from modal_proto import api_pb2

from .ids import new_id
from .rpc import fail
from .store import Store

__all__ = ["ENVIRONMENT", "Named", "Registry", "check_name"]

ENVIRONMENT = "main"
"""The environment that is meant where none is given."""
LIFETIME = 900.0
"""Seconds after its last heartbeat for which an ephemeral object lives. The client sends one every 300."""
PAGE = 100
"""The most objects that one answer lists, if the client does not say."""

_NAME = re.compile(r"[a-zA-Z0-9-_.]{1,64}")
_APP_ID = re.compile(r"ap-[a-zA-Z0-9]{22}")


@dataclass(slots=True)
class Named:
    """An object.

    Attributes:
        name: empty for one that is ephemeral or an app's.
        app_id: the app that it goes with; empty if none.
        detail: what else its service keeps with it.
    """

    id: str
    name: str
    environment: str
    created_at: float
    ephemeral: bool
    app_id: str
    detail: str = ""

    @property
    def creation_info(self) -> api_pb2.CreationInfo:
        return api_pb2.CreationInfo(created_at=self.created_at)


def check_name(name: str, kind: str) -> None:
    """INVALID_ARGUMENT for what cannot be a name; the same rules as the client's."""
    if not _NAME.fullmatch(name) or _APP_ID.fullmatch(name):
        fail(
            Status.INVALID_ARGUMENT,
            f"Invalid {kind} name: {name[:100]!r}. Names may contain only alphanumeric characters, dashes,"
            " periods, and underscores, have at most 64 characters, and cannot be App ids.",
        )


class Registry:
    """The objects of one kind, by id and by name.

    Args:
        kind: what they are called in error messages: "Dict". Rows of the store are named after it.
        prefix: of their ids.
        removed: called with every object that goes, however it does, after it can no longer be found.
        lifetime: seconds after its last heartbeat for which an ephemeral object lives.
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        prefix: str,
        removed: Callable[[Named], None],
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self.kind = kind
        self._row = kind.lower()
        self._prefix = prefix
        self._removed = removed
        self._lifetime = lifetime
        self._clock = clock
        self._objects: dict[str, Named] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._deadlines: dict[str, float] = {}
        self._newest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Load what was kept. Ephemeral objects start a new life: their clients may come back."""
        for _, row in self._store.items(self._row):
            self._insert(Named(**json.loads(row)))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __iter__(self) -> Iterator[Named]:
        return iter(list(self._objects.values()))

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._objects

    def get(self, object_id: str) -> Named:
        """NOT_FOUND if there is none."""
        try:
            return self._objects[object_id]
        except KeyError:
            fail(Status.NOT_FOUND, f"{self.kind} with id {object_id[:40]!r} not found")

    def find(self, name: str, environment: str) -> Named | None:
        object_id = self._names.get((environment or ENVIRONMENT, name))
        return None if object_id is None else self._objects[object_id]

    def get_or_create(
        self, name: str, environment: str, creation: int, app_id: str = "", detail: str = ""
    ) -> tuple[Named, bool]:
        """The object that a …GetOrCreate request means, and whether it has just been made.

        With OVERWRITE_IF_EXISTS it is the one that is there: its service overwrites what is in it.
        """
        environment = environment or ENVIRONMENT
        if not name:
            if creation == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
                return self._create("", environment, True, "", detail), True
            if creation == api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP:
                return self._create("", environment, False, app_id, detail), True
            fail(
                Status.INVALID_ARGUMENT, f"a {self.kind} that is neither ephemeral nor an app's needs a name"
            )
        self.check_name(name)
        known = self.find(name, environment)
        if creation == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            if known is None:
                fail(Status.NOT_FOUND, f"{self.kind} {name!r} not found in environment {environment!r}")
            return known, False
        if creation == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS and known is not None:
            fail(Status.ALREADY_EXISTS, f"{self.kind} {name!r} already exists in environment {environment!r}")
        if creation in (
            api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
            api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        ):
            fail(Status.INVALID_ARGUMENT, f"a {self.kind} that is ephemeral or an app's has no name")
        if known is not None:
            return known, False
        return self._create(name, environment, False, "", detail), True

    def check_name(self, name: str) -> None:
        """INVALID_ARGUMENT for what cannot be a name; the same rules as the client's."""
        check_name(name, self.kind)

    def rename(self, object_id: str, name: str) -> None:
        found = self.get(object_id)
        self.check_name(name)
        other = self.find(name, found.environment)
        if other is not None and other is not found:
            fail(
                Status.ALREADY_EXISTS,
                f"{self.kind} {name!r} already exists in environment {found.environment!r}",
            )
        if not found.name:
            fail(Status.FAILED_PRECONDITION, f"a {self.kind} without a name cannot be given one")
        del self._names[found.environment, found.name]
        found.name = name
        self._names[found.environment, name] = object_id
        self.save(found)

    def delete(self, object_id: str) -> None:
        """Remove an object. NOT_FOUND if there is none."""
        found = self.get(object_id)
        del self._objects[object_id]
        self._deadlines.pop(object_id, None)
        if found.name:
            del self._names[found.environment, found.name]
        self._store.delete(self._row, object_id)
        self._removed(found)

    def heartbeat(self, object_id: str) -> None:
        """An ephemeral object is still needed."""
        if self.get(object_id).ephemeral:
            self._deadlines[object_id] = self._clock() + self._lifetime

    def drop_app(self, app_id: str) -> None:
        """Remove the objects of an app that will not run again."""
        for found in self:
            if app_id and found.app_id == app_id:
                self.delete(found.id)

    def drop_environment(self, environment: str) -> None:
        """Remove the objects of an environment, which is deleted."""
        for found in self:
            if found.environment == environment:
                self.delete(found.id)

    def page(self, environment: str, pagination: api_pb2.ListPagination) -> list[Named]:
        """The named objects of an environment that a …List request means, the newest first."""
        before = pagination.created_before or float("inf")
        found = [
            one
            for one in self._objects.values()
            if one.name and one.environment == (environment or ENVIRONMENT) and one.created_at < before
        ]
        found.sort(key=lambda one: -one.created_at)
        return found[: pagination.max_objects if pagination.max_objects > 0 else PAGE]

    def save(self, found: Named) -> None:
        """Keep what has changed in an object."""
        self._store.put(self._row, found.id, json.dumps(asdict(found)).encode())

    def expire(self) -> None:
        """Remove the ephemeral objects whose clients are gone. Runs by itself."""
        now = self._clock()
        for object_id in [object_id for object_id, deadline in self._deadlines.items() if deadline <= now]:
            self.delete(object_id)
        self._schedule()

    def _create(self, name: str, environment: str, ephemeral: bool, app_id: str, detail: str) -> Named:
        # No two were made at the same time: clients page through lists by it. Microseconds survive a double.
        self._newest = max(self._clock(), self._newest + 1e-5)
        made = Named(new_id(self._prefix), name, environment, self._newest, ephemeral, app_id, detail)
        self._insert(made)
        self.save(made)
        return made

    def _insert(self, one: Named) -> None:
        self._objects[one.id] = one
        self._newest = max(self._newest, one.created_at)
        if one.name:
            self._names[one.environment, one.name] = one.id
        if one.ephemeral:
            self._deadlines[one.id] = self._clock() + self._lifetime
            if self._timer is None:
                self._schedule()

    def _schedule(self) -> None:
        """Wake up when the first one may expire, and not at all if there is none."""
        self._timer = None
        if self._deadlines:
            wait = max(1.0, min(self._deadlines.values()) - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self.expire)
