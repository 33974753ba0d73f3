"""What a backend may decline. The names are fixed, so that code and tests can ask for them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Capability"]


class Capability(StrEnum):
    """A part of the contract that not every backend can honour.

    `Apparatus.supports` answers for one without starting anything. The conformance kit holds an adapter to its
    answer both ways: what is declared must work, and what is declined must be refused as the contract says.
    """

    PROCESS_ISOLATION = "process_isolation"
    """Calls run in another process than the caller (RUN-07); `os._exit` and a crash stay there."""

    KILL_WORKER = "kill_worker"
    """A worker that dies costs the call it was running and no other (ERR-06)."""

    AT_MOST_ONCE_GROUPED = "at_most_once_grouped"
    """What a dead worker had finished is known call by call, also within a group (MAP-13)."""

    CANCEL_RUNNING = "cancel_running"
    """A running call can be ended (MAP-06)."""

    TIMEOUT = "timeout"
    """`timeout` ends the call on the worker (OPT-04)."""

    ENV = "env"
    """`env` variables are there before the function's modules are imported (OPT-06)."""

    INTERRUPT = "interrupt"
    """Ctrl-C in the caller ends the running calls and leaves no process behind (ERR-08)."""

    RESOURCES = "resources"
    """`cpu`, `memory` and `gpu` are reserved for the call, not only noted (OPT-02)."""

    PERSISTENT_VOLUME = "persistent_volume"
    """The volume outlives process, pool and cluster (VOL-04)."""

    DETACHED_JOBS = "detached_jobs"
    """`spawn` and `spawn_map` start work that outlives the caller (DET)."""
