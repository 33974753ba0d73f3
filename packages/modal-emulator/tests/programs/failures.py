"""What becomes of calls that fail, time out, are cancelled or lose their container. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import modal
from grpclib.client import Channel
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub

app = modal.App("test-failures")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
tries = modal.Dict.from_name("test-failures-tries", create_if_missing=True)


def note(name: str) -> int:
    """How often this was called with `name`."""
    count: int = tries.get(name, 0) + 1
    tries[name] = count
    return count


@app.function(image=image, retries=modal.Retries(max_retries=3, initial_delay=1.0, backoff_coefficient=1.0))
def third_time() -> int:
    count = note("third_time")
    if count < 3:
        raise ValueError(f"attempt {count}")
    return count


@app.function(image=image, retries=modal.Retries(max_retries=1, initial_delay=1.0))
def never() -> None:
    raise ValueError(f"attempt {note('never')}")


@app.function(image=image, timeout=2)
def sleepy() -> None:
    time.sleep(3600)


@app.function(image=image)
def patient(path: str) -> str:
    Path(path).touch()
    time.sleep(3600)
    return "never"


@app.function(image=image)
def suicidal() -> None:
    note("suicidal")
    os.kill(os.getpid(), signal.SIGKILL)


@app.function(image=image)
def dies_once() -> int:
    if note("dies_once") == 1:
        os._exit(3)
    return note("dies_once")


@app.function(image=image, min_containers=2, max_containers=2, memory=(200, 200))
def greedy() -> str:
    """Uses up the memory of the first container, while another one waits."""
    if note("greedy") == 1:
        tries["greedy's container"] = os.environ["MODAL_TASK_ID"]
        taken = [bytearray(16 << 20) for _ in range(100)]
        return f"it had {len(taken)}"
    return "elsewhere"


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def error(call: Any) -> list[str]:
    try:
        call()
    except Exception as exc:
        return [type(exc).__name__, str(exc)]
    return []


async def end_of(container: str) -> list[Any]:
    """How a container has ended, as the client's protocol has it."""
    host, _, port = os.environ["MODAL_SERVER_URL"].rpartition("/")[2].partition(":")
    channel = Channel(host, int(port))
    try:
        names = ("x-modal-token-id", "x-modal-token-secret")
        answer = await ModalClientStub(channel).TaskGetInfo(
            api_pb2.TaskGetInfoRequest(task_id=container),
            metadata={name: os.environ[name[2:].replace("-", "_").upper()] for name in names},
        )
        return [answer.info.result.status, answer.info.result.exception]
    finally:
        channel.close()


def main() -> None:
    tries.clear()
    with app.run():
        report("retried", third_time.remote())
        report("retried in vain", error(never.remote))
        report("timeout", error(sleepy.remote))
        call = patient.spawn("/tmp/started")
        report("get with timeout", error(lambda: call.get(timeout=0.1)))
        call.cancel()
        report("cancelled", error(lambda: call.get(timeout=30)))
        report("killed", error(suicidal.remote))
        report("killed so often", tries["suicidal"])
        report("died once", dies_once.remote())
        began = time.monotonic()
        report("greedy", greedy.remote())
        report("greedy's seconds", time.monotonic() - began)
        report("greedy's end", asyncio.run(end_of(tries["greedy's container"])))


if __name__ == "__main__":
    main()
