"""mini on Modal.

`import mini_modal` loads nothing: modal itself comes with the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module

# Type checkers take any variable of this name for true; importing `typing` for it would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from ._tls import ensure_grpc_trusts_system_ca as ensure_grpc_trusts_system_ca

    __version__: str

# Where each public name lives.
_MODULE_OF = {"ensure_grpc_trusts_system_ca": "_tls"}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mini-modal")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
