"""What apps would cost: how long their containers lived, times what they reserved, at the server's prices.

Nothing costs anything here unless the server is given prices. Usage is added up by the hour.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal

from grpclib import Status
from modal_proto import api_pb2

from ..containers import Container
from ..rpc import Caller, fail, rpc
from . import Service

__all__ = ["BillingService"]

HOUR = 3600
RESOLUTIONS = {"h": HOUR, "d": 24 * HOUR}
DEFAULT_CORES, DEFAULT_MIB = 0.125, 128
"""What Modal reserves for a function that asks for nothing."""


@dataclass(slots=True)
class Usage:
    """Hours of resources that an app has reserved within an hour of the clock."""

    description: str
    environment: str
    cpu: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0


class BillingService(Service):
    """Adds up usage, and reports it."""

    async def start(self) -> None:
        self._usage: dict[tuple[str, int], Usage] = {}
        for key, row in self.store.items("usage"):
            app_id, _, hour = key.partition("/")
            self._usage[app_id, int(hour)] = Usage(**json.loads(row))

    def ended(self, container: Container) -> None:
        """A container has ended: it has used what it had reserved."""
        for key in self._add(self._usage, container, container.finished_at):
            app_id, hour = key
            self.store.put("usage", f"{app_id}/{hour}", json.dumps(asdict(self._usage[key])).encode())

    def _add(
        self, usage: dict[tuple[str, int], Usage], container: Container, until: float
    ) -> Iterator[tuple[str, int]]:
        """Add what a container has used to `usage`; where."""
        function = container.function
        app = self.plane.apps.find(function.app_id)
        if app is None or not container.started_at:
            return
        asked = function.definition.resources
        at = container.started_at
        while at < until:
            hour = int(at // HOUR)
            hours = (min(until, (hour + 1) * HOUR) - at) / HOUR
            into = usage.setdefault((app.id, hour), Usage(app.description, app.environment))
            into.cpu += hours * (asked.milli_cpu / 1000 or DEFAULT_CORES)
            into.memory += hours * (asked.memory_mb or DEFAULT_MIB) / 1024
            into.gpu += hours * asked.gpu_config.count
            yield app.id, hour
            at = (hour + 1) * HOUR

    @rpc(
        reads="start_timestamp end_timestamp resolution app_ids environment_ids",
        partial="tags; prices are the server's, and containers are all that costs something",
    )
    async def workspace_billing_report(
        self, request: api_pb2.WorkspaceBillingReportRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.WorkspaceBillingReportItem]:
        seconds = RESOLUTIONS.get(request.resolution or "d")
        if seconds is None:
            fail(Status.INVALID_ARGUMENT, f"there is no resolution {request.resolution!r}: it is h or d")
        if not request.HasField("start_timestamp") or not request.HasField("end_timestamp"):
            fail(Status.INVALID_ARGUMENT, "a report has a start and an end")
        first = request.start_timestamp.seconds // seconds
        end = request.end_timestamp.seconds // seconds  # an interval that has begun is not reported
        environments = {self.plane.session.name_of(id) for id in request.environment_ids}
        usage = {key: Usage(**asdict(each)) for key, each in self._usage.items()}
        for container in self.plane.containers.running():
            for _ in self._add(usage, container, time.time()):
                pass
        found: dict[tuple[int, str], list[Usage]] = defaultdict(list)
        for (app_id, hour), each in usage.items():
            interval = hour * HOUR // seconds
            if (
                first <= interval < end
                and (not request.app_ids or app_id in request.app_ids)
                and (not environments or each.environment in environments)
            ):
                found[interval, app_id].append(each)
        for (interval, app_id), some in sorted(found.items(), key=lambda item: item[0]):
            costs = _costs(some, self.plane.settings.prices)
            item = api_pb2.WorkspaceBillingReportItem(
                object_id=app_id,
                description=some[-1].description,
                environment_name=some[-1].environment,
                cost=_text(sum(costs.values())),
                cost_by_resource={name: _text(cost) for name, cost in costs.items()},
            )
            item.interval.FromSeconds(interval * seconds)
            yield item


def _costs(usage: list[Usage], prices: Mapping[str, float]) -> dict[str, float]:
    hours = {name: sum(getattr(each, name) for each in usage) for name in ("cpu", "memory", "gpu")}
    return {name: used * prices.get(name, 0.0) for name, used in hours.items() if used}


def _text(cost: float) -> str:
    return format(Decimal(cost).quantize(Decimal("1e-9")).normalize(), "f")
