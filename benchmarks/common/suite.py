"""A suite that measures in processes of its own: its command line, and its page."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .bench import BaseBench, own_folder
from .child import ROOT
from .command import end_well, options_for
from .effort import BaseEffort, chosen_effort
from .profile import Profiler
from .report import Figure, figure_table, machine, summary, target_table
from .run import Run
from .targets import Target

__all__ = ["Suite"]

E = TypeVar("E", bound=BaseEffort)


@dataclass(frozen=True)
class Suite(Generic[E]):
    """
    Attributes:
        name: of its command and its page.
        title: of the page.
        rounds: says of which scenarios there are not as many rounds as of the others.
        method, readings: paragraphs of the page, before and after the targets; each line is one of the page's.
        reasons: a section of the page, about where the time goes.
        distributions: whose versions matter.
    """

    name: str
    about: str | None
    title: str
    rounds: str
    method: Sequence[str]
    readings: Sequence[str]
    distributions: Sequence[str]
    bench: type[BaseBench[E]]
    scenarios: Mapping[str, Callable[[Any], None]]
    quick: E
    full: E
    targets: Sequence[Target]
    figures: Sequence[Figure]
    reasons: Sequence[str] = ()

    @property
    def path(self) -> Path:
        return ROOT / "docs" / f"benchmarks-{self.name}.md"

    def main(self, arguments: Sequence[str]) -> int:
        parser = options_for(self.name, self.about, self.scenarios, self.path)
        watched = " and the ".join(self.bench.PROFILED)
        parser.add_argument(
            "--profile",
            action="store_true",
            help=f"show where the time of the {watched} goes, by py-spy, instead of the tables",
        )
        options = parser.parse_args(arguments)

        scenarios = {
            name: s for name, s in self.scenarios.items() if not options.only or name in options.only
        }
        if options.write_docs and (options.only or options.profile):
            parser.error("--write-docs is for a whole run, without --only and --profile")
        effort = chosen_effort(options, self.quick, self.full)

        end_well()
        where = machine(self.distributions)
        print("\n".join(where), flush=True)
        if options.profile:
            if shutil.which("py-spy") is None:
                parser.error("--profile needs py-spy on PATH")
            with tempfile.TemporaryDirectory() as stacks, own_folder() as folder:
                profiler = Profiler(Path(stacks))
                self.bench(effort, folder, profiler).run(scenarios)
            print(profiler.tables())
            return 0
        begin = time.monotonic()
        with own_folder() as folder:
            samples = self.bench(effort, folder).run(scenarios)
        run = Run(where, effort, list(scenarios), samples, time.monotonic() - begin)

        run.show(self.targets, figure_table(samples, self.figures))
        if options.json:
            run.write_json(options.json)
        if options.write_docs:
            self.path.write_text(self._page(run))
        return 0

    def _page(self, run: Run) -> str:
        found = run.verdicts(self.targets)
        lines = [
            f"# {self.title}",
            "",
            f"<!-- Written by `./go bench {self.name} --write-docs`; edits are lost. -->",
            "",
            *(f"- {line}" for line in run.where),
            f"- {run.effort.rounds} rounds{self.rounds}, {run.minutes:.0f} minutes.",
            *(
                ["- A quick run, of fewer and smaller things than the tables say."]
                * (run.effort == self.quick)
            ),
            "",
            *self.method,
            "",
            "## Targets",
            "",
            *summary(found),
            target_table(found),
            "",
            *self.readings,
            "",
            "## Figures",
            "",
            figure_table(run.samples, self.figures),
            "",
            *self.reasons,
        ]
        return "\n".join(lines).rstrip() + "\n"
