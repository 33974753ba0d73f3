"""mini on Ray against Ray's own tasks: ratios, in one run on one local instance."""

from __future__ import annotations

import sys

from ..common.suite import Suite
from .conduct import FULL, QUICK, SCENARIOS, Bench
from .report import DISTRIBUTIONS, FIGURES, METHOD, READINGS, REASONS
from .targets import TARGETS

main = Suite(
    name="ray",
    about=__doc__,
    title="Benchmarks of mini on Ray",
    rounds=" (of the constant thrice as many, of the stream one)",
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
