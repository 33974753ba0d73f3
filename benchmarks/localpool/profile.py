"""Where the time goes that the missed targets are about: python -m benchmarks.localpool.profile

Of each step it prints the least of many times, so that what else the machine does meanwhile counts little.
docs/explanation/local-pool.md says what follows from it.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Any

import mini
import numpy as np
from mini import wire
from mini.journal import OwnMemory
from mini.local.shared import write_frames
from mini.output import Outbox
from mini.protocol import _outcome
from mini.worker import GroupHead, Program, ProgramHead, Worker

from .tasks import CONSTANT_BYTES, identity

now = time.perf_counter

GROUP = 2048
"""As many tiny calls as a group has at most."""


class Deaf:
    """Takes what a worker says and does nothing with it."""

    def send_part(self, group: int, frames: wire.Frames, elapsed: int | None) -> None: ...

    def take_credit(self, flow: str) -> bool:
        return True


def least(step: Callable[[], Any], times: int) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(times):
        began = now()
        step()
        best = min(best, now() - began)
    return best


def round_trip(times: int) -> float:
    """Through a socketpair and back, with a child process that looks again and again, as mini's two sides do."""
    here, there = socket.socketpair()

    def receive(end: socket.socket) -> bytes:
        while True:
            try:
                return end.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue

    child = os.fork()
    if not child:
        here.close()
        while data := receive(there):
            there.send(data)
        os._exit(0)
    there.close()
    try:
        return least(lambda: (here.send(bytes(100)), receive(here)), times)
    finally:
        here.close()
        os.waitpid(child, 0)


def a_worker(count: int) -> Callable[[], None]:
    """What a worker does for a group of `count` calls, between the message that comes and the one that goes."""
    worker = Worker(Deaf(), Outbox(lambda _: None, shared=False), OwnMemory(), process_wide=False)
    packed = wire.pack_program(identity, {}).frames
    payload = wire.pack_column(list(range(count))).frames

    def run() -> None:
        program = Program(ProgramHead("flow", "call", False, "profile", None, 1), packed)
        worker.run_group(program, GroupHead(1, "flow", 0, count, 1), payload)

    return run


def single_call(app: mini.LocalApparatus, times: int) -> dict[str, float]:
    steps: dict[str, float] = {}

    def step(name: str, began: float) -> float:
        ended = now()
        steps[name] = min(steps.get(name, float("inf")), ended - began)
        return ended

    for _ in range(times):
        began = at = now()
        flow, engine = app._single(identity, (7,), {}, copy=False)
        at = step("the caller packs the function and its argument, and makes the flow", at)
        engine.begin(flow)
        at = step("the engine finds a worker, and the message goes", at)
        part = engine.next_part(flow)
        at = step("until the outcome is there", at)
        _outcome(flow, part)
        at = step("it is unpacked", at)
        engine.abandon(flow, cancel=False)
        step("the flow is cleared away", at)
        step("all of it", began)
    return {
        **steps,
        "of the waiting, what the worker does": least(a_worker(1), times),
        "a bare round trip": round_trip(times),
    }


def tiny_call(times: int) -> dict[str, float]:
    xs = list(range(GROUP))
    payload = wire.pack_column(xs).frames
    steps = {
        "the caller packs the input": lambda: wire.pack_column(xs),
        "the worker unpacks it": lambda: list(wire.unpack_rows(payload)[1]),
        "the worker, in all": a_worker(GROUP),
        "`list(map(fn, xs))`, as imap's worker": lambda: list(map(identity, xs)),
    }
    return {name: least(step, times) / GROUP for name, step in steps.items()}


def constant(times: int) -> dict[str, float]:
    array = np.ones(CONSTANT_BYTES // 8)
    touched = np.zeros_like(array)
    frames = wire.pack_program(len, {"constant": array}).frames

    def fork_two() -> None:
        children = []
        for _ in range(2):
            if not (child := os.fork()):
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

    return {
        "the caller pickles it": least(lambda: wire.pack_program(len, {"constant": array}), times),
        "and copies it into new shared memory": least(lambda: os.close(write_frames("x", frames)[0]), times),
        "a copy to memory that is in use": least(lambda: np.copyto(touched, array), times),
        "two forks of a process that has it": least(fork_two, times),
    }


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mini.LocalApparatus("profile", max_workers=1, data_dir=folder).w(progress=False) as app,
    ):
        app.run(identity, 7)
        tables = [
            ("a warm single call", "µs", 1e6, single_call(app, 10_000)),
            ("a tiny call in a group", "ns", 1e9, tiny_call(500)),
            ("a constant of 100 MB", "ms", 1e3, constant(20)),
        ]
    for title, unit, scale, steps in tables:
        print(f"\n| {title} | {unit} |\n| --- | ---: |")
        for name, seconds in steps.items():
            print(f"| {name} | {seconds * scale:.3g} |")


if __name__ == "__main__":
    main()
