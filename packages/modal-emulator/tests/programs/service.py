"""For `modal deploy`. The tests deploy it again with another VERSION."""
# No `from __future__ import annotations`: the client reads the types of parameters.

import os

import modal

VERSION = 1

part = modal.App()
app = modal.App("test-service", tags={"team": "blue"})
gate = modal.Queue.from_name("test-service-gate", create_if_missing=True)


@part.function(gpu="T4")
def included() -> str:
    return f"included {VERSION}"


app.include(part)


@app.function(min_containers=1)
def version() -> tuple[int, str]:
    print(f"this is version {VERSION}")
    return VERSION, os.environ["MODAL_TASK_ID"]


@app.function()
def held(name: str) -> str:
    """Runs until it is told to end."""
    gate.put("started", partition=f"{name}-started")
    told = gate.get(partition=name, timeout=500)
    return f"{told} from {VERSION}"


@app.cls()
class Greeter:
    greeting: str = modal.parameter(default="hello")

    @modal.method()
    def greet(self, name: str) -> str:
        return f"{self.greeting} {name} from {VERSION}"


# The tests put something here.
