"""mini's local pool against other pools: ratios, in one run."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.command import end_well, options_for, write_json
from ..common.report import machine, target_table, verdicts
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
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)

    end_well()  # the pools that wait are stopped, and would stay so for ever
    where = machine(report.DISTRIBUTIONS)
    print("\n".join(where), flush=True)
    begin = time.monotonic()
    samples = Bench(pools, effort).run(scenarios)
    seconds = time.monotonic() - begin

    found = verdicts(TARGETS, samples, scenarios)
    table, notes = report.pool_table(samples)
    print("", target_table(found), "", table, "", *notes, sep="\n")
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
