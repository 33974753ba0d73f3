"""A container that sends its server what no container would. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import modal

app = modal.App("test-hostile")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
volume = modal.Volume.from_name("test-hostile", create_if_missing=True)


def seeds(input_id: str, call_id: str, function_id: str, volume_id: str) -> list[tuple[str, Any]]:
    from modal_proto import api_pb2 as pb

    result = pb.GenericResult(status=99, exception="x" * 5000, data=b"\0", serialized_tb=b"\xff")  # type: ignore[arg-type]
    blob = pb.GenericResult(
        status=pb.GenericResult.GENERIC_STATUS_FAILURE, data_blob_id="../../../etc/passwd"
    )
    items = [
        pb.FunctionPutOutputsItem(input_id="in-0000000000000000000000", result=result, data_format=77),  # type: ignore[arg-type]
        pb.FunctionPutOutputsItem(input_id="", result=blob, input_started_at=float("nan")),
    ]
    chunk = pb.DataChunk(index=2**63, data=b"x", data_format=99)  # type: ignore[arg-type]
    return [
        ("FunctionPutOutputs", pb.FunctionPutOutputsRequest(outputs=items)),
        ("FunctionPutOutputs", pb.FunctionPutOutputsRequest(outputs=items * 3000)),
        (
            "FunctionCallPutDataOut",
            pb.FunctionCallPutDataRequest(function_call_id=call_id, data_chunks=[chunk] * 100),
        ),
        (
            "FunctionCallPutDataOut",
            pb.FunctionCallPutDataRequest(function_call_id=input_id, data_chunks=[chunk]),
        ),
        ("ContainerHello", pb.ContainerHeartbeatRequest()),
        ("ContainerHeartbeat", pb.ContainerHeartbeatRequest(canceled_inputs_return_outputs_v2=True)),
        ("FunctionGetInputs", pb.FunctionGetInputsRequest(function_id=function_id, input_concurrency=-1)),
        ("VolumeCommit", pb.VolumeCommitRequest(volume_id=volume_id)),
        ("VolumeReload", pb.VolumeReloadRequest(volume_id=volume_id)),
        ("VolumeReload", pb.VolumeReloadRequest(volume_id=call_id)),
        ("TaskResult", pb.TaskResultRequest(result=blob)),
        ("FunctionMap", pb.FunctionMapRequest(function_id=function_id, parent_input_id=input_id * 1000)),
    ]


@app.function(image=image, volumes={"/data": volume}, max_containers=1)
def attack(volume_id: str, count: int) -> tuple[list[str], dict[str, int]]:
    """The answers that no request should get, and how often there was each."""
    from grpclib import GRPCError
    from grpclib.client import Channel
    from grpclib.const import Cardinality
    from grpclib.encoding.base import CodecBase

    class Raw(CodecBase):
        __content_subtype__ = "proto"

        def encode(self, message: Any, message_type: Any) -> bytes:
            return bytes(message)

        def decode(self, data: bytes, message_type: Any) -> bytes:
            return data

    input_id, call_id = modal.current_input_id() or "", modal.current_function_call_id() or ""
    known = [
        (name, each.SerializeToString())
        for name, each in seeds(input_id, call_id, attack.object_id, volume_id)
    ]
    rng = random.Random(1)

    async def work() -> tuple[list[str], dict[str, int]]:
        channel = Channel(path="/__modal/socket", codec=Raw())
        bugs, kinds = [], Counter[str]()
        for number in range(count):
            name, data = known[number] if number < len(known) else rng.choice(known)
            if number >= len(known):
                changed = bytearray(data or b"\x0a\x01a")
                for _ in range(rng.randrange(1, 5)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
                data = bytes(changed[: rng.randrange(1, len(changed) + 1)] if rng.random() < 0.3 else changed)
            try:
                async with asyncio.timeout(
                    0.05 if name in ("ContainerHeartbeat", "FunctionGetInputs") else 15
                ):
                    path = f"/modal.client.ModalClient/{name}"
                    async with channel.request(path, Cardinality.UNARY_UNARY, bytes, bytes) as stream:
                        await stream.send_message(data, end=True)
                        await stream.recv_message()
                kinds["OK"] += 1
            except TimeoutError:
                kinds["timeout"] += 1
                if name not in ("ContainerHeartbeat", "FunctionGetInputs"):
                    bugs.append(f"{name} does not answer {data[:200]!r}")
            except GRPCError as exc:
                kinds[exc.status.name] += 1
                if exc.status.name in ("INTERNAL", "UNKNOWN"):
                    bugs.append(f"{name} of {data[:200]!r}: {exc}")
        channel.close()
        return bugs, dict(kinds)

    return asyncio.run(work())


if __name__ == "__main__":
    with app.run():
        bugs, kinds = attack.remote(volume.hydrate().object_id, int(sys.argv[1]))
        print(json.dumps(["bugs", bugs]))
        print(json.dumps(["kinds", kinds]), flush=True)
