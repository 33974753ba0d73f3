"""The names on the command line: on which backend their jobs are, and which of them are meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mini import launched

from ._errors import Wrong

if TYPE_CHECKING:
    from mini.jobboard import JobBoard
    from mini.jobrecord import GroupRecord, JobStatus
    from mini.protocol import Apparatus

__all__ = ["Named", "app_option", "group_option", "name_argument"]

F = TypeVar("F", bound=Callable[..., Any])

LAST = "last"
"""What a user calls the group that was launched last."""


@dataclass(frozen=True, slots=True)
class Named:
    """A name and the backend that its jobs are on.

    Attributes:
        why: how the backend was found, for people.
    """

    name: str
    app: str
    why: str

    @classmethod
    def find(cls, name: str, app: str | None) -> Named:
        """`app` if it is given, else what the name was launched on, else the default.

        Raises:
            OptionError: no apparatus may be called that.
        """
        from mini.options import check_name

        check_name(name)
        if app is not None:
            return cls(name, app, "as --app says")
        if (backend := launched.backend_of(name)) is not None:
            return cls(name, backend, "where it was launched")
        from mini.registry import default_backend

        return cls(name, default_backend(), "the default")

    def apparatus(self) -> Apparatus:
        """An apparatus of this name. Raises BackendNotFound if nothing installed provides it."""
        from mini.registry import recall

        return recall(self.app, self.name)

    def board(self) -> JobBoard:
        """The jobs of this name. Imports nothing of other backends."""
        if self.app == "local":  # without all that runs calls, which a reader does not need
            from mini.local.jobs import open_board

            return open_board(launched.data_root(), self.name, stay=True)
        return self.apparatus()._board("jobs")

    def groups(self, board: JobBoard, group: str | None = None) -> list[GroupRecord]:
        """The groups that are meant: all, or the one of that id, or the last.

        Raises:
            Wrong: there are none; says where it looked, and where there is something.
        """
        groups = board.store.groups()
        if not groups:
            raise Wrong(self._nothing())
        if group is None:
            return groups
        if group == LAST:
            return groups[-1:]
        found = [one for one in groups if one.id == group]
        if not found:
            ids = ", ".join(one.id for one in groups[-10:])
            raise Wrong(f"{self.name} has no launch {group!r}; the latest are {ids}")
        return found

    def jobs(self, board: JobBoard, words: Sequence[str], group: str | None = None) -> list[JobStatus]:
        """The jobs that are meant: by id, by the id of their group, or by index in the latest group that has it.

        Without words all jobs of the groups that are meant.

        Raises:
            Wrong: there is no such job.
        """
        from mini.jobboard import Select

        groups = {one.id for one in self.groups(board, group)}
        jobs = [job for job in board.states(Select()) if job.group in groups]
        if not words:
            return jobs
        found: dict[str, JobStatus] = {}
        for word in words:
            matching = [job for job in jobs if word in (job.id, job.group)]
            if not matching and word.isdecimal():
                matching = [job for job in jobs if job.index == int(word)][-1:]
            if not matching:
                there = f"{jobs[0].id} to {jobs[-1].id}" if jobs else "none"
                raise Wrong(f"{self.name} has no job {word!r}; there are {there}")
            found.update((job.id, job) for job in matching)
        return list(found.values())

    def _nothing(self) -> str:
        where = f"on {self.app} ({self.why})"
        if self.app == "local":
            where += f", in {launched.data_root()}"
        others = {name: backend for name, backend in launched.names().items() if name != self.name}
        there = ", ".join(f"{name} on {backend}" for name, backend in others.items())
        hint = (
            f"there is {there}"
            if there
            else "nothing was launched from here yet: mini run FILE:FUNCTION --detach"
        )
        elsewhere = launched.backend_of(self.name)
        if elsewhere not in (None, self.app):
            hint = f"{self.name} was launched on {elsewhere}: leave --app out"
        return f"there are no jobs called {self.name!r} {where}; {hint}"


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in launched.names() if name.startswith(incomplete)]


def _backends(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from mini.registry import backend_names

    return sorted(name for name in backend_names() if name.startswith(incomplete))


def name_argument(function: F) -> F:
    """The argument NAME, which a shell completes."""
    return click.argument("name", shell_complete=_complete)(function)


def app_option(function: F) -> F:
    """The option --app."""
    return click.option(
        "--app",
        metavar="BACKEND",
        shell_complete=_backends,
        help="Where the jobs are. Default: where NAME was launched, else MINI_APP, else [tool.mini] app, else local.",
    )(function)


def group_option(function: F) -> F:
    """The option --launch."""
    return click.option(
        "--launch",
        "group",
        metavar="ID",
        help="Only the jobs of one launch: its id, or `last`. Default: all.",
    )(function)
