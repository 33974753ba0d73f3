"""Every error that `mini` itself raises.

```
MiniError
├ OptionError(TypeError)             an option, name or argument of mini's own is wrong
├ BackendNotFound(LookupError)       no such backend; says which package to install
├ Unsupported(NotImplementedError)   the backend declines this; `supports()` says so beforehand
├ RequirementsError(RuntimeError)    the project's lock or environment cannot be described
├ JobStateError(RuntimeError)        a job's state does not allow this
├ VolumePathError(ValueError)        a path is not one inside of the volume
├ BackendUnavailable(ConnectionError)
│ └ AuthError
├ SerializationError(TypeError)      a function, argument or result cannot be pickled
└ CallError                          one call failed, and not by an exception of the user's own
  ├ WorkerLost                       its worker died
  ├ JobTimeout(TimeoutError)         it ran longer than `timeout`
  ├ JobCancelled                     it was cancelled
  └ RemoteError                      it raised something that cannot travel
```

An exception that a user's function raises is not in this tree: it arrives as itself.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "AuthError",
    "BackendNotFound",
    "BackendUnavailable",
    "CallError",
    "FailureKind",
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
]

FailureKind = Literal["user", "timeout", "lost", "out-of-memory", "cancelled", "serialization"]


class MiniError(Exception):
    """Base of every error that mini raises on its own account."""


class OptionError(MiniError, TypeError):
    """An option, a name or an argument of mini's own is unknown or out of range. Nothing was started."""


class BackendNotFound(MiniError, LookupError):
    """No installed package provides the backend that was asked for. Nothing was started."""


class Unsupported(MiniError, NotImplementedError):
    """The backend declines this on purpose; `Apparatus.supports` answers False for it. Nothing was started."""


class RequirementsError(MiniError, RuntimeError):
    """The project's requirements cannot be read; the message names the command that mends it."""


class JobStateError(MiniError, RuntimeError):
    """The state that a detached job is in does not allow this. Nothing was changed."""


class VolumePathError(MiniError, ValueError):
    """A path does not name a place inside of the volume, or leads out of it. Nothing was read or written."""


class BackendUnavailable(MiniError, ConnectionError):
    """The backend cannot be started or reached; the message says what to do next."""


class AuthError(BackendUnavailable):
    """The backend was reached and did not accept the credentials."""


class SerializationError(MiniError, TypeError):
    """A function, an argument or a result cannot be carried to or from a worker; says which, and which part of it."""


class CallError(MiniError):
    """One call failed for a reason that is not an exception raised by the user's function."""


class WorkerLost(CallError):
    """The worker died while it ran this call. The call may have had effects; it was not run again."""


class JobTimeout(CallError, TimeoutError):
    """The call ran longer than the `timeout` option allows and was ended on the worker."""


class JobCancelled(CallError):
    """The call was cancelled before it finished."""


class RemoteError(CallError):
    """The call raised something that cannot be raised here as itself.

    It stands for an exception that does not survive pickling and for `SystemExit`.

    Attributes:
        type_name: qualified name of the original type.
        message: the original's `str()`.
        traceback: the original's formatted traceback, as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        head = f"{self.type_name}: {self.message}" if self.message else self.type_name
        return f"{head}\n\n{self.traceback}" if self.traceback else head
