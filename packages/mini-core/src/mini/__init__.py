"""mini: one function, any machine.

```python
import mini

def square(x):
    return x * x

with mini.LocalApparatus("squares") as app:
    print(app.run(square, 4), list(app.map(square, range(10))))
```
"""

from __future__ import annotations

from importlib import import_module

# Type checkers take any variable of this name for true; importing `typing` for it would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from .capability import Capability as Capability
    from .context import current_job as current_job
    from .context import emit_metrics as emit_metrics
    from .context import emit_progress as emit_progress
    from .context import get_data_dir as get_data_dir
    from .errors import AuthError as AuthError
    from .errors import BackendNotFound as BackendNotFound
    from .errors import BackendUnavailable as BackendUnavailable
    from .errors import CallError as CallError
    from .errors import JobCancelled as JobCancelled
    from .errors import JobStateError as JobStateError
    from .errors import JobTimeout as JobTimeout
    from .errors import MiniError as MiniError
    from .errors import OptionError as OptionError
    from .errors import RemoteError as RemoteError
    from .errors import RequirementsError as RequirementsError
    from .errors import SerializationError as SerializationError
    from .errors import Unsupported as Unsupported
    from .errors import VolumePathError as VolumePathError
    from .errors import WorkerLost as WorkerLost
    from .jobboard import Job as Job
    from .jobboard import JobGroup as JobGroup
    from .jobboard import JobState as JobState
    from .local.apparatus import LocalApparatus as LocalApparatus
    from .protocol import Apparatus as Apparatus
    from .registry import apparatus as apparatus
    from .registry import jobs as jobs
    from .requirements import find_project_root as find_project_root
    from .requirements import project_packages as project_packages
    from .requirements import uv_freeze as uv_freeze
    from .status import CallRecord as CallRecord
    from .status import FailureRecord as FailureRecord
    from .status import JobInfo as JobInfo
    from .status import LogLine as LogLine
    from .status import failure_record as failure_record
    from .volume import Volume as Volume

    __version__: str

# Where each public name lives. They are loaded when they are first used: `import mini` itself loads nothing.
_HOME = {
    "capability": ("Capability",),
    "context": ("current_job", "emit_metrics", "emit_progress", "get_data_dir"),
    "errors": (
        "AuthError",
        "BackendNotFound",
        "BackendUnavailable",
        "CallError",
        "JobCancelled",
        "JobStateError",
        "JobTimeout",
        "MiniError",
        "OptionError",
        "RemoteError",
        "RequirementsError",
        "SerializationError",
        "Unsupported",
        "VolumePathError",
        "WorkerLost",
    ),
    "jobboard": ("Job", "JobGroup", "JobState"),
    "local.apparatus": ("LocalApparatus",),
    "protocol": ("Apparatus",),
    "registry": ("apparatus", "jobs"),
    "requirements": ("find_project_root", "project_packages", "uv_freeze"),
    "status": ("CallRecord", "FailureRecord", "JobInfo", "LogLine", "failure_record"),
    "volume": ("Volume",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mini-core")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
