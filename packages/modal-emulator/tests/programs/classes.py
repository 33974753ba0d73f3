"""Classes: parameters, hooks, methods, concurrency. Prints JSON."""
# No `from __future__ import annotations`: the client reads the types of parameters.

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import modal

app = modal.App("test-classes")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
events = modal.Queue.from_name("test-classes-events", create_if_missing=True)


@app.cls(image=image, scaledown_window=2)
class Model:
    factor: int = modal.parameter(default=2)

    @modal.enter()
    def load(self) -> None:
        self.loaded = self.factor * 10
        events.put(f"enter {self.factor}")

    @modal.exit()
    def unload(self) -> None:
        events.put(f"exit {self.factor}")

    @modal.method()
    def predict(self, x: int) -> int:
        return x * self.factor + self.loaded

    @modal.method()
    def stream(self, n: int) -> Iterator[int]:
        for i in range(n):
            yield i * self.factor


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=10)
async def together(x: int) -> tuple[int, str]:
    await asyncio.sleep(1)
    return x, os.environ["MODAL_TASK_ID"]


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=4)
def threads(x: int) -> str:
    time.sleep(0.2)
    return os.environ["MODAL_TASK_ID"]


@app.function(image=image, single_use_containers=True)
def once() -> str:
    return os.environ["MODAL_TASK_ID"]


@app.function(image=image, max_containers=2)
def where(x: int) -> str:
    time.sleep(0.05)
    return os.environ["MODAL_TASK_ID"]


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


heard: set[str] = set()


def wait_for(wanted: set[str]) -> bool:
    """Listen until all of this has happened; containers come and go as they please."""
    while not wanted <= heard:
        event = events.get(timeout=300)
        if event is None:
            return False
        heard.add(event)
    return True


def main() -> None:
    events.clear()
    with app.run():
        report("method", Model().predict.remote(1))
        report("parameter", Model(factor=3).predict.remote(1))  # type: ignore[call-arg]
        report("map", list(Model(factor=3).predict.map([1, 2])))  # type: ignore[call-arg]
        report("generator", list(Model().stream.remote_gen(3)))
        entered = wait_for({"enter 2", "enter 3"})
        report("entered", entered)
        list(together.map([0]))  # so that the container is there
        started = time.monotonic()
        results = list(together.map(range(10)))
        report("concurrent", [[x for x, _ in results], len({task for _, task in results})])
        report("concurrent is quick", time.monotonic() - started < 6)
        report("threads", len(set(threads.map(range(8)))))
        report("single use", len({once.remote() for _ in range(2)}))
        report("max_containers", len(set(where.map(range(60)))))
        slower = Model.with_options(timeout=30)()  # type: ignore[attr-defined]
        report("with_options", slower.predict.remote(5))
    report("exited", wait_for({"exit 2", "exit 3"}))


if __name__ == "__main__":
    main()
