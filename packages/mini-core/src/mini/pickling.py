"""How values are pickled: as cloudpickle does, but exceptions keep everything, classes their identity, code its file.

`mini.wire` imports this when something has to be pickled, and not before: cloudpickle and what it imports is half of
what a worker process would have to load before its first call.
"""

from __future__ import annotations

import functools
import pickle
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FunctionType, MemberDescriptorType, SimpleNamespace, TracebackType
from typing import Any, cast

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

__all__ = ["PROTOCOL", "Pickler", "bringing", "summarise"]

PROTOCOL = 5

_tracked: Mapping[type, str] = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
_by_id: Mapping[str, type] = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
_made_here: weakref.WeakSet[type] = weakref.WeakSet()

_FILENAME = 10
"""Which argument of `CodeType` is the file's name. From 3.1.3 on cloudpickle leaves it out, and tracebacks need it."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with exceptions that keep everything, classes that keep their identity, and code its file.

    Args:
        file: anything with a `write` method.
        buffer_callback: gets each large buffer as a `PickleBuffer`; see PEP 574.
        returning: the bytes go back to the caller. A class that came from there is then sent as its identity alone,
            so that the caller finds its own class and its class attributes stay untouched (RUN-11).
        instead: exceptions to pickle in place of others, by the `id` of these.
    """

    def __init__(
        self,
        file: Any,
        buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
        *,
        returning: bool = False,
        instead: Mapping[int, BaseException] | None = None,
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback)
        self._returning = returning
        self._instead = instead or {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            if (known := _tracked.get(obj)) is None:
                reduced = super().reducer_override(obj)
                if "__slots__" in obj.__dict__:
                    reduced = _with_slots(obj, reduced)
                if obj in _tracked:
                    _made_here.add(obj)
                return reduced
            if self._returning and obj not in _made_here:
                return _own_class, (known,)
        elif isinstance(obj, BaseException):
            return _reduce_exception(self._instead.get(id(obj), obj))
        elif isinstance(obj, TracebackType):
            return _build_traceback, (summarise(obj),)
        elif isinstance(obj, CodeType):
            make, args = self.dispatch_table[CodeType](obj)
            return make, (*args[:_FILENAME], obj.co_filename, *args[_FILENAME + 1 :])
        elif isinstance(obj, functools._lru_cache_wrapper) and not _is_importable(obj):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


def _with_slots(cls: type, reduced: Any) -> Any:
    """What cloudpickle makes of a class with `__slots__`, so that the copy has them as well.

    The copy would have a `__dict__` otherwise, and the state of its instances be one that the original cannot take.
    """
    if not isinstance(reduced, tuple) or reduced[0] is not _cloudpickle._make_skeleton_class:
        return reduced
    make, (*first, kwargs, tracker_id, extra), (attributes, rest), *others = reduced
    slots = cls.__dict__["__slots__"]
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    for name in names:
        if name.startswith("__") and not name.endswith("__"):
            attributes.pop(
                f"_{cls.__name__.lstrip('_')}{name}", None
            )  # made anew, as those of other names are
    return make, (*first, {**kwargs, "__slots__": names}, tracker_id, extra), (attributes, rest), *others


def _is_importable(wrapper: Any) -> bool:
    """Whether a function in a cache is found by its name where it goes; otherwise it has to travel."""
    found = _cloudpickle._lookup_module_and_qualname(wrapper)
    return found is not None and not _cloudpickle._is_registered_pickle_by_value(found[0])


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", functools.lru_cache(**parameters)(fn))


def _own_class(tracker_id: str) -> type:
    if (found := _by_id.get(tracker_id)) is not None:
        return found
    if (bring := _bring.get()) is not None:
        kept = bring()
        if (found := _by_id.get(tracker_id)) is not None:
            del kept  # what has been found keeps itself from now on
            return found
    raise pickle.UnpicklingError("a class of the caller's is gone; keep a reference to it while calls run")


_bring: ContextVar[Callable[[], object] | None] = ContextVar("mini_bring_classes", default=None)


@contextmanager
def bringing(classes: Callable[[], object]) -> Iterator[None]:
    """Within it, a class of the caller's that is not here is looked for again after `classes` was called.

    That is for results which are not read by the process that made the call: it unpickles what was sent, and returns
    it.
    """
    token = _bring.set(classes)
    try:
        yield
    finally:
        _bring.reset(token)


# --- exceptions ---


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


def summarise(trace: TracebackType | None) -> list[_FrameSummary]:
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
