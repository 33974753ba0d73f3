"""A function that takes its arguments by name, as a map can call it: with one input, a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .wire import function_name

__all__ = ["ByName"]


class ByName:
    """Calls a function with the arguments that a row has, by name. It goes by the function's name.

    Args:
        func: the function; an `async def` one is awaited.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.__qualname__ = function_name(func)

    def __call__(self, row: Mapping[str, Any]) -> Any:
        value = self.func(**row)
        if hasattr(value, "__await__"):
            from .worker import run_coroutine

            return run_coroutine(value)
        return value
