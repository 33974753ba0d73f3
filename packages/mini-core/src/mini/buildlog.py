"""What a log of installing packages says: which requirement failed, and how it ended."""

from __future__ import annotations

import re
from collections import deque

__all__ = ["ending", "failed_requirement", "plain"]

TAIL_LINES = 30
TAIL_CHARACTERS = 6000

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# How uv, pip and apt say which requirement it is.
_REQUIREMENT = (
    re.compile(r"Failed to (?:download|fetch|build|prepare|resolve|install|inspect)[^`\n]*`([^`\n]+)`"),
    re.compile(r"Because (?:only )?([\w.-]+(?:\[[^\]]*\])?\S*) (?:was not found|has no)"),
    re.compile(r"there is no version of ([\w.-]+(?:==[\w.+!-]+)?)"),
    re.compile(r"No matching distribution found for (\S+)"),
    re.compile(r"Unable to locate package (\S+)"),
    re.compile(r"These Debian packages (?:cannot be had|are not on this machine)[^:\n]*: ([\w.+ -]+)"),
)


def plain(text: str) -> str:
    """Without colours, and without what a progress bar has written over."""
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in _ESCAPE.sub("", text).split("\n"))
    return "\n".join(lines)


def failed_requirement(log: str) -> str | None:
    """The requirement that the log of uv, pip or apt complains about; None if it names none."""
    return next((found[1].strip() for each in _REQUIREMENT if (found := each.search(log))), None)


def ending(log: str) -> str:
    """The last lines, indented, for a message."""
    lines = deque(log.strip().splitlines(), TAIL_LINES)
    return "\n".join(f"  {line}" for line in lines)[-TAIL_CHARACTERS:]
