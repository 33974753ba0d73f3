"""The outcome of a call that did not return, as it travels from worker to caller."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
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
        trace = exc.__traceback__
        for _ in range(skip):
            trace = trace.tb_next if trace is not None else None
        exc = exc.with_traceback(trace)
        type_name, message, text = _described(exc)
        pickled = None if _is_control_flow(exc) else _pickled(exc)
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


def _described(exc: BaseException) -> tuple[str, str, str]:
    """The name of its type, its message, and its traceback as text."""
    import traceback  # not before something has failed: workers start sooner

    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    name = name.removeprefix("builtins.").removeprefix("__main__.")
    try:
        message = str(exc)
    except Exception as broken:
        message = f"<str() raised {type(broken).__name__}>"
    try:
        text = "".join(traceback.format_exception(exc))
    except Exception:
        text = f"{name}: {message}\n"
    return name, message, text


def _pickled(exc: BaseException) -> bytes | None:
    """The exception with all that it is linked to; None if it cannot be read again.

    What it was raised from may hold a lock or a socket. That is no reason to lose the exception itself: a RemoteError
    takes the place of a linked one that does not travel.
    """
    if (data := _round_trip(exc, {})) is not None:
        return data
    linked = list(_linked(exc))[1:]
    stand_ins: dict[int, BaseException] = {id(each): RemoteError(*_described(each)) for each in linked}
    alone = {id(exc): RemoteError("", ""), **stand_ins}
    bad = [
        each
        for each in linked
        if _round_trip(each, {k: v for k, v in alone.items() if k != id(each)}) is None
    ]
    return _round_trip(exc, {id(each): stand_ins[id(each)] for each in bad}) if bad else None


def _round_trip(exc: BaseException, instead: Mapping[int, BaseException]) -> bytes | None:
    from .wire import dumps

    try:
        data, buffers = dumps(exc, returning=True, instead=instead)
        return data if not buffers and type(loads(data)) is type(exc) else None
    except Exception:
        return None


def _linked(exc: BaseException) -> Iterator[BaseException]:
    """An exception, and those that it was raised from or consists of."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [exc]
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        todo += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            todo += error.exceptions


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
    for error in _linked(exc):
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
