"""What Modal charges for apps, as far as it says so to this token: not all plans and members may ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from mini.jobboard import Bill

from .asking import in_client, our_error, this_client

__all__ = ["bill"]

SECONDS = 5.0
"""How long Modal may take to answer."""
HOURLY = timedelta(days=7)
"""For what is older Modal is asked by days: a short answer."""


def bill(apps: Collection[str], since: float) -> Bill:
    """The costs of some apps, of the hours or days since a time in seconds since the epoch, so far."""
    if not apps:
        return Bill(None, "", {}, "these launches have no app at Modal that is known here")
    now, start = datetime.now(UTC), datetime.fromtimestamp(since, UTC)
    hourly = now - start < HOURLY
    try:
        # A report has no interval that has not ended by its end; so what there is of this one is in it.
        end = now + (timedelta(hours=1) if hourly else timedelta(days=1))
        items = in_client(_ask)(this_client(), start, end, "h" if hourly else "d")
    except (
        Exception
    ) as exc:  # whatever Modal says to those who may not ask; the estimate is there all the same
        reason = "Modal does not answer" if isinstance(exc, TimeoutError) else str(our_error(exc) or exc)
        return Bill(None, "", {}, " ".join(reason.split()))
    costs: Counter[str] = Counter()
    for item in items:
        if item.object_id in apps:
            costs[item.object_id] += Decimal(item.cost)  # type: ignore[assignment]  # a Counter adds these as well
    amounts = {app: float(cost) for app, cost in sorted(costs.items())}
    said = f"for {len(amounts)} of {len(apps)} apps, as of {now:%Y-%m-%d %H:%M} UTC"
    return Bill(float(sum(costs.values())), "USD", amounts, said)


async def _ask(client: Any, start: datetime, end: datetime, resolution: str) -> list[Any]:
    """In the thread of Modal's client. Its own way to the report wants the name of the workspace first."""
    from modal_proto import api_pb2

    request = api_pb2.WorkspaceBillingReportRequest(resolution=resolution)
    request.start_timestamp.FromDatetime(start)
    request.end_timestamp.FromDatetime(end)
    async with asyncio.timeout(SECONDS):
        return [item async for item in client._stub.WorkspaceBillingReport.unary_stream(request)]
