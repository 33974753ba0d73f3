"""concurrent.futures.ProcessPoolExecutor with fork."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from peers import _executor

TYPE_CHECKING = False

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Peer(_executor.Peer):
    def make(self, workers: int) -> Executor:
        return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
