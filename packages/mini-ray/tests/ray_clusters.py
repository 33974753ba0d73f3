"""Real Ray clusters on this machine, whose nodes are processes that can be killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from mini.conformance.footprint import alive, descendants
from mini.conformance.probes import until

__all__ = ["RayCluster", "RayNode", "can_hide", "running"]

START_SECONDS = 120.0
LEFT_OUT = ["--include-log-monitor=false"]
"""Of what a node has by default, and takes more than a second to start: no test reads workers' output as a driver."""


@contextmanager
def running(cluster: RayCluster) -> Iterator[RayCluster]:
    """Start a cluster, and have in this process's environment what those who join it need, for as long as it runs."""
    with cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.variables.items():
            patch.setenv(name, value)
        yield cluster


class RayNode:
    """A `ray start --block`, and all that belongs to it."""

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        command = [*prefix, str(python), "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def pids(self) -> frozenset[int]:
        """Its processes, and those that calls have started in them."""
        return (
            descendants(self.process.pid) | {self.process.pid} if self.process.poll() is None else frozenset()
        )

    def words(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """As a power cut does: everything at once, and nothing is told to anybody."""
        pids = self.pids
        # One after the other they would see each other's end, and tell of it.
        for order in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, order)
        self.process.wait()
        until(lambda: not any(map(alive, pids)), START_SECONDS, "the end of the node")


HEAD_ID = f"{'f' * 51}00000"
HEAD_TYPE = "ray.head.default"
NOTHING_TO_SET_UP: dict[str, Any] = {
    "upscaling_speed": 20.0,
    "idle_timeout_minutes": 5,
    "auth": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{
        name: []
        for name in (
            "cluster_synced_files",
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
            "worker_setup_commands",
            "head_start_ray_commands",
            "worker_start_ray_commands",
        )
    },
}
"""What Ray wants to see in a configuration."""
MOST_STARTS = 3
TIMED_OUT = "timed out during startup"
"""What Ray says when a node is not up after half a minute, which a machine that has other things to do may need."""


class RayCluster:
    """A head and other nodes, all of them on this machine.

    Args:
        nodes: how many there are beside the head.
        cpus: of each.
        options: further arguments of `ray start` for each.
        env: further variables of theirs.
        python: in whose environment they run; default: this process's.
        grows: the types of nodes that an autoscaler may add, as its configuration has them; None: there is none.
        autoscaler: which of Ray's two it is, "v1" or "v2".

    Attributes:
        address: for drivers.
        client_address: for those that come through Ray's client; empty where that is not installed.
        variables: what a driver has to have in its environment.
    """

    def __init__(
        self,
        nodes: int = 0,
        *,
        cpus: int = 2,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python: Path | None = None,
        grows: Mapping[str, Any] | None = None,
        autoscaler: str = "v1",
    ) -> None:
        self._count = nodes
        self._python = python or Path(sys.executable)
        self._options = [f"--num-cpus={cpus}", "--object-store-memory=200000000", *LEFT_OUT, *options]
        # Sockets are in there, and their paths may not be long.
        self.directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        token = self.directory / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Whoever runs the tests under `uv run` has not started the cluster like that.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        # Otherwise every third process that Ray forks for a client dies at once while the machine is busy.
        own = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
        self._env = {**os.environ, **self.variables, **own, **(env or {})}
        self._env.pop("RAY_ADDRESS", None)
        self.nodes: list[RayNode] = []
        self.move()
        # Ray wants the option left out where it cannot serve its client.
        self._client_port = _free_port() if find_spec("grpc") and python is None else None
        self.client_address = f"ray://{_own_address()}:{self._client_port}" if self._client_port else ""
        self._grows = grows
        if grows is not None:
            self._env |= autoscaling(autoscaler)

    def __enter__(self) -> Self:
        try:
            self.start_head()
            for _ in range(self._count):
                self.add_node()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_head(self) -> RayNode:
        """Start the head, also again after it was killed."""
        arguments = [
            "--head",
            f"--port={self.port}",
            f"--temp-dir={self.directory}",
            "--include-dashboard=false",
            # Without one there is nothing to scale.
            *(["--no-monitor"] if self._grows is None else [f"--autoscaling-config={self._configuration()}"]),
            *([f"--ray-client-server-port={self._client_port}"] if self._client_port else []),
        ]
        head = self._start(arguments)
        if self._client_port:  # its proxy is up a moment later than the rest
            until(self._serves_clients, START_SECONDS, "Ray's proxy for clients")
        return head

    def _configuration(self) -> Path:
        """For the autoscaler. Ray's own provider of nodes for tests starts them on this machine."""
        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": self.address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        }
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        path = self.directory / "autoscaling.json"
        path.write_text(
            json.dumps(
                {
                    "cluster_name": "grows",
                    "max_workers": 8,
                    "provider": provider,
                    "available_node_types": {HEAD_TYPE: head, **(self._grows or {})},
                    "head_node_type": HEAD_TYPE,
                    **NOTHING_TO_SET_UP,
                }
            )
        )
        return path

    def _serves_clients(self) -> bool:
        with suppress(OSError), socket.create_connection((_own_address(), self._client_port or 0), 1):
            return True
        return False

    def move(self) -> None:
        """Have the next head, and those who look for it, at another address."""
        self.port = _free_port()
        self.address = f"{_own_address()}:{self.port}"

    def add_node(
        self,
        env: Mapping[str, str] | None = None,
        hidden: Path | None = None,
        options: Sequence[str] = (),
    ) -> RayNode:
        """Start a node more.

        Args:
            env: further variables of its own.
            hidden: a directory for which it has an empty one; see `can_hide`.
            options: further arguments of its `ray start`.
        """
        arguments = [f"--address={self.address}", *options]
        return self._start(arguments, env, hiding(hidden) if hidden else ())

    def _start(
        self, arguments: Sequence[str], env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> RayNode:
        log = self.directory / f"node-{len(self.nodes)}.log"
        for _ in range(MOST_STARTS):
            node = RayNode(
                self._python, [*arguments, *self._options], {**self._env, **(env or {})}, log, prefix
            )
            self.nodes.append(node)
            until(
                lambda node=node: "Ray runtime started" in node.words() or node.process.poll() is not None,
                START_SECONDS,
                "the start of a node",
            )
            if node.process.poll() is None:
                return node
            self.nodes.remove(node)
            if TIMED_OUT not in node.words():
                break
        raise AssertionError(node.words())

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def autoscaling(version: str) -> dict[str, str]:
    """What Ray's autoscaler, and its provider of nodes for tests, have to have in the head's environment."""
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    if version == "v2":
        variables |= {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        }
    # The provider goes by the ids that it has given its nodes.
    return {**variables, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}


def hiding(directory: Path) -> list[str]:
    """What goes before a command so that it has an empty directory there, in a mount namespace of its own."""
    script = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(directory)]


def can_hide(directory: Path) -> bool:
    """Whether this machine has mount namespaces, and lets us."""
    try:
        return not subprocess.run([*hiding(directory), "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port


def _own_address() -> str:
    """What Ray makes of loopback: the address by which others would reach this machine; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 1))
        except OSError:
            return "127.0.0.1"
        address: str = sock.getsockname()[0]
        return address
