"""Calls and outcomes as bytes: the one format that every backend carries and none of them looks into.

A *program* is what all calls of a map share: the function, its constant keyword arguments and the hooks. A *payload*
is the inputs of one group of calls. A *part* is the outcomes of some consecutive calls of a group. Each is a list of
frames: bytes-like objects that a carrier moves in any way it likes, as long as their order and lengths survive.

Calls are values: what a call gets and returns is pickled by itself, so that grouping calls never lets one of them see
another's objects. Only plain immutable values (numbers, strings, ...) share a pickle, because nobody can tell.

Large buffers (numpy arrays and the like) travel beside the pickle (protocol 5, PEP 574) and are never copied into it.
"""

from __future__ import annotations

import io
import linecache
import marshal
import pickle
import reprlib
import sys
import traceback as tb_module
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import FunctionType, MemberDescriptorType, SimpleNamespace, TracebackType
from typing import Any, Literal, cast

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

from .errors import FailureKind, RemoteError, SerializationError

__all__ = [
    "Failure",
    "Frame",
    "Frames",
    "Pickler",
    "Program",
    "RowKind",
    "arguments",
    "dumps",
    "join_frames",
    "loads",
    "pack_program",
    "pack_rows",
    "slice_payload",
    "split_frames",
    "unpack_part",
    "unpack_rows",
]

PROTOCOL = 5
INLINE_BUFFER = 1 << 16
"""Buffers smaller than this (bytes) stay inside the pickle: a frame of their own costs more than the copy."""

ATOMS = frozenset({int, float, bool, type(None), str, bytes, complex})
"""Types whose values are immutable all the way down, so that sharing one is not observable."""

Frame = bytes | bytearray | memoryview
Frames = list[Frame]

# --- pickling -------------------------------------------------------------------------------------------------------

_tracked: Mapping[type, str] = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
_by_id: Mapping[str, type] = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
_made_here: weakref.WeakSet[type] = weakref.WeakSet()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with exceptions that keep everything and classes that keep their identity.

    Args:
        file: anything with a `write` method.
        buffer_callback: gets each large buffer as a `PickleBuffer`; see PEP 574.
        returning: the bytes go back to the caller. A class that came from there is then sent as its identity alone,
            so that the caller finds its own class and its class attributes stay untouched (RUN-11).
    """

    def __init__(
        self,
        file: Any,
        buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
        *,
        returning: bool = False,
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback)
        self._returning = returning

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            if (known := _tracked.get(obj)) is None:
                reduced = super().reducer_override(obj)
                if obj in _tracked:
                    _made_here.add(obj)
                return reduced
            if self._returning and obj not in _made_here:
                return _own_class, (known,)
        elif isinstance(obj, BaseException):
            return _reduce_exception(obj)
        elif isinstance(obj, TracebackType):
            return _build_traceback, (_summarise(obj),)
        return super().reducer_override(obj)


def _own_class(tracker_id: str) -> type:
    try:
        return _by_id[tracker_id]
    except KeyError:
        raise pickle.UnpicklingError(
            "a class of the caller's is gone; keep a reference to it while calls run"
        ) from None


def dumps(obj: object, *, returning: bool = False) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle `obj`; return the pickle and the large buffers that go beside it, not copied."""
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    Pickler(file, keep_large(buffers), returning=returning).dump(obj)
    return file.getvalue(), buffers


def keep_large(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """A buffer callback that collects large contiguous buffers and leaves the others in the pickle."""

    def callback(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < INLINE_BUFFER:
            return True
        buffers.append(buffer)
        return False

    return callback


loads = pickle.loads


def raw(buffers: Iterable[pickle.PickleBuffer], *, copy: bool) -> list[Frame]:
    """The buffers' memory as flat frames; copied, later changes of the original do not show."""
    return [bytearray(b.raw()) if copy else b.raw() for b in buffers]


# --- frames ---------------------------------------------------------------------------------------------------------


def join_frames(frames: Sequence[Frame]) -> bytes:
    """Put frames into one bytes object, for carriers that have only that. `split_frames` is its inverse."""
    sizes = marshal.dumps([memoryview(f).nbytes for f in frames])
    return b"".join([len(sizes).to_bytes(4, "little"), sizes, *frames])


def split_frames(data: Frame, *, writable: bool = True) -> Frames:
    """Take the frames out of `join_frames`' bytes.

    With `writable`, frames that may hold array memory are copied out, because arrays over bytes are read-only.
    """
    view = memoryview(data)
    at = 4 + int.from_bytes(view[:4], "little")
    frames: Frames = []
    for size in marshal.loads(view[4:at]):
        piece = view[at : at + size]
        frames.append(bytearray(piece) if writable and size >= INLINE_BUFFER and view.readonly else piece)
        at += size
    return frames


# --- programs -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, repr=False)
class Program:
    """What all calls of one map share.

    Attributes:
        name: the function's name, for people.
        frames: [pickle, *buffers] of (function, kwargs, hooks).
        mode: "call", or "stream" for a generator function whose items are the outcomes.
        timed: whether the worker notes the start of every call, which a timeout needs.
    """

    name: str
    frames: Frames
    mode: str = "call"
    timed: bool = False

    @property
    def nbytes(self) -> int:
        return sum(memoryview(f).nbytes for f in self.frames)


def function_name(fn: object) -> str:
    while (inner := getattr(fn, "func", None)) is not None and callable(inner):
        fn = inner
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def pack_program(
    fn: Callable[..., Any],
    kwargs: Mapping[str, Any] | None,
    hooks: Sequence[Callable[[], object]] = (),
    *,
    mode: str = "call",
    timed: bool = False,
    copy: bool = True,
) -> Program:
    """Pickle what a map's calls share.

    Raises:
        SerializationError: the function, a constant or a hook cannot be pickled; names the part that failed.
    """
    name = function_name(fn)
    try:
        data, buffers = dumps((fn, dict(kwargs or {}), tuple(hooks)))
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt | MemoryError):
            raise
        _explain(
            exc, [("function", fn, name), *(("argument", v, k) for k, v in (kwargs or {}).items())], hooks
        )
        raise
    return Program(name, [data, *raw(buffers, copy=copy)], mode, timed)


def _explain(
    exc: BaseException, candidates: list[tuple[str, Any, str]], hooks: Sequence[object] = ()
) -> None:
    """Raise SerializationError for the first candidate (what, object, name) that does not pickle."""
    candidates += [("hook", hook, function_name(hook)) for hook in hooks]
    for what, obj, name in candidates:
        try:
            dumps(obj)
        except Exception:
            raise serialization_error(what, obj, name, exc) from exc


def serialization_error(what: str, obj: object, name: str, exc: BaseException) -> SerializationError:
    """The error for `obj` (a "function", "argument" or "result" called `name`), with the path to what failed."""
    from .diagnose import find_unpicklable

    culprit = find_unpicklable(obj, name, make_pickler=Pickler)
    subject = f"the {what}" if what == name else f"the {what} {name}"
    if culprit is None:
        return SerializationError(f"{subject} cannot be pickled: {type(exc).__name__}: {exc}")
    outward = what in ("function", "argument", "hook")
    hint = culprit.hint if outward else "return plain data in its place"
    return SerializationError(
        f"{subject} cannot be pickled, because of {culprit.path} ({culprit.type}): {culprit.reason}"
        + (f"; {hint}" if hint else "")
    )


# --- payloads -------------------------------------------------------------------------------------------------------
#
# frame 0: marshal of ("columns", count, width) or ("items", count, ends, buffers per item)
# columns: frame 1 is one pickle of a list of columns; items: frame 1 is the pickles one after the other, then buffers


@dataclass(slots=True, eq=False, repr=False)
class PackedRows:
    """`count` rows as a payload; when `error` is set, the row after them, `bad`, could not be pickled."""

    frames: Frames
    count: int
    error: SerializationError | None = None
    bad: tuple[Any, ...] = ()


def pack_rows(rows: list[tuple[Any, ...]], *, copy: bool = True) -> PackedRows:
    """Pickle the positional arguments of some calls.

    With `copy`, large buffers are copied, so that a caller who reuses an array for the next input changes nothing.
    Packing stops before the first row that cannot be pickled and says so in the result.
    """
    columns = list(zip(*rows, strict=True))
    if all(ATOMS.issuperset(map(type, column)) for column in columns):
        return PackedRows(
            [marshal.dumps(("columns", len(rows), len(columns))), pickle.dumps(columns, PROTOCOL)], len(rows)
        )
    return _pack_items(rows, copy)


def pack_nothing() -> PackedRows:
    """The payload of one call without positional arguments."""
    return PackedRows([marshal.dumps(("items", 1, [len(_NO_ARGS)], [0])), _NO_ARGS], 1)


_NO_ARGS = pickle.dumps((), PROTOCOL)


def pack_column(column: list[Any], *, copy: bool = True) -> PackedRows:
    """`pack_rows` for calls of one argument, without making a tuple of each."""
    if ATOMS.issuperset(map(type, column)):
        return PackedRows(
            [marshal.dumps(("columns", len(column), 1)), pickle.dumps([column], PROTOCOL)], len(column)
        )
    return _pack_items([(x,) for x in column], copy)


def _pack_items(rows: list[tuple[Any, ...]], copy: bool) -> PackedRows:
    packer = RowPacker(copy=copy)
    for row in rows:
        if not packer.add(row):
            break
    return packer.pack()


class RowPacker:
    """Packs rows one at a time, each as it is at that moment."""

    def __init__(self, *, copy: bool) -> None:
        self._copy = copy
        self._file = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._pickler = Pickler(self._file, keep_large(self._buffers))
        self._frames: list[Frame] = []
        self._ends: list[int] = []
        self._counts: list[int] = []
        self._error: SerializationError | None = None
        self._bad: tuple[Any, ...] = ()

    def add(self, row: tuple[Any, ...]) -> bool:
        """Pack a row; False if it cannot be pickled, which then is the end of what is packed."""
        try:
            self._pickler.dump(row)
            memory = raw(self._buffers, copy=self._copy)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt | MemoryError):
                raise
            self._file.truncate(self._ends[-1] if self._ends else 0)
            self._error = _argument_error(row, exc)
            self._bad = row
            return False
        self._pickler.clear_memo()
        self._ends.append(self._file.tell())
        self._counts.append(len(self._buffers))
        self._frames += memory
        self._buffers.clear()
        return True

    def pack(self) -> PackedRows:
        head = marshal.dumps(("items", len(self._ends), self._ends, self._counts))
        return PackedRows(
            [head, self._file.getvalue(), *self._frames], len(self._ends), self._error, self._bad
        )


def _argument_error(row: tuple[Any, ...], exc: BaseException) -> SerializationError:
    for position, value in enumerate(row):
        try:
            dumps(value)
        except Exception:
            return serialization_error("argument", value, f"args[{position}]", exc)
    return SerializationError(f"an argument cannot be pickled: {type(exc).__name__}: {exc}")


def _items(frames: Frames) -> Iterator[tuple[memoryview, Frames]]:
    """Each item's pickle and buffers, one item at a time."""
    _, _, ends, counts = marshal.loads(frames[0])
    data = memoryview(frames[1])
    at = 2
    begin = 0
    for end, count in zip(ends, counts, strict=True):
        yield data[begin:end], frames[at : at + count]
        begin = end
        at += count


RowKind = Literal["argument", "arguments", "packed"]


def unpack_rows(frames: Frames) -> tuple[RowKind, Iterator[Any]]:
    """The rows of a payload as an iterator, and what each is: the only argument, a tuple of them, or still packed.

    `arguments` makes the same of all three. An input that cannot be unpickled thus fails its own call.
    """
    head = marshal.loads(frames[0])
    if head[0] != "columns":
        return "packed", iter(list(_items(frames)))
    columns = loads(frames[1])
    return ("argument", iter(columns[0])) if len(columns) == 1 else ("arguments", zip(*columns, strict=True))


def arguments(kind: RowKind, row: Any) -> tuple[Any, ...]:
    """The positional arguments of one call."""
    if kind == "packed":
        data, buffers = row
        row = loads(data, buffers=buffers)
    return (row,) if kind == "argument" else tuple(row)


def slice_payload(frames: Frames, start: int, stop: int) -> Frames:
    """The payload of the calls `start` to `stop` of a payload."""
    head = marshal.loads(frames[0])
    if head[0] == "columns":
        columns = [column[start:stop] for column in loads(frames[1])]
        return [marshal.dumps(("columns", stop - start, head[2])), pickle.dumps(columns, PROTOCOL)]
    _, _, ends, counts = head
    begin = ends[start - 1] if start else 0
    first, last = sum(counts[:start]), sum(counts[:stop])
    new_ends = [end - begin for end in ends[start:stop]]
    new = marshal.dumps(("items", stop - start, new_ends, counts[start:stop]))
    return [new, bytes(memoryview(frames[1])[begin : ends[stop - 1]]), *frames[2 + first : 2 + last]]


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60


BRIEF = _Brief()


def brief_input(frames: Frames, position: int) -> str:
    """A short repr of one call's positional arguments, for notes on errors; never raises."""
    try:
        kind, rows = unpack_rows(slice_payload(frames, position, position + 1))
        values = arguments(kind, next(rows))
        return ", ".join(BRIEF.repr(value) for value in values)
    except Exception as exc:
        return f"<no repr: {type(exc).__name__}>"


# --- outcomes -------------------------------------------------------------------------------------------------------
#
# A part is [head, body, *buffers], head = marshal of (kind, position in the group, count, failed positions):
#   "list"    body is one pickle of a list of plain values
#   "journal" body is one pickle after the other, each complete in itself
#   "one"     body is one pickle, buffers are beside it
#   a number  body is an array of 64-bit cells of that kind, in the byte order of the worker's machine

CELLS: dict[int, tuple[type, str]] = {1: (int, "q"), 2: (float, "d"), 3: (bool, "q"), 4: (type(None), "")}
"""Kinds of cells: the type that they stand for and the format of a memoryview; values of one without need no cell."""


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
        type_name = f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.").removeprefix(
            "__main__."
        )
        try:
            message = str(exc)
        except Exception as broken:
            message = f"<str() raised {type(broken).__name__}>"
        try:
            text = "".join(tb_module.format_exception(exc))
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
                return cast("BaseException", loads(self.pickled))
            except Exception:
                return RemoteError(self.type_name, self.message, self.text)
        return RemoteError(self.type_name, self.message, self.text)


def _is_control_flow(exc: BaseException) -> bool:
    """Exceptions that the caller's own generators, loops and event loop would take for themselves (ERR-07, ERR-10)."""
    control = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)
    # Without asyncio imported, nobody can have raised its CancelledError.
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", ())
    return isinstance(exc, (*control, cancelled) if cancelled else control)


def unpack_part(frames: Frames) -> tuple[list[Any], bool]:
    """The outcomes of a part: each call's value, or a Failure in its place; and whether there is a Failure."""
    kind, _, count, failed = marshal.loads(frames[0])
    if kind in CELLS:
        return _read_cells(kind, frames[1], count), False
    if kind == "list":
        return cast("list[Any]", loads(frames[1])), False
    if kind == "one":
        try:
            return [loads(frames[1], buffers=frames[2:])], bool(failed)
        except Exception as exc:
            return [_unreadable(exc)], True
    values, unreadable = _read_journal(frames[1], count)
    return values, unreadable or bool(failed)


def _read_cells(kind: int, cells: Frame, count: int) -> list[Any]:
    made, code = CELLS[kind]
    if not code:
        return [None] * count
    values: list[Any] = memoryview(cells).cast("B").cast(code).tolist()  # type: ignore[call-overload]
    return [value == 1 for value in values] if made is bool else values


def _read_journal(data: Frame, count: int) -> tuple[list[Any], bool]:
    """The first `count` outcomes of a journal: complete pickles, one after the other."""
    file = io.BytesIO(data)
    values: list[Any] = []
    unreadable = False
    for _ in range(count):
        begin = file.tell()
        try:
            # A fresh unpickler each: every pickle numbers its memo from zero.
            values.append(pickle.Unpickler(file).load())
        except Exception as exc:
            file.seek(begin)
            file.seek(skip_pickle(file))
            values.append(_unreadable(exc))
            unreadable = True
    return values, unreadable


def skip_pickle(file: io.BytesIO) -> int:
    """The offset after the pickle that starts where `file` stands, without building anything from it."""
    import pickletools

    for opcode, _, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            break
    return file.tell()


def _unreadable(exc: BaseException) -> Failure:
    error = SerializationError(
        f"the result arrived but cannot be unpickled here: {type(exc).__name__}: {exc}; "
        "its class must be importable where the call was made"
    )
    error.__cause__ = exc
    return Failure.of(error, "serialization")


# --- exceptions -----------------------------------------------------------------------------------------------------


def _reduce_exception(exc: BaseException) -> Any:
    """Reduce an exception with cause, context, notes and traceback, whatever its constructor takes.

    Python's own reduction calls the class with `args`, which fails for constructors of another signature. Here the
    built-in base sets up the object and the constructor of the subclass is not called again. A class with a
    `__reduce__` of its own is taken at its word.
    """
    reduced = exc.__reduce_ex__(PROTOCOL)
    if isinstance(reduced, str) or len(reduced) > 3:
        return reduced
    build, args, state = (*reduced, None)[:3]
    cls = type(exc)
    if (
        build is cls
        and not isinstance(cls.__reduce__, FunctionType)
        and cls.__reduce_ex__ is object.__reduce_ex__
    ):
        build, args = _build_exception, (cls, args)
        state = (state, _slots(exc))  # Python's own reduction of exceptions forgets them
    links = (exc.__cause__, exc.__context__, exc.__suppress_context__, exc.__traceback__)
    return build, args, (state, links), None, None, _restore_exception


def _build_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    heap_type = 1 << 9  # Py_TPFLAGS_HEAPTYPE: classes made by a class statement
    base = next(c for c in cls.__mro__ if not c.__flags__ & heap_type)
    exc: BaseException = base.__new__(cls, *args)
    base.__init__(exc, *args)  # type: ignore[misc]
    return exc


def _slots(exc: BaseException) -> dict[str, Any]:
    names = [
        n
        for cls in type(exc).__mro__
        for n in getattr(cls, "__slots__", ())
        if isinstance(cls.__dict__.get(n), MemberDescriptorType)
    ]
    return {name: getattr(exc, name) for name in names if hasattr(exc, name)}


def _restore_exception(exc: BaseException, state: tuple[Any, tuple[Any, ...]]) -> None:
    attributes, (cause, context, suppress, trace) = state
    slots: dict[str, Any] = {}
    if isinstance(attributes, tuple) and len(attributes) == 2:
        attributes, slots = attributes
    if attributes is not None:
        exc.__setstate__(attributes)
    for name, value in slots.items():
        setattr(exc, name, value)
    exc.__context__ = context
    exc.__cause__ = cause
    exc.__suppress_context__ = suppress
    exc.__traceback__ = trace


_MOST_FRAMES = 200

_FrameSummary = tuple[str, str, int, str | None]


def _summarise(trace: TracebackType | None) -> list[_FrameSummary]:
    frames: list[_FrameSummary] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(
            (code.co_filename, code.co_name, trace.tb_lineno, trace.tb_frame.f_globals.get("__name__"))
        )
        trace = trace.tb_next
    if len(frames) > _MOST_FRAMES:  # a RecursionError: the ends tell all
        frames[_MOST_FRAMES // 2 : -_MOST_FRAMES // 2] = []
    return frames


def _build_traceback(frames: list[_FrameSummary]) -> TracebackType | None:
    from tblib import Traceback

    chain = None
    for filename, name, line, module in reversed(frames):
        link = object.__new__(Traceback)
        code = SimpleNamespace(co_filename=filename, co_name=name)
        f_globals = {"__name__": module, "__file__": filename}
        link.tb_frame = SimpleNamespace(f_globals=f_globals, f_locals={}, f_code=code, f_lineno=line)
        link.tb_lineno = line
        link.tb_next = chain
        chain = link
    return cast("TracebackType | None", chain.as_traceback()) if chain is not None else None


def _sources(exc: BaseException) -> dict[str, dict[int, str]]:
    """The source lines that the traceback shows, for callers that do not have the files (ERR-02)."""
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
        for filename, _, line, _ in _summarise(error.__traceback__):
            if text := linecache.getline(filename, line):
                lines.setdefault(filename, {})[line] = text
    return lines


def _remember_source(filename: str, lines: Mapping[int, str]) -> None:
    """Let tracebacks show lines of a file that is not here."""
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


def offsets(sizes: Iterable[int]) -> list[int]:
    """Start offset of each frame, and the end: for carriers that lay frames out in one block of memory."""
    return [0, *accumulate(sizes)]
