"""VOL: the volume."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..capability import Capability
from ..context import get_data_dir
from ..protocol import Apparatus
from ..volume import Volume
from . import subjects
from .base import MakeApparatus, Suite, requires, when_declined
from .scripts import Scripts

__all__ = ["VolSuite"]

ESCAPES = [
    *("..", "../outside.txt", "a/../../outside.txt", "a/..", "./../outside.txt", "a/b/../../../outside.txt"),
    *("/etc/passwd", "//etc/passwd", "{outside}/outside.txt", "a\0b"),
]
METHODS = ("read_bytes", "write_bytes", "upload", "download", "list", "exists", "remove")

TRANSFER = """
import sys
what, local, remote = sys.argv[1:]
print("started", flush=True)
while True:
    if what == "upload":
        app.volume.upload(local, remote)
    elif what == "write":
        app.volume.write_bytes(remote, open(local, "rb").read())
    else:
        app.volume.download(remote, local)
"""


def write_tree(root: Path) -> dict[str, bytes]:
    """A directory with files of several sizes in it, and what is in them by their paths."""
    files = {
        "empty": b"",
        "a.txt": b"a",
        "deep/er/b.bin": bytes(range(256)) * 1000,
        "deep/ünï cödé.txt": b"u",
        "deep/.hidden": b"h",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return files


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def content(volume: Volume, under: str = "") -> dict[str, bytes]:
    entries = volume.list(under, recursive=True)
    return {entry.path: volume.read_bytes(entry.path) for entry in entries if not entry.is_dir}


class VolSuite(Suite):
    """VOL: the volume."""

    # --- VOL-01 ---

    def test_vol_01_a_later_call_reads_it(
        self, apparatus: Apparatus, fresh: MakeApparatus, unused_name: str
    ) -> None:
        """ "What one call writes under `get_data_dir()` a later call on the same apparatus name reads."

        A failure means that workers do not share the directory, or that it belongs to the object and not to the name.
        """
        assert apparatus.run(subjects.save, "vol-01/model.bin", b"weights") == 7
        assert apparatus.run(subjects.load, "vol-01/model.bin") == b"weights"
        assert list(apparatus.map(subjects.load, ["vol-01/model.bin"] * 6)) == [b"weights"] * 6
        assert list(apparatus.map(subjects.save, [f"vol-01/{n}" for n in range(30)], [b"x"] * 30)) == [1] * 30
        same, other = fresh(apparatus.name), fresh(unused_name)
        assert sorted(same.run(subjects.names, "vol-01")) == sorted([*map(str, range(30)), "model.bin"])
        assert other.run(subjects.names, "") == []
        assert same.run(subjects.save, "vol-01/model.bin", b"new") == 3
        assert apparatus.run(subjects.load, "vol-01/model.bin") == b"new"

    # --- VOL-02 ---

    def test_vol_02_the_caller_reads_it(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "So does the caller, by `volume.download(remote, local)`, `volume.read_bytes`, `volume.list`."

        A failure means that what workers have written is not in the volume when their call has returned.
        """
        volume = apparatus.volume
        data = os.urandom(300_000)
        apparatus.run(subjects.save, "vol-02/deep/a.bin", data)
        apparatus.run(subjects.save, "vol-02/b.txt", b"b")
        assert volume.read_bytes("vol-02/deep/a.bin") == data
        assert volume.exists("vol-02/b.txt")
        assert not volume.exists("vol-02/c.txt")
        listed = {(entry.path, entry.is_dir, entry.size) for entry in volume.list("vol-02")}
        assert listed == {("vol-02/b.txt", False, 1), ("vol-02/deep", True, 0)}
        recursive = {entry.path: entry.size for entry in volume.list("vol-02", recursive=True)}
        assert recursive == {"vol-02/b.txt": 1, "vol-02/deep": 0, "vol-02/deep/a.bin": 300_000}
        volume.download("vol-02/deep/a.bin", tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == data
        volume.download("vol-02", tmp_path / "tree")
        assert read_tree(tmp_path / "tree") == {"b.txt": b"b", "deep/a.bin": data}
        volume.remove("vol-02/deep")
        assert apparatus.run(subjects.names, "vol-02") == ["b.txt"]

    def test_vol_02_what_is_not_there(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "So does the caller, by `volume.download(remote, local)`, `volume.read_bytes`, `volume.list`."

        A failure means that a missing file raises something of the backend's own, or makes an empty one.
        """
        volume = apparatus.volume
        for use in (
            lambda: volume.read_bytes("vol-02-missing"),
            lambda: volume.download("vol-02-missing", tmp_path / "missing"),
            lambda: volume.list("vol-02-missing"),
            lambda: volume.remove("vol-02-missing"),
        ):
            with pytest.raises(FileNotFoundError, match="vol-02-missing"):
                use()
        assert list(tmp_path.iterdir()) == []

    # --- VOL-03 ---

    def test_vol_03_uploads_are_visible_to_calls(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "`volume.upload(local, remote)` makes files and directories visible to later calls."

        A failure means that a call may see the volume as it was before, or files that differ from the local ones.
        """
        files = write_tree(tmp_path / "tree")
        volume = apparatus.volume
        volume.upload(tmp_path / "tree", "vol-03/tree")
        volume.upload(tmp_path / "tree" / "a.txt", "vol-03/renamed.txt")
        volume.write_bytes("vol-03/bytes", b"direct")
        for name, data in files.items():
            assert apparatus.run(subjects.load, f"vol-03/tree/{name}") == data
        assert apparatus.run(subjects.load, "vol-03/renamed.txt") == b"a"
        assert apparatus.run(subjects.load, "vol-03/bytes") == b"direct"
        volume.write_bytes("vol-03/bytes", b"changed")
        assert apparatus.run(subjects.load, "vol-03/bytes") == b"changed"
        assert content(volume, "vol-03/tree") == {f"vol-03/tree/{name}": data for name, data in files.items()}

    # --- VOL-04 ---

    @requires(Capability.PERSISTENT_VOLUME)
    def test_vol_04_outlives_everything(
        self, make_apparatus: MakeApparatus, unused_name: str, scripts: Scripts, tmp_path: Path
    ) -> None:
        """ "Contents outlive the process, the pool and the cluster."

        A failure means that the volume is emptied, or kept somewhere that goes when the apparatus is closed.
        """
        with make_apparatus(unused_name) as first:
            first.run(subjects.save, "kept.txt", b"kept")
            first.volume.write_bytes("by the caller", b"kept too")
        with make_apparatus(unused_name) as second:
            assert second.run(subjects.load, "kept.txt") == b"kept"
            assert content(second.volume) == {"kept.txt": b"kept", "by the caller": b"kept too"}
            second.volume.remove("kept.txt")
        script = scripts.run(
            "from mini.conformance.subjects import save\n"
            "app.run(save, 'of a script.txt', b'written there')\n"
            "app.volume.write_bytes('of its caller.txt', b'written here')\n"
            "app.volume.remove('by the caller') if app.volume.exists('by the caller') else None\n"
            "print(app.name)\n"
            "app.close()\n"
        )
        with make_apparatus(script.out.strip()) as same:
            assert content(same.volume) == {
                "of a script.txt": b"written there",
                "of its caller.txt": b"written here",
            }

    @when_declined(test_vol_04_outlives_everything)
    def _vol_04_is_gone_with_its_apparatus(self, make_apparatus: MakeApparatus, unused_name: str) -> None:
        with make_apparatus(unused_name) as first:
            first.run(subjects.save, "kept.txt", b"kept")
        with make_apparatus(unused_name) as second:
            assert content(second.volume) == {}, "it is still there: declare persistent_volume"

    # --- VOL-05 ---

    @pytest.mark.parametrize("path", ESCAPES, ids=repr)
    def test_vol_05_paths_that_leave_are_refused(
        self, apparatus: Apparatus, tmp_path: Path, path: str
    ) -> None:
        """ "A path that leaves the volume (`..`, absolute, symlink) is refused; nothing outside it is read or written."

        A failure means that the adapter's volume does not check paths with `clean_path`.
        """
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "outside.txt").write_bytes(b"not yours")
        remote = path.replace("{outside}", str(outside))
        volume = apparatus.volume
        volume.write_bytes("a/b/inside.txt", b"yours")
        uses: dict[str, Callable[[], Any]] = {
            "read_bytes": lambda: volume.read_bytes(remote),
            "write_bytes": lambda: volume.write_bytes(remote, b"changed"),
            "upload": lambda: volume.upload(outside / "outside.txt", remote),
            "download": lambda: volume.download(remote, tmp_path / "downloaded"),
            "list": lambda: volume.list(remote),
            "exists": lambda: volume.exists(remote),
            "remove": lambda: volume.remove(remote),
        }
        assert set(uses) == set(METHODS)
        for use in uses.values():
            with pytest.raises(ValueError, match="path"):
                use()
        assert read_tree(tmp_path) == {"outside/outside.txt": b"not yours"}
        assert volume.read_bytes("a/b/inside.txt") == b"yours"

    def test_vol_05_links_that_leave_are_refused(self, apparatus: Apparatus, shared_dir: Path) -> None:
        """ "A path that leaves the volume (`..`, absolute, symlink) is refused; nothing outside it is read or written."

        A failure means that a link which a call has made in the volume leads the caller out of it.
        """
        outside = shared_dir / "outside"
        (outside / "deep").mkdir(parents=True)
        (outside / "secret.txt").write_bytes(b"not yours")
        before = read_tree(outside)

        def link(target: str) -> None:
            directory = get_data_dir() / "vol-05"
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            (directory / "file").symlink_to(Path(target) / "secret.txt")
            (directory / "directory").symlink_to(target)
            (directory / "upwards").symlink_to("../" * 30 + target.lstrip("/"))
            (directory / "fine").write_text("inside")
            (directory / "link to fine").symlink_to("fine")

        apparatus.run(link, str(outside))
        volume = apparatus.volume
        for remote in (
            "vol-05/file",
            "vol-05/directory/secret.txt",
            "vol-05/directory/deep",
            "vol-05/upwards/secret.txt",
        ):
            uses: list[Callable[[], Any]] = [
                lambda remote=remote: volume.read_bytes(remote),  # type: ignore[misc]
                lambda remote=remote: volume.download(remote, shared_dir / "downloaded"),  # type: ignore[misc]
            ]
            if remote != "vol-05/file":  # there a new file may take the place of the link
                uses.append(lambda remote=remote: volume.write_bytes(remote + "/new", b"x"))  # type: ignore[misc]
                uses.append(lambda remote=remote: volume.remove(remote))  # type: ignore[misc]
            for use in uses:
                with pytest.raises((ValueError, OSError)):
                    use()
        listed = {entry.path for entry in volume.list("vol-05", recursive=True)}
        assert not any("secret" in path or "deep" in path for path in listed)
        volume.remove("vol-05")
        assert read_tree(outside) == before
        assert (outside / "deep").is_dir()
        assert not (shared_dir / "downloaded").exists()

    # --- VOL-06 ---

    @pytest.mark.parametrize("what", ["upload", "write", "download"])
    def test_vol_06_never_half_finished(
        self, scripts: Scripts, make_apparatus: MakeApparatus, tmp_path: Path, what: str, patience: float
    ) -> None:
        """ "A half-finished upload or download is never seen under its final name."

        A failure means that files are written under their final name. Write them beside it and rename them.
        """
        size = 6_000_000
        whole = os.urandom(size)
        local = tmp_path / "local.bin"
        name = scripts.run("print(app.name)").out.strip()
        volume = make_apparatus(name).volume  # the one that all scripts of this test have
        if what == "download":
            volume.write_bytes("file.bin", whole)
        else:
            local.write_bytes(whole)

        def look() -> bytes | None:
            try:
                return local.read_bytes() if what == "download" else volume.read_bytes("file.bin")
            except FileNotFoundError:
                return None

        for _ in range(3):
            script = scripts.start(TRANSFER, what, local, "file.bin")
            script.wait_for_line("started", patience)
            for _ in range(15):
                data = look()
                assert data is None or data == whole, "half of it was seen"
            script.process.kill()  # at any moment: what was under way has to stay invisible
            script.process.wait()
            data = look()
            assert data is None or data == whole, "half of it was left behind"
        if what != "download":
            assert {entry.path for entry in volume.list("", recursive=True)} <= {"file.bin"}
        else:
            assert {path.name for path in tmp_path.iterdir() if path.is_file()} <= {"local.bin"}

    def test_vol_06_a_transfer_that_fails(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "A half-finished upload or download is never seen under its final name."

        A failure means that a directory is transferred file by file under its final name, so that one that cannot be
        read leaves the others behind.
        """
        write_tree(tmp_path / "tree")
        os.mkfifo(tmp_path / "tree" / "deep" / "a pipe")  # which is no file to be uploaded
        with pytest.raises((ValueError, OSError)):
            apparatus.volume.upload(tmp_path / "tree", "vol-06")
        assert not apparatus.volume.exists("vol-06")
        apparatus.volume.write_bytes("vol-06-file", b"x")
        with pytest.raises(OSError, match="tree"):  # a directory is in the way
            apparatus.volume.download("vol-06-file", tmp_path / "tree")
        assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["a.txt", "deep", "empty"]

    # --- VOL-07 ---

    def test_vol_07_async_twins(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "The volume's calls have async twins (`aupload`, `adownload`, …)."

        A failure means that a method of the volume has no twin, or that the twin does something else.
        """
        volume = apparatus.volume
        files = write_tree(tmp_path / "tree")

        async def main() -> None:
            await volume.awrite_bytes("vol-07/a.txt", b"a")
            assert await volume.aread_bytes("vol-07/a.txt") == b"a"
            assert await volume.aexists("vol-07/a.txt")
            assert not await volume.aexists("vol-07/b.txt")
            await volume.aupload(tmp_path / "tree", "vol-07/tree")
            await volume.adownload("vol-07/tree", tmp_path / "again")
            assert read_tree(tmp_path / "again") == files
            assert await volume.alist("vol-07") == volume.list("vol-07")
            await volume.aremove("vol-07/tree")
            assert not await volume.aexists("vol-07/tree")
            with pytest.raises(FileNotFoundError):
                await volume.aread_bytes("vol-07/b.txt")
            with pytest.raises(ValueError, match="path"):
                await volume.aread_bytes("../outside")

        asyncio.run(main())
        public = {
            name for name in dir(volume) if not name.startswith("_") and callable(getattr(volume, name))
        }
        for name in METHODS:
            assert public >= {name, f"a{name}"}
            twin = getattr(volume, f"a{name}")
            assert inspect.iscoroutinefunction(twin)
            assert list(inspect.signature(twin).parameters) == list(
                inspect.signature(getattr(volume, name)).parameters
            )

    def test_vol_07_they_do_not_block(self, apparatus: Apparatus, tmp_path: Path) -> None:
        """ "The volume's calls have async twins (`aupload`, `adownload`, …)."

        A failure means that an async twin does its work on the event loop.
        """
        (tmp_path / "large").write_bytes(bytes(30_000_000))

        async def main() -> int:
            task = asyncio.create_task(apparatus.volume.aupload(tmp_path / "large", "vol-07-large"))
            turns = 0
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            await task
            return turns

        # One that works on the loop needs a turn or two.
        assert asyncio.run(main()) > 5
        apparatus.volume.remove("vol-07-large")
