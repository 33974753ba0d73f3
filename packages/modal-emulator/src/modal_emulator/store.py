"""What survives a restart: rows of bytes in an SQLite file, by kind and key."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Store", "join_parts", "split_parts"]


def join_parts(*parts: bytes) -> bytes:
    """Put pieces of bytes into one; `split_parts` is its inverse."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def split_parts(data: bytes) -> list[bytes]:
    parts = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        parts.append(data[4:end])
        data = data[end:]
    return parts


class Store:
    """Rows of bytes by (kind, key). Without a file nothing is kept: services have their own copy in memory.

    A write is there after the process is killed; after a power cut the last ones may be missing. Not thread-safe.
    """

    def __init__(self, path: Path | None) -> None:
        self._db: sqlite3.Connection | None = None
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS rows"
                " (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
            )

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._db is not None

    def put(self, kind: str, key: str, value: bytes) -> None:
        if self._db is not None:
            self._db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (kind, key, value))

    def delete(self, kind: str, key: str) -> None:
        if self._db is not None:
            self._db.execute("DELETE FROM rows WHERE kind = ? AND key = ?", (kind, key))

    def get(self, kind: str, key: str) -> bytes | None:
        if self._db is None:
            return None
        row = self._db.execute("SELECT value FROM rows WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else bytes(row[0])

    def items(self, kind: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The rows of a kind whose keys start with `prefix`, in the order of their keys."""
        if self._db is not None:
            rows = self._db.execute(
                "SELECT key, value FROM rows WHERE kind = ? AND substr(key, 1, ?) = ? ORDER BY key",
                (kind, len(prefix), prefix),
            ).fetchall()
            yield from ((key, bytes(value)) for key, value in rows)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
