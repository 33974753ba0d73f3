"""The carrier: which worker gets which group, and what happens to workers."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mini import AuthError, BackendUnavailable, MiniError, OptionError
from mini.answering import Answer, RequestCarrier
from mini.carrier import Broken, Group, Lost, Returned, Task
from mini.local.wait import usable_cores

from .cluster import join
from .environment import Environments, by_value, settle
from .growth import nodes_for
from .node import Seat
from .resources import needs_of
from .session import Session
from .storage import Mark
from .worker import UNFIT, Letter, beside, frames_of

__all__ = ["Definition", "RayCarrier", "not_started"]

CONSTANT_BYTES = 256 * 1024
"""Programs from this size on go into the object store, once, instead of to each worker."""
IDLE_SECONDS = 60.0
"""How long a worker that has nothing to do may hold resources that others could use."""
LOOK_SECONDS = 0.2
CHECK_SECONDS = 5.0
START_SECONDS = 1.0
"""How long a worker may take to come up before its calls go to one that has nothing to do."""
SAY_AFTER = 10.0
START_FAILURES = 20
"""In a row. Workers are lost together with their node, and Ray may put each new one on it for a while."""
SUSPECT_SECONDS = 30.0
NEVER_RAN = "The actor never ran"
"""What Ray says of an actor none of whose methods can have been called."""
OUT_OF_MEMORY = "low on memory"
"""What Ray says when it has killed for that; of any end that it cannot explain it says that it may have been memory."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What workers are made of.

    Attributes:
        address: of the cluster; see `cluster.join`.
        options: of the actor.
        args: of `Worker`, but for the last.
        root: the project's directory, or None.
        mark: what nodes have to see, or None.
    """

    address: str | None
    options: Mapping[str, Any]
    args: tuple[Any, ...]
    root: Path | None
    mark: Mark | None


@dataclass(frozen=True, slots=True, eq=False)
class _Letter:
    """A group that is to be sent.

    Attributes:
        constant: its program is large, and goes by way of the object store.
    """

    group: Group
    pieces: list[Any]
    constant: bool


class _Worker:
    """An actor, as the carrier sees it."""

    def __init__(self, number: int) -> None:
        self.label = f"worker {number}"
        self.groups: deque[Group] = deque()
        self.letters: list[_Letter] = []
        """What it has not been sent. Before it is ready it is sent nothing, so that its calls may go elsewhere."""
        self.orders: list[tuple[str, tuple[Any, ...]]] = []
        """What it is to be told about them as soon as it has them."""
        self.known: set[str] = set()
        """Ids of the tasks whose program it has been sent."""
        self.actor: Any = None
        self.node: str | None = None
        self.ready = False
        self.begun = False
        """It has been sent something."""
        self.since = time.monotonic()
        """When it last had a group end, or got one when it had none."""
        self.gone = False
        """It is dead, or not wanted any more."""


_carriers: weakref.WeakSet[RayCarrier] = weakref.WeakSet()
"""Those of this process, which may have to make room for each other."""


class RayCarrier(RequestCarrier):
    """Carries groups to actors. One thread does all that is done with Ray, in its order.

    `close` has `lock` and waits for that thread, which may wait for Ray, whose threads call back in here. So neither it
    nor they ever take `lock`; the workers have a lock of their own.

    Workers that reserve nothing stay until the end. Those that do make room for others of this process at once, and for
    everybody after a minute without calls.

    Args:
        width: the most actors; None for the cores of the cluster, known once it is reached.
        definition: of the actors.
    """

    def __init__(self, width: int | None, definition: Definition) -> None:
        super().__init__(width or usable_cores())
        self._is_given = width is not None
        self._definition = definition
        self._own = threading.Lock()
        """Held where `_workers` and what they have been given change."""
        self._workers: list[_Worker] = []
        self._at: dict[int, _Worker] = {}
        self._session: Session | None = None
        self._constants: dict[str, Any] = {}
        """References to the frames of large programs, by task."""
        self._careful: set[str] = set()
        """Tasks that have cost a worker. To see which call does so, a worker has one group of theirs at a time."""
        self._needs = needs_of(definition.options)
        self._said = False
        self._failed_starts = 0
        self._suspect: dict[str, float] = {}
        """When a node has lost a worker, by its id."""
        self._checked = time.monotonic()
        _carriers.add(self)

    # --- carrying groups out ---

    def keep(self, task: Task) -> None:
        session = self._session
        if task.single or task.program.nbytes < CONSTANT_BYTES or session is None or not session.connected:
            super().keep(task)
            return
        import ray

        # One copy, and not here and there again.
        program = task.program
        self._constants[task.id] = ray.put(beside(program.frames))
        program.frames = [b""] * len(program.frames)

    def room(self, task: Task) -> int:
        depth = self._depth(task)
        workers = self._workers
        room = sum(
            max(0, min([depth, *(self._depth(g.task) for g in w.groups)]) - len(w.groups))
            for w in workers
            if not self._is_late(w)
        )
        return depth * (self.width - len(workers)) + room

    def _is_late(self, worker: _Worker) -> bool:
        """Whether a worker has had a group for so long that another one should not wait for it: it may be dead."""
        return bool(worker.groups) and time.monotonic() - worker.since > 2 * self.quick_seconds

    def _is_careful(self, worker: _Worker) -> bool:
        return any(group.task.id in self._careful for group in worker.groups)

    def _depth(self, task: Task) -> int:
        """How many groups a worker may have at a time."""
        return 2 if task.quick and task.id not in self._careful else 1

    def start(self, group: Group) -> str:
        if self._session is None:
            self._session = Session(self._look_after, LOOK_SECONDS if self._needs else CHECK_SECONDS)
        with self._own:  # until it is on its way: nobody answers for a group that is not
            worker = min(
                self._workers,
                key=lambda w: (self._is_late(w), len(w.groups), self._is_careful(w)),
                default=None,
            )
            if worker is None or (worker.groups and len(self._workers) < self.width):
                worker = self._hire()
            if not worker.groups:
                worker.since = time.monotonic()
            worker.groups.append(group)
            self._at[group.id] = worker
            worker.letters.append(self._letter(group, worker))
            if len(worker.letters) == 1:
                self._session.do(partial(self._send, worker))
        return worker.label

    def waits(self, group: Group) -> bool:
        with self._own:
            return self._at[group.id].groups[0] is not group

    def _letter(self, group: Group, worker: _Worker) -> _Letter:
        task = group.task
        program = task.single or task.id not in worker.known
        if not task.single:
            worker.known.add(task.id)
        message = self.pack(group, program=program)
        constant = program and (
            task.id in self._constants or (not task.single and task.program.nbytes >= CONSTANT_BYTES)
        )
        if constant:
            del message[1 : 1 + len(task.program.frames)]
        return _Letter(group, beside(message), constant)

    def _hire(self) -> _Worker:
        taken = {worker.label for worker in self._workers}
        number = next(n for n in range(1, len(taken) + 2) if f"worker {n}" not in taken)
        worker = _Worker(number)
        self._workers = [*self._workers, worker]
        return worker

    def ended(self, group: Group) -> None:
        worker = self._at.pop(group.id)
        with self._own:
            worker.groups.remove(group)
        worker.since = time.monotonic()

    # --- what is reserved ---

    def _look_after(self) -> None:
        """See to what changes by itself; in the session's thread, every now and then.

        If the cluster is no more, Ray would end this process after a minute. And workers that hold resources and have
        nothing to do make room.
        """
        session = self._session
        if session is not None and time.monotonic() > self._checked + CHECK_SECONDS:
            self._check_cluster(session)
        if not self._needs:
            return
        waiting = [worker for worker in self._workers if not worker.ready]
        self._take_back(waiting)
        self._spare(IDLE_SECONDS)
        if waiting:
            for carrier in list(_carriers):
                if carrier is not self:
                    carrier._spare(0)
            since = time.monotonic() - min(worker.since for worker in waiting)
            if since > SAY_AFTER and not self._said:
                self._said = True
                logging.getLogger("mini").warning(
                    "waiting for the Ray cluster to have %s for a worker; others hold what it has",
                    self._needs,
                )

    def _take_back(self, waiting: list[_Worker]) -> None:
        """Have workers of ours that have nothing to do get what others have that do not come up."""
        free = sum(worker.ready and not worker.groups for worker in self._workers)
        late = time.monotonic() - START_SECONDS
        for worker in [each for each in waiting if each.since < late][:free]:
            for group in self._dismiss(worker) or ():
                self.post(Returned(group, group.count))

    def _spare(self, idle: float) -> None:
        """Let workers go that hold resources and have had nothing to do for `idle` seconds."""
        if not self._needs:
            return
        late = time.monotonic() - idle
        for worker in self._workers:
            if worker.ready and worker.since <= late:
                self._dismiss(worker, idle=True)

    # --- what a worker is told ---

    def give_back(self, group: Group) -> None:
        self._order(self._at[group.id], "give_back", group.id)

    def credit(self, task: Task, count: int) -> None:
        self._order_all(task, "credit", task.id, count)

    def doom(self, task: Task, grace: float) -> None:
        self._order_all(task, "doom", task.id, grace)

    def forget(self, task: Task) -> None:
        self._careful.discard(task.id)
        for worker in self._workers:
            if task.id in worker.known:
                worker.known.discard(task.id)
                self._order(worker, "forget", task.id)
        if self._session is not None:
            self._session.do(partial(self._constants.pop, task.id, None))

    def _order_all(self, task: Task, what: str, *args: Any) -> None:
        for worker in self._workers:
            if any(group.task is task for group in worker.groups):
                self._order(worker, what, *args)

    def _order(self, worker: _Worker, what: str, *args: Any) -> None:
        assert self._session is not None
        self._session.do(partial(self._tell, worker, what, args))

    # --- the end ---

    def close(self, *, kill: bool) -> None:
        super().close(kill=kill)
        with self._own:
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.gone = True
        self._at.clear()
        self._constants.clear()
        session, self._session = self._session, None
        if session is not None:
            session.do(partial(self._end, session, workers))
            if self._definition.mark is not None:
                session.do(self._definition.mark.remove)
            session.close()

    def abandon(self) -> None:
        self._session = None
        self._own = threading.Lock()
        self._workers = []

    # --- in the session's thread ---

    def _send(self, worker: _Worker) -> None:
        """Send what there is for a worker, as one call; make the worker first."""
        if worker.gone:
            return
        try:
            if worker.actor is None:
                self._create(worker)
            if not worker.ready:
                return  # it is done again then
            with self._own:
                letters, worker.letters = worker.letters, []
            if not letters:
                return  # it was done in between
            batch: list[Letter] = [
                (letter.pieces, [self._constant(letter.group.task)] if letter.constant else [])
                for letter in letters
            ]
            worker.begun = True
            answer = worker.actor.run.remote(batch)
        except Exception as exc:
            self._is_gone(worker, exc)
            return
        groups = [letter.group.id for letter in letters]
        answer.future().add_done_callback(partial(self._is_answered, worker, groups))
        orders, worker.orders = worker.orders, []
        for what, args in orders:
            self._tell(worker, what, args)

    def _tell(self, worker: _Worker, what: str, args: tuple[Any, ...]) -> None:
        """Tell a worker something about what it has been sent, or will have been."""
        if not worker.begun:
            worker.orders.append((what, args))
        elif worker.actor is not None:
            worker.actor.order.remote(what, *args)

    def _constant(self, task: Task) -> Any:
        """The reference to a task's program."""
        if task.id not in self._constants:
            import ray

            if not task.program.nbytes:  # see `keep`
                raise BackendUnavailable("what all calls share was lost with the Ray cluster; call again")
            self._constants[task.id] = ray.put(beside(task.program.frames))
        return self._constants[task.id]

    def _create(self, worker: _Worker) -> None:
        _close_at_exit()
        session = self._session
        assert session is not None
        if session.cluster is None or not session.connected:
            session.cluster = join(self._definition.address)
            session.environments = Environments(self._definition.root, session.over)
            if not self._is_given:
                self.width = _cores()
                self.wake()  # there may be room for more
        assert session.environments is not None
        options = dict(self._definition.options)
        nodes = nodes_for(options, session.cluster, session.over)
        if not self._is_given and (cores := _cores()) > self.width:  # it has grown
            self.width = cores
            self.wake()
        places = session.environments.places(options, nodes, ours=session.cluster.ours)
        nodes = self._trusted([each for each in nodes if each["NodeID"] in places])
        taken = Counter(w.node for w in self._workers if w.node is not None)
        options, worker.node, where = settle(options, nodes, places, taken)
        env, path, *rest = self._definition.args
        path = path if where.path is None else where.path
        mark = self._definition.mark
        seen = "" if mark is None or session.cluster.ours else mark.set()
        worker.actor = _actor_class().options(**options).remote(where.source, env, list(path), *rest, seen)
        worker.actor.ready.remote().future().add_done_callback(partial(self._is_ready, worker))
        self._listen(worker)

    def _trusted(self, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Nodes that have not just lost a worker, if there are some: of a dead one Ray takes a while to know."""
        recent = time.monotonic() - SUSPECT_SECONDS
        return [node for node in nodes if self._suspect.get(node["NodeID"], 0.0) < recent] or nodes

    def _listen(self, worker: _Worker) -> None:
        if not worker.gone:
            news = worker.actor.listen.remote()
            news.future().add_done_callback(partial(self._has_told, worker))

    def _check_cluster(self, session: Session) -> None:
        """Let go of the cluster if it is no more. Then nothing will be heard of its workers."""
        self._checked = time.monotonic()
        cluster = session.cluster
        if cluster is None or not session.connected or cluster.is_there():
            return
        for carrier in list(_carriers):
            for worker in list(carrier._workers):
                gone = "the Ray cluster is no more"
                error: Exception = ConnectionError(gone)
                if not worker.ready:
                    error = BackendUnavailable(f"{gone}; start it again: ray start --head")
                carrier._is_gone(worker, error)
            carrier._constants.clear()
        cluster.drop()

    def _end(self, session: Session, workers: list[_Worker]) -> None:
        """End workers; Ray waits for a minute where there is no cluster any more."""
        import ray

        self._check_cluster(session)
        for worker in workers:
            if worker.actor is not None and session.connected:
                with contextlib.suppress(Exception):
                    ray.kill(worker.actor)
            worker.actor = None

    # --- in Ray's threads ---

    def _is_ready(self, worker: _Worker, future: Future[str]) -> None:
        error = future.exception()
        if error is None:
            self._failed_starts = 0
            if fault := future.result():
                self._is_gone(worker, BackendUnavailable(fault))
            worker.ready = True
            if (session := self._session) is not None:
                session.do(partial(self._send, worker))
        else:
            self._is_gone(worker, error)

    def _is_answered(self, worker: _Worker, groups: list[int], future: Future[list[list[Any]]]) -> None:
        error = future.exception()
        if error is not None:
            self._is_gone(worker, error)
            return
        if worker.gone:
            return
        for group, (news, fault, *pieces) in zip(groups, future.result(), strict=True):
            if news == UNFIT:
                self._is_gone(worker, BackendUnavailable(fault))
                return
            self.answered(group, Answer(news, frames_of(pieces), fault))

    def _has_told(self, worker: _Worker, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            self._is_gone(worker, error)
            return
        if worker.gone:
            return
        self.heard(future.result())
        if (session := self._session) is not None:
            session.do(partial(self._listen, worker))

    def _is_gone(self, worker: _Worker, error: BaseException) -> None:
        groups = self._dismiss(worker)
        if groups is None:
            return
        if worker.node is not None and not isinstance(error, MiniError):
            self._suspect[worker.node] = time.monotonic()
        if _never_ran(error) and self._failed_starts < START_FAILURES:
            # Its node was dead already, and Ray did not know. No call has begun.
            self._failed_starts += 1
            for group in groups:
                self.post(Returned(group, group.count))
            return
        if not worker.ready and not isinstance(error, MiniError):
            error = not_started(error)
        for group in groups:
            self.answered(group.id, error)

    def _dismiss(self, worker: _Worker, *, idle: bool = False) -> list[Group] | None:
        """Count no more on a worker; returns the groups that it has. None if nobody does any more.

        Args:
            idle: only if it has no groups.
        """
        with self._own:
            if worker.gone or (idle and worker.groups):
                return None
            worker.gone = True
            self._workers = [each for each in self._workers if each is not worker]
            groups = list(worker.groups)
        if worker.begun:
            self._careful |= {group.task.id for group in groups}
        if (session := self._session) is not None:
            session.do(partial(self._end, session, [worker]))
        return groups

    def event_of(self, group: Group, error: BaseException) -> Lost | Broken:
        from ray import exceptions as known

        if isinstance(error, MiniError):
            return Broken(error)
        reason = " ".join(str(error).split())
        if isinstance(error, known.OutOfMemoryError) or OUT_OF_MEMORY in reason:
            return Lost(group, None, f"its node ran out of memory: {reason}", "out-of-memory")
        return Lost(group, None, f"its worker was lost: {reason}")


@cache
def _close_at_exit() -> None:
    """Have what is still open closed at the end of this process, before Ray disconnects.

    Any function of Ray's that is called after that connects to Ray again, if need be to an instance that it starts.
    """
    # Ray itself does so when it disconnects, and code that is made of text then, as in any module with dataclasses, has
    # CPython forget that the process ends by Ctrl-C, and end it with another exit status.
    with contextlib.suppress(ImportError):
        import_module("ray.dag.compiled_dag_node")
    atexit.register(_close_all)


def _close_all() -> None:
    for carrier in list(_carriers):
        with carrier.lock:
            carrier.close(kill=True)


def _never_ran(error: BaseException) -> bool:
    from ray.exceptions import ActorUnschedulableError

    return isinstance(error, ActorUnschedulableError) or NEVER_RAN in str(error)


def not_started(error: BaseException) -> MiniError:
    """What an error means that came before a worker was there."""
    from ray import exceptions as known

    made: MiniError
    if isinstance(error, known.AuthenticationError):
        made = AuthError(f"the Ray cluster does not take this process's token: {error}")
    elif isinstance(error, ValueError | TypeError):
        made = OptionError(f"Ray refuses this: {error}")
    else:
        made = BackendUnavailable(f"Ray cannot start a worker: {error}")
    made.__cause__ = error
    return made


@cache
def _actor_class() -> Any:
    """`Seat`, with what Ray is to know of its methods."""
    import ray

    for name, group in {"listen": "news", "order": "orders"}.items():
        ray.method(concurrency_group=group)(getattr(Seat, name))
    return ray.remote(max_concurrency=2, concurrency_groups={"orders": 1, "news": 1})(by_value(Seat))


def _cores() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
