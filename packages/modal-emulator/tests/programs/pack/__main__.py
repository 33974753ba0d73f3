"""A function in a package, run with `python -m pack`. Prints JSON."""

from __future__ import annotations

import json

from .remote import greet
from .shared import app

if __name__ == "__main__":
    with app.run():
        print(json.dumps(["package", greet.remote("world")]), flush=True)
