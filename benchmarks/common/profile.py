"""Where a process's time goes, by looking at it many times a second from outside: for a target that is missed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RATE = 250  # looks per second
SHOWN = 25
WAITS = ("select (selectors.py)", "Condition.wait (threading.py)", "_worker (concurrent/futures/thread.py)")
"""Where a thread is that has nothing to do: py-spy does not always see that."""


class Profiler:
    """Samples the stacks of the process with py-spy, and adds them up by the name of what is measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stacks: dict[str, Counter[tuple[str, ...]]] = {}
        self._seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, pid: int, name: str) -> Iterator[None]:
        file = self._folder / f"stacks-{pid}"
        file.unlink(missing_ok=True)
        how = ["py-spy", "record", f"--rate={RATE}", "--format=raw", "--duration=3600"]
        process = subprocess.Popen(
            [*how, f"--pid={pid}", f"--output={file}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(0.3)
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - begin  # type: ignore[assignment]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        if not file.exists():
            raise RuntimeError(f"py-spy: {said.decode(errors='replace').strip()}")
        stacks = self._stacks.setdefault(name, Counter())
        for line in file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            stacks[tuple(stack.split(";"))] += int(count)

    def tables(self) -> str:
        """For each thing measured, the functions that it spent most time in, and those that it spent it below."""
        return "\n\n".join(self._table(name) for name in self._stacks)

    def _table(self, name: str) -> str:
        own: Counter[str] = Counter()
        below: Counter[str] = Counter()
        for stack, count in self._stacks[name].items():
            functions = [_function(frame) for frame in stack]
            if functions[-1].endswith(WAITS):
                continue
            own[functions[-1]] += count
            for function in set(functions):
                below[function] += count
        total = sum(own.values())
        if not total:
            return f"{name}: nothing was done"
        busy = total / RATE / self._seconds[name]
        lines = [f"{name}: {total} looks, busy in {busy:.0%} of {self._seconds[name]:.1f} s", "  itself"]
        lines += [f"  {count / total:6.1%}  {function}" for function, count in own.most_common(SHOWN)]
        lines += ["  with what it calls"]
        lines += [f"  {count / total:6.1%}  {function}" for function, count in below.most_common(2 * SHOWN)]
        return "\n".join(lines)


def _function(frame: str) -> str:
    """The function and file of a frame, without the line."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame
