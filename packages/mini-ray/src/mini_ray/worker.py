"""What runs on a cluster: an actor that has groups of calls run in a process beside it."""

from __future__ import annotations

import os
import pickle
import queue
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mini.answering import News, Responder
from mini.local.pool import ProcessPool
from mini.wire import Frame, Frames

from .cluster import ADDRESS

__all__ = ["Letter", "Worker", "beside", "frames_of"]

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


class Worker:
    """Ray makes an actor of it. `run` is called by one or two threads, `listen` and `order` by one each.

    Args:
        env: variables of the processes in which calls run.
        path: where these import from; empty for what this process has.
        directory: of the volume.
        seen: a file in it that the caller has made.
    """

    def __init__(self, env: Mapping[str, str], path: Sequence[str], directory: str, seen: str) -> None:
        import ray

        if path:
            sys.path[:] = path
        self._fault = ""
        if seen and not Path(directory, seen).exists():
            self._fault = (
                f"the node {socket.gethostname()} does not see the volume's directory {directory}; have storage= name "
                "a directory that all nodes share"
            )
        address = ray.get_runtime_context().gcs_address
        self._news: queue.SimpleQueue[list[News]] = queue.SimpleQueue()
        self._responder = Responder(ProcessPool(1, {ADDRESS: address, **env}), self._news.put)

    def ready(self) -> str:
        """Why it cannot run calls; empty if it can."""
        return self._fault

    def run(self, batch: list[Letter]) -> list[list[Any]]:
        """Run groups, one after the other; returns their answers."""
        import ray

        messages = []
        for pieces, constant in batch:
            message = frames_of(pieces)
            if constant:
                message[1:1] = frames_of(ray.get(constant[0]))
            messages.append(message)
        answers = self._responder.respond_all(messages)
        return [[answer.news, answer.fault, *beside(answer.messages)] for answer in answers]

    def listen(self) -> list[News]:
        """Wait for news."""
        news = self._news.get()
        while not self._news.empty():
            news += self._news.get()
        return news

    def order(self, what: str, *args: Any) -> None:
        """Call a method of the relay."""
        getattr(self._responder.relay, what)(*args)

    def end(self) -> None:
        """End the processes in which calls run, and this one."""
        self._responder.close()
        os._exit(0)
