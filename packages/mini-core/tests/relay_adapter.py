"""An adapter whose workers are relays: what a backend whose own processes must not die with a call looks like.

Each relay is a thread of this process; everything goes to it and back as bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from mini import BackendUnavailable, Capability
from mini.adapter import MessageCarrier, Relay
from mini.carrier import Broken, Carrier, Group, Task
from mini.local.pool import ProcessPool
from mini.options import Options
from mini.wire import Frames, join_frames, split_frames
from pipe_adapter import PipeApparatus

__all__ = ["RelayApparatus"]


class RelayCarrier(MessageCarrier):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._relays = [Relay(ProcessPool(1, {}), self._said) for _ in range(width)]
        self._threads = ThreadPoolExecutor(2 * width)
        self._at: dict[int, Relay] = {}

    def _said(self, group: int, message: Frames) -> None:
        self.post(split_frames(join_frames(message)))

    def room(self, task: Task) -> int:
        return (2 if task.quick else 1) * self.width - len(self._at)

    def start(self, group: Group) -> str:
        relay = min(self._relays, key=lambda relay: sum(at is relay for at in self._at.values()))
        self._at[group.id] = relay
        data = join_frames(self.pack(group, program=True))
        self._threads.submit(self._run, relay, data)
        return f"relay {self._relays.index(relay) + 1}"

    def _run(self, relay: Relay, data: bytes) -> None:
        try:
            relay.run(split_frames(data))
        except BackendUnavailable as exc:
            self.post(Broken(exc))

    def ended(self, group: Group) -> None:
        del self._at[group.id]

    def give_back(self, group: Group) -> None:
        self._at[group.id].give_back(group.id)

    def credit(self, task: Task, count: int) -> None:
        for relay in self._relays:
            relay.credit(task.id, count)

    def doom(self, task: Task, grace: float) -> None:
        for relay in self._relays:
            relay.doom(task.id, grace)

    def forget(self, task: Task) -> None:
        for relay in self._relays:
            relay.forget(task.id)

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        for relay in self._relays:
            relay.close()
        self._threads.shutdown(wait=False)
        self._at.clear()


class RelayApparatus(PipeApparatus):
    backend: ClassVar[str] = "relay"

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.PROCESS_ISOLATION, Capability.KILL_WORKER, Capability.TIMEOUT})

    @property
    def ignored_options(self) -> tuple[str, ...]:
        return ("cpu", "memory", "gpu", "image", "env")

    def _open_carrier(self, options: Options) -> Carrier:
        return RelayCarrier(options.max_workers or 2)
