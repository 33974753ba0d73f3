"""loky's reusable executor."""

from __future__ import annotations

import loky

from peers import _executor

TYPE_CHECKING = False

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Peer(_executor.Peer):
    versions = ("loky",)

    def make(self, workers: int) -> Executor:
        made: Executor = loky.get_reusable_executor(max_workers=workers)
        return made
