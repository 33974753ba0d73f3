"""The program that is run: functions that do nothing, and differ in how many containers they have."""

from __future__ import annotations

import sys

import modal

MAP_CONTAINERS = 2

image = modal.Image.from_registry(f"python:{sys.version_info.major}.{sys.version_info.minor}-slim")

cold_app = modal.App("benchmark-cold")
warm_app = modal.App("benchmark-warm")
map_app = modal.App("benchmark-map")
idle_app = modal.App("benchmark-idle")
ephemeral_app = modal.App("benchmark-ephemeral")


@cold_app.function(image=image, single_use_containers=True)
def once(x: int) -> int:
    """Has no container when it is called, because each ends after one call."""
    return x


@warm_app.function(image=image, max_containers=1, scaledown_window=600)
def identity(x: int) -> int:
    return x


@map_app.function(
    image=image, min_containers=MAP_CONTAINERS, max_containers=MAP_CONTAINERS, scaledown_window=600
)
def mapped(x: int) -> int:
    return x


@idle_app.function(image=image)
def deployed(x: int) -> int:
    return x


@ephemeral_app.function(image=image)
def ephemeral(x: int) -> int:
    return x
