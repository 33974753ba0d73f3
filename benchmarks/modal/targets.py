"""What mini-modal must reach."""

from __future__ import annotations

from ..common.targets import Target, per_round, plain, ratio


def _imports() -> Target:
    values, needs = per_round(
        lambda ours, base: (ours - base) * 1000,
        ("imports.seconds", "mini_modal"),
        ("imports.seconds", "mini"),
    )
    return Target("imports", "`import mini_modal`, beside `import mini`", "≤", 20, values, "ms", needs)


TARGETS = [
    ratio(
        "tiny", "tiny.rate", "mini", "raw", 20, "tiny calls: calls per second, against `Function.map`", "≥"
    ),
    ratio("slow_8", "slow_8.rate", "mini", "raw", 0.95, "calls of 100 ms: likewise, 8 containers", "≥"),
    ratio("slow_2", "slow_2.rate", "mini", "raw", 0.95, "…, 2 containers", "≥"),
    ratio("single", "single.median", "mini", "raw", 1.3, "warm `run`: p50, against `.remote`"),
    ratio(
        "constant",
        "constant.rate",
        "mini",
        "raw",
        5,
        "a constant of 100 MB, 50 calls: calls per second, against `Function.map`",
        "≥",
    ),
    _imports(),
    plain("image.seconds", "ask", 0.3, "whether the image is up to date", "s"),
    plain("image.seconds", "start", 0.3, "… with the start of the app", "s"),
]
