"""Detached jobs of the local backend: facts, inputs and logs in SQLite, outcomes as files beside it.

A folder for each apparatus name holds `jobs.db` and `outcomes/`; the source code that jobs run is kept once for all
names. What is asked for often has a column, and the state of an attempt follows from which of them are filled.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from .. import snapshot
from ..errors import BackendUnavailable, MiniError
from ..jobboard import JobStore, Select
from ..jobrecord import (
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
    Origin,
    Outcome,
    Report,
    Worker,
    from_json,
    to_json,
)
from ..staging import telling
from ..status import FailureRecord, LogLine

__all__ = ["SqliteStore", "keeping", "make_private", "prune_sources"]

BUSY_SECONDS = 60.0
"""How long somebody else may write before we give up."""
MOST_VALUES = 500
"""Values in one SQL statement; more than some builds of SQLite take is more than is faster."""
KEEP_SECONDS = 24 * 3600.0

_SCHEMA = """
CREATE TABLE groups (
    id TEXT PRIMARY KEY, function TEXT NOT NULL, size INTEGER NOT NULL, origin TEXT NOT NULL, program BLOB NOT NULL
);
CREATE TABLE jobs (
    job INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, idx INTEGER NOT NULL, brief TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_by_group ON jobs (grp, idx);
CREATE TABLE inputs (job INTEGER PRIMARY KEY, input BLOB NOT NULL);
CREATE TABLE attempts (
    job INTEGER NOT NULL, number INTEGER NOT NULL, created REAL NOT NULL, tries INTEGER NOT NULL,
    claimed REAL, host TEXT, pid INTEGER, worker TEXT,
    ended REAL, state TEXT, size INTEGER, digest TEXT, failure TEXT,
    report TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE INDEX unfinished ON attempts (job, number) WHERE ended IS NULL;
CREATE TABLE lines (
    line INTEGER PRIMARY KEY, job INTEGER NOT NULL, number INTEGER NOT NULL, stream TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX lines_by_attempt ON lines (job, number);
"""
_SCHEMA_2 = """
CREATE TABLE curves (job INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (job, number));
"""
_SCHEMAS = (_SCHEMA, _SCHEMA_2)
"""What each version adds to the one before."""
VERSION = len(_SCHEMAS)
_ATTEMPT = "job = (SELECT job FROM jobs WHERE id = ?) AND number = ?"
_STATE = """CASE WHEN a.ended IS NOT NULL THEN a.state WHEN a.claimed IS NOT NULL THEN 'RUNNING' ELSE 'PENDING' END"""
_CURRENT = "a.number = (SELECT max(number) FROM attempts b WHERE b.job = j.job)"
_STATUS = f"j.id, j.grp, j.idx, a.number, {_STATE}, a.created, a.tries, a.claimed, a.host, a.pid, a.worker"


class SqliteStore(JobStore):
    """Keeps the jobs of one name in a folder.

    Args:
        folder: of the name. It is made when something is to be kept.
        sources: where source code is kept, unpacked, a folder for each digest.
        stay: keep connections open, one for each thread, until `close`; else nothing stays open between calls.
    """

    def __init__(self, folder: Path, sources: Path, *, stay: bool = False) -> None:
        self.folder = folder
        self.sources = sources
        self._file = folder / "jobs.db"
        self._stay = stay
        self._writing = threading.Lock()
        """Held by the thread that writes: to wait for SQLite's own lock is to sleep and look again."""
        self._mine = threading.local()
        self._open: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Close connections that stayed open; no thread may use them any more."""
        connections, self._open = self._open, []
        for connection in connections:
            connection.close()

    # --- connections ---

    @contextmanager
    def db(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection, within a transaction."""
        with self._writing if write else nullcontext():
            yield from self._transaction(write)

    def _transaction(self, write: bool) -> Iterator[sqlite3.Connection]:
        try:
            connection = getattr(self._mine, "connection", None) or self._connect()
        except sqlite3.Error as exc:
            raise _unavailable(self._file, exc) from exc
        try:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            raise _unavailable(self._file, exc) from exc
        finally:
            if connection is not getattr(self._mine, "connection", None):
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        read_only = _is_read_only(self._file)
        connection = sqlite3.connect(
            _read_only_uri(self._file) if read_only else self._file,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=read_only,
        )
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                if version == 0:
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                # Somebody else may have been faster.
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                for tables in _SCHEMAS[version:]:
                    for statement in tables.split(";"):
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            elif version > VERSION:
                raise MiniError(f"{self._file} was written by a newer mini: upgrade mini-core")
        except BaseException:
            connection.close()
            raise
        if self._stay and not read_only:  # else somebody who may write could change it unnoticed
            self._mine.connection = connection
            self._open.append(connection)
        return connection

    @property
    def _is_empty(self) -> bool:
        try:
            self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as exc:  # somebody else's: they are private
            raise BackendUnavailable(f"the jobs in {self._file} cannot be read: {exc.strerror}") from exc
        return False

    # --- writing ---

    def create(
        self, group: GroupRecord, records: Sequence[JobRecord], program: bytes, inputs: Sequence[bytes]
    ) -> None:
        make_private(self.folder)
        with self.db(write=True) as db:
            db.execute(
                "INSERT INTO groups VALUES (?, ?, ?, ?, ?)",
                (group.id, group.function, group.size, to_json(group.origin), program),
            )
            (last,) = db.execute("SELECT coalesce(max(job), 0) FROM jobs").fetchone()
            numbers = range(last + 1, last + 1 + len(records))
            db.executemany(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
                ((n, r.id, r.group, r.index, r.input) for n, r in zip(numbers, records, strict=True)),
            )
            db.executemany("INSERT INTO inputs VALUES (?, ?)", zip(numbers, inputs, strict=True))
            db.executemany(
                "INSERT INTO attempts (job, number, created, tries) VALUES (?, 1, ?, ?)",
                (
                    (n, r.current.created.time, r.current.created.left)
                    for n, r in zip(numbers, records, strict=True)
                ),
            )

    def put_once(self, facts: Sequence[tuple[Key, Fact]]) -> list[bool]:
        if self._is_empty:
            return [False] * len(facts)
        with self.db(write=True) as db:
            return [_put(db, key, fact) for key, fact in facts]

    def put_report(self, key: Key, report: Report) -> None:
        with self.db(write=True) as db:
            db.execute(f"UPDATE attempts SET report = ? WHERE {_ATTEMPT}", (to_json(report), *key))

    def put_curves(self, key: Key, data: bytes) -> None:
        put = "INSERT OR REPLACE INTO curves SELECT job, ?, ? FROM jobs WHERE id = ?"
        with self.db(write=True) as db:
            db.execute(put, (key[1], data, key[0]))

    def add_log(self, key: Key, lines: Sequence[LogLine]) -> None:
        insert = "INSERT INTO lines (job, number, stream, text) SELECT job, ?, ?, ? FROM jobs WHERE id = ?"
        with self.db(write=True) as db:
            db.executemany(insert, [(key[1], line.stream, _text(line.text), key[0]) for line in lines])

    def remove(self, group: str) -> None:
        if self._is_empty:
            return
        with self.db(write=True) as db:
            for table in ("inputs", "attempts", "lines", "curves"):
                db.execute(f"DELETE FROM {table} WHERE job IN (SELECT job FROM jobs WHERE grp = ?)", (group,))
            db.execute("DELETE FROM jobs WHERE grp = ?", (group,))
            db.execute("DELETE FROM groups WHERE id = ?", (group,))
        shutil.rmtree(self._outcomes(group), ignore_errors=True)

    # --- reading ---

    def groups(self) -> list[GroupRecord]:
        if self._is_empty:
            return []
        with self.db() as db:
            rows = db.execute("SELECT id, function, size, origin FROM groups ORDER BY id").fetchall()
        return [
            GroupRecord(id, function, size, from_json(Origin, origin)) for id, function, size, origin in rows
        ]

    def states(self, select: Select) -> list[JobStatus]:
        if self._is_empty:
            return []
        with self.db() as db:
            found: list[JobStatus] = []
            for where, values in _conditions(select):
                rows = db.execute(
                    f"SELECT {_STATUS} FROM jobs j JOIN attempts a USING (job) WHERE {_CURRENT}{where}",
                    values,
                )
                found += map(_status, rows)
        found.sort(key=_place)
        return found

    def version(self) -> int:
        """A number that changes when somebody has written, for a store that stays open; only to be compared."""
        connection: sqlite3.Connection = getattr(self._mine, "connection", None) or self._connect()
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def counts(self) -> dict[str, Counter[JobState]]:
        if self._is_empty:
            return {}
        found: dict[str, Counter[JobState]] = {}
        with self.db() as db:
            rows = db.execute(
                f"SELECT j.grp, {_STATE}, count(*) FROM jobs j JOIN attempts a USING (job) "
                f"WHERE {_CURRENT} GROUP BY 1, 2"
            )
            for group, state, count in rows:
                found.setdefault(group, Counter())[_STATES[state]] = count
        return found

    def unfinished(self, *, claimed: bool, most: int, busy: Collection[str] = ()) -> list[JobStatus]:
        """The `most` oldest jobs that have not ended: those claimed, or those not, and none of the groups `busy`."""
        if self._is_empty:
            return []
        marks = ", ".join("?" * len(busy))
        with self.db() as db:
            rows = db.execute(
                f"SELECT {_STATUS} FROM attempts a JOIN jobs j USING (job) WHERE a.ended IS NULL "
                f"AND a.claimed IS {'NOT ' if claimed else ''}NULL AND j.grp NOT IN ({marks}) "
                "ORDER BY a.job LIMIT ?",
                (*busy, most),
            )
            return list(map(_status, rows))

    def spent(self, group: str) -> float:
        if self._is_empty:
            return 0.0
        with self.db() as db:
            (seconds,) = db.execute(
                "SELECT total(max(0, coalesce(a.ended, ?) - a.claimed)) FROM jobs j JOIN attempts a USING (job) "
                "WHERE j.grp = ? AND a.claimed IS NOT NULL",
                (time.time(), group),
            ).fetchone()
        return float(seconds)

    def read(self, select: Select) -> Iterable[JobRecord]:
        if self._is_empty:
            return []
        found: list[JobRecord] = []
        with self.db() as db:
            groups = {
                id: (function, from_json(Origin, origin))
                for id, function, origin in db.execute("SELECT id, function, origin FROM groups")
                if select.group in (None, id)
            }
            for where, values in _conditions(select):
                rows = db.execute(
                    f"SELECT {_STATUS}, j.brief, a.ended, a.size, a.digest, a.failure, a.report "
                    f"FROM jobs j JOIN attempts a USING (job) WHERE {_CURRENT}{where}",
                    values,
                )
                for row in rows:
                    id, group, index, number = row[:4]
                    function, origin = groups[group]
                    before = () if number == 1 else _attempts_before(db, id, number)
                    attempts = (*before, _attempt(row))
                    found.append(JobRecord(id, group, index, row[11], function, origin, attempts))
        found.sort(key=_place)
        return found

    def curves(self, keys: Sequence[Key]) -> Iterator[bytes | None]:
        query = f"SELECT data FROM curves WHERE {_ATTEMPT}"
        for at in range(0, len(keys), MOST_VALUES):
            some = keys[at : at + MOST_VALUES]
            found: list[tuple[bytes] | None] = [None] * len(some)
            if not self._is_empty:
                with self.db() as db:
                    found = [db.execute(query, key).fetchone() for key in some]
            yield from (row and row[0] for row in found)

    def program(self, group: str) -> bytes:
        return self._one("SELECT program FROM groups WHERE id = ?", group)

    def input(self, id: str) -> bytes:
        return self._one("SELECT input FROM inputs JOIN jobs USING (job) WHERE id = ?", id)

    def _one(self, query: str, id: str) -> bytes:
        if not self._is_empty:
            with self.db() as db:
                row = db.execute(query, (id,)).fetchone()
            if row is not None:
                data: bytes = row[0]
                return data
        raise LookupError(f"there is no {id!r} among the jobs in {self.folder}; it was removed")

    def log(self, key: Key, start: int = 0) -> list[LogLine]:
        if self._is_empty:
            return []
        with self.db() as db:
            rows = db.execute(
                f"SELECT l.stream, l.text, (SELECT idx FROM jobs WHERE id = ?) FROM lines l WHERE {_ATTEMPT} "
                "ORDER BY l.line LIMIT -1 OFFSET ?",
                (key[0], *key, start),
            ).fetchall()
        return [LogLine(key[0], index, stream, text) for stream, text, index in rows]

    # --- files ---

    def put_source(self, digest: str, archive: bytes) -> None:
        with keeping(self.sources):
            snapshot.unpack(archive, self.sources / digest)
        with suppress(OSError):  # it may be there and be somebody else's
            os.utime(self.sources / digest)  # it is wanted, see `prune_sources`

    def source(self, digest: str) -> bytes:
        # Workers find it unpacked.
        raise LookupError(f"there is no source {digest} in {self.sources}")

    def put_outcome(self, key: Key, data: bytes) -> None:
        path = self._outcome_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            made.write_bytes(data)
            path.hardlink_to(made)  # whole, and not over another
        except FileExistsError:
            pass
        finally:
            made.unlink(missing_ok=True)

    def outcome(self, key: Key) -> bytes:
        path = self._outcome_file(key)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise LookupError(f"the outcome of job {key[0]} is not at {path} any more") from None

    def _outcome_file(self, key: Key) -> Path:
        group, _, index = key[0].rpartition("-")
        return self._outcomes(group) / f"{index}-{key[1]}"

    def _outcomes(self, group: str) -> Path:
        return self.folder / "outcomes" / group


def make_private(folder: Path) -> None:
    """Make a folder for what is nobody else's business: inputs and results."""
    with keeping(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Say of a folder that what is to be kept there cannot be, and what to do, where the system does not let us."""
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - never raises
        with telling(there, fix=_ELSEWHERE, writing=True):
            yield
    except OSError as exc:
        raise BackendUnavailable(f"jobs cannot be kept: {exc}") from exc


def prune_sources(root: Path, jobs: Path) -> None:
    """Remove source code under `root` that no group of any name, all of them under `jobs`, was launched from.

    What was put there or asked for within a day stays: somebody may be about to create a group for it.
    """
    late = time.time() - KEEP_SECONDS
    old = {path.name: path for path in root.glob("*") if path.stat().st_mtime < late}
    if not old:
        return
    for folder in jobs.iterdir():
        for group in SqliteStore(folder, root).groups():
            old.pop(group.origin.source_digest or "", None)
    for path in old.values():
        shutil.rmtree(path, ignore_errors=True)


_ELSEWHERE = "choose another data_dir"


def _unavailable(file: Path, exc: sqlite3.Error) -> BackendUnavailable:
    fix = f"; make its folder writable for this user, or {_ELSEWHERE}" if _is_read_only(file) else ""
    return BackendUnavailable(f"the jobs in {file} cannot be read or written: {exc}{fix}")


def _is_read_only(file: Path) -> bool:
    return not all(os.access(path, os.W_OK) for path in (file, file.parent) if path.exists())


def _read_only_uri(file: Path) -> str:
    """What SQLite opens where it cannot make files beside the database, which even its readers do otherwise."""
    log = file.with_name(f"{file.name}-wal")
    # A log is there while somebody writes, or if a copy was made meanwhile; what is in it belongs to the database.
    still = not log.exists() or log.stat().st_size == 0
    return f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}"


def _text(text: str) -> str:
    # SQLite keeps UTF-8, and what is printed may have lone surrogates in it.
    return text.encode("utf-8", "backslashreplace").decode()


def _put(db: sqlite3.Connection, key: Key, fact: Fact) -> bool:
    match fact:
        case Created(time, left):
            insert = (
                "INSERT OR IGNORE INTO attempts (job, number, created, tries) "
                "SELECT job, ?, ?, ? FROM jobs WHERE id = ?"
            )
            return db.execute(insert, (key[1], time, left, key[0])).rowcount == 1
        case Claimed(time, worker):
            change = f"claimed = ?, host = ?, pid = ?, worker = ? WHERE {_ATTEMPT} AND claimed IS NULL"
            values: tuple[Any, ...] = (time, worker.host, worker.pid, worker.id)
        case Ended(time, state, outcome, failure):
            change = (
                f"ended = ?, state = ?, size = ?, digest = ?, failure = ? WHERE {_ATTEMPT} AND ended IS NULL"
            )
            size, digest = (None, None) if outcome is None else (outcome.size, outcome.digest)
            values = (time, str(state), size, digest, None if failure is None else to_json(failure))
    return db.execute(f"UPDATE attempts SET {change}", (*values, *key)).rowcount == 1


def _conditions(select: Select) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What follows WHERE, and its values: several times if there are too many ids for one statement."""
    where = ""
    values: tuple[Any, ...] = ()
    if select.group is not None:
        where, values = " AND j.grp = ?", (select.group,)
    if select.states is not None:
        marks = ", ".join("?" * len(select.states))
        where, values = f"{where} AND {_STATE} IN ({marks})", (*values, *map(str, select.states))
    if select.ids is None:
        yield where, values
        return
    ids = list(select.ids)
    for at in range(0, len(ids), MOST_VALUES):
        some = ids[at : at + MOST_VALUES]
        yield f"{where} AND j.id IN ({', '.join('?' * len(some))})", (*values, *some)


def _place(job: JobRecord | JobStatus) -> tuple[str, int]:
    return job.group, job.index


def _status(row: tuple[Any, ...]) -> JobStatus:
    id, group, index, number, state, created, left, claimed, host, pid, worker = row
    by = None if claimed is None else Worker(host, pid, worker)
    return JobStatus(id, group, index, number, _STATES[state], created, left, by)


_STATES = {str(state): state for state in JobState}


def _attempt(row: tuple[Any, ...]) -> Attempt:
    number, state, created, left, claimed, host, pid, worker = row[3:11]
    ended, size, digest, failure, report = row[12:]
    return Attempt(
        number,
        Created(created, left),
        None if claimed is None else Claimed(claimed, Worker(host, pid, worker)),
        None
        if ended is None
        else Ended(
            ended,
            _STATES[state],
            None if digest is None else Outcome(size, digest),
            None if failure is None else from_json(FailureRecord, failure),
        ),
        Report() if report is None else from_json(Report, report),
    )


def _attempts_before(db: sqlite3.Connection, id: str, number: int) -> Iterable[Attempt]:
    rows = db.execute(
        f"SELECT {_STATUS}, j.brief, a.ended, a.size, a.digest, a.failure, a.report "
        "FROM jobs j JOIN attempts a USING (job) WHERE j.id = ? AND a.number < ? ORDER BY a.number",
        (id, number),
    )
    return map(_attempt, rows)
