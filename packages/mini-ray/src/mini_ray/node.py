"""What runs on a node that may have nothing of mini: it is sent by value, and needs Ray and Python only.

Environments and source code are kept in the cache of the user that Ray runs as, each called by its content, and made by
one process at a time. Nothing of ours may be imported here before it is in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import io
import json
import marshal
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "READY",
    "SOURCE",
    "JobSeat",
    "Seat",
    "cache",
    "environment",
    "growth",
    "look",
    "prepare",
    "scratch",
    "sees",
    "source",
]

SOURCE = "MINI_RAY_SOURCE"
"""Set where calls run in an environment that was made for them: the folder in `sources/`."""
READY = "mini.json"
"""The file that makes a folder an environment: it is written last."""
ORDER = "mini.order"
GIVEN = ".given"
"""Ends the name of the folder with what an environment is being built from."""
KEEP_SECONDS = 30 * 24 * 3600
"""For how long something is kept that nobody uses."""
BUILD_SECONDS = 3600
# Linux ends a child with its parent only if the child asks for it.
LEASH = (
    "import ctypes, os, sys; sys.platform != 'linux' or ctypes.CDLL(None).prctl(1, 9); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def settle_in(source: str, path: list[str]) -> None:
    """Have the import path in place before anything of mini is imported."""
    if path:
        sys.path[:] = path
    if source:
        os.environ[SOURCE] = source
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


class Seat:
    """What Ray makes an actor of: a `Worker`."""

    def __init__(self, source: str, env: dict[str, str], path: list[str], directory: str, seen: str) -> None:
        settle_in(source, path)
        from mini_ray.worker import Worker

        self.worker = Worker(env, path, directory, seen)

    def ready(self) -> str:
        return self.worker.ready()

    def run(self, batch: list[Any]) -> list[Any]:
        return self.worker.run(batch)

    def listen(self) -> Any:
        return self.worker.listen()

    def order(self, what: str, *args: Any) -> None:
        self.worker.order(what, *args)


class JobSeat:
    """What Ray makes a detached actor of: a `JobActor`."""

    def __init__(
        self, source: str, path: list[str], folder: str, sources: str, kind: str, width: int
    ) -> None:
        settle_in(source, path)
        from mini_ray.jobactor import JobActor

        self.actor = JobActor(folder, sources, kind, width)

    def more(self) -> bool:
        return self.actor.more()

    def end(self) -> None:
        self.actor.end()


def growth() -> tuple[float, bool] | str | None:
    """What the cluster's autoscaler has said last.

    Returns:
        What changes with each of its reports, and whether it has nodes on their way; None if there is none, or one that
        only watches, as `ray start` starts by itself; "" if it has not reported yet.
    """
    import ray
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        return _growth_v2(ray.get_runtime_context().gcs_address)
    status = _internal_kv_get(b"__autoscaling_status")
    if not status:
        return None
    known = json.loads(status)
    report = known.get("autoscaler_report")
    if report is None:
        return ""
    # One that only watches calls each node's type by the node's own id.
    kinds = report.get("node_type_mapping") or {}
    if all(kind == f"node_{id}" for id, kind in kinds.items()):
        return None
    return known["time"], bool(report["pending_launches"] or report["pending_nodes"])


def _growth_v2(gcs: str) -> tuple[float, bool] | str | None:
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = ray._raylet.GcsClient(gcs)
    # Who starts nodes for an autoscaler says of which type they are.
    if not any(each.ray_node_type_name for each in get_cluster_resource_state(client).node_states):
        return None
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=10))
    state = reply.autoscaling_state
    if not state.last_seen_cluster_resource_state_version:
        return ""
    return (
        state.last_seen_cluster_resource_state_version,
        bool(state.pending_instance_requests or state.pending_instances),
    )


def sees(path: str) -> bool:
    """Whether there is something at that path here."""
    return Path(path).exists()


def look() -> dict[str, Any]:
    """What tells this process's machine and environment from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    at = Path(sys.prefix).stat()
    return {
        "host": socket.gethostname(),
        "machine": f"{boot} {socket.gethostname()}",
        "prefix": [sys.prefix, at.st_dev, at.st_ino],
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }


def prepare(digest: str, order: list[Any], source_digest: str, archive: list[Any]) -> dict[str, Any]:
    """Have an environment and source code here; makes what is not here yet.

    Args:
        digest: of the order.
        order: a reference to what `environment` takes; it is fetched if it is needed.
        source_digest: of the archive.
        archive: a reference to it.

    Returns:
        `python`, the `path` to import from, the `source` folder, and `seconds` if the environment was built. If that
        failed: `fault`, and the `log`.
    """
    import ray

    try:
        folder, seconds = environment(cache(), digest, lambda: ray.get(order[0]))
        made = source(cache(), source_digest, lambda: ray.get(archive[0]))
        path = json.loads((folder / READY).read_text())["path"]
    except subprocess.CalledProcessError as exc:
        return {"fault": f"`{' '.join(exc.cmd)}` failed", "log": exc.output}
    except subprocess.TimeoutExpired as exc:
        return {"fault": f"`{' '.join(exc.cmd)}` took longer than an hour", "log": ""}
    except OSError as exc:
        return {"fault": str(exc), "log": ""}
    python = str(folder / "bin" / "python")
    return {"python": python, "path": [str(made / "tree"), *path], "source": str(made), "seconds": seconds}


def cache() -> Path:
    """Where environments and source code are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mini", "ray")


def environment(root: Path, digest: str, order: Callable[[], dict[str, Any]]) -> tuple[Path, float]:
    """The environment for an order and this Python, and the seconds that building it took; 0 if it was there.

    Raises:
        CalledProcessError: it cannot be built; has the end of the output.
        OSError: the cache cannot be used.
    """
    facts = [digest, sys.version, sysconfig.get_platform(), sys.base_prefix]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    environments = root / "environments"
    folder = environments / key
    seconds = 0.0
    with _locked(environments / f"{key}.lock"):
        if not (folder / READY).is_file():
            begun = time.monotonic()
            _sweep(environments)
            given = environments / f"{key}{GIVEN}"
            shutil.rmtree(folder, ignore_errors=True)  # of a builder that died, as is the other
            shutil.rmtree(given, ignore_errors=True)
            try:
                given.mkdir(mode=0o700)
                _build(folder, given, digest, order())
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                shutil.rmtree(given, ignore_errors=True)
            _prune(environments, READY)
            seconds = time.monotonic() - begun
        os.utime(folder / READY)
    return folder, seconds


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder below `root` for as long as the block runs; that of a process which was killed the next one removes."""
    folder = root / "scratch"
    with _locked(root / "scratch.lock"):
        folder.mkdir(mode=0o700, exist_ok=True)
        for file in folder.glob("*.lock"):
            with contextlib.suppress(BlockingIOError), _locked(file, fcntl.LOCK_NB):
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink()
        own = Path(tempfile.mkdtemp(dir=folder))
        held = own.with_suffix(".lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    with held:
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
            own.with_suffix(".lock").unlink(missing_ok=True)


def source(root: Path, digest: str, archive: Callable[[], bytes]) -> Path:
    """The folder with an archive of source code: itself, and unpacked in `tree`.

    Raises:
        OSError: the cache cannot be used.
    """
    sources = root / "sources"
    folder = sources / digest[:32]
    with _locked(root / "sources.lock"):
        if not folder.is_dir():
            for left in sources.glob(".new-*"):  # of one who died
                shutil.rmtree(left, ignore_errors=True)
            sources.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=sources))
            data = archive()
            (made / "archive.tar").write_bytes(data)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(made / "tree", **safely)
            made.chmod(0o755)
            made.rename(folder)
            _prune(sources, "archive.tar")
        os.utime(folder / "archive.tar")
    return folder


@contextlib.contextmanager
def _locked(path: Path, how: int = 0) -> Iterator[None]:
    """Have it to ourselves; the system lets go of it for a process that dies.

    Args:
        how: `LOCK_NB` for BlockingIOError instead of a wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | how)
        yield


def _prune(folder: Path, used: str) -> None:
    """Remove what nobody has used for long, which is what the date of a file in it says."""
    for each in folder.iterdir():
        with contextlib.suppress(OSError):
            if (each / used).stat().st_mtime < time.time() - KEEP_SECONDS:
                (each / used).unlink()  # first: without it nobody takes the rest for whole
                shutil.rmtree(each)


def _sweep(environments: Path) -> None:
    """Remove what builders that died have left: nobody holds the lock of such an environment, and it does not count."""
    for file in environments.glob("*.lock"):
        folder, given = environments / file.stem, environments / f"{file.stem}{GIVEN}"
        if not given.exists() and (not folder.exists() or (folder / READY).is_file()):
            continue
        with contextlib.suppress(BlockingIOError), _locked(file, fcntl.LOCK_NB):
            shutil.rmtree(given, ignore_errors=True)
            if not (folder / READY).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def _build(folder: Path, given: Path, digest: str, order: dict[str, Any]) -> None:
    """Make an environment at its place: what is installed knows where it is, so that it cannot be moved there.

    Args:
        given: an empty folder for what the installers read.
    """
    env = {**os.environ, **order.pop("variables")}
    python = folder / "bin" / "python"
    (given / "pylock.toml").write_text(order["pylock"])
    (given / "requirements.txt").write_text("\n".join(order["requirements"]))
    archives = [given / name for name, _ in order["archives"]]
    for archive, (_, data) in zip(archives, order["archives"], strict=True):
        archive.write_bytes(data)
    if uv := _find_uv():
        commands = [[*uv, "venv", "--python", sys.executable, folder]]
        install = [*uv, "pip", "install", "--python", python]
        pinned = [*install, *order["options"], "--requirements", given / "pylock.toml"]
    else:
        commands = [[sys.executable, "-m", "venv", folder]]
        install = [python, "-m", "pip", "install"]
        pinned = [*install, "--no-deps", "--requirement", given / "requirements.txt"]
        for variable, url in order["indexes"]:
            more = variable == "PIP_EXTRA_INDEX_URL" and variable in env
            env[variable] = f"{env[variable]} {url}" if more else url
    commands += [[*install, *order["own"]]] if order["own"] else []
    commands += [pinned] if order["requirements"] else []
    commands += [[*install, "--no-deps", *archives]] if archives else []
    for command in commands:
        _run([str(part) for part in command], given, env)
    told = _run([str(python), "-I", "-c", "import json, sys; print(json.dumps(sys.path))"], folder, env)
    del order["indexes"]  # they may have passwords
    (folder / ORDER).write_bytes(marshal.dumps(order))
    new = folder / f"{READY}.new"
    new.write_text(json.dumps({"path": json.loads(told), "digest": digest}))
    new.rename(folder / READY)


def _find_uv() -> list[str]:
    if found := shutil.which("uv"):
        return [found]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else []


def _run(command: list[str], cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LEASH, *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout[-100_000:])
    return done.stdout
