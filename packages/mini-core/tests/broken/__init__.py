"""Apparatuses that are good but for one thing, which an adapter could get wrong just so.

`BROKEN` lists them, each with the test of the conformance kit that is meant to catch it.
"""

from __future__ import annotations

from importlib import import_module

from .registry import BROKEN, Broken

__all__ = ["BROKEN", "Broken"]

for _module in ("calls", "maps", "errors", "options", "surroundings", "detached", "lives"):
    import_module(f"{__name__}.{_module}")
