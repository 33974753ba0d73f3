"""Who is there on a cluster, as its control service has it, without joining: nothing is started for it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import standing
from .cluster import identify, locate

__all__ = ["Actor", "Census", "Notes", "Registry", "take_census"]

log = logging.getLogger("mini")

LIVING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING", "ALIVE")


@dataclass(frozen=True, slots=True)
class Actor:
    """One that is not dead.

    Attributes:
        begun: it runs; else it is still to be created.
        node: the id of its node; empty if it has none yet.
    """

    id: str
    name: str
    begun: bool
    node: str


@dataclass(frozen=True, slots=True)
class Census:
    """A cluster at one moment.

    Attributes:
        id: of the cluster; empty if it is known to be no more.
        actors: by their ids.
        drivers: ids of the Ray jobs whose process is connected.
    """

    id: str = ""
    actors: dict[str, Actor] = field(default_factory=dict)
    drivers: frozenset[str] = frozenset()

    def named(self, prefix: str) -> list[Actor]:
        """Those whose name begins like that."""
        return [actor for actor in self.actors.values() if actor.name.startswith(prefix)]

    def nodes(self, prefix: str) -> Counter[str]:
        """How many of those are on which node."""
        return Counter(actor.node for actor in self.named(prefix) if actor.node)


def take_census(address: str) -> Census:
    """Ask the control service of a cluster. Takes some milliseconds.

    Raises:
        BackendUnavailable: nothing answers there.
        Exception: what Ray makes of it, for instance when a token is missing.
    """
    import ray
    from ray._private.state import GlobalState

    gcs = locate(address)
    # Of a service that does not answer, what comes after this would end this process in the end.
    id = identify(gcs)
    state = GlobalState()
    state._initialize_global_state(
        ray._raylet.GcsClientOptions.create(
            gcs, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
    )
    drivers = frozenset(job["JobID"] for job in state.job_table() if not job["IsDead"])
    actors = {
        id: Actor(id, each["Name"], kind == "ALIVE", each["Address"]["NodeID"])
        for kind in LIVING
        for id, each in state.actor_table(None, actor_state_name=kind).items()
    }
    return Census(id, actors, drivers)


class Notes:
    """What launchers leave beside the jobs, so that whoever reads knows whom to ask.

    In `clusters/` there is a file for each cluster that jobs were launched on, called by its id, with its address. In
    `launching/` there is one for each launch that is going on, called by its cluster and the Ray job of the launching
    process; it counts as long as that process is connected.

    Args:
        folder: where they are, the same for all who launch jobs of a name.
    """

    def __init__(self, folder: Path) -> None:
        self._clusters = folder / "clusters"
        self._launching = folder / "launching"

    def add_cluster(self, id: str, gcs: str) -> Path:
        """Note a cluster, unless it is noted already; the file."""
        self._clusters.mkdir(parents=True, exist_ok=True)
        file = self._clusters / id
        if not file.is_file():
            made = self._clusters / f".new-{id}-{os.urandom(8).hex()}"
            made.write_text(gcs)
            made.rename(file)
        return file

    def remove_cluster(self, id: str) -> None:
        (self._clusters / id).unlink(missing_ok=True)

    def clusters(self) -> dict[str, str]:
        """Their addresses, by id."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for file in self._clusters.iterdir():
                if not file.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        found[file.name] = file.read_text()
        return found

    def add_launch(self, cluster: str, driver: str) -> Path:
        """Note a launch; the file is to be removed when it is over."""
        self._launching.mkdir(parents=True, exist_ok=True)
        file = self._launching / f"{cluster} {driver} {os.urandom(8).hex()}"
        file.touch()
        return file

    def launches(self) -> list[tuple[Path, str, str]]:
        """The files of launches, with their cluster and driver."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for file in self._launching.iterdir():
                cluster, driver, _ = file.name.split()
                found.append((file, cluster, driver))
        return found


class Registry:
    """What is known of the clusters that jobs were launched on, asked for anew by each `Registry`.

    Args:
        address: of the cluster that is asked if the one that jobs were launched on does not answer.
        notes: of the launchers.
    """

    def __init__(self, address: str | None, notes: Notes) -> None:
        self._address = address
        self._addresses = notes.clusters()
        self._asked: dict[str, Census | None] = {}
        self._by_id: dict[str, Census | None] = {}

    def clusters(self) -> list[str]:
        """The ids of the clusters that jobs were launched on."""
        return list(self._addresses)

    def of(self, id: str) -> Census | None:
        """The cluster with that id. Empty if it is no more, None if that cannot be found out.

        It is no more if there is another one in its place, or if it does not answer and there is another one where
        this apparatus has its cluster, or if it was an instance of this project that has ended.
        """
        if id not in self._by_id:
            self._by_id[id] = self._find(id)
        return self._by_id[id]

    def _find(self, id: str) -> Census | None:
        own = self._ask(self._address) if self._address else None
        if own is not None and own.id == id:
            return own
        there = self._ask(self._addresses[id]) if id in self._addresses else None
        if there is not None and there.id == id:
            return there
        gone = own is not None or there is not None or standing.is_over(id)
        return Census() if gone else None

    def _ask(self, address: str) -> Census | None:
        if address not in self._asked:
            try:
                self._asked[address] = take_census(address)
            except Exception as exc:  # it is down, or does not want us; either way nothing is known
                log.debug("nothing is known of the Ray cluster %s: %s", address, exc)
                self._asked[address] = None
        return self._asked[address]
