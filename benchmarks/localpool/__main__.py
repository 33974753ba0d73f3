"""`./go bench`: ratios against other pools, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

from . import report
from .conduct import FULL, POOLS, QUICK, SCENARIOS, Bench

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./go bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, help="a scenario; may be given several times"
    )
    parser.add_argument(
        "--pool", action="append", choices=POOLS, help="a pool (mini is always one); likewise"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: to try the benchmark itself"
    )
    parser.add_argument("--rounds", type=int, help="rounds, if not those of the effort")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"write docs/{PAGE.name}; only of a whole run"
    )
    options = parser.parse_args()

    scenarios = [name for name in SCENARIOS if not options.only or name in options.only]
    pools = [name for name in POOLS if not options.pool or name in {*options.pool, "mini"}]
    if options.write_docs and (options.only or options.pool):
        parser.error("--write-docs is for a whole run, without --only and --pool")
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)

    # The pools that wait are stopped, and would stay so for ever.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    where = report.machine()
    print("\n".join(where), flush=True)
    begin = time.monotonic()
    samples = Bench(pools, effort).run(scenarios)
    seconds = time.monotonic() - begin

    found = report.verdicts(samples, scenarios)
    table, notes = report.pool_table(samples)
    print("", report.target_table(found), "", table, "", *notes, sep="\n")
    print(f"\n{sum(verdict.met for verdict in found)} of {len(found)} targets met, in {seconds:.0f} s")
    if options.json:
        content = {"where": where, "effort": dataclasses.asdict(effort), **dataclasses.asdict(samples)}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.write_docs:
        PAGE.write_text(report.page(samples, scenarios, effort, where, seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
