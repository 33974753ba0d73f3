"""`RayApparatus`: calls run in actors on a Ray cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mini import Apparatus, Capability, OptionError, find_project_root
from mini.carrier import Carrier
from mini.objects import ObjectVolume
from mini.options import Options
from mini.volume import DirectoryVolume

from .carrier import Definition, RayCarrier
from .cluster import check_fork, reach
from .resources import ray_options
from .storage import Mark, check_url, is_url, store

if TYPE_CHECKING:
    from mini.volume import Volume

__all__ = ["RayApparatus"]


class RayApparatus(Apparatus):
    """Runs calls on a Ray cluster.

    Making one reaches nothing: the cluster is joined, or started, with the first call. Workers stay until `close()`,
    and so does an instance that was started here, unless another apparatus of this process uses it.

    Args:
        name: of the apparatus and its volume.
        address: "auto", `host:port` or `ray://host:port` joins a cluster; None joins what `RAY_ADDRESS` says, or else
            starts an instance on this machine.
        storage: the directory in which volumes are kept, the same one on all nodes, or a URL that fsspec knows, such as
            `s3://bucket/prefix`; default: `.mini` in the project's root, or in the current directory.
        max_workers: calls at the same time; default: the cores of the cluster.

    Raises:
        OptionError: an argument is out of range.
    """

    backend: ClassVar[str] = "ray"

    def __init__(
        self,
        name: str,
        address: str | None = None,
        storage: str | os.PathLike[str] | None = None,
        max_workers: int | None = None,
    ) -> None:
        super().__init__(name, max_workers)
        if address == "" or not isinstance(address, str | None):
            raise OptionError(f"address takes 'auto', 'host:port' or 'ray://host:port', not {address!r}")
        if storage is not None and not isinstance(storage, str | os.PathLike):
            raise OptionError(f"storage takes a path or a URL, not {storage!r}")
        if isinstance(storage, str) and is_url(storage):
            check_url(storage)
        self._address = address
        self._given_storage = storage
        self._storage: Path | str | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability) - {Capability.DETACHED_JOBS, Capability.AT_MOST_ONCE_GROUPED}

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name, "address": self._address, "storage": str(self.storage)}

    @property
    def storage(self) -> Path | str:
        """The directory in which volumes are kept, absolute; it need not exist yet. Or a URL, as it was given."""
        if self._storage is None:
            given = self._given_storage
            if isinstance(given, str) and is_url(given):
                self._storage = given
            else:
                self._storage = Path(given or (find_project_root() or Path.cwd()) / ".mini").absolute()
        return self._storage

    @property
    def worker_data_dir(self) -> str:
        return f"{str(self.storage).rstrip('/')}/volumes/{self.name}"

    def reach(self) -> str:
        return reach(self._address)

    def _open_volume(self) -> Volume:
        if isinstance(self.storage, str):
            return ObjectVolume(store(self.worker_data_dir))
        return DirectoryVolume(Path(self.worker_data_dir))

    def _open_carrier(self, options: Options) -> Carrier:
        check_fork()
        env = dict(options.env or {})
        path = [entry or str(Path.cwd()) for entry in sys.path]
        args = (env, path, self.worker_data_dir)
        mark = None if isinstance(self.storage, str) else Mark(self.storage)
        definition = Definition(self._address, ray_options(options), args, find_project_root(), mark)
        return RayCarrier(options.max_workers, definition)
