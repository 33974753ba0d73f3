"""Detached jobs on a cluster: who runs them, and whether anybody still will.

There is no supervisor. Jobs are run by detached actors (`mini_ray.jobactor`), each of which takes pending jobs until
there are none left. Who launches jobs tells the actors that are there, and makes more while there may be more. They are
called by the name of the apparatus, by what they are (`kind_of`) and by a number below `max_workers`, and Ray lets only
one have a name; so there are never too many, whoever starts them.

Whether an actor is there says the cluster's control service (`mini_ray.census`). A pending job is lost if there is no
actor of its kind and no launch is going on; a running one if the actor that has claimed it is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from mini import BackendUnavailable, MiniError
from mini.folderstore import FolderStore
from mini.jobboard import GroupRecord, JobBoard, JobHost, JobState, JobStatus
from mini.options import Options

from .carrier import not_started
from .census import Census, Notes, Registry, take_census
from .cluster import Cluster, wanted
from .environment import Environments, by_value, settle
from .growth import nodes_for
from .jobactor import kind_of
from .node import JobSeat
from .resources import ray_options
from .session import Link
from .storage import jobs_folder

__all__ = ["RayHost", "open_board"]

NAMESPACE = "mini"
ASK_SECONDS = 5.0
"""How long an actor may take to say whether it goes on."""
END_SECONDS = 10.0
"""How long one that is about to end may take for it."""
PAUSE = 0.05


def open_board(name: str, storage: Path, address: str | None, options: Options, link: Link) -> JobBoard:
    """The jobs of an apparatus name. Makes and starts nothing."""
    store = FolderStore(jobs_folder(storage, name), storage / "ray" / "source")
    return JobBoard(store, RayHost(name, storage, address, options, link, store))


class RayHost(JobHost):
    """Sees to it that there are actors when there are jobs.

    Args:
        name, storage, address, options: of the apparatus.
        link: to the cluster.
        store: where the jobs are.
    """

    def __init__(
        self,
        name: str,
        storage: Path,
        address: str | None,
        options: Options,
        link: Link,
        store: FolderStore,
    ) -> None:
        self._storage = storage
        self._address = address
        self._options = options
        self._link = link
        self._store = store
        self._notes = Notes(storage / "ray" / "hosts" / name)
        # Another storage directory may have jobs of the same name.
        place = hashlib.sha256(str(store.folder).encode()).hexdigest()[:8]
        self._prefix = f"mini-jobs/{name}/{place}"

    def _crew(self, kind: str) -> str:
        """How the names of the actors of a kind begin."""
        return f"{self._prefix}-{kind}/"

    # --- launching ---

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        if wanted(self._address) is None:
            raise BackendUnavailable(
                "there is no Ray cluster for these jobs any more; have an instance that stays (mini ray start), or set "
                "RAY_ADDRESS to a cluster"
            )
        mark = self._link.call(self._announce)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                mark.unlink()

    def _announce(self, cluster: Cluster, environments: Environments) -> Path:
        """See whether jobs can be run there, before there are any, and say that some will be launched."""
        import ray

        try:
            self._prepared(cluster, environments, ray_options(self._options))
            self._forget_others(cluster)
            return self._notes.add_launch(cluster.id, ray.get_runtime_context().get_job_id())
        except OSError as exc:
            raise BackendUnavailable(
                f"the storage directory {self._storage} cannot be written on this machine ({exc.strerror or exc}); "
                "have storage= name a directory that this machine and all nodes of the Ray cluster share"
            ) from exc

    def _forget_others(self, cluster: Cluster) -> None:
        """Remove notes of clusters that are no more, which would be looked for in vain, and of launchers that died."""
        launches = self._notes.launches()  # before the look at the cluster, which then knows their drivers
        registry = Registry(cluster.gcs, self._notes)
        for id in registry.clusters():
            census = registry.of(id)
            if census is not None and not census.id:
                self._notes.remove_cluster(id)
        for file, id, driver in launches:
            if not _goes_on(registry.of(id), driver):
                file.unlink(missing_ok=True)

    def _prepared(
        self, cluster: Cluster, environments: Environments, options: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The nodes for actors with these options, and what they are to be there."""
        nodes = nodes_for(options, cluster, environments.over)
        places = environments.places(options, nodes, ours=cluster.ours)
        nodes = [each for each in nodes if each["NodeID"] in places]
        note = self._notes.add_cluster(cluster.id, cluster.gcs)
        environments.check_directory(nodes, str(self._storage), str(note))
        return nodes, places

    def start(self, jobs: Sequence[JobStatus]) -> None:
        self._link.call(partial(self._start, list(jobs)))

    def _start(self, jobs: list[JobStatus], cluster: Cluster, environments: Environments) -> None:
        groups = {group.id: group for group in self._store.groups()}
        kinds: dict[str, list[JobStatus]] = {}
        for job in jobs:
            if job.group in groups:
                kinds.setdefault(kind_of(groups[job.group]), []).append(job)
        for kind, some in kinds.items():
            group = groups[some[0].group]
            try:
                self._man(kind, group, len(some), self._options_of(group, some[0]), cluster, environments)
            except MiniError:
                raise
            except Exception as exc:
                raise not_started(exc) from exc

    def _options_of(self, group: GroupRecord, job: JobStatus) -> Options:
        """What a group was launched with."""
        if job.attempt == 1:
            return self._options
        noted = group.origin.options
        return Options(
            cpu=noted.get("cpu"),
            memory=noted.get("memory"),
            gpu=noted.get("gpu"),
            max_workers=noted.get("max_workers"),
            image=noted.get("image"),
            native=noted.get("native", {}),
        )

    def _man(
        self,
        kind: str,
        group: GroupRecord,
        count: int,
        options: Options,
        cluster: Cluster,
        environments: Environments,
    ) -> None:
        """Have actors of a kind look for jobs, and make more of them: at most `count`, for which there may be work."""
        import ray

        width = options.max_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        asked = ray_options(options)
        nodes, places = self._prepared(cluster, environments, asked)
        census = take_census(cluster.gcs)
        crew = self._crew(kind)
        there = {actor.name: actor for actor in census.named(crew)}
        # Those that have not begun yet look by themselves.
        goes_on = _ask([name for name, actor in there.items() if actor.begun])
        taken = census.nodes(crew)
        path = [entry or str(Path.cwd()) for entry in sys.path]
        made = 0
        for slot in range(width):
            name = f"{crew}{slot}"
            if made == count:
                break
            if name in there and goes_on.get(name, True):
                continue
            settled, node, where = settle(asked, nodes, places, taken)
            if node is not None:
                taken[node] += 1
            args = (
                where.source,
                list(path if where.path is None else where.path),
                str(self._store.folder),
                str(self._store.sources),
                kind,
                width,
            )
            made += _make(name, settled, args)

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        pass  # workers look every second

    # --- whether anybody will finish them ---

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        if not jobs:
            return set()
        # In this order: what is launched after the look at the launches is none of `jobs`.
        launches = self._notes.launches()
        registry = Registry(wanted(self._address), self._notes)
        lost = {job.id for job in jobs if job.worker is not None and _is_gone(job.worker.id, registry)}
        pending = [job for job in jobs if job.state is JobState.PENDING]
        if pending and not any(_goes_on(registry.of(id), driver) for _, id, driver in launches):
            kinds = {group.id: kind_of(group) for group in self._store.groups()}
            crews = {
                kind: self._crew(kind) for kind in {kinds[job.group] for job in pending if job.group in kinds}
            }
            there = [registry.of(id) for id in registry.clusters()]
            idle = {
                kind
                for kind, crew in crews.items()
                if there and all(census is not None and not census.named(crew) for census in there)
            }
            lost |= {job.id for job in pending if kinds.get(job.group) in idle}
        return lost


def _is_gone(worker: str, registry: Registry) -> bool:
    """Whether the actor that has claimed a job is known to be gone."""
    cluster, _, actor = worker.partition("/")
    census = registry.of(cluster)
    return census is not None and actor not in census.actors


def _goes_on(census: Census | None, driver: str) -> bool:
    """Whether a launch may be going on still."""
    return census is None or driver in census.drivers


def _ask(names: list[str]) -> dict[str, bool]:
    """Which of these actors go on, and have heard that there may be more to do."""
    import ray

    asked = {}
    for name in names:
        with contextlib.suppress(ValueError):  # it is gone
            asked[name] = ray.get_actor(name, namespace=NAMESPACE).more.remote()
    answers = dict.fromkeys(names, False)
    done, late = (
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ASK_SECONDS) if asked else ([], [])
    )
    for name, answer in asked.items():
        if answer in late:
            answers[name] = True  # it is there; whether it has heard will be seen
        elif answer in done:
            with contextlib.suppress(ray.exceptions.RayError):
                answers[name] = ray.get(answer)
    return answers


def _make(name: str, options: dict[str, Any], args: tuple[Any, ...]) -> bool:
    """Make an actor, whose name may still be that of one which is about to end. False: somebody else has made it."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            _actor_class().options(
                **{**options, "name": name, "namespace": NAMESPACE, "lifetime": "detached"}
            ).remote(*args)
        except ValueError as exc:
            if name not in str(exc):
                raise
            if _ask([name])[name] or time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
        else:
            return True


@cache
def _actor_class() -> Any:
    import ray

    return ray.remote(max_restarts=0)(by_value(JobSeat))
