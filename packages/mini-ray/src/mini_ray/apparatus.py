"""`RayApparatus`: calls run in actors on a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mini import Apparatus, Capability, OptionError, find_project_root
from mini.carrier import Carrier
from mini.objects import ObjectVolume
from mini.options import Options
from mini.volume import DirectoryVolume

from .carrier import Definition, RayCarrier
from .cluster import check_fork, reach, told, wanted
from .resources import ray_options
from .session import Link
from .storage import Mark, check_url, is_url, jobs_folder, store

if TYPE_CHECKING:
    from mini.jobboard import JobBoard
    from mini.volume import Volume

__all__ = ["RayApparatus"]


class RayApparatus(Apparatus):
    """Runs calls on a Ray cluster.

    Making one reaches nothing: the cluster is joined, or started, with the first call. Workers stay until `close()`,
    and so does an instance that was started here, unless another apparatus of this process uses it.

    Args:
        name: of the apparatus and its volume.
        address: "auto", `host:port` or `ray://host:port` joins a cluster; None joins what `RAY_ADDRESS` says, or else
            the instance that `mini ray start` has started for this project, or else starts an instance on this machine.
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
        self._link = Link(address)

    @property
    def capabilities(self) -> frozenset[Capability]:
        declined = {Capability.AT_MOST_ONCE_GROUPED}
        if self._without_jobs:
            declined.add(Capability.DETACHED_JOBS)
        return frozenset(Capability) - declined

    @property
    def _without_jobs(self) -> str:
        where = wanted(self._address)
        if where is None and not self._has_jobs():
            return (
                "a Ray instance that this process starts ends with it, and detached jobs would with that; have one "
                "that stays (mini ray start), or start a cluster (ray start --head) and join it with address='auto'"
            )
        if where is not None and where.startswith("ray://"):
            return (
                f"detached jobs cannot be looked after through Ray's client ({where!r}); use address='host:6379' on a "
                "host that belongs to the cluster"
            )
        if isinstance(self.storage, str):
            return (
                f"detached jobs need a directory that all nodes share, and cannot be kept in object storage "
                f"({self.storage}); have storage= name such a directory"
            )
        return ""

    def _has_jobs(self) -> bool:
        """Whether there are jobs of this name, which can be read without the cluster."""
        return isinstance(self.storage, Path) and jobs_folder(self.storage, self.name).is_dir()

    def _lasting_settings(self) -> dict[str, Any]:
        address = told(self._address)
        found: dict[str, Any] = {} if address is None else {"address": address}
        return found if self._given_storage is None else {**found, "storage": str(self.storage)}

    @classmethod
    def _recall(cls, name: str, settings: Mapping[str, Any]) -> Self:
        # Who says where the cluster is now knows better than those who launched.
        outdated = {"address"} if told(None) else set()
        return cls(name, **{key: value for key, value in settings.items() if key not in outdated})

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

    def _open_jobs(self) -> JobBoard:
        from .jobs import open_board

        assert isinstance(self.storage, Path)
        return open_board(self.name, self.storage, self._address, self._options, self._link)

    def close(self) -> None:
        super().close()
        self._link.close()

    def _open_carrier(self, options: Options) -> Carrier:
        check_fork()
        env = dict(options.env or {})
        path = [entry or str(Path.cwd()) for entry in sys.path]
        args = (env, path, self.worker_data_dir)
        mark = None if isinstance(self.storage, str) else Mark(self.storage)
        definition = Definition(self._address, ray_options(options), args, find_project_root(), mark)
        return RayCarrier(options.max_workers, definition)
