"""`mini run`: a plain function in a plain file as a sweep."""

from __future__ import annotations

import contextlib
import inspect
import json
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from mini import launched

from ._names import Named
from ._say import RUNNING, counted, counts_json, exit_status
from .as_json import print_json

if TYPE_CHECKING:
    from mini.jobboard import JobGroup
    from mini.protocol import Apparatus
    from mini.status import CallRecord

    from . import results
    from ._grid import Row

__all__ = ["command"]

MODULE_NAME = "__mini_run__"
"""What the file is called while it is imported; it is not `__main__`, so that its last lines do not run."""


@click.command("run")
@click.argument("target", metavar="FILE[:FUNCTION]")
@click.option(
    "--app",
    metavar="BACKEND",
    help="Where to run. Default: where NAME was launched, else MINI_APP, else [tool.mini] app, else local.",
)
@click.option(
    "--name", metavar="NAME", help="What the jobs and their volume are called. Default: the file's name."
)
@click.option(
    "--map", "maps", multiple=True, metavar="KEY=A,B,C", help="Values of a parameter. Several make a grid."
)
@click.option("--grid", metavar="JSON|FILE", help="Rows of arguments: JSON, or a file .csv, .json or .jsonl.")
@click.option("--max-workers", type=click.IntRange(min=1), metavar="N", help="Calls at the same time.")
@click.option("--gpu", metavar="COUNT|NAME", help="GPUs of each call, such as 1, L4 or A100:2.")
@click.option(
    "-w",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option, such as timeout=60 or retries=2.",
)
@click.option(
    "--budget", metavar="TIME", help="End it when workers have been busy for so long, all together: 2h, 30m."
)
@click.option(
    "--max-cost", metavar="AMOUNT", help="The same in money, by the prices of [tool.mini.prices]: 5USD."
)
@click.option("--watch", is_flag=True, help="Show progress, and on Ctrl-C leave the jobs alone.")
@click.option("--detach", is_flag=True, help="Return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/reference/cli.md has the schema).")
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    app: str | None,
    name: str | None,
    maps: tuple[str, ...],
    grid: str | None,
    max_workers: int | None,
    gpu: str | None,
    options: tuple[str, ...],
    budget: str | None,
    max_cost: str | None,
    watch: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Call FUNCTION of FILE for each row of inputs, and show what came of it.

    Values are read as JSON, and else are strings. Without --map and --grid there is one call. A FILE with one function
    needs no FUNCTION; one that defines main(app) is left to that.

    What is launched stays where it is when this command ends: `mini ls` shows it. Ctrl-C cancels it, unless --watch or
    --detach is given. A backend without detached jobs runs them for as long as this command does.

    Exit status: 0 if all are done, 1 if some failed, 4 if it was left before they had ended.

    \b
    Examples:
        mini run train.py:fit --map rate=0.1,0.01 --map seed=0,1,2
        mini run train.py:fit --grid settings.csv --app modal --gpu L4 --detach
    """
    if watch and detach:
        raise click.UsageError("--watch and --detach exclude each other")
    file_name, colon, function_name = (
        target.partition(":") if not Path(target).is_file() else (target, "", "")
    )
    from ._load import parse_file

    file = parse_file(file_name, "FILE[:FUNCTION]").resolve()
    if colon and not function_name:
        raise click.BadParameter(
            f"{target!r} names no function after the colon", param_hint="FILE[:FUNCTION]"
        )
    settings = _settings(options, gpu, max_workers)
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("._-")[:63] or "run"
    named = Named.find(name, app)
    # What the file prints when it is imported is not the answer.
    with contextlib.redirect_stdout(sys.stderr):
        fn, is_main = _load(file, function_name)
    if is_main:
        if maps or grid or watch or detach or budget or max_cost:
            raise click.UsageError(
                f"{file.name} defines main(app), which launches by itself: it takes no --map, --grid, --budget, "
                "--max-cost, --watch or --detach; or name a function, FILE:FUNCTION"
            )
        aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        with named.apparatus().w(**settings) as apparatus, aside:
            returned = fn(apparatus)
        if as_json:
            from .results import as_data

            print_json(named, **as_data("returned", returned))
        elif returned is not None:
            click.echo(returned)
        return
    from ._grid import rows

    inputs = rows(fn, maps, grid)
    if not inputs:
        raise click.UsageError("there are no inputs: --grid has no rows")
    from ._budget import plan

    with named.apparatus().w(**settings) as apparatus:
        if apparatus.supports("detached_jobs"):
            seconds, words = plan(named.app, settings, len(inputs), budget, max_cost)
            for line in words:
                click.echo(line, err=True)
            _launch(ctx, named, apparatus, fn, inputs, seconds, watch=watch, detach=detach, as_json=as_json)
        elif watch or detach or budget or max_cost:
            raise click.UsageError(
                f"{named.app} has no detached jobs, and so no --watch, --detach, --budget or --max-cost"
            )
        else:
            _attached(ctx, named, apparatus, fn, inputs, as_json=as_json)


# --- what to run ----------------------------------------------------------------------------------------------------


def _settings(options: tuple[str, ...], gpu: str | None, max_workers: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as timeout=60", param_hint="-w")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    if gpu is not None:
        settings["gpu"] = int(gpu) if gpu.isdecimal() else gpu
    if max_workers is not None:
        settings["max_workers"] = max_workers
    return settings


def _load(file: Path, function: str) -> tuple[Callable[..., Any], bool]:
    """The function, and whether it is a `main(app)` that nobody has asked for by name."""
    from mini.requirements import find_project_root, importable_packages

    from ._load import TargetError, find_function, load_file, package_of

    root = find_project_root(file.parent)
    try:
        module = load_file(file, package_of(file, importable_packages(root) if root else ()), MODULE_NAME)
    except SystemExit as exc:
        raise click.UsageError(
            f"{file.name} exits with {exc.code!r} when it is imported; guard what only a script does with "
            "`if __name__ == '__main__':`"
        ) from exc
    except Exception as exc:
        _show_error(exc, file)
        raise click.UsageError(f"{file.name} cannot be imported: {type(exc).__name__}: {exc}") from exc
    chosen = function or _only_function(module, file)
    try:
        fn = find_function(module, chosen)
    except TargetError as exc:
        raise click.BadParameter(str(exc), param_hint="FILE[:FUNCTION]") from exc
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise click.BadParameter(
            f"{chosen} is a generator function; return a list from it", param_hint="FILE[:FUNCTION]"
        )
    return fn, chosen == "main" and not function


def _only_function(module: ModuleType, file: Path) -> str:
    from ._load import functions

    names = [name for name in functions(module) if not name.startswith("_")]
    if "main" in names and len(inspect.signature(module.main).parameters) == 1:
        return "main"
    names = [name for name in names if name != "main"]
    if len(names) == 1:
        return names[0]
    there = f"it has {', '.join(names)}" if names else "it has none"
    raise click.BadParameter(
        f"say which function of {file.name}, as in {file.name}:{names[0] if names else 'NAME'}; {there}",
        param_hint="FILE[:FUNCTION]",
    )


def _show_error(exc: BaseException, file: Path) -> None:
    """The user's part of a traceback."""
    import traceback

    frames = traceback.extract_tb(exc.__traceback__)
    own = next((i for i, frame in enumerate(frames) if Path(frame.filename) == file), None)
    if own is not None:
        click.echo("".join(traceback.format_list(frames[own:])).rstrip(), err=True)


# --- running it -----------------------------------------------------------------------------------------------------


def _launch(
    ctx: click.Context,
    named: Named,
    apparatus: Apparatus,
    fn: Callable[..., Any],
    inputs: list[Row],
    budget: float | None,
    *,
    watch: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Launch it, and unless it is to be left alone, wait for it and show what came of it."""
    from mini.joblaunch import new_group_id
    from mini.rows import ByName

    from ._follow import follow
    from ._wait import waiting

    id = new_group_id()
    commands = [f"mini {verb} {named.name}" for verb in ("watch", "status", "results", "report")]
    try:
        with waiting(f"launching {len(inputs):,} jobs"):
            group = apparatus._spawn_map(id, ByName(fn), inputs, budget=budget)
        if detach:
            _say_launched(named, group, commands, as_json=as_json)
            return
        board = named.board()
        counts = follow(board, named.groups(board, id))
    except KeyboardInterrupt:
        _leave(named, apparatus, id, watch=watch, detach=detach)
        ctx.exit(RUNNING)
    from ._table import show_table
    from .results import read_rows, row_json

    rows = read_rows(board, group.records())
    if as_json:
        print_json(named, launch=id, counts=counts_json(counts), jobs=[row_json(row) for row in rows])
    else:
        show_table(rows, f"{commands[2]} --csv --launch {id}")
        click.echo(f"{named.name} on {named.app}: {counted(counts)}; {commands[3]}")
    ctx.exit(exit_status(counts))


def _say_launched(named: Named, group: JobGroup, commands: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json(named, launch=group.id, jobs=len(group), next=commands)
    else:
        jobs = f"{len(group)} job{'s' * (len(group) != 1)}"
        click.echo(f"launched {jobs} of {named.name} on {named.app} ({group.id}); go on with")
        click.echo("\n".join(f"  {line}" for line in commands))


def _leave(named: Named, apparatus: Apparatus, id: str, *, watch: bool, detach: bool) -> None:
    """Ctrl-C: end the launch, unless it is to be left alone, and say so. It may have come while that was being made."""
    from mini.jobboard import Select

    board = apparatus._board("group")
    try:
        group = board.group(id)
    except LookupError:
        raise KeyboardInterrupt from None  # there are no jobs yet
    launched.remember(named.name, named.app, apparatus._lasting_settings())
    if not (watch or detach):
        # As the store has them: who looks whether they are lost would find so what nobody was told to start.
        board.cancel(board.store.states(Select(group=id)))
        says = f"cancelled; to go on: mini retry {named.name} --cancelled --launch {id}"
    else:
        counts = group.counts()
        says = f"{'launched' if detach else 'no longer watching'}; the jobs of {named.name} "
        if any(count for state, count in counts.items() if not state.is_final):
            says += f"run on: mini watch {named.name}"
        else:  # if nobody was told to start them, they are lost
            says += f"are {counted(counts)}; to go on: mini retry {named.name} --failed --launch {id}"
    click.echo(f"\n{says}", err=True)


def _attached(
    ctx: click.Context,
    named: Named,
    apparatus: Apparatus,
    fn: Callable[..., Any],
    inputs: list[Row],
    *,
    as_json: bool,
) -> None:
    """On a backend without detached jobs: a map, of which nothing is kept but what is shown."""
    from mini.rows import ByName

    from ._table import show_table
    from .results import row_json

    began = time.time()
    values = list(apparatus.map(ByName(fn), inputs, return_exceptions=True))
    calls = {call.index: call for call in apparatus.records()}
    rows = [
        _as_row(getattr(fn, "__qualname__", named.name), place, row, value, calls.get(place), began)
        for place, (row, value) in enumerate(zip(inputs, values, strict=True))
    ]
    counts = Counter(row.record.state for row in rows)
    if as_json:
        print_json(named, launch=None, counts=counts_json(counts), jobs=[row_json(row) for row in rows])
    else:
        show_table(rows, "--json has them all")
        click.echo(f"{named.name} on {named.app}: {counted(counts)}; nothing of it is kept")
    ctx.exit(exit_status(counts))


def _as_row(
    function: str, index: int, row: Row, value: Any, call: CallRecord | None, began: float
) -> results.Row:
    """A call of a map as if it had been a job."""
    from mini.jobrecord import Attempt, Created, Ended, JobRecord, JobState, Origin, Report
    from mini.status import failure_record

    from .results import Row as ResultRow

    failure = failure_record(value) if isinstance(value, BaseException) else None
    state = JobState.DONE if failure is None else JobState.FAILED
    report = Report() if call is None else Report(call.progress, call.metrics)
    ended = Ended(time.time(), state, None, failure)
    origin = Origin(began, "", None, None, None, None, platform.python_version(), {})
    attempts = (Attempt(1 if call is None else call.attempt, Created(began), None, ended, report),)
    record = JobRecord(str(index), "", index, repr(row), function, origin, attempts)
    if failure is None:
        return ResultRow(record, value)
    return ResultRow(record, error=f"{failure.type.rpartition('.')[2]}: {failure.message}")
