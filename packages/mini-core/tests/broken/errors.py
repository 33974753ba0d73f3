"""ERR: when it goes wrong."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mini import BackendUnavailable, JobTimeout, LocalApparatus, MiniError, RemoteError, SerializationError
from mini.carrier import Carrier, Event, Lost
from mini.local.pool import ProcessPool
from mini.options import Options

from .calls import Wrapping
from .registry import breaks


class Rewording(LocalApparatus):
    """Does something of its own with what `run` raises."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().run(fn, *args, **kwargs)
        except Exception as exc:
            return self.instead(exc)

    def instead(self, exc: Exception) -> Any:
        raise NotImplementedError


@breaks("test_err_01_type_args_and_attributes[run]", says="nothing was raised")
class Swallows(Rewording):
    """Logs what a call raised, and returns None."""

    def instead(self, exc: Exception) -> Any:
        if isinstance(exc, MiniError | RuntimeError):
            raise exc
        return None


@breaks("test_err_01_from_a_stream", says="DID NOT RAISE|StopIteration")
class StreamEndsQuietly(LocalApparatus):
    """Ends a stream where its function failed."""

    def stream(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        items = super().stream(fn, *args, **kwargs)

        def until_an_error() -> Iterator[Any]:
            try:
                yield from items
            except Exception:
                return

        return until_an_error()


@breaks("test_err_01_any_kind_of_exception[KeyError]", says="the task failed")
class WrapsErrors(Rewording):
    """Raises an error of its own, with the call's as its cause."""

    def instead(self, exc: Exception) -> NoReturn:
        if isinstance(exc, MiniError | RuntimeError):
            raise exc
        raise Exception(f"the task failed: {exc}") from exc


@breaks("test_err_02_shows_the_workers_frames[run]", says=r"frames\[-3:\]")
class NoTraceback(Rewording):
    """Pickles exceptions as they are, without their tracebacks."""

    def instead(self, exc: Exception) -> NoReturn:
        raise exc.with_traceback(None)


@breaks("test_err_03_cause_context_and_notes[run]", says="type.between.|None")
class OutermostOnly(Rewording):
    """Pickles exceptions as they are, without their causes."""

    def instead(self, exc: Exception) -> NoReturn:
        exc.__cause__ = exc.__context__ = None
        raise exc


@breaks("test_err_04_what_cannot_be_pickled[holds a lock-run]", says="error.traceback")
class NameOnly(Rewording):
    """Of an exception that cannot be pickled it tells type and message."""

    def instead(self, exc: Exception) -> NoReturn:
        raise RemoteError(exc.type_name, exc.message, "") if isinstance(exc, RemoteError) else exc


@breaks("test_err_05_results[run]", says="assert .result. in")
class DoesNotSayWhat(Rewording):
    """Says that something cannot be pickled."""

    def instead(self, exc: Exception) -> NoReturn:
        raise SerializationError("it cannot be pickled") if isinstance(exc, SerializationError) else exc


@breaks("test_err_06_a_call_beside_it_goes_on", says="WorkerLost", workers="process")
class OneForAll(LocalApparatus):
    """Ends all workers when one has died, as ProcessPoolExecutor does."""

    def _open_carrier(self, options: Options) -> Carrier:
        class Pool(ProcessPool):
            def poll(self, timeout: float | None) -> list[Event]:
                events = super().poll(timeout)
                if any(isinstance(event, Lost) for event in events):
                    with self.lock:
                        for worker in self._workers:
                            worker.kill()
                return events

        return Pool(options.max_workers or 2, options.env or {})


def _or_exit(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return fn(*args, **kwargs)
    except SystemExit:
        os._exit(0)


@breaks("test_err_07_sys_exit_is_an_error_of_the_call[3]", says="WorkerLost", workers="process")
class ExitIsExit(Wrapping):
    """Lets `sys.exit()` end the worker."""

    def _flow(self, fn: Callable[..., Any], *args: Any, **how: Any) -> Any:
        return LocalApparatus._flow(self, functools.partial(_or_exit, fn), *args, **how)


@breaks(
    "test_err_08_interrupt_stops_the_map[run-the caller]",
    says="the end of the running calls",
    workers="process",
)
class InterruptsItselfOnly(LocalApparatus):
    """Waits for a future, and leaves its call alone when Ctrl-C ends the waiting."""

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.executor().submit(fn, *args, **kwargs).result()


@breaks("test_err_09_says_what_to_do[app.run(abs, -1)]", says="FileNotFoundError", workers="process")
class ErrorsOfTheBackend(Rewording):
    """Lets the errors of what is beneath through."""

    def instead(self, exc: Exception) -> NoReturn:
        raise exc.__cause__ if isinstance(exc, BackendUnavailable) and exc.__cause__ else exc


@breaks("test_err_10_is_an_error_of_the_call[TimeoutError-run]", says="JobTimeout")
class EveryTimeoutIsItsOwn(Rewording):
    """Takes a TimeoutError of the function for the timeout of the call."""

    def instead(self, exc: Exception) -> NoReturn:
        raise JobTimeout(str(exc)) if isinstance(exc, TimeoutError) else exc


@breaks("test_err_11_a_note_names_the_input[False-map]", says="note")
class NoNotes(LocalApparatus):
    """Does not say for which input a call failed."""

    def map(self, fn: Any, /, *iterables: Any, **options: Any) -> Any:
        return self._hand_out(super().map(fn, *iterables, **options))

    def _hand_out(self, results: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from results
        except Exception as exc:
            exc.__notes__ = getattr(exc, "__notes__", [])[:-1]
            raise
