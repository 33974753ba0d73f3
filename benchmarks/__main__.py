"""`./go bench [SUITE] [OPTION...]`: all suites one after the other, or one of them.

Options that all suites have, such as --quick, may be given without naming one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

SUITES = {
    "localpool": "mini's local pool against other pools",
    "emulator": "what the Modal emulator costs",
    "modal": "mini on Modal against Modal's own map and calls",
    "ray": "mini on Ray against Ray's own tasks",
}


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in SUITES:
        return _suite(arguments[0])(arguments[1:])
    if arguments and (arguments[0] in ("-h", "--help") or not arguments[0].startswith("-")):
        print(__doc__.strip(), "", *(f"  {name:11}{about}" for name, about in SUITES.items()), sep="\n")
        return 0 if arguments[0].startswith("-") else 2
    if any(argument.startswith("--json") for argument in arguments):
        print("--json is for one suite: name it", file=sys.stderr)
        return 2
    status = 0
    for name, about in SUITES.items():
        print(f"\n=== {name}: {about}\n", flush=True)
        status = _suite(name)(arguments) or status
    return status


def _suite(name: str) -> Callable[[Sequence[str]], int]:
    main: Callable[[Sequence[str]], int] = import_module(f"{__package__}.{name}.__main__").main
    return main


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
