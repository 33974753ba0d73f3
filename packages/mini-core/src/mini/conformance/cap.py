"""CAP: capabilities."""

from __future__ import annotations

from typing import Any

import pytest

from ..capability import Capability
from . import subjects
from .base import MakeApparatus, Suite
from .footprint import Footprint
from .scripts import Scripts

__all__ = ["CapSuite"]


class CapSuite(Suite):
    """CAP: capabilities."""

    def test_cap_01_answers_without_starting_anything(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "`app.supports("cancel_running")` and the like answer without starting anything"

        A failure means that the backend is asked for its capabilities. They have to be known beforehand.
        """
        apparatus = fresh(unused_name)
        before = Footprint.now()
        answers = {name: apparatus.supports(name) for name in Capability}
        assert Footprint.now().new_since(before) == []
        assert {type(answer) for answer in answers.values()} == {bool}
        assert {name: apparatus.supports(str(name.value)) for name in Capability} == answers

    def test_cap_01_without_reaching_anything(self, scripts: Scripts) -> None:
        """ "answer without starting anything"

        A failure means that `supports` starts a process or a thread, or talks to a server.
        """
        scripts.run(WATCH + "\nfor name in Capability:\n    app.supports(name)\nassert seen == [], seen\n")

    def test_cap_01_answers_stay_the_same(self, fresh: MakeApparatus, unused_name: str) -> None:
        """ "`app.supports("cancel_running")` and the like answer"

        A failure means that an answer depends on what has been run, so that nobody can rely on it.
        """
        apparatus = fresh(unused_name)
        before = {name: apparatus.supports(name) for name in Capability}
        assert apparatus.run(subjects.double, 2) == 4
        derived = apparatus.w(chunk=1).before_each(subjects.nothing)
        for app in (apparatus, derived):
            assert {name: app.supports(name) for name in Capability} == before

    @pytest.mark.parametrize("name", ["cancel_runing", "", "CANCEL_RUNNING", 1, None])
    def test_cap_01_the_names_are_fixed(self, fresh: MakeApparatus, unused_name: str, name: Any) -> None:
        """ "the names are a fixed enum"

        A failure means that a misspelt capability is answered with False instead of an error.
        """
        with pytest.raises((TypeError, ValueError)) as raised:
            fresh(unused_name).supports(name)
        if name == "cancel_runing":
            assert "cancel_running" in str(raised.value)


WATCH = """
import os, sys
from mini import Capability
seen = []
STARTS = ("subprocess.", "os.fork", "os.posix_spawn", "os.exec", "os.system", "_thread.start", "socket.", "os.mkdir")
def watch(event, args):
    wanted = event.startswith(STARTS)
    if event == "open" and not isinstance(args[0], int):
        wanted = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    # What Python keeps of the modules that it imports is its own business.
    if wanted and "__pycache__" not in str(args[0]):
        seen.append((event, repr(args)[:200]))
sys.addaudithook(watch)
"""
"""Notes what a script starts, reaches and writes from here on."""
