"""An adapter whose workers share nothing with the caller but two pipes, as on a cluster.

It has what docs/how-to/write-an-adapter.md cannot show with threads: workers that die, and running calls that are
ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, ClassVar

from mini import Apparatus, BackendUnavailable, Capability, Volume
from mini.adapter import MessageCarrier, Station
from mini.carrier import Broken, Carrier, Group, Lost, Task
from mini.errors import FailureKind
from mini.options import Options
from mini.volume import DirectoryVolume
from mini.wire import Frames, join_frames, split_frames

# --- on the worker --------------------------------------------------------------------------------------------------


def main(messages: Connection, orders: Connection) -> None:
    """Run what comes until the caller is gone."""
    station = Station(lambda frames: messages.send_bytes(join_frames(frames)), alone=True)
    threading.Thread(target=obey, args=(station, orders), daemon=True).start()
    while True:
        station.run(split_frames(messages.recv_bytes()))


def obey(station: Station, orders: Connection) -> None:
    try:
        while True:
            method, *arguments = orders.recv()
            getattr(station, method)(*arguments)
    except EOFError:
        os._exit(0)


# --- at the caller's ------------------------------------------------------------------------------------------------


class PipeWorker:
    """A worker process, which ends when `orders` is closed."""

    def __init__(self, label: str, env: Mapping[str, str]) -> None:
        self.label = label
        self.programs: set[str] = set()
        self.groups: list[Group] = []
        self.gone = False
        self.verdict: FailureKind = "lost"
        self.messages, theirs = Pipe()
        self.orders, their_orders = Pipe()
        fds = (theirs.fileno(), their_orders.fileno())
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "from multiprocessing.connection import Connection\nimport pipe_adapter\n"
            f"pipe_adapter.main(Connection({fds[0]}), Connection({fds[1]}))"
        )
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                env={**os.environ, **env},
                process_group=0,
            )
        except OSError:
            self.let_go()
            raise
        finally:
            theirs.close()
            their_orders.close()

    def listen(self, post: Callable[[Frames | Lost], None]) -> None:
        self.listener = threading.Thread(target=self._listen, args=(post,), daemon=True)
        self.listener.start()

    def _listen(self, post: Callable[[Frames | Lost], None]) -> None:
        try:
            while True:
                post(split_frames(self.messages.recv_bytes()))
        except (EOFError, OSError):
            self.gone = True
            for n, group in enumerate(list(self.groups)):
                post(Lost(group, -1 if n else None, f"{self.label} is gone", self.verdict))

    def order(self, method: str, *arguments: object) -> None:
        try:
            self.orders.send((method, *arguments))
        except OSError:
            self.gone = True

    def let_go(self) -> None:
        self.messages.close()
        self.orders.close()


class PipeCarrier(MessageCarrier):
    def __init__(self, width: int, env: Mapping[str, str]) -> None:
        super().__init__(width)
        self._env = env
        self._workers: list[PipeWorker] = []
        self._at: dict[int, PipeWorker] = {}

    def room(self, task: Task) -> int:
        # One at a time: of two, nobody here could tell which one a kill has hit.
        return self.width - len(self._at)

    def start(self, group: Group) -> str:
        self._bury()
        # Not to one that has been killed, even if its last message makes it look free.
        worker = next((w for w in self._workers if not w.groups and w.verdict == "lost"), None)
        if worker is None:
            try:
                worker = self._hire()
            except OSError as exc:
                self.post(Broken(BackendUnavailable(f"no process can be started: {exc}; free some memory")))
                return "worker"
        self._at[group.id] = worker
        worker.groups.append(group)
        task = group.task
        message = self.pack(group, program=task.id not in worker.programs)
        if not task.single:
            worker.programs.add(task.id)
        try:
            worker.messages.send_bytes(join_frames(message))
        except OSError:
            worker.gone = True
        if worker.gone:  # perhaps its listener has ended without a look at this group
            self.post(Lost(group, -1, f"{worker.label} is gone"))
        return worker.label

    def _hire(self) -> PipeWorker:
        worker = PipeWorker(f"process {len(self._workers) + 1}", self._env)
        self._workers.append(worker)
        worker.listen(self.post)
        return worker

    def _bury(self) -> None:
        for worker in [worker for worker in self._workers if worker.gone and not worker.groups]:
            self._workers.remove(worker)
            worker.listener.join()
            worker.process.wait()
            worker.let_go()

    def ended(self, group: Group) -> None:
        self._at.pop(group.id).groups.remove(group)
        self._bury()

    def give_back(self, group: Group) -> None:
        self._at[group.id].order("give_back", group.id)

    def credit(self, task: Task, count: int) -> None:
        for worker in {self._at[group.id] for group in self.groups.values() if group.task is task}:
            worker.order("credit", task.id, count)

    def forget(self, task: Task) -> None:
        for worker in self._workers:
            if task.id in worker.programs:
                worker.programs.remove(task.id)
                worker.order("forget", task.id)

    def doom(self, task: Task, grace: float) -> None:
        timer = threading.Timer(grace, self._kill, [task])
        timer.daemon = True
        timer.start()

    def _kill(self, task: Task) -> None:
        with self.lock:
            for worker in self._workers:
                if worker.groups and worker.groups[0].task is task:
                    worker.verdict = "cancelled"
                    worker.process.kill()

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        workers, self._workers = self._workers, []
        self._at.clear()
        for worker in workers:
            worker.groups.clear()
            worker.orders.close()
            if kill:
                worker.process.kill()
        for worker in workers:
            worker.process.wait()
            worker.listener.join()
            worker.let_go()

    def abandon(self) -> None:
        for worker in self._workers:
            worker.let_go()


class PipeApparatus(Apparatus):
    backend: ClassVar[str] = "pipe"

    def __init__(self, name: str, max_workers: int | None = None, data_dir: str = "data") -> None:
        super().__init__(name, max_workers)
        self.data_dir = data_dir

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(
            {
                Capability.PROCESS_ISOLATION,
                Capability.KILL_WORKER,
                Capability.CANCEL_RUNNING,
                Capability.ENV,
                Capability.INTERRUPT,
                Capability.PERSISTENT_VOLUME,
            }
        )

    @property
    def ignored_options(self) -> tuple[str, ...]:
        return ("cpu", "memory", "gpu", "image", "timeout")

    def _open_carrier(self, options: Options) -> Carrier:
        return PipeCarrier(options.max_workers or 2, options.env or {})

    @property
    def worker_data_dir(self) -> str:
        return str(Path(self.data_dir, self.name))

    def _open_volume(self) -> Volume:
        return DirectoryVolume(Path(self.worker_data_dir))

    def _settings(self) -> dict[str, Any]:
        return {"name": self.name, "data_dir": self.data_dir}
