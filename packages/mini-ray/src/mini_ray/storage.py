"""Where volumes are kept: a directory that all nodes share."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from mini import BackendUnavailable

__all__ = ["Mark"]

STALE_SECONDS = 24 * 3600


class Mark:
    """A file in a directory, by which nodes can tell that they see the same one. Making a `Mark` makes no file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f".mini-seen-{os.urandom(8).hex()}"

    def set(self) -> str:
        """Have the file there, and the directory; returns its name.

        Raises:
            BackendUnavailable: it cannot be written here.
        """
        directory = self._path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            for left in directory.glob(".mini-seen-*"):  # of processes that were killed
                if left.stat().st_mtime < time.time() - STALE_SECONDS:
                    left.unlink()
        except FileNotFoundError:  # another one has removed its own
            pass
        except OSError as exc:
            raise BackendUnavailable(
                f"the storage directory {directory} cannot be written on this machine ({exc.strerror}); have storage= "
                "name a directory that this machine and all nodes of the Ray cluster share"
            ) from exc
        return self._path.name

    def remove(self) -> None:
        """Have the file away. Idempotent."""
        with contextlib.suppress(OSError):
            self._path.unlink()
