"""A little of everything that a program does with a server: what it sends is what the fuzzing starts from."""
# No `from __future__ import annotations`: the client reads the types of parameters.

import io
import json
import sys
from collections.abc import Iterator

import modal

NAME = sys.argv[1] if modal.is_local() else "test-everything"
app = modal.App("test-everything")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
secret = modal.Secret.from_dict({"EVERYTHING": "1"})
volume = modal.Volume.from_name(NAME, create_if_missing=True)
newer = modal.Volume.from_name(f"{NAME}-2", create_if_missing=True, version=2)


@app.function(image=image, secrets=[secret], volumes={"/data": volume}, retries=1)
def square(x: int) -> int:
    return x * x


@app.function(image=image)
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.cls(image=image)
class Model:
    factor: int = modal.parameter(default=2)

    @modal.method()
    def predict(self, x: int) -> int:
        return x * self.factor


def main() -> None:
    words = modal.Dict.from_name(NAME, create_if_missing=True)
    words.update({"a": 1, "b": [2]})
    assert (words["a"], "b" in words, words.pop("b"), words.len()) == (1, True, [2], 1)
    assert dict(words.items()) == {"a": 1}
    things = modal.Queue.from_name(NAME, create_if_missing=True)
    things.put_many([1, 2, 3])
    things.put(4, partition="p", partition_ttl=10)
    assert (things.get(), things.len(), list(things.iterate())) == (1, 2, [2, 3])
    things.clear(all=True)
    for each in (volume, newer):
        with each.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(b"some bytes"), "/folder/file")
        each.copy_files(["/folder/file"], "/copy")
        assert b"".join(each.read_file("copy")) == b"some bytes"
        assert {entry.path for entry in each.listdir("/", recursive=True)} >= {"folder/file", "copy"}
        each.remove_file("copy")
    with modal.Volume.ephemeral() as short, modal.Dict.ephemeral(), modal.Queue.ephemeral():
        short.listdir("/")
    with app.run():
        assert square.remote(3) == 9
        assert list(square.map(range(3))) == [0, 1, 4]
        assert list(count.remote_gen(3)) == [0, 1, 2]
        assert Model().predict.remote(2) == 4
        call = square.spawn(4)
        assert modal.FunctionCall.from_id(call.object_id).get(timeout=60) == 16
        call.get_call_graph()
        square.autoscaler.update(scaledown_window=10)
        square.get_current_stats()
    app.deploy(name=NAME)
    assert modal.Function.from_name(NAME, "square").remote(5) == 25
    print(json.dumps(["done", True]), flush=True)


if __name__ == "__main__":
    main()
