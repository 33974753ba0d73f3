"""`concurrent.futures.ProcessPoolExecutor` with fork, where that is not the default anyway."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from .. import pools
from . import executor

TYPE_CHECKING = False

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Pool(executor.Pool):
    def make(self) -> Executor:
        if multiprocessing.get_start_method() == "fork":
            raise pools.Absent("the default here: see executor")
        return ProcessPoolExecutor(pools.WORKERS, multiprocessing.get_context("fork"))
