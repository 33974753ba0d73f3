"""`LocalApparatus`: the reference implementation of the contract."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from ..capability import Capability
from ..carrier import Carrier
from ..errors import OptionError
from ..options import Options
from ..protocol import Apparatus

# Not when the first call needs them: a copy made by fork while another thread imports a module waits for it for ever.
from .inprocess import InlineCarrier, ThreadCarrier
from .pool import ProcessPool
from .wait import usable_cores

if TYPE_CHECKING:
    from ..jobboard import JobBoard
    from ..volume import Volume

__all__ = ["LocalApparatus", "thread_limits"]

Workers = Literal["process", "thread", "inline"]

_IN_PROCESS = frozenset({Capability.PERSISTENT_VOLUME, Capability.AT_MOST_ONCE_GROUPED})
_PROCESS = _IN_PROCESS | {
    Capability.PROCESS_ISOLATION,
    Capability.KILL_WORKER,
    Capability.CANCEL_RUNNING,
    Capability.TIMEOUT,
    Capability.ENV,
    Capability.INTERRUPT,
    Capability.DETACHED_JOBS,
}


class LocalApparatus(Apparatus):
    """Runs calls on this machine.

    Making one starts nothing: worker processes start at the first call that needs them, stay warm, and end with
    `close()`, with the object, or with this process.

    Args:
        name: of the apparatus and its volume.
        max_workers: calls at the same time; default: the cores this process may use.
        data_dir: where volumes are kept; default: `.mini` in the project's root, or in the current directory.
        workers: "process"; or, for debugging, "thread" (threads of this process) or "inline" (the thread that waits).

    Raises:
        OptionError: an argument is out of range.
    """

    backend: ClassVar[str] = "local"

    def __init__(
        self,
        name: str,
        max_workers: int | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        workers: Workers = "process",
    ) -> None:
        super().__init__(name, max_workers)
        if workers not in get_args(Workers):
            raise OptionError(f"workers takes 'process', 'thread' or 'inline', not {workers!r}")
        if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
            raise OptionError(f"data_dir takes a path, not {data_dir!r}")
        self.workers = workers
        self._given_data_dir = data_dir
        self._root: Path | None = None
        self._volume_dir: str | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _PROCESS if self.workers == "process" else _IN_PROCESS

    @property
    def ignored_options(self) -> tuple[str, ...]:
        nowhere = ("cpu", "memory", "gpu", "image")
        return nowhere if self.workers == "process" else (*nowhere, "env", "timeout")

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name, "data_dir": str(self.data_root), "workers": self.workers}

    def reach(self) -> str:
        cores = usable_cores()
        return f"this machine, {cores} core{'s' * (cores != 1)}"

    @property
    def data_root(self) -> Path:
        """The directory in which volumes are kept, absolute; it need not exist yet."""
        if self._root is None:
            given = self._given_data_dir
            if given is None:
                from ..requirements import find_project_root

                given = (find_project_root() or Path.cwd()) / ".mini"
            self._root = Path(given).absolute()
        return self._root

    @property
    def worker_data_dir(self) -> str:
        if self._volume_dir is None:
            self._volume_dir = str(self.data_root / "volumes" / self.name)
        return self._volume_dir

    def _open_volume(self) -> Volume:
        from ..volume import DirectoryVolume

        return DirectoryVolume(Path(self.worker_data_dir))

    def _open_jobs(self) -> JobBoard:
        from .jobs import open_board

        return open_board(self.data_root, self.name)

    def _carrier_key(self, options: Options) -> Hashable:
        env = tuple(sorted(options.env.items())) if options.env else ()
        return (options.max_workers, env if self.workers == "process" else ())

    def _open_carrier(self, options: Options) -> Carrier:
        width = options.max_workers or usable_cores()
        if self.workers == "process":
            return ProcessPool(width, {**thread_limits(width), **(options.env or {})})
        return InlineCarrier() if self.workers == "inline" else ThreadCarrier(width)


def thread_limits(width: int) -> dict[str, str]:
    """Keep the thread pools of numeric libraries in `width` workers from fighting over the cores."""
    threads = str(max(1, usable_cores() // width))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: threads for name in names if name not in os.environ}
