"""What tests have workers call: quick to import, because each new worker imports it."""

from __future__ import annotations

import os

import mini
from mini.conformance.probes import Gate, Tally

__all__ = ["load", "save", "square", "wait"]


def wait(number: int, tally: Tally, gate: Gate) -> int:
    tally.add(f"{number} {os.getpid()}")
    gate.wait()
    return number


def square(number: int) -> int:
    return number * number


def save(name: str, text: str = "x") -> None:
    path = mini.get_data_dir() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def load(name: str) -> str:
    return (mini.get_data_dir() / name).read_text()
