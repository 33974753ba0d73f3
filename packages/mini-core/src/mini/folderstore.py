"""Detached jobs kept in a folder that several machines share, with nothing but files.

What it asks of the file system is hard links and renames that are atomic for all who see it, as NFS, a disk of one's
own and most cluster file systems have them; locks it does without.

    GROUP/group.json    the group's record
    GROUP/briefs.json   short reprs of the inputs
    GROUP/program       what its jobs share
    GROUP/inputs        one after the other; `offsets` says where each begins
    GROUP/log/N         facts, as they came
    GROUP/checkpoint    all facts up to some entry of the log, so that nobody has to read it from the start
    GROUP/outcomes/, reports/, curves/, lines/    of attempts, called INDEX-NUMBER

A group is made under another name and renamed when it is whole. Its log has an entry for each change, however many
jobs that is about, and an entry is written by linking a finished file to the first number that is free. So all who
write agree on an order, and of two facts of one kind the first holds. Entries are never changed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BackendUnavailable, MiniError
from .jobboard import JobStore, Select
from .jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    Fact,
    GroupRecord,
    JobRecord,
    JobState,
    JobStatus,
    Key,
    Outcome,
    Report,
    Worker,
    from_json,
    to_json,
)
from .status import FailureRecord, LogLine

__all__ = ["FolderStore"]

VERSION = 1
CHECKPOINT_EVERY = 500
"""Entries of a log after which a checkpoint is written."""
SEEN_SECONDS = 0.01
"""Pause when another's entry is there, and a network file system does not show it yet."""
STALE_SECONDS = 24 * 3600
"""Age of what somebody had begun to write and died."""
FEW = 50
"""Reports that are looked for one by one; for more the folder is listed."""
_OFFSETS = struct.Struct("<QQ")
_STATES = {str(state): state for state in JobState}
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_Row = list[Any]
"""A fact as the log has it: index, number, kind, and what else there is to it."""


@dataclass(slots=True)
class _Attempt:
    """The rows of one attempt's facts, without index, number and kind."""

    created: _Row
    claimed: _Row | None = None
    ended: _Row | None = None

    @property
    def state(self) -> JobState:
        if self.ended is not None:
            return _STATES[self.ended[1]]
        return JobState.PENDING if self.claimed is None else JobState.RUNNING


@dataclass(slots=True)
class _View:
    """What is known of a group.

    Attributes:
        next: the number of the log's first entry that is not in here.
        attempts: by index and number.
        current: the number of the current attempt, by index.
        pending: indexes of the jobs that are, the one that has been for longest first.
    """

    group: GroupRecord
    next: int = 0
    attempts: dict[tuple[int, int], _Attempt] = field(default_factory=dict)
    current: list[int] = field(default_factory=list)
    pending: dict[int, None] = field(default_factory=dict)
    briefs: list[str] | None = None

    def adds(self, row: _Row) -> bool:
        """Whether a fact is a new one."""
        index, number, kind = row[:3]
        attempt = self.attempts.get((index, number))
        if kind == "created":
            return attempt is None and 0 <= index < self.group.size
        return attempt is not None and getattr(attempt, kind) is None

    def add(self, row: _Row) -> bool:
        """Take a fact in if it is a new one; whether it was."""
        if not self.adds(row):
            return False
        index, number, kind, *rest = row
        if kind == "created":
            self.attempts[index, number] = _Attempt(rest)
            if number >= self.current[index]:
                self.current[index] = number
                self.pending[index] = None
            return True
        setattr(self.attempts[index, number], kind, rest)
        if number == self.current[index]:
            self.pending.pop(index, None)
        return True

    def status(self, index: int) -> JobStatus:
        number = self.current[index]
        attempt = self.attempts[index, number]
        created, left = attempt.created
        worker = None if attempt.claimed is None else Worker(*attempt.claimed[1:])
        group = self.group.id
        return JobStatus(f"{group}-{index}", group, index, number, attempt.state, created, left, worker)

    def rows(self) -> Iterator[_Row]:
        for (index, number), attempt in self.attempts.items():
            for kind in ("created", "claimed", "ended"):
                if (row := getattr(attempt, kind)) is not None:
                    yield [index, number, kind, *row]


class FolderStore(JobStore):
    """Keeps the jobs of one name in a folder that all who use it share.

    What has been read is remembered, so an object that is kept reads only what is new.

    Args:
        folder: of the name. It is made when something is to be kept.
        sources: where archives of source code are kept, by their digest.
    """

    def __init__(self, folder: Path, sources: Path) -> None:
        self.folder = folder
        self.sources = sources
        self._views: dict[str, _View] = {}
        self._lock = threading.RLock()

    # --- writing ---

    def create(
        self, group: GroupRecord, records: Sequence[JobRecord], program: bytes, inputs: Sequence[bytes]
    ) -> None:
        rows = [_row((record.index, 1), record.attempts[0].created) for record in records]
        with self._reached():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                made.chmod(self.folder.stat().st_mode & 0o777)
                for name in ("log", "outcomes", "reports", "curves", "lines"):
                    (made / name).mkdir()
                head = {"version": VERSION, "group": to_json(group)}
                _write(made / "group.json", json.dumps(head).encode())
                _write(made / "briefs.json", json.dumps([record.input for record in records]).encode())
                _write(made / "program", program)
                _write(made / "inputs", b"".join(inputs))
                _write(made / "offsets", _offsets(inputs))
                _write(made / "log" / "0", _pack(rows))
                made.rename(self.folder / group.id)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise

    def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
        added = [False] * len(facts)
        places: dict[str, list[tuple[int, _Row]]] = {}
        for place, ((id, number), fact) in enumerate(facts):
            group, index = _split(id)
            places.setdefault(group, []).append((place, _row((index, number), fact)))
        with self._lock, self._reached():
            for group, some in places.items():
                done = self._commit(group, [row for _, row in some])
                for (place, _), new in zip(some, done, strict=True):
                    added[place] = new
        return added

    def _commit(self, group: str, rows: list[_Row]) -> list[bool]:
        """Add an entry to a group's log; which of its facts are new."""
        none = [False] * len(rows)
        view = self._refreshed(group)
        if view is None or not any(map(view.adds, rows)):
            return none
        log = self.folder / group / "log"
        try:
            with _finished(log, _pack(rows)) as made:
                while not _link(made, log / str(view.next)):
                    before = view.next
                    if self._refreshed(group) is not view or not any(map(view.adds, rows)):
                        return none
                    if view.next == before:
                        time.sleep(SEEN_SECONDS)
        except FileNotFoundError:
            return none  # it was removed
        number = view.next
        view.next += 1
        added = list(map(view.add, rows))
        if number and number % CHECKPOINT_EVERY == 0:
            data = json.dumps({"next": view.next, "rows": list(view.rows())}).encode()
            with suppress(OSError), _finished(self.folder / group, data) as made:
                made.rename(self.folder / group / "checkpoint")
        return added

    def put_report(self, key: Key, report: Report) -> None:
        self._replace(self._file("reports", key), to_json(report).encode())

    def put_curves(self, key: Key, data: bytes) -> None:
        self._replace(self._file("curves", key), data)

    def _replace(self, file: Path, data: bytes) -> None:
        # What is not found was removed.
        with self._reached(), suppress(FileNotFoundError), _finished(file.parent, data, sync=False) as made:
            made.rename(file)

    def add_log(self, key: Key, lines: Sequence[LogLine]) -> None:
        data = "".join(json.dumps([line.stream, line.text]) + "\n" for line in lines).encode()
        with (
            self._reached(),
            suppress(FileNotFoundError),
            self._file("lines", key).open("ab", buffering=0) as file,
        ):
            file.write(data)

    def put_outcome(self, key: Key, data: bytes) -> None:
        file = self._file("outcomes", key)
        with self._reached(), suppress(FileNotFoundError), _finished(file.parent, data) as made:
            _link(made, file)

    def put_source(self, digest: str, archive: bytes) -> None:
        file = self._source_file(digest)
        with self._reached():
            if not file.is_file():
                self.sources.mkdir(parents=True, exist_ok=True)
                with _finished(self.sources, archive) as made:
                    _link(made, file)

    def remove(self, group: str) -> None:
        with self._lock, self._reached():
            self._views.pop(group, None)
            if _is_group(group):
                with suppress(FileNotFoundError):
                    # From here on nobody finds it, and nobody adds to it.
                    (self.folder / group).rename(self.folder / f".removed-{group}-{time.time_ns()}")
            for left in _hidden(self.folder):
                shutil.rmtree(left, ignore_errors=True)

    # --- reading ---

    def groups(self) -> list[GroupRecord]:
        with self._lock, self._reached():
            return [view.group for view in map(self._known, self._names()) if view is not None]

    def states(self, select: Select) -> list[JobStatus]:
        with self._lock, self._reached():
            found = [view.status(index) for view, indexes in self._selected(select) for index in indexes]
        return found if select.states is None else [job for job in found if job.state in select.states]

    def read(self, select: Select) -> Iterable[JobRecord]:
        found: list[JobRecord] = []
        with self._lock, self._reached():
            for view, indexes in self._selected(select):
                if select.states is not None:
                    indexes = [i for i in indexes if view.status(i).state in select.states]
                found += self._records(view, indexes)
        return found

    def spent(self, group: str) -> float:
        with self._lock, self._reached():
            view = self._refreshed(group)
            attempts = () if view is None else view.attempts.values()
            now = time.time()
            runs = ((a.claimed[0], a.ended[0] if a.ended else now) for a in attempts if a.claimed)
            seconds: float = sum(max(0.0, end - start) for start, end in runs)
            return seconds

    def pending(self, group: str) -> list[Key]:
        """The pending attempts of a group, the one that has been for longest first."""
        with self._lock, self._reached():
            view = self._refreshed(group)
            if view is None:
                return []
            return [(f"{group}-{index}", view.current[index]) for index in view.pending]

    def program(self, group: str) -> bytes:
        return self._bytes(self.folder / group / "program", group)

    def input(self, id: str) -> bytes:
        group, index = _split(id)
        with self._gone(id), self._reached():
            with (self.folder / group / "offsets").open("rb") as file:
                file.seek(index * 8)
                start, end = _OFFSETS.unpack(file.read(_OFFSETS.size))
            with (self.folder / group / "inputs").open("rb") as file:
                file.seek(start)
                return file.read(end - start)

    def outcome(self, key: Key) -> bytes:
        return self._bytes(self._file("outcomes", key), f"outcome of job {key[0]}")

    def curves(self, keys: Sequence[Key]) -> Iterator[bytes | None]:
        for key in keys:
            data = None
            with suppress(FileNotFoundError), self._reached():
                data = self._file("curves", key).read_bytes()
            yield data

    def source(self, digest: str) -> bytes:
        return self._bytes(self._source_file(digest), f"source {digest}")

    def log(self, key: Key, start: int = 0) -> list[LogLine]:
        _, index = _split(key[0])
        try:
            with self._reached():
                data = self._file("lines", key).read_bytes()
        except FileNotFoundError:
            return []
        lines = data.split(b"\n")[:-1]  # behind the last one is what is being written
        return [LogLine(key[0], index, *json.loads(line)) for line in lines[start:]]

    # --- what is known of a group ---

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir() if _is_group(path.name))
        except FileNotFoundError:
            return []

    def _selected(self, select: Select) -> Iterator[tuple[_View, list[int]]]:
        """The groups of which something is selected, up to date, and the indexes that are, in order."""
        wanted: dict[str, list[int]] | None = None
        if select.ids is not None:
            wanted = {}
            for id in select.ids:
                group, index = _split(id)
                wanted.setdefault(group, []).append(index)
        names = self._names() if wanted is None else sorted(wanted)
        for name in [select.group] if select.group is not None else names:
            if wanted is not None and name not in wanted:
                continue
            view = self._refreshed(name)
            if view is None:
                continue
            everything = range(view.group.size)
            if wanted is None:
                yield view, list(everything)
            else:
                yield view, sorted({index for index in wanted[name] if index in everything})

    def _known(self, group: str) -> _View | None:
        """What is remembered of a group; if that is nothing, its record. None: it is not there."""
        folder = self.folder / group
        view = self._views.get(group)
        if not _is_group(group) or not (folder / "log").is_dir():
            self._views.pop(group, None)
            return None
        if view is None:
            try:
                head = json.loads((folder / "group.json").read_bytes())
            except FileNotFoundError:
                return None
            if head["version"] > VERSION:
                raise MiniError(f"{folder} was written by a newer mini: upgrade mini-core")
            record = from_json(GroupRecord, head["group"])
            view = self._views[group] = _View(record, current=[0] * record.size)
        return view

    def _refreshed(self, group: str) -> _View | None:
        """What is known of a group, with all that is there by now."""
        view = self._known(group)
        if view is None:
            return None
        folder = self.folder / group
        if not view.next:
            with suppress(FileNotFoundError):
                known = json.loads((folder / "checkpoint").read_bytes())
                for row in known["rows"]:
                    view.add(row)
                view.next = known["next"]
        try:
            # A network file system remembers for a while what is not there, unless the folder is opened anew.
            log = os.open(folder / "log", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # it was removed
        try:
            while True:
                entry = os.open(str(view.next), os.O_RDONLY | os.O_CLOEXEC, dir_fd=log)
                with os.fdopen(entry, "rb") as file:
                    rows = json.loads(file.read())
                for row in rows:
                    view.add(row)
                view.next += 1
        except FileNotFoundError:
            return view
        finally:
            os.close(log)

    def _records(self, view: _View, indexes: list[int]) -> Iterator[JobRecord]:
        group = view.group
        if view.briefs is None:
            with self._gone(group.id):
                view.briefs = json.loads((self.folder / group.id / "briefs.json").read_bytes())
        there = None
        if len(indexes) > FEW:
            with self._gone(group.id):
                there = {file.name for file in (self.folder / group.id / "reports").iterdir()}
        for index in indexes:
            attempts = tuple(
                _attempt(number, view.attempts[index, number], self._report(group.id, index, number, there))
                for number in range(1, view.current[index] + 1)
            )
            id = f"{group.id}-{index}"
            yield JobRecord(id, group.id, index, view.briefs[index], group.function, group.origin, attempts)

    def _report(self, group: str, index: int, number: int, there: set[str] | None) -> Report:
        name = f"{index}-{number}"
        if there is None or name in there:
            with suppress(FileNotFoundError):
                return from_json(Report, (self.folder / group / "reports" / name).read_bytes())
        return Report()

    # --- files ---

    def _file(self, kind: str, key: Key) -> Path:
        group, index = _split(key[0])
        return self.folder / group / kind / f"{index}-{key[1]}"

    def _source_file(self, digest: str) -> Path:
        return self.sources / f"{digest}.tar"

    def _bytes(self, file: Path, what: str) -> bytes:
        with self._gone(what), self._reached():
            return file.read_bytes()

    @contextmanager
    def _gone(self, what: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, struct.error):
            raise LookupError(
                f"there is no {what!r} among the jobs in {self.folder}; it was removed"
            ) from None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise BackendUnavailable(
                f"the jobs in {self.folder} cannot be read or written: {exc.strerror or exc}"
            ) from exc


def _split(id: str) -> tuple[str, int]:
    """Group and index of a job; a group that there is not if it is no such id."""
    group, _, index = id.rpartition("-")
    is_number = index.isascii() and index.isdecimal() and str(int(index)) == index
    return (group, int(index)) if is_number and _is_group(group) else (".", -1)


def _is_group(name: str) -> bool:
    return bool(name) and not name.startswith(".") and "/" not in name and "\0" not in name


def _row(place: tuple[int, int], fact: Fact) -> _Row:
    match fact:
        case Created(moment, left):
            return [*place, "created", moment, left]
        case Claimed(moment, worker):
            return [*place, "claimed", moment, worker.host, worker.pid, worker.id]
        case Ended(moment, state, outcome, failure):
            size, digest = (None, None) if outcome is None else (outcome.size, outcome.digest)
            told = None if failure is None else to_json(failure)
            return [*place, "ended", moment, str(state), size, digest, told]


def _attempt(number: int, known: _Attempt, report: Report) -> Attempt:
    claimed = ended = None
    if known.claimed is not None:
        moment, *worker = known.claimed
        claimed = Claimed(moment, Worker(*worker))
    if known.ended is not None:
        moment, state, size, digest, failure = known.ended
        ended = Ended(
            moment,
            _STATES[state],
            None if digest is None else Outcome(size, digest),
            None if failure is None else from_json(FailureRecord, failure),
        )
    return Attempt(number, Created(*known.created), claimed, ended, report)


def _pack(rows: list[_Row]) -> bytes:
    return json.dumps(rows, separators=(",", ":")).encode()


def _offsets(inputs: Sequence[bytes]) -> bytes:
    at = 0
    found = [at]
    for each in inputs:
        at += len(each)
        found.append(at)
    return struct.pack(f"<{len(found)}Q", *found)


def _write(file: Path, data: bytes, *, sync: bool = True) -> None:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        if sync:  # what a name says that comes after it must be there after a power cut, too
            os.fsync(out.fileno())


@contextmanager
def _finished(folder: Path, data: bytes, *, sync: bool = True) -> Iterator[Path]:
    """A file that is whole, under a name that nobody looks at; it goes afterwards, unless it was renamed."""
    made = folder / f".new-{os.urandom(8).hex()}"
    try:
        _write(made, data, sync=sync)
        yield made
    finally:
        with suppress(OSError):
            made.unlink()


def _link(made: Path, file: Path) -> bool:
    """Give a file a second name, unless something has that; whether it has it now."""
    try:
        os.link(made, file)
    except FileExistsError:
        # Over a network the answer to the first request may have been lost.
        return made.stat().st_nlink > 1
    except OSError as exc:
        if exc.errno in _NO_LINKS:
            raise BackendUnavailable(
                f"the file system of {file.parent} has no hard links, which detached jobs need: "
                "keep them in a directory on another one, such as NFS or a local disk"
            ) from exc
        raise
    return True


def _hidden(folder: Path) -> list[Path]:
    """Groups that were removed, and those whose making was begun long ago."""
    removed = list(folder.glob(".removed-*"))
    before = time.time() - STALE_SECONDS
    for begun in folder.glob(".new-*"):
        with suppress(FileNotFoundError):
            if begun.stat().st_mtime < before:
                removed.append(begun)
    return removed
