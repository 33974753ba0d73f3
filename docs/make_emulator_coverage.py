"""Makes docs/reference/emulator-coverage.md: each of Modal's RPCs, and whether the emulator does it.

    python docs/make_emulator_coverage.py

What is done is read from the services' handlers, and what is tested from the `@covers(...)` of the emulator's tests: an
RPC is done only if a test names it.
"""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

from modal_emulator import plane
from modal_emulator.rpc import SERVICE, snake
from modal_emulator.services import Service

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "emulator-coverage.md"
TESTS = ROOT / "packages" / "modal-emulator" / "tests"

HEAD = """\
# What modal-emulator does of Modal's protocol

<!-- Written by docs/make_emulator_coverage.py; edits are lost. -->

Of the {total} RPCs of modal {modal}, {done} are done, {partly} partly, {no} not. *Done* means that a test that runs the
client names it; *partly*, that something of it is refused or missing, or that no test names it. All others answer
`UNIMPLEMENTED` with a message that names the emulator and the RPC. Fields of a request that would have no effect are
refused too, or logged with `--lenient`.

All of this has been checked against the emulator only: nobody has yet run the same programs on Modal
(`MODAL_EMULATOR_TEST_LIVE=1`).

| RPC | | what is missing | tests |
| --- | --- | --- | --- |
"""


def handlers() -> dict[str, str]:
    """What is missing of each RPC that has a handler, by its name; empty if nothing is."""
    found = {}
    services = [kind for kind in vars(plane).values() if inspect.isclass(kind) and issubclass(kind, Service)]
    by_snake = {snake(method.name): method.name for method in SERVICE.methods}
    for service in services:
        for name, function in inspect.getmembers(service, lambda member: hasattr(member, "__rpc__")):
            found[by_snake[name]] = function.__rpc__[1]
    return found


def tested() -> dict[str, list[str]]:
    """The tests that name each RPC, as "module::test"."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", []):
                if (
                    isinstance(mark, ast.Call)
                    and isinstance(mark.func, ast.Name)
                    and mark.func.id == "covers"
                ):
                    for argument in mark.args:
                        assert isinstance(argument, ast.Constant)
                        found.setdefault(str(argument.value), []).append(f"{path.stem}::{node.name}")  # type: ignore[attr-defined]  # of what has decorators
    return found


def page() -> str:
    missing, tests = handlers(), tested()
    rows, counts = [], {"done": 0, "partly": 0, "no": 0}
    for name in sorted(method.name for method in SERVICE.methods):
        named = tests.get(name, [])
        if name not in missing:
            verdict, why = "no", ""
        elif missing[name] or not named:
            verdict, why = "partly", missing[name] or "a test"
        else:
            verdict, why = "done", ""
        counts[verdict] += 1
        shown = ", ".join(f"`{test}`" for test in named[:2]) + (
            f" and {len(named) - 2} more" if len(named) > 2 else ""
        )
        rows.append(f"| `{name}` | {verdict} | {why} | {shown} |")
    head = HEAD.format(total=len(rows), modal=version("modal"), **counts)
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
