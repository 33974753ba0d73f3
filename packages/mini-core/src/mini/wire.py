"""Calls and outcomes as bytes: the one format that every backend carries and none of them looks into.

A *program* is what all calls of a map share: the function, its constant keyword arguments and the hooks. A *payload*
is the inputs of one group of calls. A *part* is the outcomes of some consecutive calls of a group. Each is a list of
frames: bytes-like objects that a carrier moves in any way it likes, as long as their order and lengths survive.

Calls are values: what a call gets and returns is pickled by itself, so that grouping calls never lets one of them see
another's objects. Only plain immutable values (numbers, strings, ...) share a pickle, because nobody can tell.

Large buffers (numpy arrays and the like) travel beside the pickle (protocol 5, PEP 574) and are never copied into it.
"""

from __future__ import annotations

import functools
import io
import marshal
import os
import pickle
import reprlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from .errors import SerializationError
from .failure import Failure

if TYPE_CHECKING:
    from .pickling import Pickler

__all__ = [
    "Frame",
    "Frames",
    "Program",
    "RowKind",
    "arguments",
    "dumps",
    "importing",
    "join_frames",
    "loads",
    "make_pickler",
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

importing = threading.RLock()
"""Held while a call imports a module late: what one thread imports while another forks stays locked in the child."""

os.register_at_fork(
    before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release
)


def make_pickler(
    file: Any,
    buffers: list[pickle.PickleBuffer] | None = None,
    *,
    returning: bool = False,
    instead: Mapping[int, BaseException] | None = None,
) -> Pickler:
    """A `Pickler` that writes to `file` and leaves large buffers out of it, in `buffers`."""
    with importing:
        from .pickling import Pickler  # not earlier: see there

    return Pickler(
        file, None if buffers is None else keep_large(buffers), returning=returning, instead=instead
    )


def dumps(
    obj: object, *, returning: bool = False, instead: Mapping[int, BaseException] | None = None
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle `obj` (see `Pickler`); return the pickle and the large buffers that go beside it, not copied."""
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    make_pickler(file, buffers, returning=returning, instead=instead).dump(obj)
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


class Program:
    """What all calls of one map share.

    Attributes:
        name: the function's name, for people.
        frames: [pickle, *buffers] of (function, kwargs, hooks).
        mode: "call", or "stream" for a generator function whose items are the outcomes.
    """

    __slots__ = ("frames", "mode", "name")

    def __init__(self, name: str, frames: Frames, mode: str = "call") -> None:
        self.name = name
        self.frames = frames
        self.mode = mode

    @property
    def nbytes(self) -> int:
        return sum(memoryview(f).nbytes for f in self.frames)


def function_name(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def pack_program(
    fn: Callable[..., Any],
    kwargs: Mapping[str, Any] | None,
    hooks: Sequence[Callable[[], object]] = (),
    *,
    mode: str = "call",
) -> Program:
    """Pickle what a map's calls share. Large buffers are not copied: what the caller does to them shows.

    Raises:
        SerializationError: the function, a constant or a hook cannot be pickled; names the part that failed.
    """
    name = function_name(fn)
    kwargs = dict(kwargs or {})
    if _is_found_by_name(fn) and not hooks and ATOMS.issuperset(map(type, kwargs.values())):
        return Program(name, [pickle.dumps((fn, kwargs, ()), PROTOCOL)], mode)
    try:
        data, buffers = dumps((fn, kwargs, tuple(hooks)))
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt | MemoryError):
            raise
        _explain(exc, [("function", fn, name), *(("argument", v, k) for k, v in kwargs.items())], hooks)
        raise
    return Program(name, [data, *raw(buffers, copy=False)], mode)


def _is_found_by_name(fn: object) -> bool:
    """Whether cloudpickle, too, would only store module and name of `fn`; then it need not be asked, nor loaded."""
    if not isinstance(fn, FunctionType | BuiltinFunctionType) or fn.__module__ in (None, "__main__"):
        return False
    loaded = sys.modules.get("cloudpickle")
    if loaded is not None and loaded.list_registry_pickle_by_value():
        return False
    module = sys.modules.get(fn.__module__)
    return module is not None and getattr(module, fn.__qualname__, None) is fn


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
    from .pickling import Pickler

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


class PackedRows:
    """`count` rows as a payload; when `error` is set, the row after them, `bad`, could not be pickled."""

    __slots__ = ("bad", "count", "error", "frames")

    def __init__(
        self, frames: Frames, count: int, error: SerializationError | None = None, bad: tuple[Any, ...] = ()
    ) -> None:
        self.frames = frames
        self.count = count
        self.error = error
        self.bad = bad


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
        self._pickler = make_pickler(self._file, self._buffers)
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


def brief_input(frames: Frames, position: int, *, careful: bool = False) -> str:
    """A short repr of one call's positional arguments, for notes on errors; never raises.

    With `careful` no code of theirs is run: what ends a worker that unpickles it would end the caller as well.
    """
    try:
        kind, rows = unpack_rows(slice_payload(frames, position, position + 1))
        row = next(rows)
        if careful and kind == "packed":
            data, buffers = row
            values = _Careful(io.BytesIO(data), buffers=buffers).load()
        else:
            values = arguments(kind, row)
        return ", ".join(BRIEF.repr(value) for value in values)
    except Exception as exc:
        return f"<no repr: {type(exc).__name__}>"


class _Careful(pickle.Unpickler):
    """Reads what is made of plain values; all else becomes something that only has a name."""

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Named,), {})


class _Named:
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# --- outcomes -------------------------------------------------------------------------------------------------------
#
# A part is [head, body, *buffers], head = marshal of (kind, position in the group, count, failed positions):
#   "list"    body is one pickle of a list of plain values
#   "journal" body is one pickle after the other, each complete in itself
#   "one"     body is one pickle, buffers are beside it
#   a number  body is an array of 64-bit cells of that kind, in the byte order of the worker's machine

CELLS: dict[int, tuple[type, str]] = {1: (int, "q"), 2: (float, "d"), 3: (bool, "q"), 4: (type(None), "")}
"""Kinds of cells: the type that they stand for and the format of a memoryview; values of one without need no cell."""


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
