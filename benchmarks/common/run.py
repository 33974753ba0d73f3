"""What a run of a suite leaves: what it was, and what it has measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .effort import BaseEffort
from .report import target_table
from .samples import Samples
from .targets import Target, Verdict

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        where: what it was measured on and with.
        seconds: that it has taken.
    """

    where: list[str]
    effort: BaseEffort
    scenarios: list[str]
    samples: Samples
    seconds: float

    @property
    def minutes(self) -> float:
        return self.seconds / 60

    def verdicts(self, targets: Iterable[Target]) -> list[Verdict]:
        return [target.judge(self.samples) for target in targets if target.scenario in self.scenarios]

    def show(self, targets: Iterable[Target], *tables: str) -> None:
        found = self.verdicts(targets)
        met = sum(verdict.met for verdict in found)
        print("", target_table(found), "", *tables, sep="\n")
        print(f"\n{met} of {len(found)} targets met, in {self.seconds:.0f} s")

    def write_json(self, path: Path) -> None:
        what = {"where": self.where, "effort": dataclasses.asdict(self.effort)}
        path.write_text(json.dumps({**what, **dataclasses.asdict(self.samples)}, indent=1) + "\n")
