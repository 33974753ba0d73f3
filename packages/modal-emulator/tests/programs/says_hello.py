"""Says hello to a server. Prints JSON."""

from __future__ import annotations

import json

import modal

try:
    modal.Client.from_env().hello()
    print(json.dumps(["hello", True]))
except Exception as exc:
    print(json.dumps(["error", type(exc).__name__]))
    raise SystemExit(1) from None
