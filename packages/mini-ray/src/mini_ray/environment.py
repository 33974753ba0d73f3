"""The caller's environment on the nodes of a cluster: whether they have it, and how they come to have it."""

from __future__ import annotations

import hashlib
import json
import logging
import marshal
import os
import shlex
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mini import BackendUnavailable, RequirementsError
from mini.buildlog import ending, failed_requirement, plain
from mini.shipment import Index, Shipment, backend_settings, index_options, pack_project, requirement_name

from . import node
from .resources import place

__all__ = ["Environments", "Place", "by_value", "settle"]

log = logging.getLogger("mini")

OURS = {"mini_ray": "mini-ray"}
THEIRS = frozenset({"conda", "container", "image_uri", "pip", "py_executable", "uv"})
"""With these in a runtime environment the user says what workers are; nothing is added to that."""
LOOK_SECONDS = 60.0
TICK_SECONDS = 0.2
"""How often somebody who waits for nodes looks whether it is still wanted."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker on a node is to be.

    Attributes:
        python: the interpreter; None for Ray's own.
        path: what it imports from; None for what the caller does, empty for what it has anyway.
        source: the folder with the source code, if that was sent.
    """

    python: str | None = None
    path: tuple[str, ...] | None = None
    source: str = ""


HERE = Place()


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What is sent to nodes, and what it is called there.

    Attributes:
        digest, order: for `node.environment`.
        source_digest, archive: for `node.source`.
    """

    digest: str
    order: dict[str, Any] = field(repr=False)  # may have passwords
    source_digest: str
    archive: bytes = field(repr=False)


class Environments:
    """Knows the nodes of a cluster that this process is connected to, and prepares them.

    Args:
        root: the project's directory, or None.
        over: when it is set, nobody waits any longer.
    """

    def __init__(self, root: Path | None, over: threading.Event) -> None:
        self._root = root
        self.over = over
        self._places: dict[str, Place] = {}
        self._seen: set[tuple[str, str]] = set()
        """Nodes, and the directories that they have."""
        self._sent: tuple[Any, ...] = ()
        """What `node.prepare` takes; it holds references."""

    def places(
        self, options: Mapping[str, Any], nodes: list[dict[str, Any]], *, ours: bool
    ) -> dict[str, Place]:
        """What a worker with these options of Ray is to be, by the id of its node; prepares the nodes that are new.

        Args:
            options: of the actor.
            nodes: as `ray.nodes` has them.
            ours: this process has started Ray, in the environment that it has itself.

        Raises:
            BackendUnavailable: a node cannot be prepared.
            RequirementsError: it is not known what they need.
        """
        if THEIRS.intersection(options.get("runtime_env") or ()):
            return {each["NodeID"]: Place(path=()) for each in nodes}
        if ours:
            return {each["NodeID"]: HERE for each in nodes}
        new = [each for each in nodes if each["NodeID"] not in self._places]
        looks = self._look(new)
        mine = node.look()
        strange = []
        for each in new:
            found = looks.get(each["NodeID"])
            if found is None:
                continue
            if found["python"] != mine["python"]:
                raise BackendUnavailable(
                    f"the node {_named(each)} has Python {found['python']}, and this is Python {mine['python']}: "
                    "functions can only be sent to the same one"
                )
            if (found["machine"], found["prefix"]) == (mine["machine"], mine["prefix"]):
                self._places[each["NodeID"]] = HERE
            else:
                strange.append(each)
        if strange:
            self._prepare(strange)
        ids = [each["NodeID"] for each in nodes]
        if not (known := {name: self._places[name] for name in ids if name in self._places}):
            raise BackendUnavailable(f"gone: {', '.join(map(_named, nodes))}")
        return known

    def _look(self, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        """What nodes are like; without those that are gone by now."""
        ids = [each["NodeID"] for each in nodes]
        unknown = [each for each in nodes if each["NodeID"] not in _looks]
        _looks.update(self._on_each(unknown, node.look, (), LOOK_SECONDS))
        return {name: _looks[name] for name in ids if name in _looks}

    def check_directory(self, nodes: list[dict[str, Any]], directory: str, file: str) -> None:
        """Have each node look for a file in a directory, once.

        Raises:
            BackendUnavailable: one does not have it.
        """
        new = [each for each in nodes if (each["NodeID"], directory) not in self._seen]
        answers = self._on_each(new, node.sees, (file,), LOOK_SECONDS)
        blind = [_named(each) for each in new if answers.get(each["NodeID"]) is False]
        if blind:
            raise BackendUnavailable(
                f"the node {', '.join(blind)} does not see the storage directory {directory} of this machine; have "
                "storage= name a directory that all nodes share"
            )
        self._seen.update((name, directory) for name in answers)

    def _prepare(self, nodes: list[dict[str, Any]]) -> None:
        import ray

        if not self._sent:
            parcel = _inherited() or _packed(self._root)
            order, archive = ray.put(parcel.order), ray.put(parcel.archive)
            # In lists, or Ray would bring them to each node, needed or not.
            self._sent = (parcel.digest, [order], parcel.source_digest, [archive])
        answers = self._on_each(nodes, node.prepare, self._sent, None)
        for each in nodes:
            answer = answers.get(each["NodeID"])
            if answer is None:
                continue
            if "fault" in answer:
                raise _failed(each, answer["fault"], plain(answer["log"]))
            if answer["seconds"]:
                log.info(
                    "built an environment on the node %s in %.1f s: %s",
                    _named(each),
                    answer["seconds"],
                    answer["python"],
                )
            self._places[each["NodeID"]] = Place(answer["python"], tuple(answer["path"]), answer["source"])

    def _on_each(
        self, nodes: list[dict[str, Any]], function: Any, args: tuple[Any, ...], limit: float | None
    ) -> dict[str, Any]:
        """Run a function of `node` on nodes; returns what it says, by node, without those that are gone by now."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not nodes:
            return {}
        remote = ray.remote(num_cpus=0, max_retries=0)(by_value(function))
        tasks = {
            each["NodeID"]: remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            ).remote(*args)
            for each in nodes
        }
        waiting = list(tasks.values())
        until = None if limit is None else time.monotonic() + limit
        while waiting:
            _, waiting = ray.wait(waiting, timeout=TICK_SECONDS)
            late = until is not None and time.monotonic() > until
            if waiting and (late or self.over.is_set()):
                for task in waiting:
                    ray.cancel(task, force=True)
                slow = [_named(each) for each in nodes if tasks[each["NodeID"]] in waiting]
                raise BackendUnavailable(f"{'no answer' if late else 'not waited for'}: {', '.join(slow)}")
        answers = {}
        for each in nodes:
            try:
                answers[each["NodeID"]] = ray.get(tasks[each["NodeID"]])
            except ray.exceptions.RayError as exc:
                if each["NodeID"] in {other["NodeID"] for other in ray.nodes() if other["Alive"]}:
                    raise BackendUnavailable(f"the node {_named(each)} cannot be used: {exc}") from exc
        return answers


def settle(
    options: Mapping[str, Any],
    nodes: list[dict[str, Any]],
    places: Mapping[str, Place],
    taken: Mapping[str, int],
) -> tuple[dict[str, Any], str | None, Place]:
    """Where another worker goes: its options of Ray, the id of its node if that is decided here, and what it is.

    Args:
        options: of the actor, as they are asked for.
        nodes: on which it can be.
        places: of these nodes.
        taken: how many workers a node has already.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    settled = dict(options)
    chosen = None
    alike = len(set(places.values())) <= 1
    if "scheduling_strategy" not in options and not (alike and options["num_cpus"]):
        chosen = place(nodes, taken)
        if chosen is not None:
            settled["scheduling_strategy"] = NodeAffinitySchedulingStrategy(chosen, soft=False)
    where = places[chosen] if chosen is not None else next(iter(places.values()))
    if where.python is not None:
        runtime_env = {**options.get("runtime_env", {}), "py_executable": shlex.quote(where.python)}
        settled["runtime_env"] = runtime_env
    return settled, chosen, where


_looks: dict[str, Any] = {}
"""What nodes are like, by id; each node that is started has another one."""


@cache
def _send_by_value() -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(node)


def by_value(what: Any) -> Any:
    """Something of `node`, which Ray sends as it is instead of by its name from now on."""
    _send_by_value()
    return what


def _named(each: Mapping[str, Any]) -> str:
    host, address = each.get("NodeManagerHostname"), each.get("NodeManagerAddress")
    return f"{host} ({address})"


def _failed(each: Mapping[str, Any], fault: str, said: str) -> BackendUnavailable:
    parts = [f"what calls need cannot be installed on the node {_named(each)}: {fault}"]
    if requirement := failed_requirement(said):
        parts.append(f"the requirement: {requirement}")
    if said.strip():
        parts.append(f"how it ended:\n{ending(said)}")
    return BackendUnavailable("\n".join(parts))


def _packed(root: Path | None) -> _Parcel:
    """What the project at `root` needs."""
    if root is None:
        log.info("there is no project here: workers get what mini itself needs, and nothing else")
    shipment = pack_project(root, OURS, groups=backend_settings(root, "ray", lists=("groups",)).get("groups"))
    pinned = shipment.pinned
    _check_ray(shipment)
    archives = [(path.name, path.read_bytes()) for path in shipment.archives]
    order = {
        "own": list(shipment.own),
        "pylock": pinned.pylock if pinned else "",
        "requirements": list(pinned.requirements) if pinned else [],
        "archives": archives,
        "options": index_options(shipment.indexes),
        "variables": {name: value for index in shipment.indexes for name, value in index.variables.items()},
        "indexes": [_for_pip(index) for index in shipment.indexes],
    }
    # Where a package comes from is in the lock.
    content = [
        shipment.own,
        pinned.digest if pinned else "",
        [_sha256(data) for _, data in archives],
    ]
    archive = shipment.source.archive()
    return _Parcel(_sha256(json.dumps(content).encode()), order, _sha256(archive), archive)


def _inherited() -> _Parcel | None:
    """What was sent for this very process, if it runs in an environment of ours: its calls get the same."""
    ready = Path(sys.prefix, node.READY)
    source = os.environ.get(node.SOURCE)
    if not source or not ready.is_file():
        return None
    order = marshal.loads(ready.with_name(node.ORDER).read_bytes())
    archive = Path(source, "archive.tar").read_bytes()
    digest = json.loads(ready.read_text())["digest"]
    return _Parcel(digest, {**order, "variables": {}, "indexes": []}, _sha256(archive), archive)


def _check_ray(shipment: Shipment) -> None:
    """The cluster has the Ray that this process has, or it could not have been joined."""
    import ray

    lines = shipment.pinned.requirements if shipment.pinned else ()
    locked = [line.partition(";")[0].strip() for line in lines if requirement_name(line) == "ray"]
    if locked and not any(line.endswith(f"=={ray.__version__}") for line in locked):
        raise RequirementsError(
            f"uv.lock pins {locked[0]}, and the Ray cluster has {ray.__version__}; run "
            f"`uv lock --upgrade-package ray=={ray.__version__}`, or use a cluster that has what is locked"
        )


def _for_pip(index: Index) -> tuple[str, str]:
    """The variable that pip reads an index from, and what is in it."""
    url = urllib.parse.urlsplit(index.url)
    if index.username or index.password:
        login = ":".join(urllib.parse.quote(each, safe="") for each in (index.username, index.password))
        url = url._replace(netloc=f"{login}@{url.netloc}")
    return ("PIP_INDEX_URL" if index.default else "PIP_EXTRA_INDEX_URL"), url.geturl()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
