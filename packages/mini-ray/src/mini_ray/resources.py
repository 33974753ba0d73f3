"""Options of a call as resources of Ray, and whether a cluster has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mini import OptionError
from mini.options import Options

__all__ = ["amounts", "feasible", "needs_of", "place", "ray_options"]


def ray_options(options: Options) -> dict[str, Any]:
    """Options of a Ray actor; those that the user gives in Ray's own words win."""
    # What is not asked for is not reserved either: Ray's own actors hold no cores when they run.
    wanted: dict[str, Any] = {"num_cpus": options.cpu or 0, "max_restarts": 0, "max_task_retries": 0}
    if options.memory is not None:
        wanted["memory"] = options.memory << 20
    if isinstance(options.gpu, str):
        kind, _, count = options.gpu.partition(":")
        wanted |= {"num_gpus": int(count or 1), "accelerator_type": kind}
    elif options.gpu is not None:
        wanted["num_gpus"] = options.gpu
    native = dict(options.native.get("ray", {}))
    runtime_env = dict(native.pop("runtime_env", {}))
    if options.image is not None:
        runtime_env["image_uri"] = options.image
    return {**wanted, **({"runtime_env": runtime_env} if runtime_env else {}), **native}


def needs_of(asked: Mapping[str, Any]) -> dict[str, float]:
    """What an actor with these options takes from its node, by Ray's names."""
    needs = {"CPU": asked.get("num_cpus"), "GPU": asked.get("num_gpus"), "memory": asked.get("memory")}
    if kind := asked.get("accelerator_type"):
        needs[f"accelerator_type:{kind}"] = 0.001
    needs |= asked.get("resources") or {}
    return {name: amount for name, amount in needs.items() if amount}


def feasible(asked: Mapping[str, Any], nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes on which a worker can be; those without cores or GPUs only if there are no others.

    Raises:
        OptionError: no node has what it needs: Ray would wait for it for ever.
    """
    needs = needs_of(asked)
    alive = [node for node in nodes if node["Alive"]]
    fit = [node for node in alive if all(node["Resources"].get(name, 0) >= needs[name] for name in needs)]
    if fit:
        return [node for node in fit if node["Resources"].keys() & {"CPU", "GPU"}] or fit
    most = {name: max((node["Resources"].get(name, 0) for node in alive), default=0) for name in needs}
    raise OptionError(
        f"no node of the Ray cluster has {amounts(needs)} for one worker; the most that any of its {len(alive)} nodes "
        f"has is {amounts(most)}. Ask for less, or add a node that has it"
    )


def amounts(needs: Mapping[str, float]) -> str:
    """Resources in words."""
    return ", ".join(_amount(name, amount) for name, amount in needs.items())


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / (1 << 20):.0f} MiB of memory"
    if name.startswith("accelerator_type:"):
        return f"{'a' if amount else 'no'} GPU {name.partition(':')[2]!r}"
    return f"{amount:g} {name}"


def place(nodes: list[dict[str, Any]], taken: Mapping[str, int]) -> str | None:
    """The id of the node for another worker that reserves nothing: the one with most cores for each that it has.

    Ray itself would put all of them on the same node, because none of them takes anything from it.
    """
    alive = [(node["NodeID"], node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    candidates = [(cores / (taken.get(name, 0) + 1), name) for name, cores in alive if cores]
    return max(candidates)[1] if candidates else None
