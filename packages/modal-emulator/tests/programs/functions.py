"""What a function can be told about how it is to run. Prints JSON. Runs on Modal as well."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import modal

app = modal.App("test-functions")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
events = modal.Queue.from_name("test-functions-events", create_if_missing=True)

OFFSET = 100


def in_a_helper(x: int) -> None:
    raise ZeroDivisionError(f"{x} is too much")


@app.function(image=image)
def square(x: int) -> int:
    return x * x


@app.function(image=image)
def note(text: str) -> None:
    events.put(text, partition="notes")


@app.function(image=image)
def fails(x: int) -> None:
    in_a_helper(x)


@app.function(image=image)
def deep(n: int) -> list[int]:
    """Calls itself: each level needs a container while those above it wait."""
    return [n, *(deep.remote(n - 1) if n else [])]


@app.function(image=image)
def stream(kind: str) -> Iterator[Any]:
    try:
        for i in range(3 if kind != "endless" else 1_000_000):
            yield bytes([i]) * 3_000_000 if kind == "big" else i
            if kind == "failing" and i == 1:
                time.sleep(0.5)  # the client raises an error at once, whatever it has yet to read
                raise ValueError("in the middle")
            if kind == "endless":
                time.sleep(0.02)
    finally:
        if kind == "endless":
            events.put("closed")


@app.function(image=image, timeout=2)
def stream_for_ever() -> Iterator[int]:
    yield 1
    time.sleep(3600)


@app.function(image=image, timeout=3, max_containers=1)
@modal.concurrent(max_inputs=4)
async def together(x: int) -> int:
    """Some of its inputs run into the timeout, which is no business of the others."""
    await asyncio.sleep(3600 if x < 0 else 1)
    return x


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=4)
async def cancellable(name: str) -> str:
    events.put(f"{name} started", partition="cancel")
    try:
        answer = await events.get.aio(partition=name, timeout=300)
    except asyncio.CancelledError:
        events.put(f"{name} cancelled", partition="cancel")
        raise
    return str(answer)


@app.function(image=image, min_containers=1, scaledown_window=2)
def warm() -> str:
    return os.environ["MODAL_TASK_ID"]


@app.function(
    image=image,
    cpu=1.0,
    memory=(128, 512),
    gpu="T4:2",
    secrets=[modal.Secret.from_dict({"SECRET_WORD": "sesame", "BOTH": "secret"})],
    env={"PLAIN_WORD": "open"},
)
def limited(mebibytes: int) -> dict[str, Any]:
    taken = bytearray(mebibytes * 1024 * 1024)
    taken[::4096] = b"x" * len(taken[::4096])
    return {
        "words": [os.environ.get("PLAIN_WORD"), os.environ.get("SECRET_WORD")],
        "gpu": [os.environ.get("MODAL_GPU_TYPE"), os.environ.get("MODAL_GPU_COUNT")],
    }


@app.function(image=image, cpu=(0.25, 0.25))
def throttled() -> float:
    """The share of one processor's time that it gets, for as long as a few of the periods in which that is shared."""
    began = time.monotonic()
    used = time.process_time()
    while time.process_time() - used < 0.5:
        pass
    return (time.process_time() - used) / (time.monotonic() - began)


@app.function(image=image, cpu=0.25, memory=128)
def unlimited(mebibytes: int) -> float:
    """Takes more memory than it has asked for, and the largest share of a processor that it gets in some moment."""
    taken = bytearray(mebibytes * 1024 * 1024)
    taken[::4096] = b"x" * len(taken[::4096])
    best, end = 0.0, time.monotonic() + 60
    while best < 0.6 and time.monotonic() < end:
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() < began + 0.2:
            pass
        best = max(best, (time.process_time() - used) / (time.monotonic() - began))
    return best


@app.function(image=image, buffer_containers=1)
def buffered() -> None:
    assert events.get(partition="buffer", timeout=300) == "go"


@app.cls(image=image)
class Doubler:
    @modal.method()
    def run(self, x: int) -> int:
        return 2 * x


adder = app.function(image=image, serialized=True, name="adder")(lambda x: x + OFFSET)


def make_multiplier(factor: int) -> Callable[[int], int]:
    def multiply(x: int) -> int:
        return x * factor

    return multiply


multiplier = app.function(image=image, serialized=True, name="multiplier")(make_multiplier(7))


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def error(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except Exception as exc:
        return [type(exc).__name__, str(exc)]
    return []


def total(function: Any) -> int:
    count: int = function.get_current_stats().num_total_runners
    return count


def settings_of(function: Any) -> list[Any]:
    settings = function.autoscaler.settings()
    return [
        settings.min_containers,
        settings.max_containers,
        settings.buffer_containers,
        settings.scaledown_window,
    ]


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 200
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def generators() -> None:
    report("big items", [len(part) for part in stream.remote_gen("big")])
    got: list[Any] = []
    try:
        got.extend(stream.remote_gen("failing"))
    except ValueError as exc:
        got.append(str(exc))
    report("fails in the middle", got)
    for item in stream.remote_gen("endless"):
        if item == 3:
            break
    report("left early", [item, list(stream.remote_gen("short"))])
    report("generator timeout", error(lambda: list(stream_for_ever.remote_gen())))


def calls() -> None:
    call = square.experimental_spawn_map(range(60))
    report("num_inputs", call.num_inputs())
    report("get(index)", [call.get(index=7), call.get(index=59)])
    report("iter", [list(call.iter()) == [x * x for x in range(60)], list(call.iter(start=2, end=4))])
    note.spawn_map(["a", "b"])
    report("spawn_map", sorted(events.get(partition="notes", timeout=300) for _ in range(2)))
    again = modal.FunctionCall.from_id(call.object_id)
    report("from_id", [again.num_inputs(), again.get(index=3)])
    for first in square.map(range(500)):
        report("map left early", [first, square.remote(3)])
        break
    report("deep", deep.remote(3))


def many() -> None:
    report("map of 5000", list(square.map(range(5000))) == [x * x for x in range(5000)])
    report("unordered", sum(square.map(range(5000), order_outputs=False)))


def cancelling() -> None:
    one, two = cancellable.spawn("one"), cancellable.spawn("two")
    report("running", sorted(events.get_many(1, partition="cancel") + events.get_many(1, partition="cancel")))
    one.cancel()
    report("told", events.get(partition="cancel", timeout=300))
    events.put("well", partition="two")
    report("the other", two.get(timeout=300))
    report("the cancelled", error(lambda: one.get(timeout=300))[0])
    three, four = cancellable.spawn("three"), cancellable.spawn("four")
    for _ in range(2):
        events.get(partition="cancel", timeout=300)
    three.cancel(terminate_containers=True)
    while events.get(partition="cancel", timeout=300) not in ("four started", None):
        pass
    events.put("again", partition="four")
    report("goes on elsewhere", four.get(timeout=300))
    outcomes = together.map([-1, 1, 2], return_exceptions=True)
    report("concurrent timeout", [x if isinstance(x, int) else type(x).__name__ for x in outcomes])


def scaling() -> None:
    report("warm before the first call", wait_for(lambda: total(warm) == 1))
    report("settings", settings_of(warm))
    warm.autoscaler.update(min_containers=2, max_containers=3)
    report("updated", settings_of(warm))
    report("two are warm", wait_for(lambda: total(warm) == 2))
    warm.autoscaler.update(min_containers=None, max_containers=None)
    report("without limits", settings_of(warm))
    report("scaled down", wait_for(lambda: total(warm) == 0))
    call = buffered.spawn()
    report("buffer", wait_for(lambda: total(buffered) == 2))
    events.put("go", partition="buffer")
    call.get(timeout=300)


def limits() -> None:
    report("limits", limited.remote(1))
    report("throttled", throttled.remote())
    report("unlimited", unlimited.remote(500))
    report("out of memory", error(lambda: limited.remote(1500)))
    report("lambda", adder.remote(1))
    report("closure", multiplier.remote(6))
    report("class", Doubler().run.remote(4))
    try:
        fails.remote(9)
    except ZeroDivisionError as exc:
        frames = traceback.extract_tb(exc.__traceback__)
        report("frames", [[frame.filename.rpartition(":")[2], frame.name] for frame in frames[-2:]])


PARTS = {
    "generators": generators,
    "calls": calls,
    "many": many,
    "cancelling": cancelling,
    "scaling": scaling,
    "limits": limits,
}

if __name__ == "__main__":
    events.clear(all=True)
    with app.run():
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
