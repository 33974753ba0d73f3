"""`mini cost`: how long workers were busy, times what was asked for them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ._errors import Wrong
from ._names import Named, app_option, group_option, name_argument
from ._wait import waiting
from .as_json import json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mini.jobrecord import JobRecord

__all__ = ["command", "priced", "prices", "resources", "used"]


@click.command("cost")
@name_argument
@app_option
@group_option
@json_option
def command(name: str, app: str | None, group: str | None, as_json: bool) -> None:
    """Say how long workers were busy with the jobs of NAME, all attempts together, times what each was given.

    That is what the options cpu, memory and gpu declared when the jobs were launched. It is no bill: what a backend
    charges for starting, waiting and rounding is not in it. With prices per hour in [tool.mini.prices] of
    pyproject.toml it says what that comes to. What the backend itself charges stands beside it, if it says.

    \b
    Example:
        mini cost digits
    """
    named = Named.find(name, app)
    board = named.board()
    from mini.jobboard import Select

    with waiting(f"reading {named.name}"):
        meant = named.groups(board, group)
        groups = {one.id for one in meant}
        total = used((record for record in board.read(Select()) if record.group in groups), time.time())
        bill = board.host.bill(meant)
    price = priced(total, prices(named.app))
    if as_json:
        billed = None if bill is None else {**asdict(bill), "objects": dict(bill.objects)}
        print_json(named, **total, price=price, billed=billed)
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
    if price is not None:
        click.echo(f"  {'price':<22} {price['amount']:>12.4g} {price['currency']}".rstrip())
        if price["without"]:
            click.echo(f"  without {', '.join(price['without'])}, of which [tool.mini.prices] says nothing")
    if bill is not None and bill.amount is not None:
        click.echo(f"  {f'billed by {named.app}':<22} {bill.amount:>12.4g} {bill.currency}, {bill.says}")
    elif bill is not None:
        click.echo(f"  what {named.app} bills is not known: {bill.says}")


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


def prices(app: str) -> dict[str, Any]:
    """`[tool.mini.prices]` of the project, and over it what its table of the backend's name says; {} without a project.

    Raises:
        Wrong: a price is no number, or what has it is no resource.
    """
    from mini.requirements import find_project_root

    root = find_project_root()
    if root is None:
        return {}
    import tomllib

    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    table = config.get("tool", {}).get("mini", {}).get("prices", {})
    general = {key: value for key, value in table.items() if key in _PRICED or not isinstance(value, dict)}
    own = table.get(app, {})
    for key in (*general, *own):
        if key not in _PRICED:
            raise Wrong(f"[tool.mini.prices] has {key!r}; what has a price is {', '.join(_PRICED[:3])}")
    gpu = {**_gpu_prices(general.get("gpu")), **_gpu_prices(own.get("gpu"))}
    found = {**general, **own}
    for key, value in {**gpu, **{key: found[key] for key in ("cpu", "memory") if key in found}}.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise Wrong(
                f"[tool.mini.prices] in {root / 'pyproject.toml'}: {key} = {value!r} is no price per hour"
            )
    return {**found, "gpu": gpu}


_PRICED = ("cpu", "memory", "gpu", "currency")


def _gpu_prices(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {} if value is None else {"any": value}


def priced(total: dict[str, Any], prices: dict[str, Any]) -> dict[str, Any] | None:
    """What seconds of resources come to, and which of them have no price; None if nothing has one."""
    if not any(prices.get(key) for key in ("cpu", "memory", "gpu")):
        return None
    amount, without = 0.0, []
    used = {"cpu": total["cpu_seconds"], "memory": total["memory_gib_seconds"]}
    for kind, seconds in used.items():
        if seconds is not None and kind in prices:
            amount += seconds / 3600 * prices[kind]
        elif seconds is not None:
            without.append(kind)
    for kind, seconds in total["gpu_seconds"].items():
        price = prices["gpu"].get(kind, prices["gpu"].get("any"))
        if price is None:
            without.append(f"gpu {kind}")
        else:
            amount += seconds / 3600 * price
    return {"amount": amount, "currency": str(prices.get("currency", "")), "without": without}


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
