"""Says which of Modal's RPCs a test is about: docs/make_emulator_coverage.py counts an RPC as done only if one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from modal_emulator.rpc import SERVICE

__all__ = ["covers"]

F = TypeVar("F", bound=Callable[..., Any])


def covers(*names: str) -> Callable[[F], F]:
    """Mark a test with the RPCs that would make it fail if they did not work."""
    unknown = set(names) - set(SERVICE.methods_by_name)
    assert not unknown, f"there are no such RPCs: {unknown}"
    return lambda test: test
