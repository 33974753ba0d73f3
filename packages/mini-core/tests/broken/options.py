"""OPT: options."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import uuid
from collections.abc import Callable, Hashable
from typing import Any, Self

from mini import JobTimeout, LocalApparatus
from mini.carrier import Carrier
from mini.options import Options

from .registry import breaks


@breaks("test_opt_01_w_returns_a_new_apparatus", says="is not")
class ChangesItself(LocalApparatus):
    """Sets options on itself."""

    def w(self, **options: Any) -> Self:
        self._options = super().w(**options)._options
        return self


@breaks("test_opt_02_max_workers_is_a_limit", says="False")
class AsManyAsItLikes(LocalApparatus):
    """Does not pass `max_workers` on."""

    def _open_carrier(self, options: Options) -> Carrier:
        return super()._open_carrier(dataclasses.replace(options, max_workers=4))


@breaks("test_opt_02_ignored_options_are_mentioned_once", says=r"assert said\(option\)")
class IgnoresInSilence(LocalApparatus):
    """Says nothing of options that it has no use for."""

    @property
    def ignored_options(self) -> tuple[str, ...]:
        return ()


@breaks("test_opt_02_values_are_checked['max_workers'-0]", says="DID NOT RAISE")
class TakesNoughtForNone(LocalApparatus):
    """Takes 0 for "not set"."""

    def w(self, **options: Any) -> Self:
        return super().w(**{name: value or None for name, value in options.items()})


@breaks("test_opt_03_names_the_nearest[timout-timeout]", says="DID NOT RAISE")
class TakesAnyOption(LocalApparatus):
    """Leaves out what it does not know."""

    def w(self, **options: Any) -> Self:
        known = {field.name for field in dataclasses.fields(Options)} | {"ray", "modal"}
        return super().w(**{name: value for name, value in options.items() if name in known})


@breaks("test_opt_04_ends_the_call[sleeps]", says="nothing was raised", workers="process", patience=0.25)
class NoTimeout(LocalApparatus):
    """Does not pass `timeout` on."""

    def w(self, **options: Any) -> Self:
        return super().w(**options | {"timeout": None})


@breaks(
    "test_opt_04_ends_the_call[computes]",
    says="the end of the call|time.monotonic",
    workers="process",
    patience=1.5,
)
class GivesUpWaiting(LocalApparatus):
    """Raises JobTimeout in time, and lets the call go on."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        timeout = self._options.timeout
        if timeout is None:
            return super().run(fn, *args, **kwargs)
        try:
            return self.w(timeout=None).executor().submit(fn, *args, **kwargs).result(timeout)
        except concurrent.futures.TimeoutError as exc:
            raise JobTimeout(f"it ran longer than {timeout:g} s") from exc


@breaks("test_opt_05_runs_again_what_raised[9]", says="attempt 3")
class RetriesAreAttempts(LocalApparatus):
    """Takes `retries` for the number of attempts."""

    def _single(self, *args: Any, **how: Any) -> Any:
        flow, engine = super()._single(*args, **how)
        flow.retries = max(0, flow.retries - 1)
        return flow, engine

    def _many(self, *args: Any) -> Any:
        flow, engine = super()._many(*args)
        flow.retries = max(0, flow.retries - 1)
        return flow, engine


@breaks("test_opt_06_is_there_at_import", says=r'a.run\(value\) == "a"', workers="process")
class MixesEnvironments(LocalApparatus):
    """Takes a worker that is there, whatever environment it was started with."""

    def _carrier_key(self, options: Options) -> Hashable:
        return options.max_workers


_DONE: set[str] = set()


class _Once:
    def __init__(self, hook: Callable[[], object]) -> None:
        self.hook, self.id = hook, uuid.uuid4().hex

    def __call__(self) -> None:
        if self.id not in _DONE:
            _DONE.add(self.id)
            self.hook()


@breaks("test_opt_07_before_every_call_in_the_order_added", says="Counter")
class HooksOnce(LocalApparatus):
    """Runs a hook when a worker begins with a function, not before every call."""

    def before_each(self, hook: Callable[[], object]) -> Self:
        return super().before_each(_Once(hook))
