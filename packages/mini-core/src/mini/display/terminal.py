"""Progress on a terminal: bars in its last rows, and the rows above left to everybody else.

The bars do not share the screen with what the user prints; they have rows of their own. A terminal can be told to
scroll only its upper part (DECSTBM; package managers show their progress this way), so print, logging, other threads,
subprocesses, C libraries, input() and a debugger write there as ever, in bytes that nobody touches, and the cursor is
always where they left it. Each change to the bars is one write() that saves the cursor, paints and restores it, which
the kernel does not interleave with other writes to the same terminal.
"""

from __future__ import annotations

import io
import os
import re
import select
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .guard import Guard
from .meter import clock, count, describe, fraction, one_line, pace, span, summary, trouble, worth_a_last_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..status import LogLine, WorkerStatus
    from .meter import Figures, Meter

__all__ = ["TerminalView"]

_SAVE, _RESTORE = "\0337", "\0338"
_WHOLE_SCREEN = "\033[r"
_DOWN = "\033D"  # scrolls at the bottom, and unlike \n keeps the column
# What a call printed may hold colours, but nothing that moves the cursor.
_UNWANTED = re.compile(
    r"\033\[[0-9;:]*m|(\033(?:\[[0-?]*[ -/]*[@-~]|\][^\a\033]*(?:\a|\033\\)|.?)|[\x00-\x08\x0a-\x1f\x7f])"
)


class TerminalView:
    """Bars in the last rows of a terminal: one for each flow and below it one for each worker."""

    pause = 0.125

    def __init__(self, fd: int, encoding: str | None) -> None:
        self._fd = fd
        self._encoding = encoding or "utf-8"
        self._size = os.terminal_size((0, 0))
        self._rows = 0
        """Rows that the bars have now."""
        self._painted = ""
        self._updated = 0.0
        self._guard: Guard | None = None
        self._console = self._new_console()

    def update(self, running: Sequence[Meter], ended: Sequence[Meter], logged: Sequence[LogLine]) -> None:
        now = time.monotonic()
        size = os.get_terminal_size(self._fd)
        # After Ctrl-Z and fg the terminal has been in other hands.
        moved = size != self._size or now - self._updated > 3
        self._updated = now
        if moved:
            self._size = size
            self._console = self._new_console()
        notes = [self._logged(entry) for entry in logged]
        for meter in ended:
            figures = meter.read(now)
            if worth_a_last_word(figures):
                notes.append(self._styled(self._last_word(figures)))
        bars: list[str] = []
        # Behind a shell that took the terminal back (Ctrl-Z and bg) there is no room to take.
        if running and self._in_foreground():
            bars = [self._styled(text) for text in self._compose(running, now)]
        self._put(self._noted(notes), bars, moved)

    def close(self) -> None:
        if self._guard is not None:
            size, self._size = self._size, os.get_terminal_size(self._fd)
            self._put("", [], moved=size != self._size)
            self._guard.close()

    # What is said

    def _compose(self, running: Sequence[Meter], now: float) -> list[Text]:
        room = max(1, min(self._size.lines // 2, self._size.lines - 3))
        figures = [meter.read(now) for meter in running]
        texts: list[Text] = []
        for position, meter in enumerate(running):
            if len(texts) == room:
                break
            texts.append(self._flow(figures[position], now))
            # Every flow has its bar before any has its workers'.
            share = max(0, room - len(texts) - (len(running) - position - 1))
            if len(running) > 1:
                share = min(share, max(1, room // len(running) - 1))
            texts += self._workers(list(meter.status.workers.values()), share, now)
        return texts

    def _flow(self, figures: Figures, now: float) -> Text:
        """The overall bar. What matters least goes first when the terminal is narrow."""
        width = self._size.columns - 1
        name = Text(figures.name, style="bold")
        name.truncate(max(8, width // 3), overflow="ellipsis")
        words = {
            "count": Text(count(figures.done, figures.total)),
            "rate": Text(pace(figures.rate) if figures.rate is not None else "", style="cyan"),
            "elapsed": Text(clock(figures.elapsed), style="yellow"),
            "left": Text(f"{clock(figures.left)} left" if figures.left is not None else "", style="green"),
            "failed": Text(f"{figures.failed} failed" if figures.failed else "", style="bold red"),
            "retried": Text(f"{figures.retried} retried" if figures.retried else "", style="magenta"),
        }
        for dropped in ("", "rate", "elapsed", "retried", "left"):
            words.pop(dropped, None)
            shown = [text for text in words.values() if text]
            rest = width - name.cell_len - sum(text.cell_len + 2 for text in shown) - 1
            if rest >= 10:
                break
        part = figures.done / figures.total if figures.total else None
        line = name
        if rest >= 4:
            line = Text.assemble(line, " ", self._bar(part, min(rest, 48), "green", now))
        for text in shown:
            line = Text.assemble(line, "  ", text)
        return line

    def _workers(self, workers: Sequence[WorkerStatus], room: int, now: float) -> list[Text]:
        if not workers or room < 1:
            return []
        shown = list(workers)
        if len(shown) > room:  # the busy ones first; one row says how many are not there
            shown.sort(key=lambda worker: worker.index is None)
            shown = shown[: room - 1]
        labels = [one_line(worker.label) for worker in shown]
        calls = ["" if worker.index is None else f"#{worker.index}" for worker in shown]
        label_width = min(max(map(len, labels), default=0), 16)
        call_width = max(map(len, calls), default=0)
        wide = self._size.columns >= 60
        texts = []
        for worker, label, call in zip(shown, labels, calls, strict=True):
            head = f"  {label:<{label_width}.{label_width}}  {call:<{call_width}}  "
            if worker.index is None:
                texts.append(Text(f"{head}idle", style="dim"))
                continue
            text = Text.assemble((head, "dim"), (f"{span(now - worker.since):>6}", "yellow"), "  ")
            if wide:
                part = fraction(worker.progress)
                text.append_text(self._bar(part or 0.0, 20, "blue", now)).append("  ")
            texts.append(text.append(describe(worker.progress, worker.metrics)))
        if len(shown) < len(workers):
            texts.append(
                Text(f"  {self._ascii('…', '...')} {len(workers) - len(shown)} more workers", style="dim")
            )
        return texts

    def _bar(self, part: float | None, width: int, style: str, now: float) -> Text:
        """A bar of `width` cells; one that wanders where the end is not known."""
        full, half = ("#", "=") if self._console.options.ascii_only else ("━", "╸")
        # Without colours the rest of the bar would look like the bar.
        back = (
            " "
            if self._console.no_color or self._console.color_system is None
            else "-"
            if full == "#"
            else full
        )
        if part is None:
            length = max(2, width // 5)
            start = int(now * 12) % (width + length) - length
            cells = [start <= cell < start + length for cell in range(width)]
            return Text.assemble(*((full, style) if cell else (back, "bar.back") for cell in cells))
        halves = int(width * 2 * min(part, 1.0))
        done = full * (halves // 2) + half * (halves % 2)
        return Text.assemble((done, style), (back * (width - len(done)), "bar.back"))

    def _last_word(self, figures: Figures) -> Text:
        if figures.state == "FAILED":
            mark = (self._ascii("✗", "x"), "bold red")
        elif figures.state != "DONE":
            mark = (self._ascii("■", "-"), "dim")
        elif figures.failed:
            mark = ("!", "bold yellow")
        else:
            mark = (self._ascii("✓", "+"), "bold green")
        text = Text(summary(figures))
        for words in trouble(figures):
            text.highlight_words([words], "red")
        return Text.assemble(mark, " ", text)

    def _logged(self, entry: LogLine) -> str:
        text = _UNWANTED.sub(lambda match: "" if match[1] else match[0], entry.text)
        return f"{self._styled(Text(f'[{entry.index}] ', style='cyan'))}{text}\033[m"

    # How it gets there

    def _new_console(self) -> Console:
        return Console(
            # Nothing is written to it; what can be drawn depends on its encoding.
            file=io.TextIOWrapper(io.BytesIO(), self._encoding),
            force_terminal=True,
            width=max(self._size.columns - 1, 1),
            legacy_windows=False,
            highlight=False,
        )

    def _ascii(self, text: str, instead: str) -> str:
        return instead if self._console.options.ascii_only else text

    def _styled(self, text: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(text, end="", no_wrap=True, overflow="ellipsis", crop=True)
        return capture.get().replace("…", self._ascii("…", "~"))

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not our controlling terminal, so no shell of ours shares it
            return True

    def _noted(self, notes: list[str]) -> str:
        """Lines that stay, at the cursor, like anything else that is printed."""
        if not notes:
            return ""
        # Somebody may have left the cursor in the middle of a line. As many blanks as nearly fill a row followed by
        # a return take it to the next line in that case, and change nothing if it is at the start of one.
        fresh = " " * (self._size.columns - 1) + "\r"
        return fresh + "".join(f"{note}\r\n" for note in notes)

    def _put(self, notes: str, bars: list[str], moved: bool) -> None:
        """Write to the terminal. The process may be killed at any moment, and the guard knows when rows are taken."""
        text = notes + self._painting(bars, moved)
        taken = self._size.lines - self._rows + 1 if self._rows else 0
        if taken:
            self._guard = self._guard or Guard(self._fd)
            self._guard.tell(taken)
        self._write(text)
        if not taken and self._guard is not None:
            self._guard.tell(0)

    def _painting(self, bars: list[str], moved: bool) -> str:
        """What turns the screen from the bars that are there into `bars`; empty if there is nothing to do."""
        rows, had = self._size.lines, self._rows
        bars = bars[: max(rows - 2, 0)]  # a region that scrolls has two rows at least
        top = rows - len(bars) + 1
        body = "".join(f"\033[{row};1H\033[m{bar}\033[K" for row, bar in enumerate(bars, top))
        if body == self._painted and not (moved and had):
            return ""
        start = ""
        if moved and had:
            # The margins were dropped, or are where they make no sense any more. The cursor moved along with the
            # text it was at, and below it there were only bars, wherever they are now.
            start = f"{_SAVE}{_WHOLE_SCREEN}{_RESTORE}{_DOWN}\033[A{_SAVE}\033[B\r\033[J{_RESTORE}"
            had = 0
        more = len(bars) - had
        if more > 0:  # push the text up if the cursor is so low that the bars would cover it
            start += _DOWN * more + f"\033[{more}A"
        freed = "".join(f"\033[{row};1H\033[m\033[K" for row in range(rows - had + 1, top))
        margins = f"\033[1;{top - 1}r" if bars else _WHOLE_SCREEN
        self._rows, self._painted = len(bars), body
        return f"{start}{_SAVE}{margins}{freed}{body}{_RESTORE}"

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._encoding, "replace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except (
                BlockingIOError
            ):  # somebody made the terminal non-blocking; half a frame would be worse than waiting
                select.select([], [self._fd], [])
