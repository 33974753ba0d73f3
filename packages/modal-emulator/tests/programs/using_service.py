"""Looks up what service.py has deployed, and calls it. Prints JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import modal

NAME = "test-service"
gate = modal.Queue.from_name("test-service-gate", create_if_missing=True)


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def look_up() -> None:
    version = modal.Function.from_name(NAME, "version")
    report("version", version.remote())
    report("id", version.object_id)
    report("by its id", modal.Function.from_id(version.object_id).remote()[0])
    report("included", modal.Function.from_name(NAME, "included").remote())
    greeter = modal.Cls.from_name(NAME, "Greeter")
    report("class", greeter().greet.remote("you"))
    report("with a parameter", greeter(greeting="good day").greet.remote("you"))
    app = modal.App.lookup(NAME)
    report("app", app.app_id)
    report("tags", app.get_tags())


def more() -> None:
    look_up()
    greeter = modal.Cls.from_name(NAME, "Greeter")
    app = modal.App.lookup(NAME)
    app.set_tags({"team": "red", "since": "today"})
    report("new tags", app.get_tags())
    report("new method", greeter(greeting="good day").part.remote("you"))


def hold() -> None:
    call = modal.Function.from_name(NAME, "held").spawn(sys.argv[2])
    gate.get(partition=f"{sys.argv[2]}-started", timeout=500)
    report("held", call.object_id)


def release() -> None:
    gate.put("done", partition=sys.argv[2])
    report("released", modal.FunctionCall.from_id(sys.argv[3]).get(timeout=500))


def missing() -> None:
    attempts: dict[str, Callable[[], Any]] = {
        "no app": lambda: modal.Function.from_name("test-no-such-app", "f").remote(),
        "no function": lambda: modal.Function.from_name(NAME, "no_such_function").remote(),
        "a class": lambda: modal.Function.from_name(NAME, "Greeter").hydrate(),
        "no class": lambda: modal.Cls.from_name(NAME, "NoSuchClass")(),
        "no method": lambda: modal.Cls.from_name(NAME, "NoSuchClass")().f.remote(),
        "no call": lambda: modal.FunctionCall.from_id("fc-0123456789").get(timeout=1),
        "no app to look up": lambda: modal.App.lookup("test-no-such-app"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            report(name, "")
        except Exception as exc:
            report(name, type(exc).__name__)


def logs() -> None:
    version = modal.Function.from_name(NAME, "version")
    call = version.spawn()
    call.get(timeout=500)
    since = datetime.now(UTC) - timedelta(minutes=30)
    report("of the call", [[e.message, e.source] for e in call.logs.fetch(since=since)])
    report("streamed", [e.message for e in call.logs.stream(timeout=30)])
    report("tail", [e.message for e in version.logs.tail(1)])
    report(
        "of the function",
        {e.object_id == version.object_id for e in version.logs.fetch(since=since)} == {True},
    )
    found = modal.Function.from_name(NAME, "included").logs.fetch(since=since, search_text="version")
    report("of another function", [e.message for e in found])
    report("of stderr", [e.message for e in version.logs.fetch(since=since, source="stderr")])


def stop() -> None:
    modal.App.lookup(NAME).stop()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
