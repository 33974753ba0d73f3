"""The worker's end of an adapter's wire."""

from __future__ import annotations

import marshal
import os
import threading
from collections.abc import Callable
from typing import Any

from . import wire
from .context import running_group
from .journal import Memory, OwnMemory, Peek
from .output import Outbox, Report
from .wire import Frames
from .worker import GroupHead, Program, ProgramHead, Worker

__all__ = ["LOST", "PART", "PEEK_SECONDS", "REPORTS", "RETURNED", "STEAL_SECONDS", "Station"]

PEEK_SECONDS = 0.05
"""Of a group that takes longer, what is finished is sent."""
STEAL_SECONDS = 0.01
"""Of a group that takes longer, what has not started may go to a worker that is idle."""

# What a station says: marshal of (kind, group, number), then frames.
PART = 1  # number: nanoseconds that the group took, or None if it goes on; frames: the part
RETURNED = 2  # number: calls at the end of the group that will not be run
REPORTS = 3  # frames: pickle and buffers of a list of reports
LOST = 4  # number: (position of the call that ran, or None; reason; kind of failure)


class Station:
    """A worker and all that it needs: takes groups of calls as messages, and sends messages with what comes of them.

    `run` is called once for each group, by a thread that may run it. The other methods may be called from any thread at
    any time, also before the group or flow that they are about has come; they do not wait for calls.

    Args:
        send: brings a message to the caller, where it is for `MessageCarrier.post`. It is called by one thread at a
            time, not always the one that called `run`. The frames may change once it has returned.
        alone: the station has its process to itself, so that whatever threads print or emit there belongs to its call.
            Of a call that forks, only the original answers; the copy ends with the call. Otherwise it shares its
            process with other stations or with the caller.
        memory: of the journal, for a caller who reads that itself. What is finished of slow groups is then not sent.
    """

    def __init__(self, send: Callable[[Frames], None], *, alone: bool, memory: Memory | None = None) -> None:
        self._send = send
        self._memory = memory or OwnMemory()
        self._watched = memory is None
        self._outbox = Outbox(self._report, shared=not alone)
        self._worker = Worker(self, self._outbox, self._memory, process_wide=alone)
        self._turn = threading.Lock()
        # Reentrant: the garbage collector, which runs anywhere, may close a map that has calls here.
        self._sending = threading.RLock()
        # The rest is guarded by `_lock`, which costs less to take than by way of the condition.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._programs: dict[str, Program] = {}
        self._running: GroupHead | None = None
        self._begun = 0
        self._given_back: set[int] = set()
        self._credit = 0
        self._ended: set[str] = set()
        self._forgotten: set[str] = set()
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._is_copy = False
        if alone:
            os.register_at_fork(after_in_child=self._become_copy)

    def run(self, message: Frames) -> None:
        """Run the group that `message` is and send all its outcomes. Raises nothing that a call raises."""
        group, program_head, count, keep = marshal.loads(message[0])
        head = GroupHead(*group)
        # A group all of whose calls were given back is over for the caller, who may send another before it is here.
        with self._turn:
            if program_head is not None:
                self.load(program_head, message[1 : 1 + count])
            program = self._begin(head)
            try:
                if program is not None:
                    self._worker.run_group(program, head, message[1 + count :])
            except BaseException:
                if self._is_copy:
                    os._exit(0)
                raise
            finally:
                with self._lock:
                    self._running = None
                    if not keep or head.flow in self._forgotten:
                        self._forgotten.discard(head.flow)
                        self._programs.pop(head.flow, None)

    def load(self, program_head: tuple[Any, ...], frames: Frames) -> None:
        """Take the program of a flow whose groups will come without it.

        Args:
            program_head: what `pack` made of the `ProgramHead`.
            frames: of the program; they must not change.
        """
        head = ProgramHead(*program_head)
        self._programs[head.flow] = Program(head, frames)

    def give_back(self, group: int) -> None:
        """Drop those calls of a group that have not started, and tell the caller how many they are."""
        with self._lock:
            if group > self._begun:
                self._given_back.add(group)
                count = 2**32  # all there are
            elif self._running is not None and self._running.group == group:
                # One step of the interpreter: a row is either taken by the call loop or taken back here.
                count = len(list(self._worker.rows))
            else:
                count = 0
        self._say(RETURNED, group, count, [])

    def credit(self, flow: str, count: int) -> None:
        """Let a stream send `count` more items; 0 ends it."""
        with self._lock:
            if not count:
                self._ended.add(flow)
            elif self._running is not None and self._running.flow == flow:
                self._credit += count
            self._changed.notify_all()

    def forget(self, flow: str) -> None:
        """Let go of a flow's program, which this station was sent: no more groups of it will be sent.

        Those that were sent already may still run.
        """
        with self._lock:
            running = self._running is not None and self._running.flow == flow
            if running or self._programs.pop(flow, None) is None:
                self._forgotten.add(flow)  # as soon as it has run, or has come

    def close(self) -> None:
        """Run no more groups, end streams and helper threads. A call that runs goes on, as nothing can stop it."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        self._outbox.close()

    # --- what the worker needs of its host ---

    def send_part(self, group: int, frames: Frames, elapsed: int | None) -> None:
        if self._is_copy:
            os._exit(0)
        self._say(PART, group, elapsed, frames)

    def take_credit(self, flow: str) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._credit > 0 or flow in self._ended or self._closed)
            if flow in self._ended or self._closed:
                return False
            self._credit -= 1
            return True

    # --- inside ---

    def _say(self, kind: int, group: int, number: int | None, frames: Frames) -> None:
        if self._is_copy:
            return
        with self._sending:
            self._send([marshal.dumps((kind, group, number)), *frames])

    def _report(self, reports: list[Report]) -> None:
        try:
            data, buffers = wire.dumps(reports, returning=True)
        except Exception:  # a metric that cannot be pickled is still something to read
            data, buffers = wire.dumps([(*report[:4], _as_text(report[4])) for report in reports])
        self._say(REPORTS, 0, None, [data, *wire.raw(buffers, copy=False)])

    def _begin(self, head: GroupHead) -> Program | None:
        """What to run for a group that has come; None if it is not wanted any more."""
        with self._lock:
            self._begun = max(self._begun, head.group)
            self._ended &= {head.flow}  # streams that were ended before they began do not begin at all
            if head.group in self._given_back or self._closed:
                self._given_back.discard(head.group)
                return None
            program = self._programs[head.flow]
            self._running, self._credit = head, program.head.credit
            if self._watched and program.head.mode != "stream" and head.count > 1:
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._look, name="mini-station", daemon=True)
                    self._watcher.start()
                self._changed.notify_all()
            return program

    def _look(self) -> None:
        """Send what is finished of slow groups."""
        peek, sent = Peek(self._memory), (0, 0)  # of which group, and how many of its outcomes
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._is_grouped() or self._closed)
                if self._closed:
                    return
                head = self._running
                if head is None or self._changed.wait_for(lambda: self._closed, PEEK_SECONDS):
                    continue
                if self._running is not head:
                    continue
                part = peek.read(head.group, sent[1] if sent[0] == head.group else 0)
            if part:
                _, position, count, _ = marshal.loads(part[0])
                sent = head.group, position + count
                self._say(PART, head.group, None, part)

    def _is_grouped(self) -> bool:
        return self._running is not None and self._running.count > 1

    def _become_copy(self) -> None:
        """A call has forked, and this is the copy: it may go on with the call, but only the original answers.

        The journal's memory may be shared with the original. Without it, the copy cannot get past the end of the call.
        """
        if (group := running_group()) is not None:
            index = group.position()
            group.position = lambda: index
        self._is_copy = True
        self._sending = threading.RLock()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._outbox.forked()
        self._worker.words.release()
        self._worker.column.release()


def _as_text(data: object) -> object:
    if isinstance(data, dict):
        return {
            str(key): value if isinstance(value, int | float | str | bool | None) else repr(value)
            for key, value in data.items()
        }
    return data
