"""What the Modal emulator costs: cold and warm calls, maps, Volumes, an idle server and what is left behind."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.command import end_well, options_for
from ..common.effort import chosen_effort
from ..common.report import machine
from ..common.run import Run
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
    effort = chosen_effort(options, QUICK, FULL)

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
    run = Run(where, effort, scenarios, samples, time.monotonic() - begin)

    run.show(TARGETS, report.figure_table(samples))
    if options.json:
        run.write_json(options.json)
    if options.write_docs:
        PAGE.write_text(report.page(run))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
