"""More calls are made than may wait for a container: the server has a limit of two."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import modal

app = modal.App("test-backlog")
gate = modal.Queue.from_name("test-backlog-gate", create_if_missing=True)


@app.function(max_containers=1)
def held(x: int) -> int:
    gate.put(x, partition="started")
    assert gate.get(partition="go", timeout=500)
    return x


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


async def fill() -> None:
    running = [asyncio.create_task(held.remote.aio(0))]
    await gate.get.aio(partition="started", timeout=500)
    for x in (1, 2):
        running.append(asyncio.create_task(held.remote.aio(x)))
        while (await held.get_current_stats.aio()).backlog < x:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    try:
        await held.remote.aio(3)
    except modal.exception.ResourceExhaustedError as exc:
        report("refused", str(exc))
    spawned = await held.spawn.aio(4)
    await gate.put_many.aio([True] * 4, partition="go")
    report("taken", await asyncio.gather(*running))
    report("spawned", await spawned.get.aio())


def main() -> None:
    with app.run():
        asyncio.run(fill())
        gate.put_many([True] * 20, partition="go")
        report("map", list(held.map(range(20))))  # of which the client makes requests of several inputs


if __name__ == "__main__":
    main()
