"""What `Apparatus.w` understands: one neutral vocabulary, checked once, for every backend.

Options that a backend has no use for are ignored by it and mentioned once, at INFO. A dict under a backend's
name (`ray={...}`) holds that backend's native options; the other backends ignore it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from .errors import OptionError

__all__ = ["Options", "check_name"]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_said: set[tuple[str, str]] = set()


def check_name(name: object) -> str:
    """Return `name` if an apparatus may be called that, else raise OptionError.

    The name becomes a directory, a volume and an app on the backends, hence the narrow alphabet.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} is not a name for an apparatus: use 1 to 63 letters, digits, '.', '_' or '-', "
            "starting with a letter or a digit, for example 'digits-sweep'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a call. None means: not set, the backend's default holds.

    Attributes:
        cpu: cores, may be a fraction.
        memory: MiB.
        gpu: a count, or a name such as "L4" or "A100:2".
        timeout: seconds that one call may run.
        retries: how often a call that raised or lost its worker is run again.
        max_workers: workers at the same time.
        env: environment variables of the worker's process.
        image: a backend's own image object.
        window: inputs of a map in flight or waiting to be consumed.
        chunk: calls per group at most; 1 means never grouped.
        progress: show progress; None decides by where the output goes.
        logs: show what calls print as they print it.
        native: per backend name, options in that backend's own words.
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: int | str | None = None
    timeout: float | None = None
    retries: int | None = None
    max_workers: int | None = None
    env: Mapping[str, str] | None = None
    image: object | None = None
    window: int | None = None
    chunk: int | None = None
    progress: bool | None = None
    logs: bool | None = None
    native: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def merged(self, changes: Mapping[str, object], backends: Callable[[], Collection[str]]) -> Options:
        """Return these options with `changes` over them; later ones win, `env` and native dicts are merged by key.

        `backends` gives the names that native dicts may have; it is asked only if there are some.

        Raises:
            OptionError: an unknown option (the nearest one is named) or a value out of range.
        """
        plain: dict[str, Any] = {}
        native = dict(self.native)
        for key, value in changes.items():
            check = _CHECKS.get(key)
            if check is not None:
                plain[key] = None if value is None else check(key, value)
            elif key in backends():
                if not isinstance(value, Mapping):
                    raise OptionError(f"{key}= takes a dict of {key}'s own options, not {value!r}")
                native[key] = {**native.get(key, {}), **value}
            else:
                known = [*_CHECKS, *backends()]
                import difflib

                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
                raise OptionError(f"unknown option {key!r}; {hint}")
        if plain.get("env") is not None and self.env is not None:
            plain["env"] = {**self.env, **plain["env"]}
        return replace(self, **plain, native=native)

    def mention_ignored(self, backend: str, ignored: Collection[str]) -> None:
        """Say once per process, at INFO, which of the options that are set `backend` has no use for."""
        for name in ignored:
            if getattr(self, name) is not None and (backend, name) not in _said:
                _said.add((backend, name))
                import logging  # only now: apparatuses are made faster without

                logging.getLogger("mini").info(
                    "the %s backend has no use for the option %r and ignores it", backend, name
                )


def _number(name: str, value: object, low: float, unit: str, *, above: bool = False) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not number
        or not math.isfinite(cast(float, value))
        or cast(float, value) < low
        or (above and value == low)
    ):
        bound = f"above {low:g}" if above else f"of at least {low:g}"
        raise OptionError(f"{name} takes a number {bound} ({unit}), not {value!r}")
    return cast(float, value)


def _count(name: str, value: object, low: int) -> int:
    if hasattr(value, "__index__") and not isinstance(value, bool):
        count = int(cast(int, value))
        if count >= low:
            return count
    raise OptionError(f"{name} takes a whole number of at least {low}, not {value!r}")


def _cpu(name: str, value: object) -> float:
    return float(_number(name, value, 0, "cores", above=True))


def _memory(name: str, value: object) -> int:
    return math.ceil(_number(name, value, 0, "MiB", above=True))


def _timeout(name: str, value: object) -> float:
    return float(_number(name, value, 0, "seconds", above=True))


def _at_least_0(name: str, value: object) -> int:
    return _count(name, value, 0)


def _at_least_1(name: str, value: object) -> int:
    return _count(name, value, 1)


def _gpu(name: str, value: object) -> int | str:
    if isinstance(value, str):
        kind, colon, count = value.partition(":")
        if kind and (not colon or (count.isdigit() and int(count) > 0)):
            return value
        raise OptionError(f"{name} takes a count, a name such as 'L4', or 'A100:2', not {value!r}")
    return _count(name, value, 0)


def _env(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} takes a dict of variable names and values, not {value!r}")
    for key, text in value.items():
        if not isinstance(key, str) or not _ENV_NAME.fullmatch(key):
            raise OptionError(f"{name}: {key!r} is not the name of an environment variable")
        if not isinstance(text, str) or "\0" in text:
            raise OptionError(
                f"{name}: the value of {key} must be a string without NUL, not {type(text).__name__}"
            )
    return dict(value)


def _any(name: str, value: object) -> object:
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name} takes True or False, not {value!r}")
    return value


_CHECKS = {
    "cpu": _cpu,
    "memory": _memory,
    "gpu": _gpu,
    "timeout": _timeout,
    "retries": _at_least_0,
    "max_workers": _at_least_1,
    "env": _env,
    "image": _any,
    "window": _at_least_1,
    "chunk": _at_least_1,
    "progress": _flag,
    "logs": _flag,
}
