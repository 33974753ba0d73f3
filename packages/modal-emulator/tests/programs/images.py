"""The ways to describe an image, each answer printed as JSON. Runs on Modal as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

here = Path(tempfile.mkdtemp())
(here / "folder" / "sub").mkdir(parents=True)
(here / "folder" / "sub" / "f.txt").write_text("copied")
(here / "requirements.txt").write_text("# nothing\n")
once = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ONCE", "")

slim = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
full = (
    slim.env({"FOO": "bar baz", "QUOTED": 'it\'s "so" $HOME'})
    .pip_install_from_requirements(str(here / "requirements.txt"))
    .workdir("/srv/app")
    .run_commands("echo built by $FOO > made", "mkdir -p /model && echo w > /model/w")
    .add_local_dir(here / "folder", "/data", copy=True)
    .dockerfile_commands("COPY sub/f.txt /texts/", "RUN cat /texts/f.txt", context_dir=here / "folder")
    .add_local_file(here / "folder" / "sub" / "f.txt", "/late/f.txt")
)


def write_model() -> None:
    Path("/model").mkdir()
    Path("/model/weights").write_text("42")


built = slim.run_function(write_model)
app = modal.App("test-images")


@app.function(image=full, serialized=True)
def look() -> dict[str, Any]:
    return {
        "env": [os.environ["FOO"], os.environ["QUOTED"]],
        "workdir": str(Path.cwd()),
        "made": Path("made").read_text(),
        "copied": Path("/data/sub/f.txt").read_text(),
        "text": Path("/texts/f.txt").read_text(),
        "late": Path("/late/f.txt").read_text(),
        "pip": subprocess.run([sys.executable, "-m", "pip", "--version"], check=False).returncode,
    }


@app.function(image=built, serialized=True)
def read_model() -> str:
    return Path("/model/weights").read_text()


def say(name: str, value: object) -> None:
    print(json.dumps([name, value]), flush=True)


def attempt(name: str, image: Callable[[], modal.Image]) -> None:
    other = modal.App("test-images-failing")
    try:
        with other.run():
            image().build(other)
    except Exception as exc:
        say(name, [type(exc).__name__, str(exc)])
    else:
        say(name, ["nothing", ""])


def main() -> None:
    with modal.enable_output(), app.run():
        say("look", look.remote())
        say("model", read_model.remote())

    attempt("failing", lambda: slim.run_commands("echo it goes wrong; exit 3"))
    attempt(
        "cuda", lambda: modal.Image.from_registry("nvidia/cuda:12.4.0-devel-ubuntu22.04", add_python=None)
    )
    attempt("micromamba", lambda: modal.Image.micromamba())
    attempt(
        "registry",
        lambda: modal.Image.from_registry(f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"),
    )
    attempt("no python", lambda: modal.Image.debian_slim(python_version="3.15"))
    attempt(
        "volumes",
        lambda: slim.run_commands(
            "true", volumes={"/v": modal.Volume.from_name("v", create_if_missing=True)}
        ),
    )

    line = f"echo 'counted {once}'"
    with modal.enable_output(), app.run():
        first = slim.run_commands(line)
        first.build(app)
        again = slim.run_commands(line)
        again.build(app)
        forced = slim.run_commands(line, force_build=True)
        forced.build(app)
        after = slim.run_commands(line)
        after.build(app)
        say("ids", [first.object_id, again.object_id, forced.object_id, after.object_id])
        say("from id", modal.Image.from_id(first.object_id).object_id)
        first.publish("my-image:v1")
        named = modal.Image.from_name("my-image:v1")
        named.build(app)
        say("from name", named.object_id)


if __name__ == "__main__":
    main()
