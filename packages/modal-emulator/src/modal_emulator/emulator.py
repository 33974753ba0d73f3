"""A server for a Python program: started with it, and gone with it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Self

from .folders import new_work_folder, remove_tree
from .serving import STOP_SECONDS, Ready, variables

if TYPE_CHECKING:
    from types import TracebackType

    from .settings import Isolation

__all__ = ["Emulator", "EmulatorError"]


class EmulatorError(RuntimeError):
    """A server did not start. The message has what it wrote."""


class Emulator:
    """A Modal control plane on this machine, in a process of its own.

    Use it as a context manager, or call `start` and `stop`. It can be started again, with the same address, token and
    state, so that programs which know them go on. It ends when this process does, however that happens.

    Args:
        state: where volumes, dicts, apps and finished calls are kept for the next server; None to keep nothing.
        cache: image layers; by default the user's cache, which all servers share.
        port: of the control plane, on loopback; 0 for a free one.
        token: the token's id and secret; None for random ones.
        tls: speak TLS, with a certificate of the private authority in `ca_file`.
        lenient: ignore what would have no effect here, instead of refusing it.
        isolation: "namespaces", "directories", or "auto" for the first where the kernel allows it.
        skip_apt: go on without Debian packages that cannot be had.
        share: folders that every container sees, and may write to, under the paths that they have here.
        prices: what an hour of a core ("cpu"), of a GiB ("memory") and of a GPU ("gpu") costs in billing reports.
        pending_limit: inputs of a function that may wait for a container, before more of them are refused as Modal
            does, with RESOURCE_EXHAUSTED; those of `.spawn` may be a million.
        url_seconds: how long the URLs of blobs and of volumes' files are valid.
        heartbeat_limit: seconds after which the apps of a client that is silent are ended; it says something every 15.
        reload_seconds: for how long, at least, a volume is empty for a container that reloads it. At Modal that may be
            long, and here it is so short that hardly a program notices. No container starts meanwhile.
        commits_reload: have the client reload a volume after each commit, as Modal may; that fails if files are open.
        lost_answers: names of RPCs. The first answer to each container is lost: what it asked for is done, and its
            client does not know.
        start_timeout: seconds that a start may take.
    """

    def __init__(
        self,
        *,
        state: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        port: int = 0,
        token: tuple[str, str] | None = None,
        tls: bool = False,
        lenient: bool = False,
        isolation: Isolation = "auto",
        skip_apt: bool = False,
        share: Sequence[str | os.PathLike[str]] = (),
        prices: Mapping[str, float] = MappingProxyType({}),
        pending_limit: int = 2000,
        url_seconds: float = 3600,
        heartbeat_limit: float = 60.0,
        reload_seconds: float = 0.0,
        commits_reload: bool = False,
        lost_answers: Sequence[str] = (),
        start_timeout: float = 60.0,
    ) -> None:
        options = [
            f"--port={port}",
            f"--isolation={isolation}",
            f"--pending-limit={pending_limit}",
            f"--url-seconds={url_seconds}",
            f"--heartbeat-limit={heartbeat_limit}",
            f"--reload-seconds={reload_seconds}",
        ]
        # The server's working directory is not this process's.
        options += [f"--state={Path(state).absolute()}"] if state is not None else []
        options += [f"--cache={Path(cache).absolute()}"] if cache is not None else []
        options += [
            option
            for option, on in {
                "--tls": tls,
                "--lenient": lenient,
                "--skip-apt": skip_apt,
                "--commits-reload": commits_reload,
            }.items()
            if on
        ]
        options += [f"--share={Path(folder).absolute()}" for folder in share]
        options += [f"--lost-answer={name}" for name in lost_answers]
        options += [f"--price={name}={amount}" for name, amount in prices.items()]
        self._options = options
        self._token = token
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None
        self._work: Path | None = None
        self._log: IO[bytes] | None = None
        self._said = ""

    def start(self) -> Self:
        """Start it, and wait until clients can connect; does nothing if it runs.

        Raises:
            EmulatorError: it did not start, and nothing of it is left.
        """
        if self.running:
            return self
        self._clean()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        work = self._work = self._work or new_work_folder()
        options = [*self._options, f"--work={work}", "--attached"]
        if self._ready is not None:
            options[0] = f"--port={self._ready.url.rpartition(':')[2]}"
        env = dict(os.environ)
        token = (self._ready.token_id, self._ready.token_secret) if self._ready is not None else self._token
        if token is not None:
            # Everybody sees a process's arguments, but only its user the environment.
            env["MODAL_EMULATOR_TOKEN"] = ":".join(token)
        # Ctrl-C in a terminal is for the program whose server this is: hence a session of its own.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modal_emulator", "serve", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd="/",
            env=env,
            start_new_session=True,
        )
        try:
            self._ready = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout: float = STOP_SECONDS + 10.0) -> None:
        """Stop it: calls that run are ended, and all its processes and files are gone but for `state` and the cache.

        Does nothing if it does not run. What has not ended by itself after `timeout` seconds is killed.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._clean()

    def kill(self) -> None:
        """End it as a power cut would: it gets no chance to say or save anything."""
        if self._process is not None:
            self._process.kill()
        self._clean()

    def restart(self) -> None:
        """Stop it and start it again, with the same address, token and state."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        """The control plane's address: Modal's client takes it as MODAL_SERVER_URL."""
        return self._started.url

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started.pid

    @property
    def token(self) -> tuple[str, str]:
        """The id and the secret of the token that a client has to present."""
        return self._started.token_id, self._started.token_secret

    @property
    def ca_file(self) -> Path | None:
        """With `tls`, the certificate that a client has to trust, as a PEM file."""
        return None if self._started.ca_file is None else Path(self._started.ca_file)

    @property
    def variables(self) -> Mapping[str, str | None]:
        """The environment variables that make a client use this server; those that are None must not be set."""
        return variables(self._started)

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment for a program that is to use this server: this process's, with `variables`."""
        merged: dict[str, str | None] = {**os.environ, **self.variables}
        return {name: value for name, value in merged.items() if value is not None}

    @property
    def log(self) -> str:
        """What the server has written to its standard error since the first start."""
        return self._said + self._read_log()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Emulator {self._ready.url}>" if self.running and self._ready else "<Emulator, not running>"

    @property
    def _started(self) -> Ready:
        if self._ready is None:
            raise EmulatorError(
                "the emulator has not been started: use it in a `with` block, or call start()"
            )
        return self._ready

    def _wait_until_ready(self) -> Ready:
        """Read the one line that the server writes to its standard output."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, line = time.monotonic() + self._start_timeout, b""
        with self._process.stdout as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    problem = f"was not ready after {self._start_timeout:g} seconds"
                elif data := os.read(pipe.fileno(), 65536):
                    line += data
                    continue
                else:
                    problem = f"ended with status {self._process.wait(self._start_timeout)}"
                said = self._read_log().strip()
                raise EmulatorError(f"modal-emulator {problem}" + (f":\n{said}" if said else ""))
        return Ready(**json.loads(line))

    def _read_log(self) -> str:
        if self._log is None:
            return ""
        # At a place of its own: the server's is the same file description.
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def _clean(self) -> None:
        """Let go of what an ended process has left."""
        if self._process is not None:
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._log is not None:
            self._said += self._read_log()
            self._log.close()
            self._log = None
        if self._work is not None and self._work.exists():
            remove_tree(self._work)
