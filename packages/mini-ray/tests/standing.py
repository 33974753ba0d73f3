"""Standing Ray clusters, as `ray start` makes them, for tests to join; and projects whose calls they run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from mini.requirements import find_uv

__all__ = ["Cluster", "environment", "make_venv", "project", "run", "uv"]

PROCESS_SECONDS = 110


def environment(**more: str) -> dict[str, str]:
    """That of this machine, without what a uv that runs this has set for its own ends."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "RAY_ADDRESS", "XDG_CACHE_HOME", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    local = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
    return {**kept, **local, "RAY_USAGE_STATS_ENABLED": "0", **more}


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program, which must succeed; what it has printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path, cwd: Path | None = None, **more: str) -> str:
    return run(find_uv(), *arguments, cwd=cwd, env=environment(UV_PYTHON=sys.executable, **more))


def make_venv(folder: Path) -> Path:
    """A virtual environment in which there is Ray, as it is here, and nothing else; returns its Python."""
    uv("venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", python, f"ray=={ray.__version__}")
    return python


def project(root: Path, *dependencies: str, more: str = "") -> Path:
    """A locked project with a package `sample`, outside of any other."""
    package = root / "src" / "sample"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("version = 1\n")
    (root / "pyproject.toml").write_text(
        f"[project]\nname = 'sample'\nversion = '1.0'\nrequires-python = '>=3.11'\n"
        f"dependencies = {json.dumps(dependencies)}\n{more}\n"
        "[build-system]\nrequires = ['uv_build']\nbuild-backend = 'uv_build'\n"
    )
    uv("lock", "--quiet", cwd=root)
    return root


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("", 0))
        return int(each.getsockname()[1])


@dataclass
class Cluster:
    """A head, in the foreground of a process of ours, with a home of its own.

    Args:
        python: in whose environment it runs.
    """

    python: Path
    address: str = ""
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp")))

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "mini" / "ray"

    def environments(self) -> list[Path]:
        """Those that count."""
        return sorted(path.parent for path in self.cache.glob("environments/*/mini.json"))

    def leftovers(self) -> list[Path]:
        """Folders that do not count."""
        return [
            path
            for path in [*self.cache.glob("environments/*"), *self.cache.glob("sources/.*")]
            if path.is_dir() and not (path / "mini.json").exists()
        ]

    @property
    def login(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.home / "token")}

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        (self.home / "token").write_text("0123456789abcdef" * 4)
        port = free_port()
        options = {
            "port": port,
            "dashboard-agent-listen-port": free_port(),
            "include-dashboard": "false",
            "temp-dir": self.home / "r",
        }
        try:
            with self._node(self.home, "--head", options) as said:
                found = (line.partition("Local node IP: ")[2].strip() for line in said)
                self.address = f"{next(filter(None, found))}:{port}"
                yield self
        finally:
            for pid in processes(str(self.home)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.home, ignore_errors=True)

    @contextlib.contextmanager
    def another_node(self) -> Iterator[Path]:
        """Have another node, whose home is another one; gives that."""
        home = self.home / "other"
        home.mkdir()
        with self._node(home, f"--address={self.address}", {"dashboard-agent-listen-port": free_port()}):
            yield home

    @contextlib.contextmanager
    def _node(self, home: Path, role: str, options: Mapping[str, object]) -> Iterator[list[str]]:
        """Processes of a node, started in the foreground; gives what was said about it."""
        cache = uv("cache", "dir").strip()  # so that not everything has to be fetched
        path = os.pathsep.join([str(find_uv().parent), os.environ["PATH"]])
        env = environment(HOME=str(home), PATH=path, UV_CACHE_DIR=cache, **self.login)
        # Neither in the usual range, in which other clusters have theirs, nor in that of the client's servers.
        first = 25000 + free_port() % 7000
        options = {
            **options,
            "min-worker-port": first,
            "max-worker-port": first + 100,
            "num-cpus": 2,
            "object-store-memory": 100 << 20,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        command: list[str | Path] = [
            self.python,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            role,
            *given,
        ]
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home
        )
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ray runtime started" in line:
                    break
            else:
                raise AssertionError("".join(said))
            yield said
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.communicate()

    def start(self, folder: Path, code: str, **more: str) -> subprocess.Popen[str]:
        """Start a script in a folder, in which `app` is an apparatus that has joined; it prints JSON."""
        script = folder / f"script-{os.urandom(4).hex()}.py"
        script.write_text(
            "import json, logging, sys, time, mini\n"
            "from mini_ray import RayApparatus\n"
            "logging.basicConfig(level=logging.INFO)\n"
            f"app = RayApparatus('env', {self.address!r}, {str(self.home / 'volumes')!r}, max_workers=2)\n"
            "app = app.w(progress=False)\n" + textwrap.dedent(code)
        )
        env = environment(**self.login, **more)
        return subprocess.Popen(
            [sys.executable, script],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, code: str, **more: str) -> tuple[Any, str]:
        """What a script has printed, and its log."""
        return answer(self.start(folder, code, **more))


def answer(process: subprocess.Popen[str]) -> tuple[Any, str]:
    try:
        out, err = process.communicate(timeout=PROCESS_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + err
    return json.loads(out.splitlines()[-1]), err


def processes(word: str) -> list[int]:
    """Of this machine, those that have a word in their command line; not this one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (each / "cmdline").read_text() and int(each.name) != os.getpid():
                found.append(int(each.name))
    return found
