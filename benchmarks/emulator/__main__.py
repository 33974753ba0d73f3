"""What the Modal emulator costs: cold and warm calls, maps, Volumes, an idle server and what is left behind."""

from __future__ import annotations

import sys

from ..common.suite import Suite
from .conduct import FULL, QUICK, SCENARIOS, Bench
from .report import DISTRIBUTIONS, FIGURES, METHOD, READINGS, REASONS
from .targets import TARGETS

main = Suite(
    name="emulator",
    about=__doc__,
    title="Benchmarks of the Modal emulator",
    rounds=" (of cold starts thrice as many, of long ones half)",
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
