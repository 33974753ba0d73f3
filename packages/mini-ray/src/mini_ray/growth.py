"""Clusters that grow: when no node has what a worker needs, Ray's autoscaler may add one."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from mini import BackendUnavailable, OptionError

from . import node
from .cluster import Cluster
from .environment import by_value
from .resources import amounts, feasible, needs_of

__all__ = ["nodes_for"]

log = logging.getLogger("mini")

LOOK_SECONDS = 1.0
CHECK_SECONDS = 5.0
"""Between two looks at whether the cluster is there: Ray ends the process of who does not see that it is not."""
REPORT_SECONDS = 20.0
"""For how long a first report is waited for, of an autoscaler that has just been started."""
REFUSALS = 3
"""Reports in which nothing is on its way, until the autoscaler is taken not to have what was asked for.

It may have begun the first before it was asked. It reports every five seconds.
"""
GROW_SECONDS = 1800.0
"""How long a node may take that is on its way. Clouds need minutes."""
STALL_SECONDS = 60.0
"""How long nothing may be on its way, whatever is said."""


def nodes_for(asked: Mapping[str, Any], cluster: Cluster, over: threading.Event) -> list[dict[str, Any]]:
    """The nodes on which a worker with these options of Ray can be; if there are none, the autoscaler is asked.

    Where only nodes without cores are up, as in a cluster that starts from its head alone, it is asked for one with a
    core for workers that reserve nothing.

    Args:
        over: when it is set, nobody waits any longer.

    Raises:
        OptionError: no node has it, and none that has it can be had.
        BackendUnavailable: a node does not come, or the cluster is no more.
    """
    import ray

    try:
        nodes = feasible(asked, ray.nodes())
    except OptionError as exc:
        if cluster.ours or not _grown(asked, cluster, over):
            raise
        try:
            return feasible(asked, ray.nodes())
        except OptionError:
            raise BackendUnavailable(f"the node that was added has gone again: {exc}") from exc
    bare = not needs_of(asked) and not any(each["Resources"].keys() & {"CPU", "GPU"} for each in nodes)
    if bare and not cluster.ours and _grown({**asked, "num_cpus": 1}, cluster, over):
        return feasible(asked, ray.nodes())
    return nodes


def _grown(asked: Mapping[str, Any], cluster: Cluster, over: threading.Event) -> bool:
    """Have the autoscaler add a node for this; False if there is none, or it does not have any."""
    from ray.util import placement_group, remove_placement_group

    first = _report(over)
    if first is None:
        return False
    needs = needs_of(asked)
    # A placement group that waits for a node is what autoscalers go by; once it is there, so is the node. A task would
    # do as well, but Ray ends this process when one that was cancelled while it waited gets its node after all.
    labels = {"bundle_label_selector": [asked["label_selector"]]} if asked.get("label_selector") else {}
    scout = placement_group([needs], name="mini: a node for a worker", **labels)
    try:
        return _waited_for(scout, amounts(needs), first[0], cluster, over)
    finally:
        with contextlib.suppress(Exception):
            remove_placement_group(scout)


def _waited_for(scout: Any, wants: str, stamp: float, cluster: Cluster, over: threading.Event) -> bool:
    until = time.monotonic() + GROW_SECONDS
    check = time.monotonic() + CHECK_SECONDS
    stalled = time.monotonic() + STALL_SECONDS
    grows = False
    refusals = 0
    while time.monotonic() < min(until, stalled) and not over.is_set():
        if scout.wait(LOOK_SECONDS):
            return True
        if time.monotonic() > check:
            if not cluster.is_there():
                raise BackendUnavailable("the Ray cluster is no more; start it again: ray start --head")
            check = time.monotonic() + CHECK_SECONDS
        before, (stamp, on_its_way) = stamp, _report(over) or (stamp, False)
        if on_its_way:
            if not grows:
                log.warning("waiting for the autoscaler of the Ray cluster to add a node with %s", wants)
            grows = True
            stalled = time.monotonic() + STALL_SECONDS
        elif stamp != before and not grows:
            refusals += 1
            if refusals == REFUSALS:
                return False
    raise BackendUnavailable(
        f"the autoscaler of the Ray cluster has not added a node with {wants}; `ray status` on the head node says why"
    )


def _report(over: threading.Event) -> tuple[float, bool] | None:
    """What the autoscaler has said last: see `node.growth`. None: there is none that adds nodes."""
    import ray

    ask = ray.remote(num_cpus=0, max_retries=0)(by_value(node.growth))
    until = time.monotonic() + REPORT_SECONDS
    while not over.is_set():
        answer = ask.remote()
        try:
            report: tuple[float, bool] | str | None = ray.get(answer, timeout=REPORT_SECONDS)
        except ray.exceptions.RayError:
            return None
        if not isinstance(report, str):
            return report
        if time.monotonic() > until:
            return None
        over.wait(LOOK_SECONDS)
    return None
