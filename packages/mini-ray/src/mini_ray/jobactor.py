"""What runs detached jobs on a cluster: an actor that takes one pending job after the other, until there are none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
import time
import traceback
from pathlib import Path

from mini import BackendUnavailable
from mini.folderstore import FolderStore
from mini.jobboard import GroupRecord, JobBoard, JobHost
from mini.jobwork import JobWorker, this_worker

from .cluster import ADDRESS, identify, locate
from .node import scratch

__all__ = ["JobActor", "kind_of", "worker_id"]

COUNTED = ("cpu", "memory", "gpu", "image", "max_workers")
"""Options that an actor is made with; the others are a job's own."""
LINGER_SECONDS = 2.0
"""For how long an actor waits for more to do."""
END_SECONDS = 10.0
CHECK_SECONDS = 5.0
"""Between two looks at whether the head is there, which is not asked for each job."""
HEAD_SECONDS = 60.0
"""How long a head may be away. Then Ray itself ends its nodes."""


def kind_of(group: GroupRecord) -> str:
    """Groups of the same kind share actors: they ask for the same and were launched in the same environment."""
    origin = group.origin
    asked = {name: origin.options.get(name) for name in COUNTED}
    native = origin.options.get("native", {}).get("ray")
    facts = [asked, native, origin.lock_digest, origin.python]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def worker_id(cluster: str, actor: str) -> str:
    """What the worker of a job is called: it says whom to ask whether it is there."""
    return f"{cluster}/{actor}"


class _NoHost(JobHost):
    """A worker asks nothing of a host."""

    def start(self, jobs: object) -> None:
        raise NotImplementedError

    stop = start

    def lost(self, jobs: object) -> set[str]:
        return set()


class JobActor:
    """Ray makes an actor of it. It works in a thread of its own, and ends the process when there is nothing to do.

    Args:
        folder, sources: of the store.
        kind: of the groups whose jobs it takes.
        width: how many there are of it at most.
    """

    def __init__(self, folder: str, sources: str, kind: str, width: int) -> None:
        import ray

        context = ray.get_runtime_context()
        self._gcs = context.gcs_address
        self._cluster = identify(self._gcs)
        self._checked = time.monotonic()
        self._store = FolderStore(Path(folder), Path(sources))
        self._kind = kind
        self._width = width
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        self._scratch = contextlib.ExitStack()
        self._worker = JobWorker(
            JobBoard(self._store, _NoHost()),
            this_worker(worker_id(self._cluster, context.get_actor_id())),
            scratch=self._scratch.enter_context(scratch(session / "mini")),
            env={ADDRESS: self._gcs},
        )
        self._changed = threading.Condition()
        self._again = True
        self._ending = False
        threading.Thread(target=self._serve, name="mini-jobs", daemon=True).start()

    def more(self) -> bool:
        """There may be more to do. False: this actor is about to end, and does not look any more."""
        with self._changed:
            self._again = True
            self._changed.notify_all()
            return not self._ending

    def end(self) -> None:
        """End this actor; as a call of itself, or Ray tells everybody of an accident."""
        import ray

        ray.actor.exit_actor()

    def _serve(self) -> None:
        import ray

        try:
            while self._go_on():
                for group in self._store.groups():
                    if kind_of(group) == self._kind:
                        self._run(group.id)
        except BaseException:
            traceback.print_exc()
        with self._changed:
            self._ending = True
        self._worker.stop()
        self._worker.close()
        self._scratch.close()
        ray.get_runtime_context().current_actor.end.remote()
        time.sleep(END_SECONDS)  # in vain, unless Ray does not do it
        os._exit(1)

    def _go_on(self) -> bool:
        """Whether to look once more; if not, this actor ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._again, LINGER_SECONDS)
            self._ending = not self._again
            self._again = False
            return not self._ending

    def _run(self, group: str) -> None:
        """Run the pending jobs of a group, as long as there are some."""
        while pending := self._store.pending(group):
            self._check_cluster()
            # Others look at the same time, and only one may have each.
            self._worker.run(random.choice(pending[: self._width]))

    def _check_cluster(self) -> None:
        """Raise if the head is no more: this actor is taken for lost then, and what it runs as well."""
        if time.monotonic() < self._checked + CHECK_SECONDS:
            return
        deadline = time.monotonic() + HEAD_SECONDS
        while True:
            try:
                there = identify(locate(self._gcs))
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        if there != self._cluster:
            raise BackendUnavailable(f"another cluster is at {self._gcs} now")
        self._checked = time.monotonic()
