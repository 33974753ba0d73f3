"""A thread that does all that is done with Ray for somebody, in its order, and the connection that it does it with."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from mini import find_project_root

from .cluster import Cluster, check_fork, join
from .environment import Environments

__all__ = ["Link", "Session"]

CLOSE_SECONDS = 30.0
IDLE_SECONDS = 30.0
"""For how long a connection is kept that nobody uses."""
LOOK_SECONDS = 5.0
T = TypeVar("T")


class Session:
    """A thread that does one thing after the other, and the hold on the cluster that belongs to it.

    Args:
        now_and_then: called when there has been nothing to do for `seconds`.
    """

    def __init__(self, now_and_then: Callable[[], None], seconds: float) -> None:
        self.cluster: Cluster | None = None
        self.environments: Environments | None = None
        """Of the cluster."""
        self.over = threading.Event()
        self._now_and_then = now_and_then
        self._seconds = seconds
        self._todo: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mini-ray", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        return self.cluster is not None and not self.cluster.lost

    def do(self, what: Callable[[], Any]) -> None:
        self._todo.put(what)

    def call(self, what: Callable[[], T]) -> T:
        """Have something done, and wait for it; returns what it returns, and raises what it raises."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(what())
            except BaseException as exc:
                future.set_exception(exc)

        self.do(run)
        return future.result()

    def close(self) -> None:
        self.over.set()
        self._todo.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def _next(self) -> Callable[[], Any] | None:
        while True:
            try:
                return self._todo.get(timeout=self._seconds)
            except queue.Empty:
                with contextlib.suppress(Exception):
                    self._now_and_then()

    def _work(self) -> None:
        while (what := self._next()) is not None:
            with contextlib.suppress(Exception):  # what can go wrong is told about where it is done
                what()
            del what
        if self.cluster is not None:
            self.cluster.close()


class Link:
    """A connection to the cluster for those who launch jobs: made when it is needed, let go of after a while.

    Args:
        address: of the cluster; see `cluster.join`.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._used = 0.0

    def call(self, what: Callable[[Cluster, Environments], T]) -> T:
        """Have something done that needs the cluster, and wait for it.

        Raises:
            BackendUnavailable, AuthError: as `cluster.join`.
        """
        check_fork()
        with self._lock:
            if self._session is None:
                self._session = Session(self._look_after, LOOK_SECONDS)
            session = self._session
            try:
                return session.call(partial(self._do, session, what))
            finally:
                self._used = time.monotonic()

    def close(self) -> None:
        """Let go of the connection. Afterwards it is made again if need be."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def _do(self, session: Session, what: Callable[[Cluster, Environments], T]) -> T:
        """In the session's thread."""
        if session.cluster is not None and session.connected and not session.cluster.is_there():
            session.cluster.drop()
        if session.cluster is None or not session.connected:
            session.cluster = join(self._address)
            session.environments = Environments(find_project_root(), session.over)
        assert session.environments is not None
        return what(session.cluster, session.environments)

    def _look_after(self) -> None:
        """In the session's thread, now and then: of a cluster that is no more Ray would end this process."""
        if not self._lock.acquire(blocking=False):
            return  # it is being used, or closed
        try:
            session = self._session
            if session is None or session.cluster is None:
                return
            if session.connected and not session.cluster.is_there():
                session.cluster.drop()
            if time.monotonic() > self._used + IDLE_SECONDS:
                self._session = None
                session.close()
        finally:
            self._lock.release()
