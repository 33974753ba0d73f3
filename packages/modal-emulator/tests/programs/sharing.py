"""What containers see of each other's files in a volume. Prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import modal

app = modal.App("test-sharing")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
version = int(sys.argv[1]) if modal.is_local() else 1  # in a container it is the volume that is mounted
volume = modal.Volume.from_name(f"test-sharing-{version}", create_if_missing=True, version=version)


@app.function(image=image, volumes={"/v": volume}, max_containers=1)
def write(name: str, commit: bool) -> None:
    Path("/v", name).write_text(name)
    if commit:
        volume.commit()


@app.function(image=image, volumes={"/v": volume}, max_containers=1)
def look(reload: bool) -> list[str]:
    if reload:
        volume.reload()
    return sorted(path.name for path in Path("/v").iterdir())


@app.function(image=image, volumes={"/v": volume.read_only()}, max_containers=1)
def deface() -> str:
    try:
        Path("/v/a").write_text("defaced")
    except OSError as exc:
        return type(exc).__name__
    return "written"


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def outside() -> list[str]:
    return sorted(entry.path for entry in volume.listdir("/"))


def main() -> None:
    with app.run():
        report("at first", look.remote(False))
        write.remote("a", commit=False)
        report("not committed", look.remote(True))
        write.remote("b", commit=True)
        report("not reloaded", look.remote(False))
        report("reloaded", look.remote(True))
        report("outside", outside())
        report("read only", deface.remote())
        with volume.batch_upload() as batch:
            batch.put_file(__file__, "from-outside")
        report("uploaded", look.remote(True))
        write.remote("c", commit=False)
        report("before the end", outside())


if __name__ == "__main__":
    main()
