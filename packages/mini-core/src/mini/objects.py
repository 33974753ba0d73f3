"""Volumes in object storage: the files of a volume are the objects whose names begin with the volume's own.

`ObjectVolume` is the caller's side of one. For calls, a worker's host keeps a copy of it in a directory: a `Mirror`,
which brings over what has changed, before a group and after it; a `Doorkeeper` sees to that only if calls ask for the
directory. The store is a file system in fsspec's sense, which an adapter opens: nothing here imports fsspec.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from .context import DATA_DIR_GATE, DATA_DIR_PLACE
from .errors import MiniError, VolumePathError
from .staging import HERE, RESERVED, Source
from .twins import Stopped, check_stopped
from .volume import Volume, VolumeEntry, clean_path

__all__ = ["Doorkeeper", "Mirror", "ObjectVolume", "Store"]

T = TypeVar("T")

EMPTY = RESERVED + "empty"
"""The name of an object that stands for the directory that it is in: stores have none without files."""
ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "cos"})
"""Protocols of stores in which an object appears whole or not at all, and directories are but parts of names."""
THREADS = 16
TRIES = 5
KEEP_SECONDS = 30 * 24 * 3600
"""For how long a copy is kept that nobody uses."""
LONGEST_SOCKET = 100
"""Bytes of the path of a Unix socket."""


# --- the store ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Have all that a store raises be an OSError with a number."""
    try:
        yield
    except (MiniError, Stopped):
        raise
    except OSError as exc:
        if exc.errno is not None:
            raise
        number = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}.get(type(exc), errno.EIO)
        raise OSError(number, str(exc)) from exc
    except Exception as exc:
        raise OSError(errno.EIO, f"{type(exc).__name__}: {exc}") from exc


class _Progress:
    """Told by fsspec how far a transfer is, in a thread of its own; ends it if nobody wants it any more."""

    def __init__(self) -> None:
        self._context = copy_context()

    def set_size(self, size: int | None) -> None:
        self._context.run(check_stopped)

    def relative_update(self, inc: int = 1) -> None:
        self._context.run(check_stopped)

    absolute_update = relative_update


class Store:
    """The objects of one volume, by their paths in it. Making one reaches nothing, and it can be pickled.

    Args:
        url: of the volume; messages call it so.
        open: given the URL, returns a file system in fsspec's sense, and the name of the volume in it. Listings must
            not be cached. Picklable.
    """

    def __init__(self, url: str, open: Callable[[str], tuple[Any, str]]) -> None:
        self.url = url
        self._open = open
        self._opened: tuple[Any, str] | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.url, self._open))

    def _there(self) -> tuple[Any, str]:
        with self._opening:
            if self._opened is None:
                files, root = self._open(self.url)
                self._opened = files, root.rstrip("/")
            return self._opened

    @property
    def files(self) -> Any:
        return self._there()[0]

    def key(self, path: str | PurePosixPath) -> str:
        root = self._there()[1]
        return root if str(path) in {"", "."} else f"{root}/{path}"

    @property
    def atomic(self) -> bool:
        protocol = self.files.protocol
        return not ATOMIC.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def each(self, do: Callable[[str], T], paths: Iterable[str]) -> list[T]:
        """Do something with each path, several at a time if the store can."""
        if not self.files.async_impl:
            return [do(path) for path in paths]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="mini-objects") as threads:
            started = [threads.submit(copy_context().run, do, path) for path in paths]
            try:
                return [each.result() for each in started]
            except BaseException:
                for each in started:
                    each.cancel()
                raise

    def info(self, path: str | PurePosixPath) -> dict[str, Any] | None:
        """What the store says of a file or directory, or None if nothing is there."""
        try:
            info: dict[str, Any] = self.files.info(self.key(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info

    def find(self, path: str | PurePosixPath = "") -> dict[str, dict[str, Any]]:
        """All files below a directory by their paths in the volume, and `EMPTY` in those that are empty.

        What others have put there under a name that no volume has is left out.
        """
        top, root = self.key(path), self.key("")
        try:
            found = self.files.find(top, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            name[len(root) + 1 :]: info
            for name, info in found.items()
            if name.startswith(f"{top}/") and info["type"] == "file" and _is_ours(name[len(root) + 1 :])
        }

    def put(self, path: str | PurePosixPath, content: Path | bytes) -> None:
        """Make a file, whole or not at all."""
        key = target = self.key(path)
        if not self.atomic:
            parent = key.rpartition("/")[0]
            self.files.makedirs(parent, exist_ok=True)
            target = f"{parent}/{RESERVED}{os.urandom(8).hex()}"
        try:
            if isinstance(content, bytes):
                self.files.pipe_file(target, content)
            else:
                self.files.put_file(str(content), target, callback=_Progress())
            if target != key:
                self.files.mv(target, key)
        except BaseException:
            if target != key:
                with contextlib.suppress(Exception):
                    self.files.rm_file(target)
            raise

    def get(self, path: str | PurePosixPath, signature: str, fetch: Callable[[str], None]) -> str:
        """Have `fetch` read a file that had this signature, again if it changes meanwhile; returns the last one."""
        key = self.key(path)
        for _ in range(TRIES):
            before = signature
            try:
                fetch(key)
            except OSError as exc:
                if exc.errno != errno.EBUSY:  # s3fs has seen that it has changed
                    raise
                before = ""
            signature = _signature(self.files.info(key))
            if signature == before:
                return signature
        raise OSError(errno.EBUSY, "It is written again and again while it is read")

    def remove(self, path: str | PurePosixPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.key(path))


def _is_mark(path: str) -> bool:
    return path.rpartition("/")[2] == EMPTY


def _is_ours(path: str) -> bool:
    head, _, name = path.rpartition("/")
    try:
        clean_path(head if name == EMPTY else path)
    except VolumePathError:
        return False
    return bool(name) and path != EMPTY


def _signature(info: Mapping[str, Any]) -> str:
    """What is another one when the content is another one."""
    tag = (
        info.get("ETag") or info.get("etag") or info.get("generation") or f"{_mtime(info)} {info.get('ino')}"
    )
    return f"{info['size']} {tag}".replace('"', "")


def _mtime(info: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


# --- the caller's side ----------------------------------------------------------------------------------------------


class ObjectVolume(Volume):
    """A volume in a store. Files keep no right to be run, and have the time of their upload.

    A file appears whole; those of a tree one after the other. A directory without files goes, unless it was uploaded,
    or left by a call, as an empty one.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def label(self) -> str:
        return self.store.url

    def _stat(self, path: PurePosixPath) -> VolumeEntry | None:
        if path == HERE:
            return VolumeEntry(".", 0, True, 0.0)
        with _telling():
            info = self.store.info(path)
        return None if info is None else _entry(str(path), info)

    def _scan(self, path: PurePosixPath, *, recursive: bool) -> Iterable[VolumeEntry]:
        with _telling():
            if not recursive:
                return self._children(path)
            found = self.store.find(path)
        entries = {}
        for name, info in found.items():
            for parent in PurePosixPath(name).parents:
                if parent == path:
                    break
                entries[str(parent)] = VolumeEntry(str(parent), 0, True, 0.0)
            if not _is_mark(name):
                entries[name] = _entry(name, info)
        return entries.values()

    def _children(self, path: PurePosixPath) -> list[VolumeEntry]:
        try:
            found = self.store.files.ls(self.store.key(path), detail=True)
        except FileNotFoundError:  # a volume that nobody has written to
            return []
        root = self.store.key("")
        named = [(info["name"].rstrip("/")[len(root) + 1 :], info) for info in found]
        return [
            _entry(name, info)
            for name, info in named
            if _is_ours(name) and not _is_mark(name) and PurePosixPath(name).parent == path
        ]

    def _fetch(self, path: PurePosixPath, file: BinaryIO) -> None:
        def fetch(key: str) -> None:
            file.seek(0)
            file.truncate()
            with self.store.files.open(key, "rb") as source:
                while piece := source.read(1 << 22):
                    check_stopped()
                    file.write(piece)

        with _telling():
            self.store.get(path, _signature(self.store.files.info(self.store.key(path))), fetch)

    def _put(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        with _telling():
            self._refuse_clashes(path, sources)
            parents = {source.relative.parent for source in sources if source.relative != HERE}
            contents: dict[str, Path | bytes] = {}
            for source in sources:
                if source.content is not None:
                    contents[str(path / source.relative)] = source.content
                elif source.relative not in parents and path / source.relative != HERE:
                    contents[str(path / source.relative / EMPTY)] = b""
            for content in contents.values():  # all of them can be read, before any is there
                if isinstance(content, Path):
                    with content.open("rb"):
                        pass
            self.store.each(lambda name: self.store.put(name, contents[name]), contents)

    def _refuse_clashes(self, path: PurePosixPath, sources: Sequence[Source]) -> None:
        """Stores would have a file and a directory of one name."""
        for parent in path.parents:
            info = self.store.info(parent) if parent != HERE else None
            if info is not None and info["type"] == "file":
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if len(sources) == 1:
            return  # `_check_target` has looked
        files = set(self.store.find(path))
        directories = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        for source in sources:
            name = str(path / source.relative)
            if source.content is None and name in files:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if source.content is not None and name in directories:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _delete(self, path: PurePosixPath) -> None:
        with _telling():
            store = self.store
            info = store.info(path)
            if info is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if info["type"] == "file":
                store.remove(path)
                return
            found = store.files.find(store.key(path), withdirs=not store.atomic, detail=True)
            store.each(
                lambda name: store.files.rm_file(name), [n for n in found if found[n]["type"] == "file"]
            )
            if not store.atomic:
                for name in sorted((n for n in found if found[n]["type"] != "file"), reverse=True):
                    store.files.rmdir(name)
                with contextlib.suppress(FileNotFoundError):
                    store.files.rmdir(store.key(path))


def _entry(path: str, info: Mapping[str, Any]) -> VolumeEntry:
    is_dir = info["type"] == "directory"
    return VolumeEntry(path, 0 if is_dir else int(info["size"]), is_dir, 0.0 if is_dir else _mtime(info))


# --- the worker's side ----------------------------------------------------------------------------------------------


class Mirror:
    """A copy of a volume in a directory, in which calls write. Only what has changed is brought over, either way.

    Of two copies in which the same file is written at once, the last to be brought over wins. Links to files in the
    volume become files; other links, and names that no volume has, are not brought over.

    Args:
        store: of the volume.
        directory: for the copy, in `files`, and what is known of it; nobody else's. What is there is used again.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self.files = directory / "files"
        self._store = store
        self._manifest = directory / "manifest.json"
        self._stage = directory / "new"
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}
        """What copy and store have alike: by path, the signatures of the file here and there."""
        self.files.mkdir(parents=True, exist_ok=True)
        self._inode = self.files.stat().st_ino
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir()
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(self._manifest.read_text())
        # What was not brought over, because of a worker that was killed, counts as never written.
        local = self._scan()
        for path, signature in local.items():
            if self._known.get(path, [""])[0] != signature:
                self._discard(path)
        self._known = {path: known for path, known in self._known.items() if known[0] == local.get(path)}

    def download(self) -> None:
        """Bring over what has changed in the store. What has changed here is newer, and stays."""
        with self._lock, _telling():
            remote = self._store.find()
            local = self._local()
            for path in [path for path in self._known if path not in remote]:
                here, _ = self._known.pop(path)
                if local.get(path) == here:
                    self._discard(path)
                    del local[path]
            wanted = []
            for path, info in remote.items():
                known = self._known.get(path)
                if known is None:
                    changed = path not in local
                else:
                    changed = local.get(path) == known[0] and _signature(info) != known[1]
                if changed:
                    wanted.append(path)
            fetched = self._store.each(lambda path: self._fetch(path, _signature(remote[path])), wanted)
            for path, known in zip(wanted, fetched, strict=True):
                if known:
                    self._known[path] = known
            self._save()

    def upload(self) -> None:
        """Bring over what has changed here."""
        with self._lock, _telling():
            local = self._local()
            changed = [path for path in local if self._known.get(path, [""])[0] != local[path]]
            removed = [path for path in self._known if path not in local]
            if not changed and not removed:
                return
            for path, signature in zip(changed, self._store.each(self._send, changed), strict=True):
                if signature is not None:
                    self._known[path] = [local[path], signature]
            self._store.each(self._store.remove, removed)
            for path in removed:
                del self._known[path]
            self._save()

    def _local(self) -> dict[str, str]:
        """As `_scan`. If somebody has removed the copy, the volume is not to be emptied for that."""
        self.files.mkdir(parents=True, exist_ok=True)
        if self.files.stat().st_ino != self._inode:
            self._inode = self.files.stat().st_ino
            self._known.clear()
        self._stage.mkdir(exist_ok=True)
        return self._scan()

    def _scan(self) -> dict[str, str]:
        """The signatures of all files of the copy, and of `EMPTY` in directories that are empty."""
        found = {}
        root = os.path.realpath(self.files)
        for directory, directories, names in os.walk(root):
            relative = PurePosixPath(os.path.relpath(directory, root))
            if not directories and not names and relative != HERE:
                found[str(relative / EMPTY)] = EMPTY
            for name in names:
                path = os.path.join(directory, name)  # noqa: PTH118
                with contextlib.suppress(OSError):
                    if os.path.islink(path) and not os.path.realpath(path).startswith(f"{root}/"):  # noqa: PTH114
                        continue
                    status = os.stat(path)  # noqa: PTH116
                    if stat.S_ISREG(status.st_mode):
                        found[str(relative / name)] = _stamp(status)
        return {path: signature for path, signature in found.items() if _is_ours(path)}

    def _discard(self, path: str) -> None:
        """Remove a file of the copy, and the directories that are empty without it."""
        here = self.files / path
        with contextlib.suppress(FileNotFoundError):
            if here.name != EMPTY:
                here.unlink()
        for parent in here.parents:
            if parent == self.files:
                break
            try:
                parent.rmdir()
            except OSError:
                break

    def _fetch(self, path: str, signature: str) -> list[str] | None:
        """Bring a file here; returns its signatures, or None if it has gone or something is in its way."""
        here = self.files / path
        with contextlib.suppress(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            if not here.parent.resolve().is_relative_to(self.files.resolve()):  # a call has made a link
                return None
            here.parent.mkdir(parents=True, exist_ok=True)
            if here.name == EMPTY:
                return [EMPTY, ""]
            new = self._stage / os.urandom(8).hex()
            try:
                there = self._store.get(
                    path, signature, lambda key: self._store.files.get_file(key, str(new))
                )
                new.replace(here)
            finally:
                new.unlink(missing_ok=True)
            return [_stamp(here.stat()), there]
        return None

    def _send(self, path: str) -> str | None:
        """Bring a file to the store; returns its signature there, or None if it has gone."""
        if _is_mark(path):
            self._store.put(path, b"")
            return ""
        here = self.files / path
        try:
            self._store.put(path, here)
            info = self._store.info(path)
            if info is None or info["size"] != here.stat().st_size:
                return ""  # it is somebody else's already, and will be fetched
            tag = str(info.get("ETag", "")).strip('"')
            if re.fullmatch("[0-9a-f]{32}", tag):
                with here.open("rb") as file:
                    if hashlib.file_digest(file, "md5").hexdigest() != tag:
                        return ""
        except FileNotFoundError:
            if here.exists():
                raise
            return None
        return _signature(info)

    def _save(self) -> None:
        new = self._manifest.with_suffix(".new")
        new.write_text(json.dumps(self._known))
        new.replace(self._manifest)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


class Doorkeeper:
    """Has a volume's copy up to date while calls use it; it costs nothing until one asks for its data directory.

    Args:
        store: of the volume.
        cache: where this machine keeps copies of volumes, one for each worker.

    Attributes:
        env: variables for the processes in which calls run.
    """

    def __init__(self, store: Store, cache: Path) -> None:
        self._store = store
        self._directory, self._lock = _claim(cache, hashlib.sha256(store.url.encode()).hexdigest()[:16])
        self._mirror: Mirror | None = None
        self._turn = threading.Lock()
        self._door = socket.socket(socket.AF_UNIX)
        gate = self._directory / "gate"
        if len(os.fsencode(gate)) <= LONGEST_SOCKET:
            gate.unlink(missing_ok=True)
            self._door.bind(str(gate))
        elif sys.platform == "linux":  # a name that is no file's: whoever is killed leaves none
            gate = Path(f"@mini-{os.urandom(16).hex()}")
            self._door.bind(f"\0{gate.name[1:]}")
        else:
            gate = Path(tempfile.mkdtemp(prefix="mini-")) / "gate"
            self._door.bind(str(gate))
        self._door.listen()
        self.env = {DATA_DIR_GATE: str(gate), DATA_DIR_PLACE: f"{store.url}\n{self._directory / 'files'}"}
        threading.Thread(target=self._keep, name="mini-gate", daemon=True).start()

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Around each group. Groups take turns once one has used the directory: it must not change under another.

        Raises:
            OSError: the store cannot be reached.
        """
        with self._turn if self._mirror is not None else contextlib.nullcontext():
            if self._mirror is not None:
                self._mirror.download()
            yield
            self.keep()

    def keep(self) -> None:
        """Bring over what calls have written, if any has asked for the directory."""
        if self._mirror is not None:
            self._mirror.upload()

    def _keep(self) -> None:
        while True:
            connection, _ = self._door.accept()
            with connection:
                try:
                    if self._mirror is None:
                        mirror = Mirror(self._store, self._directory)
                        mirror.download()
                        self._mirror = mirror
                    else:
                        self._mirror.download()
                except Exception as exc:
                    with contextlib.suppress(OSError):
                        connection.sendall(f"{self._store.url} cannot be read: {exc}".encode())


def _claim(cache: Path, name: str) -> tuple[Path, int]:
    """A directory that no other process uses, and the lock on it, which the system lets go of for who dies."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in cache.glob("*.lock"):
        with contextlib.suppress(OSError):
            if old.stat().st_mtime < time.time() - KEEP_SECONDS and (fd := _lock(old)) is not None:
                shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                os.close(fd)
    for number in count():
        # Machines may share the directory.
        lock = cache / f"{name}-{socket.gethostname()}-{number}.lock"
        if (fd := _lock(lock)) is not None:
            os.utime(fd)
            directory = lock.with_suffix("")
            directory.mkdir(exist_ok=True)
            return directory, fd
    raise AssertionError


def _lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
