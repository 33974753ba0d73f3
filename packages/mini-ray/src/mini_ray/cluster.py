"""Which Ray cluster this process is connected to: started, joined or found, shared by all who use it, and let go of.

Ray keeps one connection in a process, so there is one cluster at a time. Whoever uses it holds a `Cluster`; with the
last one what was started here ends, and what was only joined is left. A connection that somebody else has made is used
and never ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mini import AuthError, BackendUnavailable

from . import guard, standing

__all__ = [
    "ADDRESS",
    "Cluster",
    "Instance",
    "check_fork",
    "identify",
    "join",
    "locate",
    "reach",
    "told",
    "wanted",
]

ADDRESS = "MINI_RAY_ADDRESS"
"""Set where calls run: the cluster that they run on."""
PROBE_SECONDS = 3.0
END_SECONDS = 5.0
CLIENT_STARTS = 4
NO_CLIENT_SERVER = (
    "Starting Ray client server failed",
    "Proxy failed to Connect to backend",
    "in start_specific_server",
)
"""What Ray's proxy says when the server that it has started for a client is not there: nothing has happened yet then.

The proxy forks while its threads are at work in gRPC, and on a busy machine the child often dies before it has begun.
"""
TOKEN = "token"
LONGEST_DIRECTORY = 40
"""Bytes of the path in which a session may be: its sockets are deep in there, and may have 107."""


@dataclass(eq=False)
class _Connection:
    """What this process is connected to.

    Attributes:
        address: as it was asked for; None for an instance of our own.
        gcs: where the cluster's control service listens; empty if that is not known.
        id: of the cluster, which another one at the same place has not.
        pid: the process that made it; a forked copy cannot use it.
        instance: the thread that holds an instance of our own.
        theirs: somebody else has made it, and ends it.
    """

    address: str | None
    gcs: str = ""
    id: str = ""
    pid: int = field(default_factory=os.getpid)
    instance: Instance | None = None
    theirs: bool = False
    users: int = 0

    def end(self) -> None:
        if self.instance is not None:
            self.instance.end()
        elif not self.theirs:
            import ray

            ray.shutdown()


_lock = threading.Lock()
_current: _Connection | None = None


class Cluster:
    """A hold on the cluster that this process is connected to; see `join`."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._closed = False

    @property
    def ours(self) -> bool:
        """Whether this process has started it, so that it has this machine's files and nobody else's calls."""
        return self._connection.instance is not None

    @property
    def id(self) -> str:
        """Of the cluster, which another one at the same place has not; empty if that is not known."""
        return self._connection.id

    @property
    def gcs(self) -> str:
        """Where its control service listens; empty if that is not known."""
        return self._connection.gcs

    @property
    def lost(self) -> bool:
        """The connection is no more, perhaps because the cluster is not: join it again."""
        import ray

        return self._connection is not _current or not ray.is_initialized()

    def is_there(self) -> bool:
        """Whether the cluster still is the one that was joined. Takes some milliseconds, or `PROBE_SECONDS`."""
        connection = self._connection
        if not connection.gcs:
            return True
        try:
            return _probe(connection.gcs) is None and identify(connection.gcs) == connection.id
        except Exception:
            return False

    def drop(self) -> None:
        """Disconnect at once, for all who have a hold: the cluster is no more. Ray would end this process for it."""
        global _current
        with _lock:
            if _current is self._connection:
                _current = None
                self._connection.end()

    def close(self) -> None:
        """Let go of it; with the last hold this process disconnects, and an instance of its own ends. Idempotent."""
        global _current
        with _lock:
            if self._closed:
                return
            self._closed = True
            connection = self._connection
            connection.users -= 1
            if connection.users or connection.pid != os.getpid():
                return
            if _current is connection:
                _current = None
                connection.end()


def join(address: str | None) -> Cluster:
    """Connect to a cluster, unless this process is connected to it already. Takes up to some seconds.

    Args:
        address: "auto", `host:port` or `ray://host:port`; None for what `RAY_ADDRESS` says, else for the instance that
            stays (see `standing`), else for one that is started here, on loopback, and for this process alone.

    Raises:
        BackendUnavailable: nothing answers there, it has another Python or Ray, or this process is connected to another
            cluster.
        AuthError: it wants a token, or another one.
    """
    global _current
    where = wanted(address)
    import ray

    with _lock:
        connection = _current
        if connection is not None and not ray.is_initialized():
            connection = None  # somebody has ended it
        if connection is None:
            connection = _Connection(where)
            if ray.is_initialized():
                connection.theirs = True
            elif where is None:
                connection.instance = Instance()
                connection.instance.begin()
            else:
                _connect(where)
            if not (where or "").startswith("ray://"):
                connection.gcs = ray.get_runtime_context().gcs_address
                connection.id = identify(connection.gcs)
            _current = connection
        elif connection.address != where and not connection.theirs:
            has, wants = (_named(a) for a in (connection.address, where))
            raise BackendUnavailable(
                f"this process is connected to {has}, and Ray keeps one connection in a process, so it cannot be "
                f"connected to {wants} as well; close the other apparatus first, or use another process"
            )
        connection.users += 1
        return Cluster(connection)


def reach(address: str | None) -> str:
    """Which cluster `join` would connect to, for people; whether something listens there. Joins and starts nothing.

    Raises:
        BackendUnavailable: nothing does.
    """
    where = wanted(address)
    if where is None:
        return "an instance of its own on this machine, which the first call starts"
    with _access(where), _found(where) as known:
        return f"the Ray cluster at {known}"


def told(address: str | None) -> str | None:
    """The address of a cluster that this process is told of, in one way or another."""
    return os.environ.get(ADDRESS) or address or os.environ.get("RAY_ADDRESS") or None


def wanted(address: str | None) -> str | None:
    """The address that `join` goes by; None for an instance of our own."""
    where = told(address)
    if where is None:
        there = standing.find()
        return None if there is None else there.address
    return None if where == "local" else where


def locate(address: str) -> str:
    """Where the control service of a cluster listens, without joining it.

    Raises:
        BackendUnavailable: nothing answers there.
    """
    import ray

    if ray.is_initialized():
        return _resolve(address)
    with _access(address):
        return _resolve(address)


def check_fork() -> None:
    """Raise RuntimeError in a forked copy of a process that was connected: Ray's connection does not survive it."""
    connection = _current
    if connection is not None and connection.pid != os.getpid():
        raise RuntimeError(
            "this process is a forked copy of one that is connected to Ray, and cannot use that connection; "
            "start it with the method 'spawn', or use Ray only after the fork"
        )


def _named(address: str | None) -> str:
    return "a Ray instance of its own" if address is None else f"the Ray cluster {address!r}"


# --- joining ---


def _connect(address: str) -> None:
    with (
        _access(address),
        _found(address) as known,
        _on_loopback() if _is_loopback(known) else contextlib.nullcontext(),
    ):
        if known.startswith("ray://"):
            _init_client(known)
        else:
            identify(known)
            _check_versions(known)
            _init(known)


@contextlib.contextmanager
def _found(address: str) -> Iterator[str]:
    """The address at which something listens; what goes wrong with it is explained."""
    import ray

    where = f"the Ray cluster {address!r}"
    try:
        known = _resolve(address)
        yield known
    except (BackendUnavailable, AuthError):
        raise
    except ray.exceptions.AuthenticationError as exc:
        raise _no_token(where) from exc
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
        text = str(exc)
        if "ersion mismatch" in text:
            raise BackendUnavailable(
                f"{where} has another Python or Ray than this process: {' '.join(text.split())}; "
                "use the same version of Python and of Ray on both sides; if only the last number of Python's differs, "
                "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor has Ray take that for the same"
            ) from exc
        if "uthenticat" in text or "token" in text:
            raise _no_token(where) from exc
        raise BackendUnavailable(f"{where} cannot be joined: {text}") from exc


def _no_token(where: str) -> AuthError:
    return AuthError(
        f"{where} wants a token and does not take what this process has; get it with `ray get-auth-token` on the "
        "head node, and put it into ~/.ray/auth_token or the file that RAY_AUTH_TOKEN_PATH names"
    )


def _resolve(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    client = address.startswith("ray://")
    known = address if client else canonicalize_bootstrap_address(address)
    if known is None:
        raise BackendUnavailable(f"there is no Ray cluster {address!r}; start one: ray start --head")
    if (error := _probe(known)) is None:
        return str(known)
    # Ray replaces loopback by the address that others see; an instance on loopback is not to be seen there.
    if _is_loopback(address) and _probe(address) is None:
        return address
    option = "--ray-client-server-port" if client else "--port"
    raise BackendUnavailable(
        f"nothing answers at {known} ({error.strerror or error}); is the cluster up? On its head node: "
        f"ray start --head {option}={known.rpartition(':')[2]}"
    ) from error


def identify(address: str) -> str:
    """The id of the cluster there. Asks once, where Ray would try for twenty seconds, whatever the answer is."""
    import ray

    return str(ray._raylet.GcsClient(address=address).cluster_id.hex())


def _check_versions(address: str) -> None:
    """Have Ray compare its version and Python's with the cluster's, and raise RuntimeError.

    It does so itself as it joins. But then it keeps what it has of that cluster, and ends this process a minute after
    the cluster has ended.
    """
    import ray
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.utils import check_version_info

    if metadata := get_cluster_metadata(ray._raylet.GcsClient(address=address)):
        check_version_info(metadata, socket.gethostname())


def _probe(address: str) -> OSError | None:
    """Why nothing listens at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        raise BackendUnavailable(
            f"{address!r} is no address of a Ray cluster: it takes 'auto', 'host:6379' or 'ray://host:10001'"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as exc:
        return exc
    return None


def _is_loopback(address: str) -> bool:
    return address.removeprefix("ray://").startswith(("127.0.0.1:", "localhost:", "[::1]:"))


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take a loopback address for what it is. Elsewhere than on Linux it does so by itself."""
    from ray._private import ray_constants

    with _attribute(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


# --- an instance of our own ---


class Instance:
    """A Ray instance on loopback. A thread of its own starts it and ends it.

    The system ends Ray's processes with the thread that has started them (`PR_SET_PDEATHSIG`), and whoever makes the
    first call may be a thread that ends soon.
    """

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._directory: Path | None = None
        self._thread = threading.Thread(target=self._hold, name="mini-ray-instance", daemon=True)

    def begin(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise BackendUnavailable(f"Ray cannot be started here: {self._error}") from self._error

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    @property
    def address(self) -> str:
        """Of its control service."""
        import ray

        return str(ray.get_runtime_context().gcs_address)

    @property
    def token(self) -> Path:
        """The file with what it wants from those who join."""
        assert self._directory is not None
        return self._directory / TOKEN

    @property
    def alive(self) -> bool:
        """Whether those of its processes are there without which it is none."""
        import ray

        node = ray._private.worker._global_node
        return node is not None and not any(
            info.process.poll() is not None
            for kind in ("gcs_server", "raylet")
            for info in node.all_processes.get(kind, ())
        )

    def _hold(self) -> None:
        import ray

        directory = self._directory = _short_directory()
        watched = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            try:
                _start(directory)
            except BaseException as exc:
                self._error = exc
            self._ready.set()
            if self._error is None:
                self._over.wait()
            node = ray._private.worker._global_node
            started = (
                []
                if node is None
                else [info.process for infos in node.all_processes.values() for info in infos]
            )
            ray.shutdown()
            for process in started:  # not every Ray waits for all that it has ended
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
        finally:
            _read_variables()
            watched.communicate()


def _short_directory() -> Path:
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_DIRECTORY - 16:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="mini-ray-", dir=parent))


def _start(directory: Path) -> None:
    token = directory / TOKEN
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Calls that reserve no GPU see those of this machine, as they do without Ray.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with _variables(own), _on_loopback():
        _read_variables()
        _init("local", include_dashboard=False, _temp_dir=str(directory), _node_ip_address="127.0.0.1")


def _init(address: str, **settings: Any) -> None:
    import ray
    from ray._private import ray_constants

    # Under `uv run` Ray has workers run the same command, in a copy of its folder. What they need is for us to say.
    with _quiet(), _attribute(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False):
        ray.init(address, log_to_driver=False, configure_logging=False, namespace="mini", **settings)


def _init_client(address: str) -> None:
    """Join through Ray's client, whose proxy forks a server for each that comes and does not look whether it lives."""
    for rest in reversed(range(CLIENT_STARTS)):
        try:
            _init(address)
            break
        except ConnectionError as exc:
            if not rest or not any(words in str(exc) for words in NO_CLIENT_SERVER):
                raise


@contextlib.contextmanager
def _access(address: str) -> Iterator[None]:
    """Have Ray use what a cluster wants from those who join it, from now on and in this process; join it within."""
    import ray

    there = standing.find()
    ours = there is not None and there.address == address
    with _variables(there.variables if there is not None and ours else {}):
        _read_variables()
        if ours:
            ray._raylet.AuthenticationTokenLoader.instance().has_token()  # it is read when it is first asked for
        yield


def _read_variables() -> None:
    """Have Ray read the environment again, which it does when it is imported."""
    import ray

    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what Ray says about being started in a thread, and about its tokens: errors are raised as well."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _attribute(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
