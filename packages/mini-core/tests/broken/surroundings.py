"""CTX and VOL: what a function can ask for, and the volume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mini import LocalApparatus
from mini.carrier import Carrier, Event, Reports
from mini.local.inprocess import ThreadCarrier
from mini.options import Options
from mini.output import Report
from mini.volume import DirectoryVolume, Volume, VolumeEntry, clean_path

from .registry import breaks

AnyPath = str | os.PathLike[str]


class Reporting(LocalApparatus):
    """Does something of its own with what calls report."""

    def report(self, report: Report) -> Report | None:
        raise NotImplementedError

    def _open_carrier(self, options: Options) -> Carrier:
        report = self.report

        class Threads(ThreadCarrier):
            def poll(self, timeout: float | None) -> list[Event]:
                return [
                    Reports([kept for r in event.reports if (kept := report(r)) is not None])
                    if isinstance(event, Reports)
                    else event
                    for event in super().poll(timeout)
                ]

        return Threads(options.max_workers or 2)


@breaks("test_ctx_01_the_volumes_directory", says=r"\(False, True\)")
class RelativeDirectory(LocalApparatus):
    """Tells workers where the volume is as seen from where the caller is."""

    @property
    def worker_data_dir(self) -> str:
        return os.path.relpath(super().worker_data_dir)


@breaks("test_ctx_02_reaches_the_record", says=r"sorted\(records\)")
class LosesReports(Reporting):
    """Carries what calls print, and not what they emit."""

    def report(self, report: Report) -> Report | None:
        return report if report[3] in ("stdout", "stderr") else None


@breaks("test_ctx_02_reaches_the_record", says="metrics")
class LosesMetrics(Reporting):
    """Has no place for metrics."""

    def report(self, report: Report) -> Report | None:
        return None if report[3] == "metrics" else report


@breaks("test_ctx_03_id_attempt_and_name", says=r"attempt, index, name")
class TellsAnotherName(LocalApparatus):
    """Tells workers what it calls itself on the backend."""

    def _flow(self, *args: Any, **how: Any) -> Any:
        flow, engine = super()._flow(*args, **how)
        flow.task.head.apparatus = f"mini-{self.name}"
        return flow, engine


@breaks("test_ctx_04_prints_are_kept_with_their_job[map]", says="stdout")
class PrintsOfTheGroup(Reporting):
    """Keeps what a worker prints with the first of its calls."""

    def report(self, report: Report) -> Report:
        flow, index, attempt, kind, data = report
        return flow, 0 if kind in ("stdout", "stderr") else index, attempt, kind, data


@breaks("test_ctx_04_also_of_calls_that_fail", says="record")
class NoLastWords(LocalApparatus):
    """Keeps no record of a call that failed."""

    def records(self) -> list[Any]:
        return [record for record in super().records() if record.failure is None]


@breaks("test_ctx_05_by_the_very_same_object[nested-1]", says="Timeout", timeout=2)
class WaitsForItself(LocalApparatus):
    """Has no worker for the calls of a call."""

    def _open_carrier(self, options: Options) -> Carrier:
        class Threads(ThreadCarrier):
            def lend(self, count: int) -> None:
                pass

        return Threads(options.max_workers or 2)


@breaks("test_vol_01_a_later_call_reads_it", says=r"other.run\(subjects.names")
class OneVolumeForAll(LocalApparatus):
    """Does not keep the volumes of different names apart."""

    @property
    def worker_data_dir(self) -> str:
        return str(self.data_root / "volumes")


class WithVolume(LocalApparatus):
    """Has a volume of its own kind."""

    Kind: type[DirectoryVolume]

    def _open_volume(self) -> Volume:
        return self.Kind(self.worker_data_dir)


@breaks("test_vol_02_the_caller_reads_it", says="assert listed ==")
class ListsNames(WithVolume):
    """Lists what is in a directory by its name there."""

    class Kind(DirectoryVolume):
        def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterator[VolumeEntry]:
            for entry in super()._scan(path, recursive=recursive):
                yield replace(entry, path=str(PurePosixPath(entry.path).relative_to(path)))


@breaks("test_vol_03_uploads_are_visible_to_calls", says="FileNotFoundError|No such file")
class UploadsInto(WithVolume):
    """Uploads a directory into the one that was named, as `cp -r` does."""

    class Kind(DirectoryVolume):
        def upload(self, local: AnyPath, remote: AnyPath) -> None:
            inside = f"{remote}/{Path(local).name}" if Path(local).is_dir() else remote
            super().upload(local, inside)


@breaks("test_vol_04_outlives_everything", says="FileNotFoundError|No such file")
class TakesItsVolumeAlong(LocalApparatus):
    """Tidies its volume away when it is closed."""

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.worker_data_dir, ignore_errors=True)


@breaks("test_vol_05_paths_that_leave_are_refused['/etc/passwd']", says="DID NOT RAISE")
class LeadsOut(WithVolume):
    """Joins paths and looks no further."""

    class Kind(DirectoryVolume):
        def read_bytes(self, remote: AnyPath) -> bytes:
            return (self.root / remote).read_bytes()


@breaks("test_vol_05_links_that_leave_are_refused", says="DID NOT RAISE")
class FollowsLinks(WithVolume):
    """Checks paths, and follows links wherever they lead."""

    class Kind(DirectoryVolume):
        def read_bytes(self, remote: AnyPath) -> bytes:
            return (self.root / clean_path(remote)).read_bytes()


@breaks("test_vol_06_a_transfer_that_fails", says=r"not .*exists|exists\(")
class FileByFile(WithVolume):
    """Uploads a directory file by file, under its final name."""

    class Kind(DirectoryVolume):
        def upload(self, local: AnyPath, remote: AnyPath) -> None:
            if not Path(local).is_dir():
                super().upload(local, remote)
            else:
                shutil.copytree(local, self.root / clean_path(remote), dirs_exist_ok=True)


@breaks("test_vol_07_they_do_not_block", says="> 5")
class BlockingTwin(WithVolume):
    """Uploads on the event loop."""

    class Kind(DirectoryVolume):
        async def aupload(self, local: AnyPath, remote: AnyPath) -> None:
            self.upload(local, remote)
