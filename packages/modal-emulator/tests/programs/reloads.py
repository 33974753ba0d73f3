"""What a container sees of a volume that it commits and reloads, and of the answers to it. Prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import modal

app = modal.App("test-reloads")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
volume = modal.Volume.from_name("test-reloads", create_if_missing=True)
entries = modal.Dict.from_name("test-reloads", create_if_missing=True)


@app.function(image=image, volumes={"/v": volume}, max_containers=1)
def commits(hold: bool) -> str:
    file = Path("/v/f").open("w")  # noqa: SIM115
    file.write("1")
    file.flush()
    if not hold:
        file.close()
    try:
        volume.commit()
    except RuntimeError as exc:
        return str(exc)
    finally:
        file.close()
    return "committed"


@app.function(image=image, volumes={"/v": volume}, max_containers=1)
def watch() -> list[bool]:
    """Whether a file was there before, while and after the volume was reloaded."""
    import threading

    def look() -> None:
        while not over.is_set():
            seen.append(Path("/v/f").exists())

    seen: list[bool] = []
    over = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    volume.reload()
    over.set()
    looking.join()
    return [seen[0], all(seen), Path("/v/f").exists()]


@app.function(image=image, max_containers=1)
def add() -> list[Any]:
    return [entries.put("key", 1, skip_if_exists=True), entries.get("key")]


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def main() -> None:
    with app.run():
        report("closed", commits.remote(hold=False))
        report("open", commits.remote(hold=True))
        report("kept", b"".join(volume.read_file("f")).decode())
        report("watched", watch.remote())
        report("added", add.remote())


if __name__ == "__main__":
    main()
