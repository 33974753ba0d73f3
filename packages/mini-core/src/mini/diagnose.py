"""What exactly cannot travel: called after pickling has failed, so that the error can name the part and the way out.

The judge is the pickler itself. An object that fails is taken apart the way the pickler takes it apart (by its own
reduction), the first part that fails by itself is taken apart in turn, and so on down to one that has no failing
part. So there is no second opinion here of what cloudpickle would walk, and nothing is pickled more often than the
culprit lies deep.
"""

from __future__ import annotations

import copyreg
import pickle
import reprlib
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle

__all__ = ["Unpicklable", "find_unpicklable", "hint_for", "survey"]

MakePickler = Callable[..., pickle.Pickler]

MAX_DEPTH = 1000
"""How many steps a path may have; pickling itself nests no deeper."""

MAX_PATH = 200
"""How many characters of a path are shown; of a longer one the middle is left out."""

_DEEP = 50  # a RecursionError that goes on for so many steps is about the nesting and not about a part
_CHUNK = 1024  # items of a container that are judged at once

_ATOMS = frozenset(
    {type(None), type(...), bool, int, float, complex, str, bytes, bytearray, pickle.PickleBuffer}
)


@dataclass(frozen=True, slots=True)
class Unpicklable:
    """A part that cannot travel.

    Attributes:
        path: where it is, written like the expression that leads to it: `fn.__closure__['lock']`. The middle of one
            that is longer than MAX_PATH is left out, and stands as ` … `.
        type: qualified name of its type.
        reason: the text of the pickler's error, or why it would be of no use elsewhere.
        hint: what to do instead; empty for a kind that is not known here.
        fatal: False for what can be pickled, but is not the same thing where it arrives (see `survey`).
    """

    path: str
    type: str
    reason: str
    hint: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an object; its path is the object's, between `before` and `after`."""

    value: Any
    after: str
    before: str = ""


def find_unpicklable(
    obj: object, root: str, *, make_pickler: MakePickler = cloudpickle.Pickler
) -> Unpicklable | None:
    """Find the part of `obj` that cannot be pickled, or None if it can be.

    Never raises, apart from `KeyboardInterrupt`. Runs the `__reduce__` and `__getstate__` of the objects on the way,
    as pickling does; consumes no generator and keeps no copy of what it pickles.

    Args:
        obj: what failed to pickle.
        root: what the caller calls it; the path starts with it.
        make_pickler: called with a file and `buffer_callback=`; the pickler that decides. By default cloudpickle's.
    """
    judge = _Judge(make_pickler)
    error = judge.error(obj)
    if error is None:
        return None
    path, culprit, recursing = root, obj, 0
    seen = [
        obj
    ]  # ancestors: to the pickler they are known already, so that cycles end as they do in pickling
    for _ in range(MAX_DEPTH):
        if (
            hint_for(culprit) is not None
            or (found := judge.first_failing(judge.parts(culprit), seen)) is None
        ):
            break
        part, error = found
        path, culprit = f"{part.before}{path}{part.after}", part.value
        seen.append(culprit)
        recursing = recursing + 1 if _is_recursion(error) else 0
        if recursing >= _DEEP:
            return Unpicklable(root, type_name(obj), _reason(error), _TOO_DEEP)
    return Unpicklable(_shortened(path), type_name(culprit), _reason(error), hint_for(culprit) or "")


def survey(
    obj: object,
    root: str,
    *,
    make_pickler: MakePickler = cloudpickle.Pickler,
    max_objects: int = 100_000,
    max_found: int = 20,
) -> list[Unpicklable]:
    """List everything in `obj` that cannot travel, nearest first, and what can but should not.

    The latter have `fatal=False`: an open file, which cloudpickle turns into a copy of its text, and an array on a
    GPU. Looks at no more than `max_objects` objects and stops after `max_found`. Never raises, apart from
    `KeyboardInterrupt`.
    """
    judge = _Judge(make_pickler)
    found: list[Unpicklable] = []
    queue: deque[tuple[str, Any]] = deque([(root, obj)])
    seen = {id(obj): obj}  # the values keep temporary parts alive, so that their ids stay theirs
    while queue and len(found) < max_found:
        path, current = queue.popleft()
        if (hint := hint_for(current)) is not None:
            if (error := judge.error(current)) is not None:
                found.append(Unpicklable(_shortened(path), type_name(current), _reason(error), hint))
                continue
            if (reason := _out_of_place(current, hint)) is not None:
                found.append(Unpicklable(_shortened(path), type_name(current), reason, hint, fatal=False))
                continue
        try:
            parts = judge.parts(current, strict=True)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # whatever a user's __reduce__ raises
            found.append(Unpicklable(_shortened(path), type_name(current), _reason(exc), ""))
            continue
        for part in parts:
            if len(seen) >= max_objects:
                break
            if id(part.value) not in seen:
                seen[id(part.value)] = part.value
                queue.append((f"{part.before}{path}{part.after}", part.value))
    # What fails without a part of it being known to fail (a class that is nowhere to be found, a broken iterator).
    if not any(one.fatal for one in found) and (
        one := find_unpicklable(obj, root, make_pickler=make_pickler)
    ):
        found.append(one)
    return found


def type_name(obj: object) -> str:
    """Qualified name of an object's type, without `builtins.` and `__main__.`."""
    kind = type(obj)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.").removeprefix("__main__.")


# --- the judge ------------------------------------------------------------------------------------------------------


class _Nowhere:
    """A file that keeps nothing: only whether pickling fails is of interest."""

    def write(self, data: Any) -> int:
        return len(data)


class _Judge:
    def __init__(self, make_pickler: MakePickler) -> None:
        self._make = make_pickler

    def _pickler(self, known: list[Any]) -> pickle.Pickler:
        # Buffers go to a callback that drops them, so that large arrays are not copied.
        pickler = self._make(_Nowhere(), buffer_callback=lambda _: None)
        if known:
            pickler.memo = {id(obj): (place, obj) for place, obj in enumerate(known)}
        return pickler

    def error(self, obj: object) -> BaseException | None:
        """What pickling `obj` raises, or None."""
        return _try(self._pickler([]), obj)

    def first_failing(self, parts: list[_Part], known: list[Any]) -> tuple[_Part, BaseException] | None:
        """The first part that fails to pickle, and how; objects of `known` count as pickled already."""
        pickler = self._pickler(known)
        for start in range(0, len(parts), _CHUNK):
            chunk = parts[start : start + _CHUNK]
            if len(parts) > _CHUNK and _try(pickler, [part.value for part in chunk]) is None:
                continue
            # After a failure the pickler's memo holds halves of objects.
            pickler = self._pickler(known)
            for part in chunk:
                if (error := _try(pickler, part.value)) is not None:
                    return part, error
        return None

    def parts(self, obj: Any, *, strict: bool = False) -> list[_Part]:
        """What pickling `obj` pickles next. A reduction that raises has no parts, or raises here if `strict`."""
        try:
            return [part for part in self._parts(obj) if type(part.value) not in _ATOMS]
        except KeyboardInterrupt:
            raise
        except BaseException:  # whatever a user's __reduce__ raises
            if strict:
                raise
            return []

    def _parts(self, obj: Any) -> Iterator[_Part]:
        kind = type(obj)
        if kind in _ATOMS:
            return
        if kind is list or kind is tuple:
            yield from _indexed(obj)
        elif kind is set or kind is frozenset:
            yield from (_Part(value, f")[{i}]", "list(") for i, value in enumerate(obj))
        elif kind is dict:
            yield from _items(obj.items())
        else:
            reduced = self._reduce(obj)
            if isinstance(obj, types.FunctionType):
                yield from _function_parts(obj, reduced)
            elif isinstance(obj, type):
                yield from _class_parts(reduced)
            elif isinstance(obj, types.CellType):
                yield from (_Part(value, "") for value in reduced[1])
            elif not isinstance(reduced, str):
                yield from _reduced_parts(obj, reduced)

    def _reduce(self, obj: Any) -> Any:
        """What the pickler would make of an object: a tuple as `__reduce__` returns it, or a global's name."""
        pickler = self._pickler([])
        reduced = getattr(pickler, "reducer_override", lambda _: NotImplemented)(obj)
        if reduced is not NotImplemented:
            return reduced
        if isinstance(obj, type | types.FunctionType):
            return obj.__qualname__
        table = getattr(pickler, "dispatch_table", copyreg.dispatch_table)
        reducer = table.get(type(obj))
        return reducer(obj) if reducer is not None else obj.__reduce_ex__(5)


def _try(pickler: pickle.Pickler, obj: object) -> BaseException | None:
    try:
        pickler.dump(obj)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # whatever a user's __reduce__ raises
        return exc
    return None


# --- parts and their names ------------------------------------------------------------------------------------------


def _indexed(values: list[Any] | tuple[Any, ...], prefix: str = "") -> Iterator[_Part]:
    return (_Part(value, f"{prefix}[{i}]") for i, value in enumerate(values) if type(value) not in _ATOMS)


def _items(items: Any, prefix: str = "") -> Iterator[_Part]:
    for i, (key, value) in enumerate(items):
        if type(key) not in _ATOMS:
            yield _Part(key, f"{prefix})[{i}]", "list(")
        if type(value) not in _ATOMS:
            yield _Part(value, f"{prefix}[{_key(key)}]")


def _key(key: object) -> str:
    flat = key if type(key) is tuple else (key,)
    return _short(key) if all(type(k) in _ATOMS for k in flat) else f"<{type_name(key)}>"


def _short(value: object) -> str:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 60
    return brief.repr(value)


def _shortened(path: str) -> str:
    return path if len(path) <= MAX_PATH else f"{path[: MAX_PATH // 2]} … {path[3 - MAX_PATH // 2 :]}"


def _function_parts(fn: types.FunctionType, reduced: Any) -> Iterator[_Part]:
    if isinstance(reduced, str):
        return
    attributes, state = reduced[2]
    for name, cell in zip(fn.__code__.co_freevars, state.get("__closure__") or (), strict=False):
        yield _Part(cell, f".__closure__[{name!r}]")
    for name in ("__globals__", "__kwdefaults__"):
        yield from _items((state.get(name) or {}).items(), f".{name}")
    yield from _indexed(state.get("__defaults__") or (), ".__defaults__")
    for name, value in attributes.items():
        yield _Part(value, f".{name}")
    for name, value in state.items():
        if name not in ("__closure__", "__globals__", "__kwdefaults__", "__defaults__"):
            yield _Part(value, f".{name}")
    yield from _indexed(reduced[1], ".__reduce__()[1]")


def _class_parts(reduced: Any) -> Iterator[_Part]:
    if isinstance(reduced, str) or len(reduced) < 3:
        return
    for name, value in reduced[2][0].items():
        yield _Part(value, f".{name}")
    for i, value in enumerate(reduced[1]):
        if type(value) is tuple and all(isinstance(base, type) for base in value):
            yield from _indexed(value, ".__bases__")
        elif type(value) is dict:  # the members of an enum
            yield from (_Part(item, f".{name}") for name, item in value.items())
        else:
            yield _Part(value, f".__reduce__()[1][{i}]")


# Attributes of built-in types, which have no __dict__ to look into: partial, method, property, exception, defaultdict.
_NAMED = (
    *("func", "args", "keywords", "__self__", "__func__", "fget", "fset", "fdel", "default_factory"),
    *("__cause__", "__context__", "__traceback__"),
)


def _reduced_parts(obj: Any, reduced: Any) -> Iterator[_Part]:
    """The parts of an instance, called by the attribute that holds them where one does."""
    build, args, state, listed, keyed, setter = (*reduced, *[None] * 6)[:6]
    names = {id(value): f".{name}" for name in _NAMED if (value := _plain_attribute(obj, name)) is not None}
    names |= {id(value): f".{name}" for name, value in _own(obj).items()}
    names |= {id(type(obj)): ".__class__"}
    # The state first: it is where people put things.
    if isinstance(state, dict):
        yield from _state_parts(obj, state)
    elif type(state) is tuple and len(state) == 2 and all(isinstance(half, dict | None) for half in state):
        for half in state:
            yield from _state_parts(obj, half or {})
    elif type(obj).__name__ == "ndarray" and type(state) is tuple and isinstance(state[-1], list):
        yield from _indexed(state[-1], ".flat")  # an array of objects
    else:
        yield from _named_parts(obj, state, ".__getstate__()", names)
    if (
        isinstance(obj, types.ModuleType) and len(args) == 2
    ):  # one that nobody can import goes with all it holds
        yield from _state_parts(obj, args[1])
    else:
        yield from _named_parts(obj, args, ".__reduce__()[1]", names)
    if listed is not None:
        yield from _indexed(list(listed))
    if keyed is not None:
        yield from _items(keyed)
    yield _Part(build, ".__reduce__()[0]")
    yield _Part(setter, ".__reduce__()[5]")


def _state_parts(obj: Any, state: dict[Any, Any]) -> Iterator[_Part]:
    own = _own(obj)
    for key, value in state.items():
        # A __getstate__ may return what it likes; only what is an attribute is called one.
        is_attribute = isinstance(key, str) and (key in own or hasattr(type(obj), key))
        yield _Part(value, f".{key}" if is_attribute else f".__getstate__()[{_key(key)}]")


def _named_parts(obj: Any, value: Any, path: str, names: dict[int, str], depth: int = 0) -> Iterator[_Part]:
    if (name := names.get(id(value))) is not None:
        yield _Part(value, name)
    elif value is not None and value is _own(obj):
        yield from _state_parts(obj, value)
    elif type(value) is tuple and depth < 3:
        for i, item in enumerate(value):
            yield from _named_parts(obj, item, f"{path}[{i}]", names, depth + 1)
    else:
        yield _Part(value, path)


def _own(obj: Any) -> dict[str, Any]:
    """The instance's attributes, without running any code of its class."""
    try:
        own = object.__getattribute__(obj, "__dict__")
    except Exception:
        return {}
    return own if type(own) is dict else {}


def _plain_attribute(obj: Any, name: str) -> Any:
    try:
        return object.__getattribute__(obj, name)
    except Exception:
        return None


# --- reasons and hints ----------------------------------------------------------------------------------------------


def _reason(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def _is_recursion(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


_TOO_DEEP = (
    "it is nested too deeply to be pickled: pass a flat structure, such as a list of nodes with indices"
)
_LOCK = "a lock guards nothing in another process: make it inside the function, or do not capture it"
_FILE = "pass the path and open it inside the function"
_SOCKET = "a connection belongs to this process: open it inside the function"
_CLIENT = (
    "make it inside the function (functools.cache keeps one per worker) and pass its address or settings"
)
_ITERATOR = "it can be read only once and only here: pass a list of its items"
_COROUTINE = "await it here and pass the result, or pass the `async def` function itself"
_GPU = "a GPU handle belongs to this process: move data to the CPU first, make streams and contexts inside the function"
_THREAD = "threads, processes and what waits for them stay here: wait for the result and pass that"
_LOOP = "what belongs to an event loop stays with it: make it inside the function"
_FRAME = "pass its text, such as traceback.format_exc()"
_POINTER = "it is memory of this process: pass its contents as bytes or an array"
_CONTEXT = "read its value here and pass that"
_WEAK = "a weak reference points at an object of this process: pass the object, or a key to look it up by"
_HANDLER = "loggers travel by name, handlers do not: set logging up on the worker, for instance in a `before_each` hook"

# By qualified name of the type or of a base of it; a name that ends in a dot stands for all types of the package.
# Names, so that nothing is imported to look. The first that matches wins.
_HINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (_HANDLER, ("logging.Handler",)),
    (
        _LOCK,
        (
            "_thread.lock",
            "_thread.RLock",
            "threading._RLock",
            "threading.Condition",
            "threading.Event",
            "threading.Semaphore",
            "threading.Barrier",
            "_thread._local",
            "multiprocessing.synchronize.",
            "filelock.",
        ),
    ),
    (
        _THREAD,
        (
            "threading.Thread",
            "multiprocessing.process.BaseProcess",
            "multiprocessing.pool.",
            "multiprocessing.queues.",
            "_queue.SimpleQueue",
            "queue.Queue",
            "concurrent.futures._base.Future",
            "concurrent.futures._base.Executor",
            "subprocess.Popen",
        ),
    ),
    (
        _LOOP,
        (
            "_asyncio.",
            "asyncio.events.AbstractEventLoop",
            "asyncio.futures.Future",
            "asyncio.locks.",
            "asyncio.queues.",
            "asyncio.streams.",
            "asyncio.taskgroups.",
        ),
    ),
    (
        _SOCKET,
        ("_socket.socket", "ssl.", "_ssl.", "select.", "selectors.", "http.client.", "_multiprocessing."),
    ),
    (_SOCKET, ("multiprocessing.connection.",)),
    (
        _FILE,
        (
            "_io._IOBase",
            "io.IOBase",
            "tempfile._TemporaryFileWrapper",
            "mmap.mmap",
            "zipfile.ZipFile",
            "h5py.",
        ),
    ),
    (_FILE, ("posix.ScandirIterator", "_csv.", "tarfile.TarFile", "netCDF4.", "tables.file.File")),
    (_COROUTINE, ("coroutine", "builtins.coroutine", "builtins.coroutine_wrapper")),
    (_ITERATOR, ("builtins.generator", "builtins.async_generator")),
    (
        _CLIENT,
        (
            "sqlite3.",
            "psycopg.",
            "psycopg2.",
            "psycopg_pool.",
            "asyncpg.",
            "pymysql.connections.",
            "MySQLdb.",
            "mysql.connector.",
            "pyodbc.",
            "oracledb.",
            "pymongo.",
            "redis.client.",
            "redis.connection.",
            "sqlalchemy.engine.base.",
            "sqlalchemy.orm.session.",
            "sqlalchemy.orm.scoping.",
            "duckdb.",
            "_duckdb.",
            "aiohttp.client.",
            "httpx._client.",
            "urllib3.connectionpool.",
            "urllib3.poolmanager.",
            "botocore.client.",
            "boto3.",
            "grpc.",
            "paramiko.",
        ),
    ),
    (
        _GPU,
        (
            "torch.cuda.",
            "torch._C._CudaStreamBase",
            "torch._C._CudaEventBase",
            "torch._C.Generator",
            "torch._C._CUDAGraph",
            "cupy.",
            "pycuda.",
            "numba.cuda.",
            "pynvml.",
            "jaxlib._jax.Client",
            "jaxlib.xla_extension.",
        ),
    ),
    (_FRAME, ("builtins.frame", "builtins.traceback")),
    (_POINTER, ("_ctypes._Pointer", "_ctypes.CFuncPtr", "ctypes.CDLL", "_cffi_backend.")),
    (
        _CONTEXT,
        ("_contextvars.", "builtins.ContextVar", "builtins.Context", "builtins.Token", "contextvars."),
    ),
    (
        _WEAK,
        (
            "weakref.ReferenceType",
            "weakref.ProxyType",
            "weakref.CallableProxyType",
            "weakref.WeakValueDictionary",
        ),
    ),
)


def _out_of_place(obj: Any, hint: str) -> str | None:
    """Why something that can be pickled is of no use elsewhere, or None if it is."""
    if hint == _GPU:
        return "it is made again on a GPU where it arrives, and there may be none"
    if hint == _FILE and hasattr(obj, "name") and obj not in (sys.stdout, sys.stderr):
        return "what arrives is a copy of its text, not the file"
    if hint == _SOCKET:
        return "only a child of this process can open what arrives"
    return None


def hint_for(obj: object) -> str | None:
    """What to do instead of passing `obj`, if it is of a kind that is known not to travel well; else None."""
    if isinstance(obj, type | BaseException):
        return None
    if f"{type(obj).__module__}.".startswith("torch.") and getattr(obj, "is_cuda", False) is True:
        return _GPU
    kind = type(obj)
    try:
        if kind not in _hint_of:
            _hint_of[kind] = _look_up(kind)
        return _hint_of[kind]
    except TypeError:  # a metaclass can make classes that have no hash
        return _look_up(kind)


_hint_of: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def _look_up(kind: type) -> str | None:
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        for hint, known in _HINTS:
            if any(name.startswith(one) if one.endswith(".") else name == one for one in known):
                return hint
    return None
