"""Ephemeral apps, one after the other."""

from __future__ import annotations

import json
import sys
from typing import Any

import modal


def build() -> tuple[modal.App, Any]:
    app = modal.App("test-many-apps")
    function = app.function(serialized=True, name="double")(lambda x: 2 * x)
    return app, function


if __name__ == "__main__":
    answers = []
    for number in range(int(sys.argv[1])):
        app, function = build()
        with app.run(), modal.Dict.ephemeral() as kept:
            kept["number"] = number
            answers.append(function.remote(number))
    print(json.dumps(["answers", answers]))
