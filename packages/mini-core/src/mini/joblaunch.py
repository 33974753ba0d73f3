"""How detached jobs are launched: one program for all of a group, one small payload for each of its inputs."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import reprlib
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import launched, snapshot, wire
from .jobboard import JobBoard, JobGroup
from .jobrecord import Attempt, Created, GroupRecord, JobRecord, Origin
from .requirements import find_project_root, find_workspace_root
from .wire import Frames

if TYPE_CHECKING:
    from .options import Options

__all__ = ["JobProgram", "Launcher", "new_group_id"]


@dataclass(frozen=True, slots=True)
class JobProgram:
    """What all jobs of a group share, as `JobStore.program` has it.

    Attributes:
        function: the function's name, for people.
        apparatus: the apparatus's name.
        data_dir: the volume's directory as a worker sees it.
        timeout: seconds that one attempt may run.
        max_workers: jobs of the group that may run at the same time; None: as many as there is room for.
        budget: seconds that its attempts may run, all together.
        env: variables for the worker's process.
        source: digest of the snapshot; empty if there is none.
        path, cwd: import path (see `snapshot.import_path`) and working directory of the launching process.
        frames: of the `wire.Program`.
    """

    function: str
    apparatus: str
    data_dir: str | None = None
    timeout: float | None = None
    max_workers: int | None = None
    budget: float | None = None
    env: dict[str, str] = field(default_factory=dict)
    source: str = ""
    path: tuple[str, ...] = ()
    cwd: str = ""
    frames: Frames = field(default_factory=list)

    def pack(self) -> bytes:
        head = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "frames"}
        return wire.join_frames([json.dumps(head).encode(), *self.frames])

    @classmethod
    def unpack(cls, data: bytes) -> JobProgram:
        """The inverse of `pack`."""
        first, *frames = wire.split_frames(data)
        head = json.loads(bytes(first))
        known = {each.name: head[each.name] for each in fields(cls) if each.name in head}
        return cls(**{**known, "path": tuple(head["path"])}, frames=frames)


class Launcher:
    """Makes groups of jobs of one apparatus.

    Args:
        board: where they go.
        backend, name, data_dir: of the apparatus.
        options: that hold for the jobs.
        settings: what `Apparatus._lasting_settings` says.
    """

    def __init__(
        self,
        board: JobBoard,
        backend: str,
        name: str,
        data_dir: str | None,
        options: Options,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._board = board
        self._backend = backend
        self._name = name
        self._data_dir = data_dir
        self._options = options
        self._settings = settings

    def launch(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        hooks: Sequence[Callable[[], object]],
        *,
        single: bool = False,
        budget: float | None = None,
        id: str | None = None,
    ) -> JobGroup:
        """Create a group with a job for each of `rows`, its positional arguments, and start it.

        By default its id is a new one.

        Nothing is created if something cannot be pickled, or if `rows` raises.

        Raises:
            SerializationError: something cannot be pickled; of an input, a note says which.
            BackendUnavailable: the jobs cannot be kept or started.
        """
        program = wire.pack_program(fn, kwargs, hooks)
        inputs, texts = _pack_inputs(rows)
        if single and kwargs:
            named = ", ".join(f"{key}={wire.BRIEF.repr(value)}" for key, value in kwargs.items())
            texts = [", ".join(filter(None, (texts[0], named)))]
        options, store = self._options, self._board.store
        code = snapshot.take()
        shared = JobProgram(
            function=program.name,
            apparatus=self._name,
            data_dir=self._data_dir,
            timeout=options.timeout,
            max_workers=options.max_workers,
            budget=budget,
            env=dict(options.env or {}),
            source=code.digest if code.archive else "",
            path=code.path,
            cwd=str(Path.cwd()),
            frames=program.frames,
        )
        origin = self._origin(code.digest if code.archive else None, budget)
        group = GroupRecord(id or new_group_id(), program.name, len(inputs), origin)
        created = (Attempt(1, Created(time.time(), options.retries or 0)),)
        records = [
            JobRecord(f"{group.id}-{index}", group.id, index, text, group.function, group.origin, created)
            for index, text in enumerate(texts)
        ]
        if code.archive:
            store.put_source(code.digest, code.archive)
        with self._board.host.launching():
            store.create(group, records, shared.pack(), inputs)
            if records:
                self._board.host.start([record.status for record in records])
        launched.remember(self._name, self._backend, self._settings)
        return JobGroup(self._board, group.id, group.size)

    def _origin(self, source: str | None, budget: float | None) -> Origin:
        root = find_project_root()
        lock = None if root is None else find_workspace_root(root) / "uv.lock"
        commit, dirty = _git(str(Path.cwd()), int(time.monotonic() / GIT_SECONDS))
        return Origin(
            launched=time.time(),
            launched_by=f"{_user()}@{socket.gethostname()}",
            lock_digest=_digest(lock) if lock is not None else None,
            source_digest=source,
            git_commit=commit,
            git_dirty=dirty,
            python=platform.python_version(),
            packages=_packages(tuple(sys.path)),
            backend=self._backend,
            apparatus=self._name,
            options=_plain_options(self._options) | ({} if budget is None else {"budget": budget}),
        )


class _Brief(reprlib.Repr):
    """Longer than what a note on an error has: reports and tables take inputs apart by name."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = 32
        self.maxstring = 1_000
        self.maxother = self.maxlong = 120
        self.maxrow = 16_000
        """Characters of a dict that is the input itself; it has as many parameters as go into them."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # In the order that it has, which reprlib's own does not keep.
        if level <= 0 or not x:
            return "{...}" if x else "{}"
        room = self.maxrow
        items: list[str] = []
        for key, value in x.items():
            if (room <= 0) if level == self.maxlevel else (len(items) == self.maxdict):
                items.append("'...': '...'")  # which Python can read
                break
            items.append(f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}")
            room -= len(items[-1])
        return f"{{{', '.join(items)}}}"


_BRIEF = _Brief()


def _pack_inputs(rows: Iterable[tuple[Any, ...]]) -> tuple[list[bytes], list[str]]:
    """Each input packed, and a short repr of it."""
    inputs: list[bytes] = []
    texts: list[str] = []
    for row in rows:
        packed = wire.pack_rows([row], copy=False) if row else wire.pack_nothing()
        if packed.error is not None:
            packed.error.add_note(f"in input {len(inputs)}; no job was created")
            raise packed.error
        inputs.append(wire.join_frames(packed.frames))
        texts.append(", ".join(map(_BRIEF.repr, row)))
    return inputs, texts


# --- ids and provenance ---------------------------------------------------------------------------------------------

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_last = 0
_last_lock = threading.Lock()


def new_group_id() -> str:
    """Twelve letters and digits: eight for the time, so that ids sort by it, and four by chance."""
    global _last
    with _last_lock:
        _last = moment = max(int(time.time() * 1000), _last + 1)
    return _base36(moment, 8) + "".join(secrets.choice(_DIGITS) for _ in range(4))


def _base36(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _plain_options(options: Options) -> dict[str, Any]:
    found = {name: value for name, value in _shallow(options).items() if value not in (None, {})}
    if "env" in found:
        found["env"] = sorted(found["env"])
    return found


def _shallow(options: Options) -> dict[str, Any]:
    return {each.name: getattr(options, each.name) for each in fields(options)}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in the system's list
        return str(os.getuid())


def _digest(file: Path) -> str | None:
    with suppress(OSError):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return None


GIT_SECONDS = 1.0
"""How old an answer of git may be: a loop of `spawn` need not ask each time."""
GIT_PATIENCE = 5.0


@lru_cache(maxsize=8)
def _git(folder: str, moment: int) -> tuple[str | None, bool | None]:
    """The commit that is checked out, and whether tracked files differ from it; None where there is no answer."""
    command = ["git", "-C", folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_PATIENCE, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    if done.returncode:
        return None, None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return (None if commit == "(initial)" else commit), any(not line.startswith("#") for line in lines)


@cache
def _packages(path: tuple[str, ...]) -> dict[str, str]:
    """Versions of what is installed, by the names of the folders that say so: reading them all takes too long."""
    found: dict[str, str] = {}
    for entry in path:
        try:
            names = [path.name for path in Path(entry or os.curdir).iterdir()]
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                distribution, _, version = name.removesuffix(".dist-info").partition("-")
                found.setdefault(distribution.replace("_", "-").lower(), version)
    return dict(sorted(found.items()))
