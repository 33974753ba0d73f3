"""A list of job records as one HTML file, which needs nothing but a browser: `render`.

The page is `page/page.html` with a style sheet, a script and the records put into it. It asks nobody for anything: its
content security policy allows what is in the file, by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from ..jobrecord import JobRecord
from .data import CurvesOf, curves_of, describe

__all__ = ["curves_of", "render"]

# Parts of the page's script, in the order in which they are put together: each uses those before it.
_SCRIPTS = (
    "elements",
    "words",
    "data",
    "selection",
    "head",
    "table",
    "charts",
    "plot",
    "curves",
    "failures",
    "timeline",
    "origin",
    "main",
)
# What would end the element that the data is in, and what old parsers take for the end of a line.
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def render(
    records: Sequence[JobRecord], name: str, backend: str, *, now: float, curves: CurvesOf | None = None
) -> str:
    """The report on the jobs of an apparatus name, as the text of an HTML file in UTF-8.

    Args:
        records: in any order; none are fine too.
        name: of the apparatus.
        backend: that it runs on.
        now: when the records were read, in seconds since the epoch.
        curves: of their metrics, by job id; see `curves_of`.
    """
    data = describe(records, name, backend, now, curves)
    style = _part("page.css")
    script = "\n".join(["(() => {", '"use strict";', *(_part(f"{name}.js") for name in _SCRIPTS), "})();"])
    values = {
        "title": html.escape(f"{name} · {_summary(data['counts'])}"),
        "name": html.escape(name),
        "summary": html.escape(f"{len(records)} jobs on {backend}: {_summary(data['counts'])}"),
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_UNSAFE),
    }
    # Not str.format: the page, and what is put into it, is full of braces.
    head, *rest = _part("page.html").split("{{")
    parts = [head]
    for piece in rest:
        key, _, after = piece.partition("}}")
        parts += [values[key], after]
    return "".join(parts)


def _summary(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no jobs"


def _part(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
