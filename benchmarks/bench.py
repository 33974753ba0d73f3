"""Measures mini's local pool against others, side by side in one run, and says which targets are met.

Run it as `./go bench`; docs/benchmarks.md says how it measures.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from measure import Children, children
from report import TARGET_HEAD, about, as_json, as_text, case_rows, noise, page, summary, target_rows
from scenarios import Scenario, scenarios
from targets import Measurements, targets

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    names = [scenario.name for scenario in scenarios(quick=True)]
    parser = argparse.ArgumentParser(
        prog="./go bench", description="Ratios against other pools, interleaved."
    )
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--peers", help="only these, with commas between them; mini always takes part")
    parser.add_argument("--quick", action="store_true", help="few rounds of little work: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args(arguments)
    if options.write_docs and (options.only or options.quick or options.peers):
        parser.error("--write-docs is for a full run")

    chosen = [s for s in scenarios(quick=options.quick) if not options.only or s.name in options.only]
    if options.peers:
        wanted = {"mini", *options.peers.split(",")}
        for scenario in chosen:
            if scenario.name != "import":
                scenario.cases = [c for c in scenario.cases if c.name.split(",")[0] in wanted]
    began = datetime.now(UTC)
    measurements = Measurements()
    with children() as starter:
        for scenario in chosen:
            measure(scenario, starter, measurements)
    facts = about(ROOT, measurements, began=began, ended=datetime.now(UTC))
    found = [t for t in targets(measurements) if t.scenario in measurements.outcomes]

    for scenario in chosen:
        print(f"\n{scenario.title}\n\n{as_text(*case_rows(scenario, measurements))}")
    print(f"\nTargets\n\n{as_text(TARGET_HEAD, target_rows(found))}\n\n{summary(found)} {noise(facts)}")
    if options.json:
        options.json.write_text(as_json(measurements, found, facts))
    if options.write_docs:
        (ROOT / "docs" / "benchmarks.md").write_text(page(chosen, measurements, found, facts))
    return 0


def measure(scenario: Scenario, starter: Children, measurements: Measurements) -> None:
    """Take all rounds of a scenario; each begins with another case."""
    cases = scenario.cases
    for turn in range(scenario.rounds):
        first = turn % len(cases)
        for k, case in enumerate(cases[first:] + cases[:first], 1):
            if turn >= case.rounds:
                measurements.note(scenario.name, case.name, None)
                continue
            say(f"{scenario.name}: round {turn + 1} of {scenario.rounds}, {k} of {len(cases)}: {case.name}")
            outcome = starter.measure(lambda case=case: case.take(starter))  # type: ignore[misc]
            measurements.note(scenario.name, case.name, outcome)
            if outcome.absent:
                case.rounds = 0
    say("")


def say(text: str) -> None:
    """One line about what is going on, on a terminal over the last one."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
