"""`mini volume`: the files of a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import click

from ._names import Named, app_option, name_argument
from .as_json import json_option, print_json

__all__ = ["command"]


@click.group("volume")
def command() -> None:
    """List, fetch, store and remove files of a name's volume.

    \b
    Example:
        mini volume ls digits
    """


@contextmanager
def _telling() -> Iterator[None]:
    """An error of the file system is one of the command line: the path was wrong."""
    try:
        yield
    except OSError as exc:
        from mini.errors import MiniError

        if isinstance(exc, MiniError):
            raise
        raise click.UsageError(str(exc)) from exc


@command.command("ls")
@name_argument
@click.argument("path", default="")
@click.option("-r", "--recursive", is_flag=True, help="All that is below, too.")
@app_option
@json_option
def list_files(name: str, path: str, recursive: bool, app: str | None, as_json: bool) -> None:
    """List what is in the volume of NAME, or in a folder PATH of it.

    \b
    Example:
        mini volume ls digits models
    """
    named = Named.find(name, app)
    from ._wait import waiting

    with _telling(), waiting("listing"):
        volume = named.apparatus().volume
        # A volume that nobody has written to is not there yet, which is as good as empty.
        entries = volume.list(path, recursive=recursive) if path or volume.exists("") else []
    if as_json:
        print_json(
            named,
            files=[{"path": e.path, "size": e.size, "folder": e.is_dir, "changed": e.mtime} for e in entries],
        )
        return
    from .status import when

    for entry in entries:
        size = "" if entry.is_dir else f"{entry.size:,}"
        click.echo(f"{size:>15}  {when(entry.mtime)}  {entry.path}{'/' * entry.is_dir}")


@command.command("get")
@name_argument
@click.argument("path")
@click.argument("local", required=False)
@app_option
@json_option
def get_files(name: str, path: str, local: str | None, app: str | None, as_json: bool) -> None:
    """Fetch the file or folder PATH from the volume of NAME. It is stored as LOCAL, or here under its own name.

    \b
    Example:
        mini volume get digits models/64-0.01.pickle
    """
    named = Named.find(name, app)
    target = Path(local or PurePosixPath(path).name or named.name)
    from ._wait import waiting

    with _telling(), waiting(f"fetching {path}"):
        named.apparatus().volume.download(path, target)
    if as_json:
        print_json(named, path=path, local=str(target.absolute()))
    else:
        click.echo(f"{named.name}:{path} is {target}")


@command.command("put")
@name_argument
@click.argument("local", type=click.Path(exists=True))
@click.argument("path", required=False)
@app_option
@json_option
def put_files(name: str, local: str, path: str | None, app: str | None, as_json: bool) -> None:
    """Store the file or folder LOCAL in the volume of NAME, as PATH or under its own name.

    \b
    Example:
        mini volume put digits data/train.csv
    """
    named = Named.find(name, app)
    target = path or Path(local).absolute().name
    from ._wait import waiting

    with _telling(), waiting(f"storing {local}"):
        named.apparatus().volume.upload(local, target)
    if as_json:
        print_json(named, path=target, local=str(Path(local).absolute()))
    else:
        click.echo(f"{local} is {named.name}:{target}")


@command.command("rm")
@name_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@app_option
@json_option
def remove_files(name: str, paths: tuple[str, ...], app: str | None, as_json: bool) -> None:
    """Remove files and folders from the volume of NAME.

    \b
    Example:
        mini volume rm digits models
    """
    named = Named.find(name, app)
    volume = named.apparatus().volume
    from ._wait import waiting

    for path in paths:
        with _telling(), waiting(f"removing {path}"):
            volume.remove(path)
    if as_json:
        print_json(named, removed=list(paths))
    else:
        click.echo(f"removed from {named.name}: {', '.join(paths)}")
