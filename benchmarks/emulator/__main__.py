"""What the Modal emulator costs: cold and warm calls, maps, Volumes, an idle server and what is left behind."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.command import end_well, options_for, write_json
from ..common.report import machine, target_table, verdicts
from . import report
from .conduct import FULL, QUICK, SCENARIOS, new_bench
from .profile import Profiler
from .targets import TARGETS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks-emulator.md"


def main(arguments: Sequence[str]) -> int:
    parser = options_for("emulator", __doc__, SCENARIOS, PAGE)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the server's time goes, by py-spy, instead of the tables",
    )
    options = parser.parse_args(arguments)

    scenarios = [name for name in SCENARIOS if not options.only or name in options.only]
    if options.write_docs and (options.only or options.profile):
        parser.error("--write-docs is for a whole run, without --only and --profile")
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)

    end_well()
    where = machine(report.DISTRIBUTIONS)
    print("\n".join(where), flush=True)
    if options.profile:
        if shutil.which("py-spy") is None:
            parser.error("--profile needs py-spy on PATH")
        with tempfile.TemporaryDirectory() as folder:
            profiler = Profiler(Path(folder))
            with new_bench(effort, profiler) as bench:
                bench.run(scenarios)
        print(profiler.tables())
        return 0
    begin = time.monotonic()
    with new_bench(effort) as bench:
        samples = bench.run(scenarios)
    seconds = time.monotonic() - begin

    found = verdicts(TARGETS, samples, scenarios)
    print("", target_table(found), "", report.figure_table(samples), sep="\n")
    print(f"\n{sum(verdict.met for verdict in found)} of {len(found)} targets met, in {seconds:.0f} s")
    if options.json:
        write_json(
            options.json, where=where, effort=dataclasses.asdict(effort), **dataclasses.asdict(samples)
        )
    if options.write_docs:
        PAGE.write_text(report.page(samples, scenarios, effort, where, seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
