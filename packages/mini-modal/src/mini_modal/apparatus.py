"""`ModalApparatus`: calls run in containers on Modal."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mini import Apparatus, Capability, OptionError, find_project_root
from mini.carrier import Carrier
from mini.context import pass_data_dir_gate
from mini.local.pool import ProcessPool
from mini.options import Options
from mini.volume import DirectoryVolume

from ._tls import ensure_grpc_trusts_system_ca
from .carrier import ModalCarrier
from .connect import probe
from .messages import INSIDE
from .session import Definition, Session
from .volume import ModalVolume

if TYPE_CHECKING:
    import modal
    from mini.jobboard import JobBoard
    from mini.volume import Volume

__all__ = ["ModalApparatus"]

MOUNT = "/mini/volume"
DEFAULT_WORKERS = 8


class ModalApparatus(Apparatus):
    """Runs calls in containers on Modal.

    Making one reaches nothing: the image is built and the app started with the first call. The app and its containers
    stay until `close()`.

    Args:
        name: of the apparatus, its app and its volume; or a `modal.App`, whose name is taken.
        max_workers: containers at the same time; 8 if nothing is said.

    Raises:
        OptionError: an argument is out of range.
    """

    backend: ClassVar[str] = "modal"

    def __init__(self, name: str | modal.App, max_workers: int | None = None) -> None:
        if not isinstance(name, str):
            given = getattr(name, "name", None)
            if not isinstance(given, str):
                raise OptionError("a modal.App needs a name to be an apparatus: modal.App('digits')")
            name = given
        super().__init__(name, max_workers)
        # For what the caller does with Modal directly. Its import takes half a second, and waits for the first call.
        if "modal" in sys.modules:
            ensure_grpc_trusts_system_ca()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(
            {
                Capability.PROCESS_ISOLATION,
                Capability.KILL_WORKER,
                Capability.CANCEL_RUNNING,
                Capability.TIMEOUT,
                Capability.ENV,
                Capability.INTERRUPT,
                Capability.RESOURCES,
                Capability.PERSISTENT_VOLUME,
                Capability.DETACHED_JOBS,
            }
        )

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name}

    @property
    def worker_data_dir(self) -> str:
        return MOUNT

    def reach(self) -> str:
        return f"Modal, workspace {probe()}"

    def _open_volume(self) -> Volume:
        if INSIDE in os.environ:
            from pathlib import Path

            pass_data_dir_gate()
            return DirectoryVolume(Path(MOUNT))
        return ModalVolume(f"mini-{self.name}")

    def _open_jobs(self) -> JobBoard:
        from mini.jobboard import JobBoard

        from .jobfiles import RemoteFiles
        from .jobs import ModalJobHost
        from .jobstore import ModalJobStore

        store = ModalJobStore(self.name, RemoteFiles(f"mini-{self.name}"))
        return JobBoard(store, ModalJobHost(self.name, store, self._options, self._define_jobs))

    def _define_jobs(self, options: Options) -> Definition:
        return self._definition(options, options.max_workers or DEFAULT_WORKERS)

    def _open_carrier(self, options: Options) -> Carrier:
        if INSIDE in os.environ:  # a call that makes calls has its container to itself
            return ProcessPool(options.max_workers or os.cpu_count() or 1, options.env or {})
        width = options.max_workers or DEFAULT_WORKERS
        return ModalCarrier(width, partial(Session, self._definition(options, width)))

    def _definition(self, options: Options, width: int) -> Definition:
        from .image import ModalSettings, complete_image, make_image

        wanted = {
            "cpu": options.cpu,
            "memory": options.memory,
            "gpu": _gpu(options.gpu),
            "region": ModalSettings.read(find_project_root()).region,
        }
        native = dict(options.native.get(self.backend, {}))
        return Definition(
            name=f"mini-{self.name}",
            volume=f"mini-{self.name}",
            mount=MOUNT,
            image=make_image
            if options.image is None
            else partial(complete_image, cast("Any", options.image)),
            options={
                "max_containers": width,
                **{name: value for name, value in wanted.items() if value is not None},
                **native,
            },
            env=options.env or {},
            progress=options.progress,
        )


def _gpu(asked: int | str | None) -> str | None:
    """A count means any kind of GPU; names, with a count after a colon, are Modal's own."""
    if isinstance(asked, int):
        return f"any:{asked}" if asked else None
    return asked
