"""A serialized function whose image has another Python. Prints JSON."""

from __future__ import annotations

import json
import sys

import modal

other = "3.11" if sys.version_info[:2] != (3, 11) else "3.12"
app = modal.App("test-other-python")
function = app.function(serialized=True, name="f", image=modal.Image.debian_slim(python_version=other))(
    lambda: 1
)

if __name__ == "__main__":
    try:
        with app.run():
            print(json.dumps(["answer", function.remote()]))
    except Exception as exc:
        print(json.dumps(["refused", [type(exc).__name__, str(exc)]]))
