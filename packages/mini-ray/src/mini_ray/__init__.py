"""mini on Ray.

`import mini_ray` loads nothing: ray itself comes with the first call.
"""

from __future__ import annotations

from importlib import import_module

# Type checkers take any variable of this name for true; importing `typing` for it would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from .apparatus import RayApparatus as RayApparatus

    __version__: str

__all__ = ["RayApparatus", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mini-ray")
    if name != "RayApparatus":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = import_module(f"{__name__}.apparatus").RayApparatus
    return value


def __dir__() -> list[str]:
    return __all__
