"""Reports what the workspace's objects have cost: by hour, by day, and by days that are over."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import modal

workspace = modal.Workspace.from_context()
now = datetime.now(UTC)
spans = {
    "h": ("h", now + timedelta(hours=1)),
    "d": ("d", now + timedelta(days=1)),
    "over": ("d", now),
}
for name, (resolution, end) in spans.items():
    items = workspace.billing.report(start=now - timedelta(hours=2), end=end, resolution=resolution)
    said = [
        (
            item.object_id[:3],
            item.description,
            item.environment_name,
            float(item.cost),
            {kind: float(cost) for kind, cost in item.cost_by_resource.items()},
        )
        for item in items
    ]
    print(json.dumps([name, said]))
try:
    workspace.billing.report(start=now, resolution="w")
except modal.exception.Error as exc:
    print(json.dumps(["wrong", str(exc)]))
