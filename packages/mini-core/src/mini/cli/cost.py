"""`mini cost`: how long workers were busy, times what was asked for them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ._names import Named, app_option, group_option, json_option, name_argument
from ._say import print_json
from ._wait import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mini.jobrecord import JobRecord

__all__ = ["command", "resources", "used"]


@click.command("cost")
@name_argument
@app_option
@group_option
@json_option
def command(name: str, app: str | None, group: str | None, as_json: bool) -> None:
    """Say how long workers were busy with the jobs of NAME, all attempts together, times what each was given.

    That is what the options cpu, memory and gpu declared when the jobs were launched. It is no bill: what a backend
    charges for starting, waiting and rounding is not in it.

    \b
    Example:
        mini cost digits
    """
    named = Named.find(name, app)
    board = named.board()
    from mini.jobboard import Select

    with waiting(f"reading {named.name}"):
        groups = {one.id for one in named.groups(board, group)}
        total = used((record for record in board.read(Select()) if record.group in groups), time.time())
    if as_json:
        print_json(named, **total)
        return
    from mini.display.meter import span

    def hours(seconds: float) -> str:
        return f"{seconds / 3600:.4g}"

    click.echo(
        f"{named.name} on {named.app}: {total['attempts']} attempts, {span(total['seconds'])} of workers' time"
    )
    rows = [("CPU hours", total["cpu_seconds"]), ("GiB hours of memory", total["memory_gib_seconds"])]
    rows += [(f"GPU hours, {kind}", seconds) for kind, seconds in total["gpu_seconds"].items()]
    for label, seconds in rows:
        click.echo(f"  {label:<22} {hours(seconds) if seconds is not None else 'not declared':>12}")


def used(records: Iterable[JobRecord], now: float) -> dict[str, Any]:
    """Seconds of workers, and seconds times each resource; None for one that no launch declared."""
    attempts, seconds = 0, 0.0
    times: Counter[str] = Counter()
    for record in records:
        declared = resources(record.origin.options)
        for attempt in record.attempts:
            if attempt.claimed is None:
                continue
            attempts += 1
            spent = max(0.0, (attempt.ended.time if attempt.ended else now) - attempt.claimed.time)
            seconds += spent
            for kind, count in declared.items():
                times[kind] += spent * count  # type: ignore[assignment]  # a Counter adds floats as well
    gpus = {kind.removeprefix("gpu "): value for kind, value in times.items() if kind.startswith("gpu ")}
    return {
        "attempts": attempts,
        "seconds": seconds,
        "cpu_seconds": times.get("cpu"),
        "memory_gib_seconds": times.get("memory"),
        "gpu_seconds": gpus,
    }


def resources(options: dict[str, Any]) -> dict[str, float]:
    """What the options of a launch give each worker: cpu in cores, memory in GiB, "gpu KIND" a count."""
    found: dict[str, float] = {}
    if options.get("cpu"):
        found["cpu"] = float(options["cpu"])
    if options.get("memory"):
        found["memory"] = options["memory"] / 1024
    gpu = options.get("gpu")
    if isinstance(gpu, str):
        kind, _, count = gpu.partition(":")
        found[f"gpu {kind}"] = float(count or 1)
    elif gpu:
        found["gpu any"] = float(gpu)
    return found
