"""What runs on a cluster: an actor that has groups of calls run in a process beside it."""

from __future__ import annotations

import contextlib
import marshal
import pickle
import queue
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mini import MiniError
from mini.answering import News, Responder
from mini.local.pool import ProcessPool
from mini.objects import Doorkeeper
from mini.station import REPORTS
from mini.wire import Frame, Frames, split_frames

from .cluster import ADDRESS
from .node import cache
from .storage import is_url, store

__all__ = ["UNFIT", "Letter", "Worker", "beside", "frames_of"]

UNFIT = -1
"""In the place of the number of news: this worker cannot run calls, for the reason that follows."""

Letter = tuple[list[Any], list[Any]]
"""A group on its way: its message, without the program if that comes by the reference which is the second item."""

BESIDE_BYTES = 1 << 16
"""Pieces from this size on travel beside the pickle, into shared memory and out of it without a copy."""


def beside(frames: Sequence[Frame]) -> list[Any]:
    """Frames as Ray takes them."""
    return [
        frame if isinstance(frame, bytes) and len(frame) < BESIDE_BYTES else pickle.PickleBuffer(frame)
        for frame in frames
    ]


def frames_of(pieces: Sequence[Any]) -> Frames:
    """Frames as Ray brings them: those that travelled beside the pickle are views of shared memory, to be read."""
    return [piece if isinstance(piece, bytes) else memoryview(piece) for piece in pieces]


def _is_outcome(news: News) -> bool:
    kind, *_ = marshal.loads(split_frames(news[2], writable=False)[0])
    return bool(kind != REPORTS)


class Worker:
    """Ray makes an actor of it. `run` is called by one or two threads, `listen` and `order` by one each.

    Args:
        env: variables of the processes in which calls run.
        path: where these import from; empty for what this process has.
        directory: of the volume, or its URL.
        seen: a file in the storage directory, two above it, that the caller has made; empty if none is needed.
    """

    def __init__(self, env: Mapping[str, str], path: Sequence[str], directory: str, seen: str) -> None:
        import ray

        if path:
            sys.path[:] = path
        self._directory = directory
        self._fault = ""
        storage = Path(directory).parents[1]
        if seen and not (storage / seen).exists():
            node = ray.util.get_node_ip_address()
            self._fault = (
                f"the node {socket.gethostname()} ({node}) does not see the storage directory {storage} of this "
                "machine; have storage= name a directory that all nodes share"
            )
        address = ray.get_runtime_context().gcs_address
        self._news: queue.SimpleQueue[list[News]] = queue.SimpleQueue()
        self._volume = Doorkeeper(store(directory), cache() / "volumes") if is_url(directory) else None
        more = {} if self._volume is None else self._volume.env
        self._responder = Responder(ProcessPool(1, {ADDRESS: address, **env, **more}), self._tell)

    def ready(self) -> str:
        """Why it cannot run calls; empty if it can."""
        return self._fault

    def run(self, batch: list[Letter]) -> list[list[Any]]:
        """Run groups, one after the other; returns their answers, or for each UNFIT and why it cannot."""
        import ray

        if self._fault:
            return [[UNFIT, self._fault]] * len(batch)
        messages = []
        for pieces, constant in batch:
            message = frames_of(pieces)
            if constant:
                message[1:1] = frames_of(ray.get(constant[0]))
            messages.append(message)
        try:
            with self._volume.around() if self._volume is not None else contextlib.nullcontext():
                answers = self._responder.respond_all(messages)
        except (OSError, MiniError) as exc:
            fault = f"{self._directory} cannot be kept up to date on the node {socket.gethostname()}: {exc}"
            return [[UNFIT, fault]] * len(batch)
        return [[answer.news, answer.fault, *beside(answer.messages)] for answer in answers]

    def _tell(self, news: list[News]) -> None:
        # Who hears that a call is over may look for what it has written.
        if self._volume is not None and any(map(_is_outcome, news)):
            self._volume.keep()
        self._news.put(news)

    def listen(self) -> list[News]:
        """Wait for news."""
        news = self._news.get()
        while not self._news.empty():
            news += self._news.get()
        return news

    def order(self, what: str, *args: Any) -> None:
        """Call a method of the relay."""
        getattr(self._responder.relay, what)(*args)
