"""How a server was asked to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

__all__ = ["Isolation", "Settings"]

Isolation = Literal["auto", "namespaces", "directories"]


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Attributes:
        work: a folder of this server alone; sockets, blobs and working copies of volumes are in it. Its path is short,
            because a socket's may have 107 bytes.
        state: where volumes, dicts, apps and finished calls are kept for the next server; None to keep nothing.
        cache: image layers, and the client as containers see it. Shared by the servers of this user.
        token_id, token_secret: what a client has to present.
        lenient: log fields that would have no effect instead of refusing them.
        isolation: how containers are kept apart; "auto" takes namespaces where the kernel allows them.
        url_seconds: how long the URLs of blobs and of volumes' files are valid.
        skip_apt: go on without Debian packages that cannot be had.
        share: folders that every container sees, and may write to, under the paths that they have here.
        prices: what an hour of a core ("cpu"), of a GiB ("memory") and of a GPU ("gpu") costs; nothing if not given.
        pending_limit: inputs of a function that may wait for a container; `.spawn` has a limit of its own.
        heartbeat_limit: seconds without a heartbeat after which a client is gone; it sends one every 15.
        reload_seconds: for how long, at least, a volume is empty for a container that reloads it, with namespaces.
        commits_reload: have the client reload a volume after each commit in a container.
        lost_answers: RPCs whose first answer to each container is lost.
    """

    work: Path
    state: Path | None = None
    cache: Path = field(default_factory=lambda: Path(platformdirs.user_cache_dir("modal-emulator")))
    token_id: str = "ak-emulator"
    token_secret: str = "as-emulator"
    port: int = 0
    tls: bool = False
    lenient: bool = False
    isolation: Isolation = "auto"
    url_seconds: float = 3600
    skip_apt: bool = False
    share: tuple[Path, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    pending_limit: int = 2000
    heartbeat_limit: float = 60.0
    reload_seconds: float = 0.0
    commits_reload: bool = False
    lost_answers: tuple[str, ...] = ()
    workspace: str = "emulator"

    @property
    def data(self) -> Path:
        """Where what may survive is: the state folder, or else a part of the work folder."""
        return self.state if self.state is not None else self.work / "data"
