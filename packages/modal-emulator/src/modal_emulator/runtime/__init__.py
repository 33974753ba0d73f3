"""Where images are built and containers run: in namespaces of the kernel, or in plain directories without them.

A runtime knows nothing of Modal's protocol. `open_runtime` picks one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layers import LayerCache, Meta, Stage

__all__ = ["Bind", "BuildError", "ContainerSpec", "Layer", "Output", "Overlay", "Process", "Runtime"]

Output = Callable[[int, bytes], None]
"""Takes what a process wrote: file descriptor (1 or 2) and bytes. Called in the event loop's thread."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host (`source`) that a container sees at `target`, an absolute path."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Overlay:
    """A directory that a container sees at `target`: `lower`, which nothing changes, with changes going to `upper`.

    `upper` and `work` are empty directories on one file system. With `read_only` nothing can be written. Only for
    runtimes with `overlays`.
    """

    target: str
    lower: Path
    upper: Path
    work: Path
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """An image that has been built: `key` names it in the cache; the rest is what its ENV, WORKDIR and so on said."""

    key: str
    python: str
    """The Python minor version in it, such as "3.12"."""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/root"
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()


@dataclass(slots=True)
class ContainerSpec:
    """What a container is started with.

    Attributes:
        name: unique among those that run; the container's host name.
        layer: its image.
        command: the program and its arguments; the program is looked up in PATH inside.
        env: its whole environment, the image's included.
        workdir: where it starts.
        binds, overlays: what it sees beside its image, in this order; parent directories are made.
        milli_cpu: thousandths of a core it may use at most; 0 for no limit.
        memory_mib: memory it may use at most; 0 for no limit. Beyond it, it is killed and `Process.oom` says so.
        output: takes what it writes.
        changes: the folder of a stage (`Runtime.stage`), where what it changes of its image stays for a new layer. It
            may be given to several, one after the other, and each sees what those before did. None: it is thrown away.
    """

    name: str
    layer: Layer
    command: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    binds: Sequence[Bind]
    overlays: Sequence[Overlay]
    output: Output
    milli_cpu: int = 0
    memory_mib: int = 0
    changes: Path | None = None


class Process(ABC):
    """A container that runs. All its processes end with its first one, and with the server, however that ends."""

    pid: int
    """Of a process on the host whose end is the container's end."""
    oom: bool = False
    """Whether it was killed for using more memory than its limit."""

    @abstractmethod
    async def wait(self) -> int:
        """Wait for its end and for its last output; the exit status, negative for a signal. May be awaited repeatedly.

        Afterwards nothing of it is left but the upper directories of its overlays.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Send SIGINT to its first process: Modal's runtime runs the exit hooks then."""

    @abstractmethod
    def kill(self) -> None:
        """Kill all its processes."""

    @abstractmethod
    def drain(self) -> None:
        """Hand on all that it has written so far, before anything else happens."""

    @abstractmethod
    async def remount(self, overlay: Overlay) -> None:
        """Put another overlay in the place of the one at its target. OSError if something there is in use."""


class BuildError(Exception):
    """An image cannot be built. The message names the line that failed, and what to do."""


class Runtime(ABC):
    """Builds images and starts containers.

    Attributes:
        name: "namespaces" or "directories".
        overlays: whether containers can have overlays.
        apt: whether Debian packages can be installed in an image.
        identity: part of the key of each layer; changes when layers would come out differently.
        cache: the layers.
    """

    name: str
    overlays: bool
    apt: bool
    identity: str
    cache: LayerCache

    @abstractmethod
    def base_key(self, minor: str) -> str:
        """The key of `base(minor)`, whether it is made or not; BuildError if this machine lacks that Python."""

    @abstractmethod
    async def base(self, minor: str, say: Callable[[str], None]) -> Meta:
        """The layer that has Python `minor`, made if need be; BuildError if this machine lacks it.

        `say` takes what is worth telling who waits, in lines; it is called in any thread.
        """

    @abstractmethod
    async def stage(self, parent: Meta, key: str) -> Stage:
        """Begin the layer `key` above `parent`: a folder that containers can be given as `ContainerSpec.changes`."""

    @abstractmethod
    def find(self, stage: Stage, parent: Meta, name: str) -> Path | None:
        """Where a file or folder of a stage is (`name` is relative to its root directory), as far as layers have it."""

    @abstractmethod
    async def commit(self, stage: Stage, meta: Meta) -> Meta:
        """Make a layer of what containers have changed."""

    @abstractmethod
    async def start(self, spec: ContainerSpec) -> Process:
        """Start a container.

        Raises:
            BuildError: its image is gone from the cache.
            OSError: it cannot be set up, because a bind's source is missing, say.
        """

    @abstractmethod
    async def close(self) -> None:
        """End all containers; afterwards no process or mount of this runtime is left."""
