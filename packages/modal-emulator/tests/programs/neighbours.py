"""Containers that would do another's work, and talk to the server as they please. Prints JSON."""

# ruff: noqa: PTH123

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

import modal

app = modal.App("test-neighbours")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
ids = modal.Queue.from_name("test-neighbours-ids", create_if_missing=True)
go = modal.Queue.from_name("test-neighbours-go", create_if_missing=True)


async def calls(requests: list[tuple[str, Any]]) -> list[list[str]]:
    """The status and the message of each answer."""
    from grpclib import GRPCError
    from grpclib.client import Channel
    from modal_proto.api_grpc import ModalClientStub

    channel = Channel(path="/__modal/socket")
    stub = ModalClientStub(channel)
    answers = []
    for name, request in requests:
        try:
            answer = await asyncio.wait_for(getattr(stub, name)(request), 5)
            answers.append(["OK", repr(answer)])
        except GRPCError as exc:
            answers.append([exc.status.name, exc.message or ""])
        except TimeoutError:
            answers.append(["timeout", ""])
    channel.close()
    return answers


@app.function(image=image, max_containers=1)
def victim() -> str:
    ids.put([modal.current_input_id(), modal.current_function_call_id(), os.environ["MODAL_TASK_ID"]])
    go.get(timeout=60)
    return "the victim's own"


@app.function(image=image, max_containers=1)
def culprit(url: str, work: str) -> dict[str, Any]:
    from modal_proto import api_pb2

    told = ids.get(timeout=60)
    assert told is not None
    input_id, call_id, _ = told
    result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, data=b"forged")
    item = api_pb2.FunctionPutOutputsItem(
        input_id=input_id, result=result, data_format=api_pb2.DATA_FORMAT_PICKLE
    )
    chunk = api_pb2.DataChunk(index=1, data=b"forged", data_format=api_pb2.DATA_FORMAT_PICKLE)
    token = api_pb2.TokenFlowCreateRequest()
    answers = asyncio.run(
        calls(
            [
                ("FunctionPutOutputs", api_pb2.FunctionPutOutputsRequest(outputs=[item])),
                (
                    "FunctionCallPutDataOut",
                    api_pb2.FunctionCallPutDataRequest(function_call_id=call_id, data_chunks=[chunk]),
                ),
                ("TokenFlowCreate", token),
                ("TokenFlowWait", api_pb2.TokenFlowWaitRequest(token_flow_id="tf-x", timeout=0.1)),
                ("TokenDelete", api_pb2.TokenDeleteRequest(token_id="ak-emulator")),
            ]
        )
    )
    go.put(1)
    return {"answers": answers, "approved": _approve(url), "sockets": _sockets(work)}


def _approve(url: str) -> int:
    """Say yes to a token, as a person would; the status of the answer."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def _sockets(work: str) -> list[str]:
    """Unix sockets of this machine that a container can connect to."""
    found = []
    with open("/proc/net/unix") as file:
        for line in file.read().splitlines()[1:]:
            name = line.split()[-1]
            if work in name:
                with socket.socket(socket.AF_UNIX) as attempt:
                    try:
                        attempt.connect(name.replace("@", "\0", 1))
                        found.append(name)
                    except OSError:
                        pass
    return found


def main() -> None:
    go.clear()
    ids.clear()
    with app.run():
        call = victim.spawn()
        print(json.dumps(["culprit", culprit.remote(sys.argv[1], sys.argv[2])]), flush=True)
        print(json.dumps(["victim", call.get(timeout=60)]), flush=True)


if __name__ == "__main__":
    main()
