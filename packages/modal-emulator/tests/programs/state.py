"""Writes all that a server keeps, and reads it again. Prints JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import modal

NAME = "test-state"
app = modal.App(NAME)
volume = modal.Volume.from_name(f"{NAME}-volume", create_if_missing=True)
words = modal.Dict.from_name(f"{NAME}-dict", create_if_missing=True)
line = modal.Queue.from_name(f"{NAME}-queue", create_if_missing=True)
gate = modal.Queue.from_name(f"{NAME}-gate", create_if_missing=True)
secret = modal.Secret.from_name(f"{NAME}-secret")
image = modal.Image.debian_slim().env({"OF_THE_IMAGE": "kept"})


@app.function(image=image, volumes={"/data": volume}, secrets=[secret])
def look(size: int) -> list[Any]:
    return [
        Path("/data/file.txt").read_text(),
        os.environ["WORD"],
        os.environ["OF_THE_IMAGE"],
        words["key"],
        "x" * size,
    ]


@app.function()
def forever() -> None:
    gate.put("started")
    gate.get(partition="never", timeout=3600)


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def write() -> None:
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"in the volume"), "file.txt")
    words["key"] = "in the dict"
    line.put_many([1, 2, 3])
    modal.Secret.objects.create(f"{NAME}-secret", {"WORD": "in the secret"}, allow_existing=True)
    app.deploy(name=NAME)
    calls = [look.spawn(0), look.spawn(3_000_000)]
    several = look.experimental_spawn_map([1, 2])
    for call in calls:
        call.get(timeout=500)
    list(several.iter())
    unfinished = forever.spawn()
    gate.get(timeout=500)
    report("calls", [call.object_id for call in [*calls, several, unfinished]])


def read() -> None:
    call_ids = sys.argv[2:]
    calls = [modal.FunctionCall.from_id(call_id) for call_id in call_ids]
    report("finished", calls[0].get(timeout=10))
    report("through a blob", len(calls[1].get(timeout=10)[-1]))
    report("several", [calls[2].num_inputs(), [len(x[-1]) for x in calls[2].iter()]])
    try:
        calls[3].get(timeout=10)
    except Exception as exc:
        report("unfinished", [type(exc).__name__, str(exc)])
    report("called again", modal.Function.from_name(NAME, "look").remote(0))
    report("dict", words["key"])
    report("queue", list(line.iterate()))
    report("volume", b"".join(volume.read_file("file.txt")).decode())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
