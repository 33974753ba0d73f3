"""The volume: VOL-05 to VOL-07, for every kind of volume that shares the base class."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mini.errors import MiniError, OptionError, VolumePathError
from mini.staging import RESERVED, STALE, copy, staging
from mini.twins import Stopped, pause
from mini.volume import DirectoryVolume, Source, Volume, VolumeEntry, clean_path


class DictVolume(Volume):
    """A volume in memory, as small as an adapter's may be: it shows that the base class does the rest."""

    def __init__(self) -> None:
        self.files: dict[PurePosixPath, bytes | None] = {PurePosixPath(): None}

    @property
    def label(self) -> str:
        return "memory"

    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        if path not in self.files:
            return None
        content = self.files[path]
        return VolumeEntry(str(path), len(content or b""), content is None, 0.0)

    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
        for other in list(self.files):
            if other != path and (other.parent == path or (recursive and other.is_relative_to(path))):
                entry = self._stat(other)
                assert entry
                yield entry

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        file.write(self.files[path] or b"")

    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        new: dict[PurePosixPath, bytes | None] = {}
        for source in sources:
            place = path / source.relative
            new.update((parent, None) for parent in place.parents)
            new[place] = source.content.read_bytes() if isinstance(source.content, Path) else source.content
        for place, content in new.items():
            if place in self.files and (self.files[place] is None) != (content is None):
                error = errno.EISDIR if content is not None else errno.ENOTDIR
                raise OSError(error, os.strerror(error))
        self.files.update(new)

    def _delete(self, path: PurePosixPath) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.files = {
            other: content for other, content in self.files.items() if not other.is_relative_to(path)
        }


@pytest.fixture
def volume(tmp_path: Path) -> DirectoryVolume:
    return DirectoryVolume(tmp_path / "volume")


@pytest.fixture(params=["directory", "memory"])
def any_volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    return DirectoryVolume(tmp_path / "volume") if request.param == "directory" else DictVolume()


def tree(root: Path) -> dict[str, bytes | None]:
    """All below a directory: content of files, None for directories, b"-> target" for links."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        link = path.is_symlink()
        content = (
            b"-> " + os.fsencode(path.readlink()) if link else path.read_bytes() if path.is_file() else None
        )
        found[str(path.relative_to(root))] = content
    return found


def make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


# --- what it does ---------------------------------------------------------------------------------------------------


def test_a_new_volume_is_empty_and_makes_nothing(tmp_path: Path) -> None:
    volume = DirectoryVolume(tmp_path / "a" / "volume")
    assert volume.list() == []
    assert volume.list(recursive=True) == []
    assert volume.exists("")
    assert not volume.exists("x/y")
    with pytest.raises(FileNotFoundError):
        volume.remove("x")
    assert list(tmp_path.iterdir()) == []
    volume.write_bytes("x", b"1")
    assert tree(tmp_path) == {"a": None, "a/volume": None, "a/volume/x": b"1"}


def test_bytes_come_back(any_volume: Volume) -> None:
    any_volume.write_bytes("models/a.pkl", b"one")
    any_volume.write_bytes("models/a.pkl", bytearray(b"two"))
    any_volume.write_bytes("models/empty", memoryview(b""))
    assert any_volume.read_bytes("models/a.pkl") == b"two"
    assert any_volume.read_bytes(PurePosixPath("models") / "empty") == b""
    with pytest.raises(TypeError):
        any_volume.write_bytes("models/a.pkl", 3)  # type: ignore[arg-type]
    assert any_volume.read_bytes("models/a.pkl") == b"two"


def test_trees_go_in_and_out(any_volume: Volume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"1", "b/c": b"2", "b/d/e": b"3"})
    (source / "b" / "empty").mkdir()
    any_volume.upload(source, "x/y")
    any_volume.download("x/y", tmp_path / "deep" / "er" / "copy")
    assert tree(tmp_path / "deep" / "er" / "copy") == tree(source)
    any_volume.download("x/y/b/c", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"2"


def test_trees_merge(any_volume: Volume, tmp_path: Path) -> None:
    any_volume.upload(make_tree(tmp_path / "one", {"a": b"1", "b/c": b"1"}), "")
    any_volume.upload(make_tree(tmp_path / "two", {"b/c": b"2", "b/d": b"2"}), "")
    any_volume.download("", tmp_path / "both")
    assert tree(tmp_path / "both") == {"a": b"1", "b": None, "b/c": b"2", "b/d": b"2"}
    make_tree(tmp_path / "mine", {"b/c": b"old", "mine": b"kept"})
    any_volume.download("", tmp_path / "mine")
    assert tree(tmp_path / "mine") == {**tree(tmp_path / "both"), "mine": b"kept"}


def test_list_is_sorted_by_parts(any_volume: Volume) -> None:
    for name in ["b", "a-b", "a/z", "a/b/c", "a/.hidden"]:
        any_volume.write_bytes(name, name.encode())
    assert [(e.path, e.size, e.is_dir) for e in any_volume.list()] == [
        ("a", 0, True),
        ("a-b", 3, False),
        ("b", 1, False),
    ]
    paths = [e.path for e in any_volume.list("", recursive=True)]
    assert paths == ["a", "a/.hidden", "a/b", "a/b/c", "a/z", "a-b", "b"]
    assert [e.path for e in any_volume.list("a/")] == ["a/.hidden", "a/b", "a/z"]
    assert [e.path for e in any_volume.list("a/z")] == ["a/z"]


def test_remove_takes_files_and_trees(any_volume: Volume) -> None:
    for name in ["a/b/c", "a/d", "e"]:
        any_volume.write_bytes(name, b"")
    any_volume.remove("a/b")
    assert [e.path for e in any_volume.list(recursive=True)] == ["a", "a/d", "e"]
    with pytest.raises(VolumePathError, match="the volume itself is not removed"):
        any_volume.remove("")
    assert any_volume.exists("e")


def test_modes_and_times_are_kept(volume: DirectoryVolume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"tool": b"#!", "data": b"1"})
    (source / "tool").chmod(0o4755)
    os.utime(source / "tool", (1e9, 1e9))
    volume.upload(source, "x")
    volume.download("x", tmp_path / "copy")
    for place in (volume.root / "x", tmp_path / "copy"):
        assert (place / "tool").stat().st_mtime == 1e9
        assert (place / "tool").stat().st_mode & 0o4700 == 0o700
        assert (place / "data").stat().st_mode & 0o111 == 0
    assert [(e.executable, e.mtime == 1e9) for e in volume.list("x")] == [(False, False), (True, True)]


def test_it_can_be_pickled(volume: DirectoryVolume) -> None:
    volume.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(volume))
    assert copy == volume
    assert hash(copy) == hash(volume)
    assert copy.read_bytes("a") == b"1"
    assert repr(copy) == f"DirectoryVolume({str(volume.root)!r})"


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    volume = DirectoryVolume("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    volume.write_bytes("a", b"1")
    assert (tmp_path / "here" / "a").exists()


# --- errors ---------------------------------------------------------------------------------------------------------


def test_errors_name_volume_and_path(any_volume: Volume, tmp_path: Path) -> None:
    any_volume.write_bytes("a/b", b"1")
    label = any_volume.label
    for call in (
        any_volume.read_bytes,
        any_volume.list,
        any_volume.remove,
        lambda p: any_volume.download(p, tmp_path / "x"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call("no/such")
        assert "no/such" in str(caught.value)
        assert label in str(caught.value)
    with pytest.raises(IsADirectoryError, match=label):
        any_volume.read_bytes("a")
    with pytest.raises(FileNotFoundError, match="no-such-source"):
        any_volume.upload(tmp_path / "no-such-source", "x")
    assert not (tmp_path / "x").exists()


def test_files_and_directories_do_not_replace_each_other(any_volume: Volume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"f": b"1", "d/f": b"1"})
    any_volume.upload(source, "x")
    before = any_volume.list(recursive=True)
    with pytest.raises(IsADirectoryError):
        any_volume.upload(source / "f", "x/d")
    with pytest.raises(IsADirectoryError):
        any_volume.write_bytes("x/d", b"")
    with pytest.raises(NotADirectoryError):
        any_volume.upload(source / "d", "x/f")
    clash = make_tree(tmp_path / "clash", {"a": b"new", "d/f/g": b"1"})
    with pytest.raises(NotADirectoryError):
        any_volume.upload(clash, "x")
    assert any_volume.list(recursive=True) == before
    with pytest.raises(IsADirectoryError, match="give the name of the file"):
        any_volume.download("x/f", source)
    with pytest.raises(NotADirectoryError):
        any_volume.download("x", source / "f")
    with pytest.raises(IsADirectoryError):
        any_volume.download("x", make_tree(tmp_path / "clash2", {"f/x": b"1"}))
    assert tree(tmp_path / "clash2") == {"f": None, "f/x": b"1"}
    with pytest.raises(VolumePathError, match="not a file"):
        any_volume.write_bytes("", b"")


def test_what_is_neither_file_nor_directory_is_refused(volume: DirectoryVolume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"f": b"1"})
    os.mkfifo(source / "pipe")
    with pytest.raises(OSError, match="Neither a regular file"):
        volume.upload(source, "x")
    assert not volume.exists("x")
    (source / "pipe").unlink()
    (source / "loop").symlink_to(source)
    with pytest.raises(OSError, match="link to a directory around it"):
        volume.upload(source, "x")
    volume.write_bytes("d/f", b"1")
    os.mkfifo(volume.root / "d" / "pipe")
    with pytest.raises(OSError, match="Neither a regular file"):
        volume.read_bytes("d/pipe")
    with pytest.raises(OSError, match="Neither a regular file"):
        volume.download("d", tmp_path / "d")
    with pytest.raises(OSError, match="Neither a regular file"):
        volume.download("d/f", "/dev/null")
    assert not (tmp_path / "d").exists()
    assert Path("/dev/null").is_char_device()


# --- VOL-05: paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "a/../b",
        "../x",
        "a/..",
        "/etc/passwd",
        "//x",
        "a//b",
        "a//",
        "/",
        "a\0b",
        "C:",
        "C:/x",
        "a/c:x",
        "a\\b",
        "\ud800",
        ".mini-tmp-1",
        "a/.mini-tmp-",
    ],
)
def test_paths_that_could_leave_are_refused(any_volume: Volume, tmp_path: Path, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: clean_path(path),
        lambda: any_volume.read_bytes(path),
        lambda: any_volume.write_bytes(path, b""),
        lambda: any_volume.upload(__file__, path),
        lambda: any_volume.download(path, tmp_path / "x"),
        lambda: any_volume.list(path),
        lambda: any_volume.exists(path),
        lambda: any_volume.remove(path),
        lambda: asyncio.run(any_volume.aread_bytes(path)),
    ]
    for call in calls:
        with pytest.raises(VolumePathError, match="is not a path inside of a volume"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [3, None, b"a", ["a"]])
def test_paths_are_strings(any_volume: Volume, path: Any) -> None:
    with pytest.raises(OptionError, match="a path in a volume is a string"):
        any_volume.exists(path)


@pytest.mark.parametrize(
    ("path", "clean"),
    [("", "."), (".", "."), ("a/", "a"), ("./a/./b", "a/b"), ("...", "..."), ("ü\n", "ü\n")],
)
def test_paths_that_stay_are_taken(path: str, clean: str) -> None:
    assert clean_path(path) == PurePosixPath(clean)


def test_names_that_the_volume_cannot_say_are_not_uploaded(any_volume: Volume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"1", "b\\c": b"1"})
    with pytest.raises(VolumePathError, match="backslash"):
        any_volume.upload(source, "x")
    assert not any_volume.exists("x")


@pytest.fixture
def guarded(tmp_path: Path) -> DirectoryVolume:
    """A volume with links of all kinds, beside a directory whose files begin with b"secret"."""
    make_tree(tmp_path / "outside", {"secret": b"secret", "d/secret": b"secret too"})
    make_tree(tmp_path / "volume-2", {"secret": b"secret"})
    root = make_tree(tmp_path / "volume", {"a/b/f": b"fine", "a/g": b"fine", "h": b"fine"})
    for link, target in {
        "out": "../outside",
        "out-file": "../outside/secret",
        "out-abs": str(tmp_path / "outside"),
        "out-abs-file": str(tmp_path / "outside" / "secret"),
        "a/out-deep": "../../outside/d",
        "out-twice": "out",
        "out-beside": str(tmp_path / "volume-2"),
        "out-back": "../volume/h",
        "proc": "/proc/self/cwd",
        "in": "a/b",
        "in-abs": str(root / "a"),
        "in-dots": "a/b/../../h",
        "a/up": "..",
        "nowhere": "a/none",
        "self": "self",
    }.items():
        (root / link).symlink_to(target)
    return DirectoryVolume(root)


def test_links_that_stay_inside_are_followed(guarded: DirectoryVolume, tmp_path: Path) -> None:
    assert guarded.read_bytes("in/f") == b"fine"
    assert guarded.read_bytes("in-abs/b/f") == b"fine"
    assert guarded.read_bytes("in-dots") == b"fine"
    assert guarded.read_bytes("a/up/a/up/h") == b"fine"
    assert [e.path for e in guarded.list("in")] == ["in/f"]
    assert not guarded.exists("nowhere")
    guarded.write_bytes("in/new", b"1")
    assert (guarded.root / "a" / "b" / "new").read_bytes() == b"1"
    guarded.write_bytes("in-dots", b"2")
    assert (guarded.root / "in-dots").is_symlink()
    assert (guarded.root / "h").read_bytes() == b"2"
    guarded.upload(make_tree(tmp_path / "source", {"x/y": b"3"}), "in")
    assert (guarded.root / "a" / "b" / "x" / "y").read_bytes() == b"3"
    guarded.download("in", tmp_path / "copy")
    assert tree(tmp_path / "copy") == {"f": b"fine", "new": b"1", "x": None, "x/y": b"3"}
    guarded.remove("in")
    assert guarded.exists("a/b/f")


ESCAPES = [
    "out",
    "out-beside",
    "out-file",
    "out-abs",
    "out-abs-file",
    "a/out-deep",
    "out-twice",
    "out-back",
    "proc",
    "in-abs/out-deep",
]


@pytest.mark.parametrize(
    "path", [*ESCAPES, *(f"{p}/secret" for p in ESCAPES), *(f"{p}/x/y" for p in ESCAPES)]
)
def test_links_that_leave_are_refused(guarded: DirectoryVolume, tmp_path: Path, path: str) -> None:
    before = tree(tmp_path)
    source = make_tree(tmp_path / "source", {"secret": b"overwritten"})
    calls: list[Callable[[], object]] = [
        lambda: guarded.read_bytes(path),
        lambda: guarded.write_bytes(path, b"overwritten"),
        lambda: guarded.upload(source, path),
        lambda: guarded.upload(source / "secret", path),
        lambda: guarded.download(path, tmp_path / "copy"),
        lambda: guarded.list(path),
        lambda: guarded.exists(path),
    ]
    for call in calls:
        with pytest.raises(VolumePathError, match="leads out of the volume"):
            call()
    shutil.rmtree(source)
    assert tree(tmp_path) == before


def test_a_link_that_leaves_is_listed_and_removed_as_itself(guarded: DirectoryVolume, tmp_path: Path) -> None:
    entry = next(e for e in guarded.list() if e.path == "out")
    assert not entry.is_dir
    assert not [e.path for e in guarded.list(recursive=True) if "secret" in e.path]
    for name in ["out", "out-abs-file", "a/out-deep", "nowhere", "self"]:
        guarded.remove(name)
        assert not (guarded.root / name).is_symlink()
    assert tree(tmp_path / "outside") == {"secret": b"secret", "d": None, "d/secret": b"secret too"}


@pytest.mark.parametrize("link", ["out", "out-file", "proc", "nowhere", "self"])
def test_a_tree_with_a_bad_link_is_not_downloaded_at_all(
    guarded: DirectoryVolume, tmp_path: Path, link: str
) -> None:
    (guarded.root / "a" / "b" / "zz").symlink_to(guarded.root / link)
    for target in [tmp_path / "copy", make_tree(tmp_path / "mine", {"f": b"mine"})]:
        before = tree(target)
        with pytest.raises((VolumePathError, OSError)):
            guarded.download("a/b", target)
        assert tree(target) == before
    assert not (tmp_path / "copy").exists()


def test_a_link_to_a_directory_around_it_ends(volume: DirectoryVolume, tmp_path: Path) -> None:
    volume.write_bytes("a/b/f", b"1")
    volume.write_bytes("c/f", b"1")
    (volume.root / "a" / "b" / "up").symlink_to("../..")
    (volume.root / "c" / "to-a").symlink_to("../a")
    (volume.root / "a" / "to-c").symlink_to("../c")
    listed = volume.list(recursive=True)
    assert len(listed) < 30
    assert not next(e for e in listed if e.path == "a/b/up").is_dir
    with pytest.raises(IsADirectoryError, match="a/b/up"):
        volume.download("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


WORDS = "..,.,,a,b,f,out,out-file,out-abs,in,in-abs,up,secret,volume,outside,~,\\,C:,\0,d,proc,self,nowhere,%2e%2e,．．"
segment = st.sampled_from([*WORDS.split(","), RESERVED, "..\u200b", "a" * 300]) | st.text(max_size=3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.lists(segment, max_size=7).map("/".join),
    lead=st.sampled_from(["", "/", "//", "./", "../"]),
    end=st.booleans(),
)
def test_no_path_reaches_outside(guarded: DirectoryVolume, path: str, lead: str, end: bool) -> None:
    path = lead + path + "/" * end
    outside = guarded.root.parent / "outside"
    before = tree(outside)
    beside = sorted(guarded.root.parent.iterdir())

    def listed_from_outside() -> bytes:
        places = [
            (guarded.root / entry.path).parent.resolve() for entry in guarded.list(path, recursive=True)
        ]
        return b"" if all(place.is_relative_to(guarded.root.resolve()) for place in places) else b"secret"

    for call in (
        lambda: guarded.read_bytes(path),
        listed_from_outside,
        lambda: str(guarded.exists(path)).encode(),
        lambda: guarded.write_bytes(path, b"fine"),
        lambda: guarded.remove(path),
    ):
        try:
            assert not (call() or b"").startswith(b"secret")
        except (VolumePathError, OSError) as exc:
            assert "secret too" not in str(exc)  # noqa: PT017
    assert tree(outside) == before
    assert sorted(guarded.root.parent.iterdir()) == beside


SWAP = """
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None).renameat2
AT_FDCWD, RENAME_EXCHANGE = -100, 2
print("swapping", flush=True)
while os.getppid() == int(sys.argv[2]):
    assert exchange(AT_FDCWD, b"real", AT_FDCWD, b"link", RENAME_EXCHANGE) == 0
    assert exchange(AT_FDCWD, b"file", AT_FDCWD, b"file-link", RENAME_EXCHANGE) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="exchanging two names in one step is Linux's renameat2")
def test_exchanging_a_directory_for_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    """Checking first and opening afterwards would be caught by this within a few hundred rounds."""
    outside = make_tree(tmp_path / "outside", {"f": b"secret"})
    volume = DirectoryVolume(make_tree(tmp_path / "volume", {"real/f": b"fine", "file": b"fine"}))
    (volume.root / "link").symlink_to(outside)
    (volume.root / "file-link").symlink_to(outside / "f")
    calls: list[Callable[[], object]] = [
        lambda: volume.read_bytes("file"),
        lambda: volume.read_bytes("real/f"),
        lambda: volume.write_bytes("real/f", b"fine"),
        lambda: volume.write_bytes("real/new", b"fine"),
        lambda: volume.remove("real/new"),
    ]
    seen: Counter[str] = Counter()
    command = [sys.executable, "-c", SWAP, str(volume.root), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            child.stdout.readline()
            until = time.monotonic() + 3
            while time.monotonic() < until:
                for call in calls:
                    try:
                        assert call() in (b"fine", None)
                        seen["done"] += 1
                    except (VolumePathError, OSError) as exc:
                        seen[type(exc).__name__] += 1
        finally:
            child.kill()
    assert tree(outside) == {"f": b"secret"}
    assert seen["done"] > 10
    assert seen["VolumePathError"] > 10


def test_a_server_cannot_choose_where_a_download_goes(tmp_path: Path) -> None:
    class Hostile(DictVolume):
        name = ""

        def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
            yield VolumeEntry(self.name, 1, False, 0.0)

    volume = Hostile()
    volume.write_bytes("d/f", b"1")
    for Hostile.name in ["../x", "d/../../x", str(tmp_path / "x"), "other/x"]:
        with pytest.raises(VolumePathError, match="not inside of 'd'"):
            volume.download("d", tmp_path / "copy")
        assert not list(tmp_path.iterdir())


# --- VOL-06: whole or not at all ------------------------------------------------------------------------------------

UPLOAD = """
import sys
from mini.volume import DirectoryVolume
DirectoryVolume(sys.argv[1]).upload(sys.argv[2], "x/big")
"""

DOWNLOAD = """
import sys
from mini.volume import DirectoryVolume
DirectoryVolume(sys.argv[2]).download("", sys.argv[1] + "/x/big")
"""


def staged_bytes(place: Path) -> int:
    """How much of a file named "big" lies on the stages in a directory."""
    total = 0
    with suppress(FileNotFoundError):
        for stage in place.glob(f"{RESERVED}*"):
            for file in stage.rglob("*"):
                with suppress(FileNotFoundError):
                    total += file.stat().st_size if file.is_file() else 0
    return total


@pytest.mark.parametrize(("script", "stages"), [(UPLOAD, "place"), (DOWNLOAD, "place/x")])
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_a_killed_transfer_is_not_seen(tmp_path: Path, script: str, stages: str, kind: str) -> None:
    """Kills a process in the middle of a copy, which the growing file on its stage gives away."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a-small").write_bytes(b"1")
    with (source / "big").open("wb") as file:
        file.truncate(8 << 30)  # takes no room here, and long to copy
    what = source if kind == "tree" or script is DOWNLOAD else source / "big"
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "place"), str(what)])
    try:
        while staged_bytes(tmp_path / stages) < 2:
            assert child.poll() is None, "it ended before it was seen at work"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    place = DirectoryVolume(tmp_path / "place")
    assert not place.exists("x/big")
    assert [e.path for e in place.list(recursive=True)] in ([], ["x"])
    left = list((tmp_path / stages).glob(f"{RESERVED}*"))
    assert len(left) == 1

    # It is swept away once it is old. A process sweeps a place when it first writes there.
    place = DirectoryVolume(tmp_path / stages)
    old = time.time() - STALE - 60
    os.utime(left[0], (old, old))
    place.write_bytes("x", b"1")
    assert not left[0].exists()


def test_young_leftovers_stay(volume: DirectoryVolume) -> None:
    """They may be another process's work in progress."""
    young = make_tree(volume.root / f"{RESERVED}young", {"whole": b"1"})
    volume.write_bytes("x", b"1")
    assert young.exists()
    assert volume.list(recursive=True) == volume.list("x")
    assert (volume.root / RESERVED).parent.exists()


def test_a_failed_transfer_changes_nothing(volume: DirectoryVolume, tmp_path: Path) -> None:
    class Breaks(DirectoryVolume):
        def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
            file.write(b"half")
            if path.name == "c":
                raise ConnectionResetError(errno.ECONNRESET, "the line went dead")

    volume.upload(make_tree(tmp_path / "source", {"a": b"1", "b/c": b"2"}), "x")
    target = make_tree(tmp_path / "target", {"a": b"mine"})
    for place in (target, tmp_path / "none"):
        with pytest.raises(ConnectionResetError, match="x/b/c"):
            Breaks(volume.root).download("x", place)
    assert tree(target) == {"a": b"mine"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target", "volume"]


WRITERS = """
import sys
from mini.volume import DirectoryVolume
volume, source = DirectoryVolume(sys.argv[1]), sys.argv[2]
for _ in range(10):
    volume.upload(source + "/file", "file")
    volume.upload(source, "tree")
"""


def test_of_two_uploads_of_one_name_one_wins_whole(volume: DirectoryVolume, tmp_path: Path) -> None:
    writers = []
    for letter in b"abc":
        source = make_tree(tmp_path / chr(letter), {f"d/{i}": bytes([letter]) * 9 for i in range(50)})
        (source / "file").write_bytes(bytes([letter]) * 300_000)
        writers.append(subprocess.Popen([sys.executable, "-c", WRITERS, str(volume.root), str(source)]))
    reads = 0
    while any(writer.poll() is None for writer in writers):
        with suppress(FileNotFoundError):
            content = volume.read_bytes("file")
            assert len(content) == 300_000
            assert len(set(content)) == 1
            reads += 1
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert reads > 0
    final = {content[:1] for content in tree(volume.root / "tree").values() if content}
    assert len(final) == 1, "the tree is a mixture of two uploads"
    assert {e.path for e in volume.list()} == {"file", "tree"}
    assert len(list(volume.root.iterdir())) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc/locks tells who waits for a lock")
def test_merges_take_turns(volume: DirectoryVolume, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"1", "b": b"1"})
    volume.upload(source, "tree")
    with ThreadPoolExecutor(1) as pool:
        fd = os.open(volume.root, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # as another upload that is at its merge
            mine = f":{os.fstat(fd).st_ino} "
            (source / "a").write_bytes(b"2")
            upload = pool.submit(volume.upload, source, "tree")
            while not any(
                "-> FLOCK" in line and mine in line for line in Path("/proc/locks").read_text().splitlines()
            ):
                assert not upload.done()
            assert volume.read_bytes("tree/a") == b"1"
        finally:
            os.close(fd)
        upload.result()
    assert volume.read_bytes("tree/a") == b"2"


def test_work_in_progress_shows_signs_of_life(tmp_path: Path) -> None:
    """The leftovers that are swept away are told by the age of these."""
    (tmp_path / "source").write_bytes(b"1" * 100)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        with staging(parent) as stage:
            (place,) = tmp_path.glob(f"{RESERVED}*")
            with stage.add_file(PurePosixPath()) as file:
                for write in (lambda: file.write(b"1"), lambda: copy(source, file)):
                    os.utime(place, (1, 1))
                    write()
                    assert place.stat().st_mtime > time.time() - 60
    finally:
        os.close(parent)
        os.close(source)


def in_namespace(script: str, *args: object) -> str:
    """Run a Python script that may mount; skip where the system does not let us."""
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            subprocess.run(
                [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        command = [*unshare, sys.executable, "-c", script, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    pytest.skip("mounting a small file system needs root, or user namespaces")


FULL = """
import subprocess, sys, os
from pathlib import Path
from mini.volume import DirectoryVolume
place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100", "tmpfs", place], check=True)
volume = DirectoryVolume(place / "v")
volume.write_bytes("kept", b"1")
source = place.parent / "source"
(source / "d").mkdir(parents=True)
(source / "d" / "small").write_bytes(b"1")
(source / "d" / "big").write_bytes(bytes(3 << 20))
many = place.parent / "many"
many.mkdir()
for i in range(200):
    (many / str(i)).write_bytes(b"")
away = DirectoryVolume(source)
for name, call in {
    "bytes": lambda: volume.write_bytes("x/y", bytes(2 << 20)),
    "kept": lambda: volume.write_bytes("kept", bytes(2 << 20)),
    "file": lambda: volume.upload(source / "d" / "big", "x/y"),
    "tree": lambda: volume.upload(source, "x/y"),
    "inodes": lambda: volume.upload(many, "x/y"),
    "merge": lambda: volume.upload(source, ""),
    "out": lambda: away.download("d", place / "v" / "out"),
}.items():
    try:
        call()
    except OSError as exc:
        print(name, exc, sep="|")
    assert [p.name for p in (place / "v").rglob("*")] == ["kept"], list((place / "v").rglob("*"))
    assert volume.read_bytes("kept") == b"1"
volume.write_bytes("x/y", bytes(900_000))
volume.remove("x")
"""


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    messages = dict(line.split("|") for line in in_namespace(FULL, tmp_path / "small").splitlines())
    assert list(messages) == ["bytes", "kept", "file", "tree", "inodes", "merge", "out"]
    for name, message in messages.items():
        assert message.startswith(f"[Errno {errno.ENOSPC}]")
        assert str(tmp_path / "small") in message
        assert "no half-written file is left: make room there, or choose" in message
        assert ("another data_dir" in message) == (name != "out")


READ_ONLY = """
import subprocess, sys
from mini.volume import DirectoryVolume
place, source = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
DirectoryVolume(place).write_bytes("a", b"1")
subprocess.run(["mount", "-o", "remount,ro", place], check=True)
for volume in (DirectoryVolume(place), DirectoryVolume(place + "/new")):
    for call in (lambda: volume.write_bytes("b", b"2"), lambda: volume.upload(source, "b")):
        try:
            call()
        except OSError as exc:
            print(exc)
try:
    DirectoryVolume(place).remove("a")
except OSError as exc:
    print(exc)
assert DirectoryVolume(place).read_bytes("a") == b"1"
"""


def test_a_read_only_volume_says_so(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    lines = in_namespace(READ_ONLY, tmp_path / "place", __file__).splitlines()
    assert len(lines) == 5
    for line in lines:
        assert line.startswith(f"[Errno {errno.EROFS}]")
        assert f"in the volume {tmp_path / 'place'}" in line
        assert "make it writable for this user, or choose another data_dir" in line


def test_another_file_system_inside_is_explained(tmp_path: Path) -> None:
    script = """
import subprocess, sys
from pathlib import Path
from mini.volume import DirectoryVolume
place = Path(sys.argv[1])
(place / "mounted").mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "mounted"], check=True)
try:
    DirectoryVolume(place).write_bytes("mounted/x", b"1")
except OSError as exc:
    print(exc)
assert not list((place / "mounted").iterdir())
"""
    assert "another file system is mounted inside of it" in in_namespace(script, tmp_path / "place")


# --- VOL-07: the asynchronous twins ---------------------------------------------------------------------------------


def test_every_method_has_its_twin(any_volume: Volume, tmp_path: Path) -> None:
    async def use() -> None:
        await any_volume.awrite_bytes("a/b", b"1")
        assert await any_volume.aread_bytes("a/b") == b"1"
        assert await any_volume.aexists("a/b")
        await any_volume.aupload(make_tree(tmp_path / "source", {"f": b"2"}), "c")
        await any_volume.adownload("c", tmp_path / "copy")
        assert tree(tmp_path / "copy") == {"f": b"2"}
        await any_volume.aremove("a")
        assert [e.path for e in await any_volume.alist(recursive=True)] == ["c", "c/f"]
        with pytest.raises(FileNotFoundError):
            await any_volume.aread_bytes("a/b")

    asyncio.run(use())
    methods = {"read_bytes", "write_bytes", "upload", "download", "list", "exists", "remove"}
    assert {name for name in vars(Volume) if not name.startswith("_")} - methods - {"label"} == {
        f"a{m}" for m in methods
    }


class Slow(DirectoryVolume):
    """A volume whose reads wait in the middle of a file until they are let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.go = threading.Event(), threading.Event()

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        file.write(b"half")
        self.reached.set()
        self.go.wait()
        file.write(b"the rest")


@pytest.mark.parametrize("cancel_again", [False, True])
def test_a_cancelled_transfer_is_over_and_not_seen(tmp_path: Path, cancel_again: bool) -> None:
    volume = Slow(tmp_path / "volume")
    volume.write_bytes("f", b"1")

    async def use() -> None:
        transfer = asyncio.create_task(volume.adownload("f", tmp_path / "copy"))
        await asyncio.to_thread(volume.reached.wait)
        transfer.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
            if cancel_again:
                transfer.cancel()
        assert not transfer.done(), "its thread is still at work"
        volume.go.set()
        with pytest.raises(asyncio.CancelledError):
            await transfer

    asyncio.run(use())
    assert [p.name for p in tmp_path.iterdir()] == ["volume"]


def test_a_cancelled_upload_does_not_copy_on(volume: DirectoryVolume, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(8 << 30)
    volume.write_bytes("kept", b"1")

    def wait_for_bytes() -> None:
        while not staged_bytes(volume.root):
            pass

    async def use() -> None:
        transfer = asyncio.create_task(volume.aupload(tmp_path / "big", "big"))
        await asyncio.to_thread(wait_for_bytes)
        transfer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transfer
        assert [path.name for path in volume.root.iterdir()] == ["kept"]

    began = time.monotonic()
    asyncio.run(use())
    assert time.monotonic() - began < 5, "8 GiB take longer than that"


class SlowToStop(Slow):
    """One whose reads go on when they are asked to stop, and not before."""

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        file.write(b"half")
        self.reached.set()
        with suppress(Stopped):
            pause(60)
        file.write(b"the rest")


def test_a_loop_that_ends_with_a_transfer_leaves_no_thread(tmp_path: Path) -> None:
    volume = SlowToStop(tmp_path / "volume")
    volume.write_bytes("f", b"1")
    before = threading.active_count()

    async def use() -> None:
        waiting = asyncio.create_task(volume.adownload("f", tmp_path / "copy"))
        await asyncio.to_thread(volume.reached.wait)
        assert not waiting.done()

    asyncio.run(use())
    assert threading.active_count() == before
    assert [p.name for p in tmp_path.iterdir()] == ["volume"]


def test_many_threads_share_one_volume(volume: DirectoryVolume) -> None:
    def work(i: int) -> bytes:
        volume.write_bytes(f"d{i % 3}/{i}", b"%d" % i)
        volume.write_bytes("shared", b"%d" % i)
        assert volume.read_bytes("shared").isdigit()
        return volume.read_bytes(f"d{i % 3}/{i}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == [b"%d" % i for i in range(200)]
    assert len(volume.list(recursive=True)) == 204


def test_no_descriptors_are_left(guarded: DirectoryVolume, tmp_path: Path) -> None:
    def use() -> None:
        for path in ["in/f", "out/x", "a/none", "h/x", "self", "../x", "in-abs"]:
            for call in (
                guarded.read_bytes,
                guarded.list,
                guarded.exists,
                lambda p: guarded.write_bytes(p + "/n", b"1"),
            ):
                with suppress(MiniError, OSError):
                    call(path)
        with suppress(MiniError):
            guarded.download("a", tmp_path / "copy")
        guarded.upload(guarded.root / "a" / "b", "copy")

    use()
    before = len(list(Path("/dev/fd").iterdir()))
    use()
    assert len(list(Path("/dev/fd").iterdir())) == before


# --- all of it against a model --------------------------------------------------------------------------------------

name = st.sampled_from(["a", "b", "c"])
some_path = st.lists(name, min_size=1, max_size=3).map("/".join)
content = st.binary(max_size=4)
small_tree = st.dictionaries(some_path, content, max_size=4)


class VolumeMachine(RuleBasedStateMachine):
    """The volume against a dict of paths: None for a directory, bytes for a file."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.scratch = Path(tempfile.mkdtemp(prefix="mini-volume-"))
        self.volume = DirectoryVolume(self.scratch / "volume")
        self.model: dict[str, bytes | None] = {}
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    def add(self, model: dict[str, bytes | None], path: str, what: bytes | None) -> bool:
        """Put something into a model; False, with the model half changed, if a file and a directory clash."""
        parts = path.split("/")
        for i in range(1, len(parts)):
            if model.setdefault("/".join(parts[:i]), None) is not None:
                return False
        if path in model and (model[path] is None) != (what is None):
            return False
        model[path] = what
        return True

    def local(self, files: dict[str, bytes]) -> tuple[Path, dict[str, bytes | None]] | None:
        """A tree of the caller's, unless the names clash."""
        plan: dict[str, bytes | None] = {}
        if not all(self.add(plan, path, data) for path, data in files.items()):
            return None
        self.count += 1
        root = self.scratch / f"source{self.count}"
        root.mkdir()
        make_tree(root, files)
        return root, plan

    @rule(path=some_path, data=content)
    def write(self, path: str, data: bytes) -> None:
        model = dict(self.model)
        if self.add(model, path, data):
            self.volume.write_bytes(path, data)
            self.model = model
        else:
            with pytest.raises((IsADirectoryError, NotADirectoryError)):
                self.volume.write_bytes(path, data)

    @rule(files=small_tree, path=some_path | st.just(""))
    def upload(self, files: dict[str, bytes], path: str) -> None:
        made = self.local(files)
        if made is None:
            return
        source, plan = made
        model = dict(self.model)
        fits = not path or self.add(model, path, None)
        fits = fits and all(self.add(model, f"{path}/{p}".strip("/"), data) for p, data in plan.items())
        if fits:
            self.volume.upload(source, path)
            self.model = model
        else:
            with pytest.raises((IsADirectoryError, NotADirectoryError)):
                self.volume.upload(source, path)

    @rule(path=some_path)
    def remove(self, path: str) -> None:
        if path in self.model:
            self.volume.remove(path)
            self.model = {p: c for p, c in self.model.items() if p != path and not p.startswith(path + "/")}
        else:
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                self.volume.remove(path)

    @rule(path=some_path)
    def read(self, path: str) -> None:
        assert self.volume.exists(path) == (path in self.model)
        data = self.model.get(path)
        if data is not None:
            assert self.volume.read_bytes(path) == data
        else:
            with pytest.raises((FileNotFoundError, IsADirectoryError)):
                self.volume.read_bytes(path)

    @rule(path=some_path | st.just(""), files=small_tree)
    def download(self, path: str, files: dict[str, bytes]) -> None:
        made = self.local(files)
        if made is None or (path and self.model.get(path, b"") is not None):
            return
        target, merged = made
        below = {
            p.removeprefix(path).strip("/"): c
            for p, c in self.model.items()
            if p.startswith(f"{path}/" if path else "")
        }
        before = tree(target)
        if all(self.add(merged, p, c) for p, c in below.items()):
            self.volume.download(path, target)
            assert tree(target) == merged
        else:
            with pytest.raises((IsADirectoryError, NotADirectoryError)):
                self.volume.download(path, target)
            assert tree(target) == before

    @invariant()
    @precondition(lambda self: self.volume.root.exists())
    def lists_all(self) -> None:
        assert {e.path: e.is_dir for e in self.volume.list(recursive=True)} == {
            p: c is None for p, c in self.model.items()
        }
        assert tree(self.volume.root) == self.model


TestVolumeMachine = VolumeMachine.TestCase
TestVolumeMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
