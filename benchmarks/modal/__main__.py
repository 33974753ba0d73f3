"""mini on Modal against Modal's own map and calls: ratios, in one run on the emulator."""

from __future__ import annotations

import sys

from ..common.suite import Suite
from .conduct import FULL, QUICK, SCENARIOS, Bench
from .report import DISTRIBUTIONS, FIGURES, METHOD, READINGS, REASONS
from .targets import TARGETS

main = Suite(
    name="modal",
    about=__doc__,
    title="Benchmarks of mini on Modal",
    rounds=" (of imports thrice as many, of the constant half)",
    method=METHOD,
    readings=READINGS,
    distributions=DISTRIBUTIONS,
    bench=Bench,
    scenarios=SCENARIOS,
    quick=QUICK,
    full=FULL,
    targets=TARGETS,
    figures=FIGURES,
    reasons=REASONS,
).main


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
