"""A notebook in a real Jupyter kernel, on the backends that have a library of their own with a loop of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel
from modal_emulator import Emulator

PATIENCE = 110.0

CELLS = [
    """
import asyncio
from dataclasses import dataclass
import mini
app = mini.apparatus({backend!r}, "notebook", **{settings!r})

@dataclass
class Point:
    x: int

def double(point):
    return Point(2 * point.x)

async def increase(x):
    await asyncio.sleep(0)
    return x + 1
""",
    "[*app.map(double, [Point(1), Point(2)])] == [Point(2), Point(4)] and app.run(double, Point(3)) == Point(6)",
    """
async def tick(over):
    count = 0
    while not over.is_set():
        count += 1
        await asyncio.sleep(0.001)
    return count

over = asyncio.Event()
ticking = asyncio.create_task(tick(over))
found = [await app.arun(increase, 1), *[point.x async for point in app.amap(double, [Point(4), Point(5)])]]
over.set()
found == [2, 8, 10] and await ticking > 5
""",
    "app.close()",
]


@contextmanager
def kernel(folder: Path, variables: dict[str, str]) -> Iterator[Any]:
    """A function that runs a cell and returns its result and what it has put out."""
    environment = {**os.environ, "MINI_PROGRESS": "0", **variables}
    manager, client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(folder))

    def run(code: str) -> tuple[str, str]:
        result, words = "", ""

        def hear(message: dict[str, Any]) -> None:
            nonlocal result, words
            content = message["content"]
            result += content.get("data", {}).get("text/plain", "")
            words += content.get("text", "") + "\n".join(content.get("traceback", ()))

        client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
        return result, words

    try:
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()


def work(folder: Path, backend: str, settings: dict[str, str], variables: dict[str, str]) -> str:
    """Run the cells; returns what they have put out."""
    said = ""
    with kernel(folder, variables) as run:
        for cell in CELLS:
            code = cell.format(backend=backend, settings=settings) if "{backend!r}" in cell else cell
            result, words = run(code)
            assert result in ("", "True"), words
            assert (result == "True") == ("==" in code), words
            said += words
    return said


@pytest.mark.slow
def test_on_ray(tmp_path: Path) -> None:
    # Ray says on its own what it starts.
    work(tmp_path, "ray", {"storage": str(tmp_path / "volumes")}, {})


@pytest.mark.slow
def test_on_modal_without_its_warnings(tmp_path: Path) -> None:
    with Emulator() as emulator:
        said = work(tmp_path, "modal", {}, dict(emulator.environ))
    assert "Warning" not in said
