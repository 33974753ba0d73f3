"""A local server that speaks Modal's own protocol: the unmodified `modal` client runs its programs here.

```python
import subprocess
from modal_emulator import Emulator

with Emulator() as emulator:
    subprocess.run(["modal", "run", "hello.py"], env=emulator.environ, check=True)
```

The command `modal-emulator` does the same for a shell, and `modal_emulator.pytest` for tests.
"""

from __future__ import annotations

# Type checkers take any variable of this name for true; importing `typing` would be for nothing else.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .emulator import Emulator as Emulator
    from .emulator import EmulatorError as EmulatorError

    __version__: str

__all__ = ["Emulator", "EmulatorError", "__version__"]


def __getattr__(name: str) -> object:
    # pytest imports this package in every environment that it is installed in, so it loads what is used.
    if name in ("Emulator", "EmulatorError"):
        from . import emulator

        return getattr(emulator, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("modal-emulator")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
