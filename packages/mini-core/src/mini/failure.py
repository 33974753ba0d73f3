"""The outcome of a call that did not return, as it travels from worker to caller."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pickle import loads
from typing import Any, cast

from .errors import FailureKind, RemoteError

__all__ = ["Failure"]


class Failure:
    """The outcome of a call that did not return; takes the place of its value. Picklable whatever it stands for."""

    __slots__ = ("kind", "message", "pickled", "sources", "text", "type_name")

    def __init__(
        self,
        kind: FailureKind,
        type_name: str,
        message: str,
        text: str,
        pickled: bytes | None,
        sources: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self.kind: FailureKind = kind
        self.type_name = type_name
        self.message = message
        self.text = text
        self.pickled = pickled
        self.sources = sources

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.kind, self.type_name, self.message, self.text, self.pickled, self.sources)

    @classmethod
    def of(cls, exc: BaseException, kind: FailureKind = "user", *, skip: int = 0) -> Failure:
        """The failure that `exc` is; `skip` frames at the head of its traceback are mini's own and are left out."""
        # What only failures need is imported here, so that workers start sooner.
        import traceback

        from .wire import dumps

        trace = exc.__traceback__
        for _ in range(skip):
            trace = trace.tb_next if trace is not None else None
        exc = exc.with_traceback(trace)
        type_name = f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.").removeprefix(
            "__main__."
        )
        try:
            message = str(exc)
        except Exception as broken:
            message = f"<str() raised {type(broken).__name__}>"
        try:
            text = "".join(traceback.format_exception(exc))
        except Exception:
            text = f"{type_name}: {message}\n"
        pickled: bytes | None = None
        if not _is_control_flow(exc):
            try:
                pickled, buffers = dumps(exc, returning=True)
                if buffers or type(loads(pickled)) is not type(exc):
                    pickled = None
            except Exception:
                pickled = None
        return cls(kind, type_name, message, text, pickled, _sources(exc))

    def exception(self) -> BaseException:
        """The exception to raise in the caller: the original, or a RemoteError that describes it."""
        for filename, lines in (self.sources or {}).items():
            _remember_source(filename, lines)
        if self.pickled is not None:
            try:
                exc = cast("BaseException", loads(self.pickled))
            except Exception:
                return RemoteError(self.type_name, self.message, self.text)
            for each in (exc, exc.__cause__):
                if isinstance(each, ModuleNotFoundError) and each.name:
                    _note_missing(exc, each.name.partition(".")[0])
                    break
            return exc
        return RemoteError(self.type_name, self.message, self.text)


def _note_missing(exc: BaseException, module: str) -> None:
    """Say how a worker gets a module that it has not, and this process has."""
    from importlib.metadata import packages_distributions
    from importlib.util import find_spec

    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    names = packages_distributions().get(module)
    if names:
        how = f"run `uv add {names[0]}`, if it is from a package index, or put it under the project's src/"
    else:
        how = "put it under the project's src/, or make it a package that the project depends on (`uv add`)"
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    where = f" ({place})" if place else ""
    exc.add_note(f"the module {module!r} is only here{where}, not on the worker: {how}")


def _is_control_flow(exc: BaseException) -> bool:
    """Exceptions that the caller's own generators, loops and event loop would take for themselves (ERR-07, ERR-10)."""
    control = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)
    # Without asyncio imported, nobody can have raised its CancelledError.
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", ())
    return isinstance(exc, (*control, cancelled) if cancelled else control)


def _sources(exc: BaseException) -> dict[str, dict[int, str]]:
    """The source lines that the traceback shows, for callers that do not have the files (ERR-02)."""
    import linecache

    from .pickling import summarise

    lines: dict[str, dict[int, str]] = {}
    seen: set[int] = set()
    todo: list[BaseException | None] = [exc]
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        todo += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            todo += error.exceptions
        for filename, _, line, _ in summarise(error.__traceback__):
            if text := linecache.getline(filename, line):
                lines.setdefault(filename, {})[line] = text
    return lines


def _remember_source(filename: str, lines: Mapping[int, str]) -> None:
    """Let tracebacks show lines of a file that is not here."""
    import linecache
    from pathlib import Path

    known = linecache.cache.get(filename)
    if Path(filename).exists() or (known is not None and not isinstance(known[-1], _Borrowed)):
        return
    text = dict(enumerate(known[2], 1)) if known is not None and len(known) > 2 else {}
    text.update(lines)
    whole = [text.get(n, "\n") for n in range(1, max(text) + 1)]
    # A modification time of None keeps linecache.checkcache from dropping the entry.
    linecache.cache[filename] = (sum(map(len, whole)), None, whole, _Borrowed(filename))


class _Borrowed(str):
    """Marks linecache entries that came from a worker."""

    __slots__ = ()
