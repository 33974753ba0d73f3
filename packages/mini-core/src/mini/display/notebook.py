"""Progress in a notebook: one HTML output per flow, rewritten in place. No widgets, so every front end shows it."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import TYPE_CHECKING, Any

from .lines import line
from .meter import clock, count, describe, fraction, pace, summary, trouble, worth_a_last_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..status import LogLine
    from .meter import Figures, Meter

__all__ = ["NotebookView"]

_CELL = '<td style="text-align:left;padding:0 1em 0 0;white-space:nowrap">'
_MOST_WORKERS = 32


class NotebookView:
    """Each flow has an output of its own below the cell that started it; what the cell prints has another."""

    pause = 0.25

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._outputs: dict[Meter, str] = {}

    def update(self, running: Sequence[Meter], ended: Sequence[Meter], logged: Sequence[LogLine]) -> None:
        now = time.monotonic()
        if logged:
            sys.stderr.write("".join(f"[{entry.index}] {entry.text}\n" for entry in logged))
            sys.stderr.flush()
        for meter in running:
            figures = meter.read(now)
            self._publish(meter, _table(meter, figures, now), line(meter, figures))
        for meter in ended:
            figures = meter.read(now)
            if worth_a_last_word(figures):
                text = summary(figures)
                self._publish(meter, f"<div>{_marked(figures, escape(text))}</div>", text)
            elif meter in self._outputs:
                self._publish(meter, "", "")
            self._outputs.pop(meter, None)

    def close(self) -> None:
        pass

    def _publish(self, meter: Meter, html: str, text: str) -> None:
        known = meter in self._outputs
        display_id = self._outputs.setdefault(meter, f"mini-{meter.status.id}-{id(meter)}")
        self._shell.display_pub.publish(
            {"text/html": html, "text/plain": text}, transient={"display_id": display_id}, update=known
        )


def _bar(part: float | None) -> str:
    value = "" if part is None else f' value="{part:.4f}"'
    return f'<progress max="1"{value} style="width:14em;vertical-align:middle"></progress>'


def _marked(figures: Figures, html: str) -> str:
    for word in trouble(figures):
        html = html.replace(word, f'<span style="color:#c62828">{word}</span>')
    return html


def _table(meter: Meter, figures: Figures, now: float) -> str:
    words = [count(figures.done, figures.total)]
    if figures.rate is not None:
        words.append(pace(figures.rate))
    words.append(clock(figures.elapsed))
    if figures.left is not None:
        words.append(f"{clock(figures.left)} left")
    words += trouble(figures)
    part = None if not figures.total else figures.done / figures.total
    said = _marked(figures, escape(" · ".join(words)))
    rows = [f"<tr>{_CELL}<b>{escape(figures.name)}</b></td>{_CELL}{_bar(part)}</td>{_CELL}{said}</td></tr>"]
    workers = list(meter.status.workers.values())
    for worker in workers[:_MOST_WORKERS]:
        if worker.index is None:
            what = f"{_CELL}</td>{_CELL}idle</td>"
        else:
            said = describe(worker.progress, worker.metrics)
            at = f"#{worker.index} · {clock(now - worker.since)}" + (f" · {said}" if said else "")
            part = fraction(worker.progress)
            what = f"{_CELL}{_bar(part) if part is not None else ''}</td>{_CELL}{escape(at)}</td>"
        rows.append(f'<tr style="opacity:.75">{_CELL}{escape(worker.label)}</td>{what}</tr>')
    if len(workers) > _MOST_WORKERS:
        rows.append(f"<tr>{_CELL}… {len(workers) - _MOST_WORKERS} more</td></tr>")
    return f'<table style="margin:0;font-size:90%">{"".join(rows)}</table>'
