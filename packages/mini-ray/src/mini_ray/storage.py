"""Where volumes are kept: in a directory that all nodes share, or in object storage."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mini import BackendUnavailable, OptionError
from mini.objects import Store

__all__ = ["Mark", "check_url", "is_url", "jobs_folder", "store"]

STALE_SECONDS = 24 * 3600
EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Of mini-ray: what brings the package for a protocol."""


def is_url(storage: str | os.PathLike[str]) -> bool:
    return isinstance(storage, str) and "://" in storage


def check_url(url: str) -> None:
    """Refuse what would put a secret where names are."""
    if urlsplit(url).password is not None:
        raise OptionError(
            "storage takes a URL without a password, because it is logged; have it where fsspec finds it on this "
            "machine and on all nodes: in the environment, in a file, or in the nodes' role"
        )


def jobs_folder(storage: Path, name: str) -> Path:
    """Where detached jobs of an apparatus name are kept."""
    return storage / "ray" / "jobs" / name


def store(url: str) -> Store:
    """The volume of that URL; reaches nothing."""
    return Store(url, _open)


def _open(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        import fsspec

        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as exc:
        extra = EXTRAS.get(protocol, "storage")
        also = "" if protocol in EXTRAS else f", and what fsspec needs for {protocol!r}"
        raise BackendUnavailable(
            f"the storage {url} needs a package that is not here ({exc}): uv add 'mini-ray[{extra}]'{also}"
        ) from exc
    except ValueError as exc:
        raise OptionError(f"storage takes a path or a URL that fsspec knows, not {url!r}: {exc}") from exc
    return files, str(root)


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
