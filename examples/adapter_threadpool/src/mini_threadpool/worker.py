"""A worker that is a thread, and the way of messages to it and back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mini.adapter import Station
from mini.wire import Frames, join_frames, split_frames

__all__ = ["ThreadWorker"]

_here = threading.local()


class ThreadWorker:
    """A thread with a station. Making one starts nothing; the thread starts with the first message.

    It is an executor of one thread, and not a thread of a larger one, because a worker has to be somebody in
    particular: it has some programs and not others, and is told things while it runs a group.

    Args:
        label: what progress displays call it.
        post: takes what the station says; called from the worker's threads.
    """

    def __init__(self, label: str, post: Callable[[Frames], None]) -> None:
        self.label = label
        self.station = Station(self._send, alone=False)
        self.programs: set[str] = set()
        """Ids of the tasks whose program the station has been sent."""
        self.last: Future[None] | None = None
        self._post = post
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"mini-{label}")

    def submit(self, message: Frames) -> Future[None]:
        """Send a message with a group of calls; the future is done when the station is done with it.

        Raises:
            RuntimeError: no thread can be started, or Python is about to end.
        """
        self.last = self._executor.submit(self._receive, join_frames(message))
        return self.last

    def _receive(self, data: bytes) -> None:
        _here.worker = self
        self.station.run(split_frames(data))

    def _send(self, message: Frames) -> None:
        data = join_frames(message)
        self._post(split_frames(data))

    @staticmethod
    def current() -> ThreadWorker | None:
        """The worker whose thread this is; None in any other thread."""
        return getattr(_here, "worker", None)

    def close(self) -> None:
        """End the thread once it is done with the call that it runs, if there is one."""
        self.station.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
