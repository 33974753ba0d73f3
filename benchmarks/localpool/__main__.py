"""mini's local pool against other pools: ratios, in one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.command import end_well, options_for
from ..common.effort import chosen_effort
from ..common.report import machine
from ..common.run import Run
from . import report
from .conduct import FULL, POOLS, QUICK, SCENARIOS, Bench
from .targets import TARGETS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str]) -> int:
    parser = options_for("localpool", __doc__, SCENARIOS, PAGE)
    parser.add_argument(
        "--pool", action="append", choices=POOLS, help="a pool (mini is always one); likewise"
    )
    options = parser.parse_args(arguments)

    scenarios = [name for name in SCENARIOS if not options.only or name in options.only]
    pools = [name for name in POOLS if not options.pool or name in {*options.pool, "mini"}]
    if options.write_docs and (options.only or options.pool):
        parser.error("--write-docs is for a whole run, without --only and --pool")
    effort = chosen_effort(options, QUICK, FULL)

    end_well()  # the pools that wait are stopped, and would stay so for ever
    where = machine(report.DISTRIBUTIONS)
    print("\n".join(where), flush=True)
    begin = time.monotonic()
    samples = Bench(pools, effort).run(scenarios)
    run = Run(where, effort, scenarios, samples, time.monotonic() - begin)

    table, notes = report.pool_table(samples)
    run.show(TARGETS, table, "", *notes)
    if options.json:
        run.write_json(options.json)
    if options.write_docs:
        PAGE.write_text(report.page(run))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
