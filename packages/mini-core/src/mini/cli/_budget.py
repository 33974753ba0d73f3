"""What a launch may cost: how much that is at worst, and after how much it is to end."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from .cost import priced, prices, resources

__all__ = ["plan"]

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def plan(
    app: str, options: dict[str, Any], calls: int, budget: str | None, max_cost: str | None
) -> tuple[float | None, list[str]]:
    """After how many seconds of workers' time a launch is to end, and what is to be said of that before it begins.

    Args:
        app: the backend.
        options: of each call.
        calls: how many there are.
        budget: a duration, such as "2h"; max_cost: an amount, such as "5USD".

    Raises:
        click.BadParameter: one of them cannot be read, or nothing says what workers cost.
        Wrong: the prices in pyproject.toml are wrong.
    """
    if budget is None and max_cost is None:
        return None, []
    table = prices(app)
    rate = _per_second(options, table)
    limits = [] if budget is None else [_duration(budget)]
    if max_cost is not None:
        amount = _amount(max_cost, str(table.get("currency", "")))
        if not rate:
            declared = ", ".join(resources(options)) or "nothing: declare cpu, memory or gpu (-w cpu=1)"
            raise click.BadParameter(
                f"nothing says what a worker costs on {app}. Declared is {declared}; its price per hour goes into "
                "[tool.mini.prices] of pyproject.toml",
                param_hint="--max-cost",
            )
        limits.append(amount / rate)
    seconds = min(limits)

    def said(seconds: float) -> str:
        from mini.display.meter import span

        money = f", {seconds * rate:.4g} {table.get('currency', '')}".rstrip() if rate else ""
        return f"{span(seconds)} of workers' time{money}"

    timeout, attempts = options.get("timeout"), 1 + (options.get("retries") or 0)
    if timeout is None:
        worst = "no end, because nothing says how long a call may run (-w timeout=SECONDS)"
    else:
        times = f" x {attempts} attempts" if attempts > 1 else ""
        worst = (
            f"{said(calls * timeout * attempts)} ({calls} call{'s' * (calls != 1)} x {timeout:g} s{times})"
        )
    return seconds, [f"at worst: {worst}", f"ended after: {said(seconds)}"]


def _per_second(options: dict[str, Any], table: dict[str, Any]) -> float | None:
    """What a second of one worker costs; None if something that it has is without a price, or nothing is declared."""
    declared = resources(options)
    second = {
        "cpu_seconds": declared.get("cpu"),
        "memory_gib_seconds": declared.get("memory"),
        "gpu_seconds": {k.removeprefix("gpu "): n for k, n in declared.items() if k.startswith("gpu ")},
    }
    price = priced(second, table) if declared else None
    return None if price is None or price["without"] else float(price["amount"])


def _duration(text: str) -> float:
    parts = re.findall(r"([\d.]+)\s*(d|h|min|m|s)(?![a-z])\s*", text)
    whole = "".join(f"{number}{unit}" for number, unit in parts) == re.sub(r"\s", "", text)
    try:
        seconds = float(text) if not parts else sum(float(number) * _UNITS[unit] for number, unit in parts)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0) or (parts and not whole):
        raise click.BadParameter(
            f"{text!r} is no duration, such as 90s, 30m, 2h or 1h30m", param_hint="--budget"
        )
    return seconds


def _amount(text: str, currency: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([^\d\s]*)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(
            f"{text!r} is no amount, such as 5{currency or 'USD'}", param_hint="--max-cost"
        )
    if match[2] and match[2] != currency:
        there = f"in {currency}" if currency else "in no currency: add `currency` to [tool.mini.prices]"
        raise click.BadParameter(f"{text!r}: the prices of the project are {there}", param_hint="--max-cost")
    return float(match[1])
