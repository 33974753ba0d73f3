"""A Ray instance of this machine that stays: for detached jobs where there is no cluster.

`start` has a process of its own hold an instance like those that end with their caller: on loopback, with a token that
only this user can read, without a dashboard or reports. What is known of it is noted in the project's `.mini`; there
every apparatus of the project finds it that is not told of a cluster. The process holds a lock for as long as it lives,
so that nobody has to go by its id, which may be another's by then.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mini import BackendUnavailable
from mini.launched import data_root
from mini.local.jobs import is_held

__all__ = ["Standing", "find", "is_over", "place_of", "start", "stop"]

START_SECONDS = 120.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 2.0
PAUSE = 0.05
# The first process ends at once, so that the other is nobody's child who would have to wait for it.
HOLD = (
    "import os, sys; os.fork() and os._exit(0); from mini_ray import standing; standing.hold(*sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """An instance that stays.

    Attributes:
        address: of its control service.
        pid: of the process that holds it.
        token: the file with what it wants from those who join.
        machine: on which it is.
        ids: of the clusters that such instances of this project have been, the last one's last.
    """

    address: str
    pid: int
    token: str
    machine: str
    ids: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """What those who join it have in their environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token}


def place_of(root: Path | None = None) -> Path:
    """Where its note, its lock and its log are: in a project's `.mini`, by default in that of this project."""
    return (root or data_root()) / "ray" / "standing"


def find(place: Path | None = None) -> Standing | None:
    """The instance that stays on this machine for this project, if it does."""
    place = place or place_of()
    noted = _noted(place)
    there = noted is not None and noted.machine == _machine() and is_held(place / "lock")
    return noted if there else None


def is_over(id: str, place: Path | None = None) -> bool:
    """Whether a cluster is known to have been such an instance, and is no more."""
    place = place or place_of()
    noted = _noted(place)
    return noted is not None and id in noted.ids and not (id == noted.ids[-1] and is_held(place / "lock"))


def start(place: Path | None = None) -> tuple[Standing, bool]:
    """Have an instance that stays, and whether it was started now. Takes five to ten seconds then.

    Raises:
        BackendUnavailable: it cannot be started; has the end of its log.
    """
    place = place or place_of()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (there := find(place)) is not None:
            return there, False
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE)  # somebody looks at it, or starts it
        else:
            return _start(place, lock), True
        finally:
            os.close(lock)
    raise BackendUnavailable(
        f"somebody else starts a Ray instance, and does not come to an end; see {place / 'log'}"
    )


def _start(place: Path, lock: int) -> Standing:
    ready, tell = os.pipe()
    with (
        (place / "log").open("wb") as log,
        selectors.DefaultSelector() as selector,
        os.fdopen(ready, "rb") as answer,
    ):
        try:
            # The lock goes over to it with the descriptor: at no time is it free in between.
            subprocess.run(
                [sys.executable, "-P", "-c", HOLD, str(place), str(tell)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock, tell],
                cwd="/",
                start_new_session=True,
                check=True,
            )
        finally:
            os.close(tell)
        selector.register(answer, selectors.EVENT_READ)
        said = answer.read(1) if selector.select(START_SECONDS) else b""
    there = _noted(place)
    if said and there is not None:
        return there
    words = (place / "log").read_text(errors="replace").strip().splitlines()[-5:]
    raise BackendUnavailable("\n".join(["a Ray instance that stays cannot be started here:", *words]))


def stop(place: Path | None = None) -> bool:
    """End the instance that stays, with all that runs there; False if there is none.

    Raises:
        BackendUnavailable: it does not end.
    """
    place = place or place_of()
    there = find(place)
    if there is None:
        return False
    for order in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(there.pid, order)
        deadline = time.monotonic() + STOP_SECONDS
        while is_held(place / "lock") and time.monotonic() < deadline:
            time.sleep(PAUSE)
        if not is_held(place / "lock"):
            return True
    raise BackendUnavailable(f"the Ray instance {there.address} does not end; its process is {there.pid}")


def hold(name: str, tell: str) -> None:
    """In the process that holds the instance: start it, say so, and end it when this is told to end or Ray dies."""
    import ray  # noqa: F401  # if it is broken, that is to be known here, and not in the instance's thread

    from .cluster import Instance, identify

    place, over = Path(name), threading.Event()
    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, lambda *_: over.set())
    instance = Instance()
    instance.begin()
    try:
        before = _noted(place)
        address = instance.address
        ids = (*(before.ids if before is not None else ()), identify(address))
        _note(place, Standing(address, os.getpid(), str(instance.token), _machine(), ids))
        with os.fdopen(int(tell), "wb") as pipe:
            pipe.write(b"!")
        while not over.wait(LOOK_SECONDS) and instance.alive:
            pass
    finally:
        instance.end()


def _note(place: Path, standing: Standing) -> None:
    made = place / ".note.json"
    made.touch(mode=0o600)
    made.write_text(json.dumps(asdict(standing)))
    made.replace(place / "note.json")


def _noted(place: Path) -> Standing | None:
    with suppress(OSError, ValueError, TypeError):
        noted = json.loads((place / "note.json").read_text())
        return Standing(**{**noted, "ids": tuple(noted["ids"])})
    return None


def _machine() -> str:
    from .node import look

    return str(look()["machine"])
