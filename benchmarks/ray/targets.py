"""What mini-ray must reach."""

from __future__ import annotations

from ..common.targets import plain, ratio

TARGETS = [
    ratio(
        "tiny",
        "tiny.rate",
        "unchunked",
        "raw",
        0.8,
        "tiny calls with `chunk=1`: calls per second, against a task for each",
        "≥",
    ),
    ratio(
        "tiny",
        "tiny.rate",
        "mini",
        "raw",
        30,
        "tiny calls at default settings: likewise",
        "≥",
    ),
    ratio("tiny", "tiny.rate", "mini", "chunks", 0.7, "…, against tasks of 100 calls made by hand", "≥"),
    ratio("single", "single.median", "mini", "raw", 1.5, "warm `run`: p50, against `ray.get(f.remote(x))`"),
    ratio(
        "constant",
        "constant.seconds",
        "mini",
        "raw",
        1.2,
        "a constant of 100 MB, 100 calls: time, against `ray.put`",
    ),
    plain("stream.grown", "mini", 50, "a stream of a million ints: growth of the caller", "MB", "<"),
]
