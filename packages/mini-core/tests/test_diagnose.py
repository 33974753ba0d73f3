"""What failed to pickle is found, named by the expression that leads to it, and explained."""

from __future__ import annotations

import contextvars
import functools
import io
import itertools
import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini.diagnose import Unpicklable, find_unpicklable, hint_for, survey

LOCK = threading.Lock()


def found(obj: object, root: str = "fn") -> Unpicklable:
    result = find_unpicklable(obj, root)
    assert result is not None
    return result


def path_of(obj: object, root: str = "fn") -> str:
    return found(obj, root).path


# --- functions ------------------------------------------------------------------------------------------------------


def test_what_can_be_pickled_has_no_culprit() -> None:
    def local(x: int) -> int:
        return x

    for obj in (
        1,
        [1, {"a": (2, {3})}],
        local,
        lambda: logging.getLogger("x"),
        socket,
        np.zeros(3),
    ):
        assert find_unpicklable(obj, "x") is None


def test_closure_variable_is_named() -> None:
    lock = threading.Lock()

    def fn() -> object:
        return lock

    assert found(fn) == Unpicklable(
        "fn.__closure__['lock']", "_thread.lock", "cannot pickle '_thread.lock' object", hint_for(lock) or ""
    )


def test_global_is_named() -> None:
    assert path_of(lambda: LOCK) == "fn.__globals__['LOCK']"


def test_global_of_nested_code_is_named() -> None:
    def fn() -> object:
        def inner() -> object:
            return [LOCK for _ in range(2)]

        return inner()

    assert path_of(fn) == "fn.__globals__['LOCK']"


def test_global_that_is_not_used_is_not_the_culprit() -> None:
    assert find_unpicklable(lambda: Path, "fn") is None


def test_functions_are_followed_into_functions() -> None:
    lock = threading.Lock()

    def helper() -> object:
        return lock

    def fn() -> object:
        return helper()

    assert path_of(fn) == "fn.__closure__['helper'].__closure__['lock']"


def test_defaults_are_named() -> None:
    def fn(a: int = 1, b: object = LOCK, *, c: object = None) -> None: ...

    assert path_of(fn) == "fn.__defaults__[1]"

    def keyword_only(*, c: object = LOCK) -> None: ...

    assert path_of(keyword_only) == "fn.__kwdefaults__['c']"


def test_attribute_of_a_function_is_named() -> None:
    def fn() -> None: ...

    fn.lock = LOCK  # type: ignore[attr-defined]
    assert path_of(fn) == "fn.lock"


def test_wrapped_function_is_followed() -> None:
    def decorate(fn: Callable[[], object]) -> Callable[[], object]:
        @functools.wraps(fn)
        def wrapper() -> object:
            return fn()

        return wrapper

    @decorate
    def fn() -> object:
        return LOCK

    assert path_of(fn) == "fn.__closure__['fn'].__globals__['LOCK']"


def test_partial_is_followed() -> None:
    assert path_of(functools.partial(print, 1, LOCK)) == "fn.args[1]"
    assert path_of(functools.partial(print, file=LOCK)) == "fn.keywords['file']"
    assert path_of(functools.partial(lambda: LOCK)) == "fn.func.__globals__['LOCK']"


def test_self_of_a_bound_method_is_followed() -> None:
    class Model:
        def __init__(self) -> None:
            self.config = {"lock": threading.Lock()}

        def fit(self) -> None: ...

    assert path_of(Model().fit) == "fn.__self__.config['lock']"


def test_function_that_calls_itself_ends() -> None:
    def fn(n: int) -> object:
        return fn(n - 1) if n else LOCK

    assert path_of(fn) == "fn.__globals__['LOCK']"


# --- objects --------------------------------------------------------------------------------------------------------


@dataclass
class Config:
    name: str
    handle: object = None


@dataclass(slots=True)
class Slotted:
    name: str
    handle: object = None


class Stateful:
    """Has a state that is not its attributes."""

    def __getstate__(self) -> dict[str, object]:
        return {"secret": LOCK}


class Reduced:
    def __init__(self, handle: object) -> None:
        self.kept = handle

    def __reduce__(self) -> tuple[type[Reduced], tuple[object]]:
        return Reduced, (self.kept,)


class Numbers(list[Any]):
    pass


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ([1, (2, LOCK)], "x[1][1]"),
        ({"cfg": Config("a", LOCK)}, "x['cfg'].handle"),
        (Slotted("a", {"b": LOCK}), "x.handle['b']"),
        ({LOCK: 1}, "list(x)[0]"),
        ({(1, "a"): LOCK}, "x[(1, 'a')]"),
        ({frozenset({1}): LOCK}, "x[<frozenset>]"),
        ({"k" * 100: [LOCK]}, f"x['{'k' * 27}...{'k' * 28}'][0]"),
        ([{LOCK}], "list(x[0])[0]"),
        (deque([1, LOCK]), "x[1]"),
        (OrderedDict(a=1, b=LOCK), "x['b']"),
        (defaultdict(lambda: LOCK), "x.default_factory.__globals__['LOCK']"),
        (types.SimpleNamespace(a=LOCK), "x.a"),
        (Stateful(), "x.__getstate__()['secret']"),
        (Reduced(LOCK), "x.kept"),
        (Numbers([1, LOCK]), "x[1]"),
        (ValueError("bad", LOCK), "x.args[1]"),
        (types.MappingProxyType({"a": LOCK}), "x.__reduce__()[1][0]['a']"),
        (np.array([1, LOCK, "a"], dtype=object), "x.flat[1]"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_path_leads_through(obj: object, path: str) -> None:
    assert path_of(obj, "x") == path
    assert found(obj, "x").type == "_thread.lock"


def test_class_that_travels_by_value_is_followed() -> None:
    class Local:
        lock = LOCK

    class Child(Local):
        @property
        def value(self) -> object:
            return LOCK

        @classmethod
        def make(cls) -> None: ...

    assert path_of(Local) == "fn.lock"
    assert path_of(Local(), "x") == "x.__class__.lock"
    assert path_of(Child(), "x") in (
        "x.__class__.__bases__[0].lock",
        "x.__class__.value.fget.__globals__['LOCK']",
    )


def test_module_that_nobody_can_import_is_followed() -> None:
    module = types.ModuleType("made_up")
    module.lock = LOCK  # type: ignore[attr-defined]
    assert path_of(module, "m") == "m.lock"


def test_functions_and_classes_of_a_script_are_followed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\n"
        "import sys\n"
        "from mini.diagnose import find_unpicklable, survey\n"
        "session = threading.Lock()\n"
        "class Model:\n"
        "    def fit(self):\n"
        "        return helper()\n"
        "def helper():\n"
        "    return session\n"
        "print(find_unpicklable(helper, 'fn').path)\n"
        "print(find_unpicklable([Model()], 'x').path)\n"
        "print(survey([sys.stdout, sys.stderr], 'x'))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "fn.__globals__['session']",
        "x[0].__class__.fit.__globals__['helper'].__globals__['session']",
        "[]",  # they travel as the worker's own
    ]


# --- what is hard to walk -------------------------------------------------------------------------------------------


class Node:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


def test_cycles_lead_to_the_culprit_and_not_round() -> None:
    root = Node()
    root.child = Node(parent=root, siblings=[root])  # type: ignore[attr-defined]
    root.handle = LOCK  # type: ignore[attr-defined]
    assert path_of(root, "x") == "x.handle"
    loop: list[object] = []
    loop += [loop, loop, (loop, LOCK)]
    assert path_of(loop, "x") == "x[2][1]"


def test_end_of_a_long_chain_is_found_and_its_path_shortened() -> None:
    chain = Node(handle=LOCK)
    for _ in range(150):
        chain = Node(next=chain)
    result = found(chain, "x")
    assert result.type == "_thread.lock"
    assert len(result.path) == 200
    assert result.path.startswith("x.next.next")
    assert result.path.endswith(".next.handle")
    assert " … " in result.path


def test_one_element_of_many_is_found() -> None:
    assert path_of([*range(77_777), LOCK, *range(50_000)], "x") == "x[77777]"
    many = {i: [i] for i in range(20_000)}
    many[12_345].append(LOCK)  # type: ignore[arg-type]
    assert path_of(many, "x") == "x[12345][1]"


def test_too_deep_nesting_is_told_as_such() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        result = found(deep, "x")
        assert result.path == "x"
        assert "nested too deeply" in result.hint
    finally:
        while deep:  # freed from the outside in: the interpreter would recurse
            deep = deep[0]


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("no"), SystemExit(3), RecursionError("r"), GeneratorExit()],
    ids=lambda e: type(e).__name__,
)
def test_reduction_that_raises_is_the_culprit(error: BaseException) -> None:
    result = found({"a": [Broken(error)]}, "x")
    assert result.path == "x['a'][0]"
    assert result.type == "test_diagnose.Broken"
    if not isinstance(error, RecursionError):  # of which the pickler makes an error of its own
        assert result.reason == (str(error) or type(error).__name__)


def test_keyboard_interrupt_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        find_unpicklable(Broken(KeyboardInterrupt()), "x")


def test_hostile_attributes_are_survived() -> None:
    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("eq")

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            raise RuntimeError("repr")

    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("eq of a class")

    class Unhashable(metaclass=Meta):
        __module__ = 3  # type: ignore[assignment]

    assert hint_for(Unhashable()) is None
    assert found([Unhashable()], "x").reason == "unhashable type: 'Meta'"  # pickle itself cannot look it up

    hostile = Hostile()
    hostile.lock = LOCK  # type: ignore[attr-defined]
    assert path_of({hostile: hostile}, "x") == "list(x)[0].lock"


def test_iterator_that_breaks_while_it_is_pickled() -> None:
    class Listed:
        def __reduce__(self) -> Any:
            return list, (), None, (1 // n for n in (1, 0))

    assert found([Listed()], "x").path == "x[0]"


def test_generator_is_not_consumed() -> None:
    generator = (n for n in range(3))
    result = found([generator], "args[0]")
    assert result.path == "args[0][0]"
    assert "pass a list" in result.hint
    assert list(generator) == [0, 1, 2]


def test_siblings_are_pickled_once_per_level_at_most() -> None:
    count = itertools.count()

    class Counted:
        def __reduce__(self) -> Any:
            next(count)
            return str, ()

    find_unpicklable([Counted(), [Counted(), [Counted(), LOCK]]], "x")
    # The first to be pickled is so once as a part of each of its ancestors, and then by itself.
    assert next(count) <= 3 * 5


def test_pickler_of_the_caller_decides() -> None:
    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type(LOCK)):
                return threading.Lock, ()
            return super().reducer_override(obj)

    handle = socket.socket()
    with handle:
        assert find_unpicklable([LOCK], "x", make_pickler=Pickler) is None
        result = find_unpicklable([LOCK, {"s": handle}], "x", make_pickler=Pickler)
        assert result is not None
        assert result.path == "x[1]['s']"


def test_exceptions_that_travel_whole_are_followed_whole() -> None:
    from mini.pickling import Pickler

    def raised() -> Exception:
        try:
            try:
                raise KeyError("cause", LOCK)
            except KeyError as cause:
                raise ValueError("bad") from cause
        except ValueError as exc:
            return exc

    exc = raised()
    assert find_unpicklable(exc, "x") is None  # cloudpickle by itself leaves the cause behind
    result = find_unpicklable(exc, "x", make_pickler=Pickler)
    assert result is not None
    assert result.path in ("x.__cause__.args[1]", "x.__context__.args[1]")
    exc.handle = [LOCK]  # type: ignore[attr-defined]
    result = find_unpicklable(exc, "x", make_pickler=Pickler)
    assert result is not None
    assert result.path == "x.handle[0]"


Nested = st.recursive(
    st.integers() | st.text(max_size=3) | st.binary(max_size=3) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | inner.map(lambda value: Config("c", value))
        | inner.map(lambda value: Slotted("s", value))
    ),
    max_leaves=12,
)


def slots_of(obj: Any) -> list[Any]:
    """All containers in a nested structure to which something can be added."""
    children = {
        list: lambda: obj,
        tuple: lambda: obj,
        dict: lambda: list(obj.values()),
        Config: lambda: [obj.handle],
        Slotted: lambda: [obj.handle],
    }.get(type(obj), list)()  # type: ignore[no-untyped-call]
    here = [obj] if isinstance(obj, list | dict) else []
    return here + [slot for child in children for slot in slots_of(child)]


@settings(max_examples=150, deadline=None)
@given(st.lists(Nested, max_size=4), st.data())
def test_path_is_an_expression_that_leads_to_the_culprit(nested: list[Any], data: st.DataObject) -> None:
    lock = threading.Lock()
    target = data.draw(st.sampled_from(range(len(slots_of(nested)))).map(lambda i: slots_of(nested)[i]))
    if isinstance(target, list):
        target.insert(data.draw(st.integers(0, len(target))), lock)
    else:
        target["the lock"] = lock
    first, second = found(nested, "root"), found(nested, "root")
    assert eval(first.path, {"root": nested}) is lock
    assert first == second


# --- kinds ----------------------------------------------------------------------------------------------------------


def test_known_kinds_are_named_whole_and_have_a_hint(tmp_path: Path) -> None:
    async def coroutine() -> None: ...

    file = (tmp_path / "out.txt").open("w")
    waiting = coroutine()
    connection = sqlite3.connect(":memory:")
    with file, socket.socket() as sock:
        kinds: list[tuple[object, str, str]] = [
            (threading.Event(), "threading.Event", "inside the function"),
            (threading.local(), "_thread._local", "inside the function"),
            (sock, "socket.socket", "open it inside the function"),
            (file, "_io.TextIOWrapper", "pass the path"),
            (connection, "sqlite3.Connection", "functools.cache"),
            (waiting, "coroutine", "await it"),
            (threading.Thread(), "threading.Thread", "wait for the result"),
            (logging.StreamHandler(io.StringIO()), "logging.StreamHandler", "loggers travel by name"),
            (weakref.ref(LOCK), "weakref.ReferenceType", "weak reference"),
            (contextvars.ContextVar[int]("v"), "_contextvars.ContextVar", "read its value"),
            (sys._getframe(), "frame", "format_exc"),
        ]
        for obj, kind, hint in kinds:
            result = found([obj], "x")
            assert (result.path, result.type) == ("x[0]", kind)
            assert hint in result.hint
    waiting.close()
    connection.close()


def test_gpu_kinds_are_known_without_importing_their_library() -> None:
    # The names are torch's own; the class stands in for one that cannot be made without a GPU.
    stream = type("Stream", (), {"__module__": "torch.cuda.streams", "__reduce__": lambda _: 1 / 0})
    assert "GPU" in found([stream()], "x").hint
    assert "torch" not in sys.modules


# --- survey ---------------------------------------------------------------------------------------------------------


def test_survey_lists_everything_nearest_first(tmp_path: Path) -> None:
    lock = threading.Lock()
    (tmp_path / "data.txt").write_text("text")
    with socket.socket() as sock, (tmp_path / "data.txt").open() as file:
        config = {"lock": lock, "deep": [[sock]], "file": file, "fine": [1, 2]}

        def fn() -> object:
            return config, lock

        everything = survey(fn, "fn")
    assert [(one.path, one.fatal) for one in everything] == [
        ("fn.__closure__['lock']", True),
        ("fn.__closure__['config']['file']", False),
        ("fn.__closure__['config']['deep'][0][0]", True),
    ]
    assert "copy of its text" in everything[1].reason


def test_survey_of_what_is_fine_is_empty_and_bounded() -> None:
    assert (
        survey(
            [{"a": [1, 2]}, np.zeros(10), Config("a"), ValueError("x"), sqlite3.OperationalError("x")], "x"
        )
        == []
    )
    assert len(survey([threading.Lock() for _ in range(100)], "x", max_found=7)) == 7
    assert survey([Broken(ZeroDivisionError("no"))], "x")[0].reason == "no"


def test_survey_beyond_its_bound_still_tells_that_something_fails() -> None:
    nested = [Config("a") for _ in range(2000)]
    nested[-1].handle = LOCK
    assert [one.path for one in survey(nested, "x", max_objects=1000)] == ["x[1999].handle"]
