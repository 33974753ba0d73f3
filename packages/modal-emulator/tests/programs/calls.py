"""All the ways to call a function, each answer printed as JSON. Runs on Modal as well."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import modal

app = modal.App("test-calls")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")


class Unusual(Exception):
    def __init__(self, first: int, second: str) -> None:
        super().__init__(first, second)
        self.second = second


@app.function(image=image)
def square(x: int) -> int:
    return x * x


@app.function(image=image)
def add(x: int, y: int = 100) -> int:
    return x + y


@app.function(image=image)
def fussy(x: int) -> int:
    if x % 3 == 0:
        raise Unusual(x, "a multiple of three")
    return x


@app.function(image=image)
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function(image=image)
async def acount(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function(image=image)
async def slowly(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


@app.function(image=image)
def nested(n: int) -> list[int]:
    return list(square.map(range(n)))


@app.function(image=image)
def echo(data: bytes) -> bytes:
    return data[::-1]


@app.function(image=image)
def surroundings() -> dict[str, Any]:
    return {
        "python": list(sys.version_info[:2]),
        "remote": os.environ.get("MODAL_IS_REMOTE"),
        "tokens": [name for name in os.environ if name.startswith("MODAL_TOKEN")],
        "pid": os.getpid(),
        "task": os.environ.get("MODAL_TASK_ID", "")[:3],
        "local": modal.is_local(),
    }


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def error(call: Any) -> list[Any]:
    try:
        call()
    except Exception as exc:
        return [type(exc).__name__, [*exc.args], getattr(exc, "second", None)]
    return []


def main() -> None:
    with app.run():
        report("remote", square.remote(7))
        report("local", square.local(7))
        report("map", list(square.map(range(20))))
        report("unordered", sorted(square.map(range(20), order_outputs=False)))
        report("map of none", list(square.map([])))
        report("starmap", list(add.starmap([(1, 2), (3, 4)])))
        report("two iterables", list(add.map([1, 2], [10, 20])))
        report("kwargs", list(add.map([1, 2], kwargs={"y": 5})))
        report("for_each", square.for_each([1, 2]))
        report("error", error(lambda: fussy.remote(3)))
        report("error in map", error(lambda: list(fussy.map([1, 2, 3]))))
        outcomes = fussy.map([1, 2, 3, 4], return_exceptions=True, wrap_returned_exceptions=False)
        report("return_exceptions", [str(x) for x in outcomes])
        report("generator", list(count.remote_gen(50)))
        report("async generator", list(acount.remote_gen(5)))
        report("async", slowly.remote(1))
        report("nested", nested.remote(4))
        big = os.urandom(5_000_000)
        report("through blobs", echo.remote(big) == big[::-1])
        report("surroundings", surroundings.remote())
        call = square.spawn(9)
        report("spawn", call.get(timeout=60))
        again = modal.FunctionCall.from_id(call.object_id)
        report("from_id", again.get())
        report("gather", list(modal.FunctionCall.gather(*[square.spawn(i) for i in range(3)])))
        graph = nested.spawn(2)
        graph.get()
        (root,) = graph.get_call_graph()
        report("call graph", [root.function_name, sorted(c.function_name for c in root.children)])

        async def concurrently() -> list[int]:
            return list(await asyncio.gather(*[square.remote.aio(i) for i in range(5)]))

        report("aio", asyncio.run(concurrently()))


if __name__ == "__main__":
    main()
