"""CAP and LIFE: capabilities and life cycle."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mini import Capability, LocalApparatus
from mini.carrier import Carrier
from mini.executor import ApparatusExecutor
from mini.options import Options
from mini.protocol import Runtime

from .registry import breaks


@breaks("test_cap_01_the_names_are_fixed[cancel_runing]", says="DID NOT RAISE")
class AnyCapability(LocalApparatus):
    """Answers no to a name that it does not know."""

    def supports(self, capability: str | Capability) -> bool:
        return capability in self.capabilities


@breaks("test_cap_01_answers_without_starting_anything", says="new_since")
class AsksTheBackend(LocalApparatus):
    """Starts a worker to see what it can."""

    def supports(self, capability: str | Capability) -> bool:
        if not self._runtime.closed:
            self.run(abs, -1)
        return super().supports(capability)


class Claiming(LocalApparatus):
    """Says of a capability what is not so."""

    capability: Capability

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities ^ {self.capability}


@breaks("test_map_06_running_calls_are_cancelled", says="the end of the running call", patience=2)
class ClaimsToCancel(Claiming):
    """Declares `cancel_running`, and cannot end a thread."""

    capability = Capability.CANCEL_RUNNING


@breaks("test_opt_02_more_than_there_is_is_refused", says="DID NOT RAISE")
class ClaimsResources(Claiming):
    """Declares `resources`, and reserves nothing."""

    capability = Capability.RESOURCES


@breaks("test_opt_06_is_there_at_import", says="assert a.run.value. ==")
class ClaimsEnvironments(Claiming):
    """Declares `env`, and shares its environment with the caller."""

    capability = Capability.ENV


@breaks("test_run_07_never_in_the_calling_process", says="declare process_isolation", workers="process")
class DeclinesIsolation(Claiming):
    """Declines `process_isolation`, and has it."""

    capability = Capability.PROCESS_ISOLATION


@breaks(
    "test_map_13_grouped_also_when_a_worker_dies[in a call]",
    says="declare at_most_once_grouped",
    workers="process",
)
class DeclinesAtMostOnce(Claiming):
    """Declines `at_most_once_grouped`, and has it."""

    capability = Capability.AT_MOST_ONCE_GROUPED


@breaks("test_life_01_making_one_starts_nothing", says="os.mkdir")
class MakesDirectories(LocalApparatus):
    """Makes its data directory when it is made itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Path(self.worker_data_dir).mkdir(parents=True, exist_ok=True)


@breaks("test_life_02_close_is_idempotent[True]", says="is closed already")
class ClosesOnce(LocalApparatus):
    """Takes a second `close()` for a mistake."""

    def close(self) -> None:
        if self._runtime.closed:
            raise RuntimeError("the apparatus is closed already")
        super().close()


@breaks("test_life_02_using_a_closed_one[True]", says="nothing was raised")
class OpensAgain(LocalApparatus):
    """Starts new workers when it is used after `close()`."""

    def close(self) -> None:
        super().close()
        self._runtime = Runtime()


@breaks("test_life_03_nothing_is_left_after_close", says="children", workers="process")
class KeepsItsWorkers(LocalApparatus):
    """Is closed, and lets its workers wait for the end of the process."""

    def close(self) -> None:
        self._runtime.closed = True


@breaks(
    "test_life_03_nothing_is_left_of_a_process[returns]",
    says="the end of the workers",
    workers="process",
    patience=2,
)
class OutlivesItsCaller(LocalApparatus):
    """Starts a helper that does not notice the end of its caller."""

    def _open_carrier(self, options: Options) -> Carrier:
        helper = subprocess.Popen(["sleep", "60"], start_new_session=True)
        # For whoever has to end it.
        Path(os.environ["BROKEN_HELPERS"], str(helper.pid)).touch()
        return super()._open_carrier(options)


@breaks("test_life_04_with_its_options", says=r"\['called'\]")
class ForgetsItsOptions(LocalApparatus):
    """Is pickled without its options and hooks."""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._settings()), ()


class _ClosingExecutor(ApparatusExecutor):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._apparatus.close()


@breaks("test_life_05_submit_and_map", says="closed")
class ClosesWithItsExecutor(LocalApparatus):
    """Ends its workers with the executor over them."""

    def executor(self) -> Executor:
        return _ClosingExecutor(self)


@breaks("test_life_06_forking[run]", says="it hangs", patience=3)
class HelperThreads(LocalApparatus):
    """Talks to its backend in threads, which a forked child does not have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.helpers = ThreadPoolExecutor(32)  # starts none before it is used

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.helpers.submit(super().run, fn, *args, **kwargs).result()

    def close(self) -> None:
        super().close()
        self.helpers.shutdown()
