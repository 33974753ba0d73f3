"""Leaves symbolic links in a volume, and looks at them from outside. Prints JSON."""

# ruff: noqa: PTH123, PTH211

from __future__ import annotations

import json
import os
import sys

import modal

app = modal.App("test-links")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
volume = modal.Volume.from_name("test-links", create_if_missing=True)


@app.function(image=image, volumes={"/data": volume})
def link() -> None:
    os.chdir("/data")
    with open("file", "w") as file:
        file.write("a file")
    os.symlink("file", "within")
    os.symlink("/etc/passwd", "outside")
    os.symlink("../../../../../../../../etc/passwd", "relative")
    os.symlink("/etc", "outside-folder")
    os.symlink("nothing", "dangling")
    os.symlink("loop", "loop")
    volume.commit()


if __name__ == "__main__":
    with app.run():
        link.remote()
    read = {}
    for name in ("file", "within", "outside", "relative", "outside-folder/passwd", "dangling", "loop"):
        try:
            read[name] = b"".join(volume.read_file(name)).decode()
        except Exception:
            continue
    print(json.dumps(["listed", sorted(entry.path for entry in volume.listdir("/", recursive=True))]))
    print(json.dumps(["read", read]))
