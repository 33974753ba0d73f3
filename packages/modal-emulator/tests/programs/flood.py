"""Prints more than anybody reads. Prints JSON."""

from __future__ import annotations

import json
import sys

import modal

app = modal.App("test-flood")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")


@app.function(image=image)
def flood(megabytes: int) -> int:
    line = "x" * 1023 + "\n"
    for _ in range(megabytes):
        sys.stdout.write(line * 1024)
    sys.stdout.flush()
    return megabytes


if __name__ == "__main__":
    with app.run():
        print(json.dumps(["flooded", flood.remote(int(sys.argv[1]))]))
