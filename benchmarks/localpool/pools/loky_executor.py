"""loky's reusable executor."""

from __future__ import annotations

import loky

from .. import pools
from . import executor

TYPE_CHECKING = False

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Pool(executor.Pool):
    distributions = ("loky",)

    def make(self) -> Executor:
        made: Executor = loky.get_reusable_executor(max_workers=pools.WORKERS)
        return made
