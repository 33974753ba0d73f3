"""What the emulator must reach."""

from __future__ import annotations

from ..common.targets import plain, ratio
from .conduct import LARGE, SMALL, VERSIONS

TOLERANCE = 1.1
"""As much as two runs of the same differ by."""


TARGETS = [
    ratio(
        "cold", "cold.seconds", "remote", "import modal", 1.5, "cold `.remote`: time, against `import modal`"
    ),
    ratio("warm", "warm.median", "remote", "hello", 4, "warm `.remote`: p50, against a bare unary call"),
    plain(
        "map.per_input",
        SMALL,
        3,
        "`map` of 1 000 on two containers: per input",
        "ms",
        scale=lambda s: s * 1000,
    ),
    ratio("map", "map.per_input", LARGE, SMALL, TOLERANCE, "… of 10 000: per input, against that of 1 000"),
    *(
        target
        for version in VERSIONS
        for target in (
            ratio(
                "volume",
                "volume.seconds",
                f"put v{version}",
                "cp",
                3,
                f"1 GiB into a Volume v{version}: time, against `cp`",
            ),
            ratio("volume", "volume.seconds", f"get v{version}", "cp", 3, "… out of it again"),
        )
    ),
    plain("idle.memory", "server", 100, "idle server with a deployed app: memory", "MB", "<"),
    plain("idle.load", "server", 1, "… processor", "%", "<"),
    plain("apps.processes", "server", 0, "200 ephemeral apps, one after the other: processes left"),
    plain("apps.mounts", "server", 0, "… mounts"),
    plain("apps.sockets", "server", 0, "… sockets"),
    plain("apps.descriptors", "server", 0, "… descriptors"),
    plain("apps.files", "server", 0, "… files, temporary and in the cache"),
    plain("apps.shm", "server", 0, "… files in `/dev/shm`"),
    plain("apps.cgroups", "server", 0, "… control groups"),
    plain("apps.memory", "server", 10, "… the server grows by", "MB"),
]
