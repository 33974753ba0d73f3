"""The images in the cache, for who wants to see or remove them without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .layers import LayerCache

__all__ = ["CachedImage", "list_images", "prune"]

RUNTIMES = ("namespaces", "directories")


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image in the cache.

    Attributes:
        key: its name there.
        runtime: what it was made for: "namespaces" or "directories".
        lines: what it was built by, upon the image `parent`.
        python: the minor version of the Python in it.
        size: bytes of what it adds to its parent; of all of it for "directories".
        created, used: when it was built and last used, in seconds since 1970.
    """

    key: str
    runtime: str
    parent: str
    lines: Sequence[str]
    python: str
    size: int
    created: float
    used: float


def _caches(folder: Path) -> Iterator[tuple[str, LayerCache]]:
    for runtime in RUNTIMES:
        if (folder / runtime).is_dir():
            yield runtime, LayerCache(folder / runtime)


def _images(runtime: str, cache: LayerCache) -> list[CachedImage]:
    return [
        CachedImage(
            key=meta.key,
            runtime=runtime,
            parent=meta.parent,
            lines=tuple(meta.lines),
            python=meta.python,
            size=meta.size,
            created=meta.created,
            used=cache.last_used(meta.key),
        )
        for meta in cache.all()
    ]


def list_images(folder: Path) -> list[CachedImage]:
    """The images in a cache folder (`Settings.cache`), those of the machine and its Pythons included."""
    return [image for runtime, cache in _caches(folder) for image in _images(runtime, cache)]


def prune(folder: Path, unused_for: float | None = None) -> list[CachedImage]:
    """Remove the images in a cache folder that have not been used for so many seconds; None for all of them.

    An image goes only when those that are built upon it go too, and never while a running server has used it.

    Returns:
        What was removed.
    """
    limit = float("inf") if unused_for is None else time.time() - unused_for
    removed: list[CachedImage] = []
    for runtime, cache in _caches(folder):
        images = {image.key: image for image in _images(runtime, cache)}
        needed: set[str] = set()
        for image in images.values():
            if image.used >= limit or cache.is_held(image.key):
                needed.update(cache.chain(image.key))
        # Those on top first: what is left after an interruption is whole.
        ordered = sorted(images.values(), key=lambda each: -len(cache.chain(each.key)))
        removed += [image for image in ordered if image.key not in needed and cache.remove(image.key)]
    return removed
