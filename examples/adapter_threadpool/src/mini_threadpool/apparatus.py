"""The apparatus of the backend `threadpool`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from mini import Apparatus, Capability, Volume, find_project_root
from mini.carrier import Carrier
from mini.options import Options
from mini.volume import DirectoryVolume

from .carrier import ThreadPoolCarrier

__all__ = ["ThreadPoolApparatus"]


class ThreadPoolApparatus(Apparatus):
    """Runs calls in threads of this process.

    Args:
        name: of the apparatus and its volume.
        max_workers: calls at the same time; default: as `ThreadPoolExecutor` has it.
        data_dir: where volumes are kept; default: `.mini` in the project's root, or in the current directory.
    """

    backend: ClassVar[str] = "threadpool"

    def __init__(
        self, name: str, max_workers: int | None = None, data_dir: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(name, max_workers)
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.PERSISTENT_VOLUME, Capability.AT_MOST_ONCE_GROUPED})

    @property
    def ignored_options(self) -> tuple[str, ...]:
        return ("cpu", "memory", "gpu", "timeout", "env", "image")

    def _open_carrier(self, options: Options) -> Carrier:
        return ThreadPoolCarrier(options.max_workers or min(32, (os.cpu_count() or 1) + 4))

    @property
    def data_dir(self) -> Path:
        """The directory in which volumes are kept; it need not exist yet."""
        if self._data_dir is None:
            self._data_dir = (find_project_root() or Path.cwd()) / ".mini"
        return self._data_dir

    @property
    def worker_data_dir(self) -> str:
        return str(self.data_dir / "volumes" / self.name)

    def _open_volume(self) -> Volume:
        return DirectoryVolume(Path(self.worker_data_dir))

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name, "data_dir": str(self.data_dir)}
