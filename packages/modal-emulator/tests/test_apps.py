"""Apps, as the client's command and programs see them: run, deployed, deployed anew, looked up, stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator
from program import PROGRAMS, Ran

# A whole program runs before the first test, on machines that may have much else to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "test-service"


# --- modal run ---


@pytest.fixture(scope="module")
def runs(environ: Mapping[str, str]) -> dict[str, Ran]:
    commands = {
        "entrypoint": ["run", "hello.py::main", "--name", "Ann"],
        "function": ["run", "hello.py::greet", "--name", "Bob", "--times", "2"],
        "fails": ["run", "hello.py::fails"],
        "token": ["token", "info"],
    }
    with ThreadPoolExecutor(2) as pool:
        ran = pool.map(lambda arguments: program.modal(environ, *arguments), commands.values())
        return dict(zip(commands, ran, strict=True))


@covers("AppCreate", "AppPublish", "AppGetLogs", "AppClientDisconnect")
def test_modal_run_shows_what_containers_print_in_order(runs: dict[str, Ran]) -> None:
    ran = runs["entrypoint"]
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    printed = [line for line in lines if line.startswith("hello ")]
    assert printed == ["hello Ann, 0", "hello Ann, 1", "hello Ann, 2"]
    assert "greeted Ann" in lines
    assert "to stderr" in ran.out + ran.err


def test_modal_run_calls_a_function_with_arguments(runs: dict[str, Ran]) -> None:
    ran = runs["function"]
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if line.startswith("hello ")] == [
        "hello Bob, 0",
        "hello Bob, 1",
    ]


def test_modal_run_fails_if_its_entrypoint_does(runs: dict[str, Ran]) -> None:
    ran = runs["fails"]
    assert ran.code != 0
    assert "the entrypoint fails" in ran.out + ran.err


@covers("TokenInfoGet")
def test_modal_token_info(runs: dict[str, Ran]) -> None:
    assert runs["token"].code == 0, runs["token"].err


def test_a_function_may_be_in_a_package(environ: Mapping[str, str]) -> None:
    ran = program.run("pack", environ)
    assert ran.code != 0  # it is to be run as a package
    ran = program.run_module("pack", environ)
    assert ran.check() == {"package": "HELLO WORLD FROM PACK.REMOTE!"}


# --- modal deploy ---


@pytest.fixture(scope="module")
def story(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A service is deployed, used, deployed anew while it runs, deployed anew in vain, and stopped."""
    folder = tmp_path_factory.mktemp("service")
    source = (PROGRAMS / "service.py").read_text()
    told: dict[str, Any] = {}

    def deploy(tag: str, version: int, more: str = "") -> Ran:
        (folder / "service.py").write_text(
            source.replace("VERSION = 1", f"VERSION = {version}").replace(
                "# The tests put something here.", more
            )
        )
        return program.modal(environ, "deploy", "service.py", "--name", NAME, "--tag", tag, cwd=folder)

    def use(*arguments: str) -> dict[str, Any]:
        return program.run("using_service.py", environ, *arguments).check()

    def rows(*arguments: str) -> Any:
        ran = program.modal(environ, *arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    def at_once(*calls: Any) -> list[Any]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda call: call(), calls))

    told["deployed"] = deploy("first", 1)
    assert told["deployed"].code == 0, told["deployed"].err
    told["first"], told["held"], told["missing"] = at_once(
        lambda: use("look_up"), lambda: use("hold", "one"), lambda: use("missing")
    )
    told["apps"], told["containers"] = at_once(
        lambda: rows("app", "list"), lambda: rows("container", "list", "--app-id", told["first"]["app"])
    )
    again = deploy(
        "second",
        2,
        "    @modal.method()\n    def part(self, name: str) -> str:\n        return f'goodbye {name} from {VERSION}'",
    )
    assert again.code == 0, again.err
    told["second"] = use("more")
    told["in vain"] = deploy(
        "third",
        3,
        "@app.function(image=modal.Image.debian_slim().run_commands('exit 3'))\ndef unbuildable() -> None: ...",
    )
    told["third"], told["released"], told["logs"] = at_once(
        lambda: use("look_up"), lambda: use("release", "one", told["held"]["held"]), lambda: use("logs")
    )
    task = told["third"]["version"][1]
    told["stopped container"], told["history"], told["info"] = at_once(
        lambda: program.modal(environ, "container", "stop", "--yes", task),
        lambda: rows("app", "history", NAME),
        lambda: rows("app", "info", NAME),
    )
    told["after the stop"] = use("look_up")
    told["no version"] = program.modal(environ, "app", "rollback", NAME, "v9")
    told["rollback"] = program.modal(environ, "app", "rollback", NAME, "v1")
    told["rolled back"] = use("look_up")
    told["rollover"] = program.modal(environ, "app", "rollover", NAME, "--strategy", "recreate")
    told["rolled over"], told["versions"] = at_once(
        lambda: use("look_up"), lambda: rows("app", "history", NAME)
    )
    told["stopped"] = program.modal(environ, "app", "stop", "--yes", NAME)
    told["afterwards"], told["app logs"], told["gone"], told["info afterwards"] = at_once(
        lambda: rows("app", "list"),
        lambda: program.modal(environ, "app", "logs", NAME, "--tail", "1000"),
        lambda: program.run("using_service.py", environ, "look_up"),
        lambda: rows("app", "info", told["first"]["app"]),
    )
    return told


@covers(
    "AppGetByDeploymentName",
    "FunctionGet",
    "FunctionGetById",
    "ClassGet",
    "ClassCreate",
    "FunctionBindParams",
)
def test_what_is_deployed_is_found_by_its_name(story: dict[str, Any]) -> None:
    first = story["first"]
    assert first["version"][0] == first["by its id"] == 1
    assert first["class"] == "hello you from 1"
    assert first["with a parameter"] == "good day you from 1"


def test_an_included_app_is_part_of_it(story: dict[str, Any]) -> None:
    assert story["first"]["included"] == "included 1"


@covers("AppGetOrCreate", "AppGetTags", "AppSetTags")
def test_an_app_has_its_tags(story: dict[str, Any]) -> None:
    assert story["first"]["tags"] == {"team": "blue"}
    assert story["second"]["new tags"] == {"team": "red", "since": "today"}


def test_what_is_not_there_is_not_found(story: dict[str, Any]) -> None:
    missing = story["missing"]
    assert {name: kind for name, kind in missing.items() if kind != "NotFoundError"} == {"no class": ""}


@covers("AppList")
def test_an_app_is_listed(story: dict[str, Any]) -> None:
    (row,) = [row for row in story["apps"] if row["app_id"] == story["first"]["app"]]
    assert row["description"] == NAME
    assert row["state"] == "deployed"
    assert int(row["tasks"]) >= 2  # one that is kept warm, and one that is held


@covers("TaskList")
def test_containers_are_listed(story: dict[str, Any]) -> None:
    assert story["first"]["version"][1] in {row["container_id"] for row in story["containers"]}


@covers("AppGetLayout", "FunctionPrecreate", "FunctionCreate")
def test_deployed_again_new_calls_run_the_new_code(story: dict[str, Any]) -> None:
    second = story["second"]
    assert second["version"][0] == 2
    assert second["included"] == "included 2"
    assert second["class"] == "hello you from 2"
    assert second["with a parameter"] == "good day you from 2"
    assert second["new method"] == "goodbye you from 2"


def test_deployed_again_ids_stay(story: dict[str, Any]) -> None:
    for name in ("id", "app"):
        assert story["first"][name] == story["second"][name]


def test_deployed_again_a_call_that_runs_goes_on(story: dict[str, Any]) -> None:
    assert story["released"] == {"released": "done from 1"}


def test_a_deployment_that_fails_changes_nothing(story: dict[str, Any]) -> None:
    assert story["in vain"].code != 0
    assert story["third"]["version"][0] == 2
    assert story["third"]["class"] == "hello you from 2"


@covers("AppDeploymentHistory")
def test_each_deployment_is_in_the_history(story: dict[str, Any]) -> None:
    assert [(row["version"], row["tag"]) for row in story["history"]] == [("v2", "second"), ("v1", "first")]


@covers("AppGetInfo", "AppGetLifecycle")
def test_an_app_can_be_inspected(story: dict[str, Any]) -> None:
    info = story["info"]
    assert info["app_id"] == story["first"]["app"]
    assert info["lifecycle"]["state"] == "deployed"
    assert info["lifecycle"]["version"] == 2
    assert {"version", "included", "held", "Greeter.*"} <= set(info["functions"])
    (gpu,) = info["functions"]["included"]["summary"]["gpu_config"]
    assert (gpu["gpu_type"], gpu["count"]) == ("T4", 1)
    assert story["info afterwards"]["lifecycle"]["state"] == "stopped"


@covers("AppFetchLogs", "AppCountLogs", "FunctionCallFromId", "FunctionCallGetInfo")
def test_logs_belong_to_functions_and_calls(story: dict[str, Any]) -> None:
    logs = story["logs"]
    assert logs["of the call"] == [["this is version 2\n", "stdout"]]
    assert logs["streamed"] == ["this is version 2\n"]
    assert logs["tail"] == ["this is version 2\n"]
    assert logs["of the function"] is True
    assert logs["of another function"] == []
    assert logs["of stderr"] == []


@covers("AppFetchLogs")
def test_a_printed_line_is_one_entry(environ: Mapping[str, str]) -> None:
    """Python writes the end of a line by itself."""
    said = program.run("prints.py", environ).check()
    spoken = said["spoken"]
    assert "".join(text for text, source in spoken if source == "stdout") == (
        "a line of several words\ntwo\nlines\nby and by\nhalf a characé\nno end"
    )
    assert ["to stderr\n", "stderr"] in spoken
    if not program.LIVE:
        assert all(text.endswith("\n") for text, _ in spoken if text != "no end"), spoken
    assert said["while it runs"] == ["50 %"]


@covers("ContainerStop", "TaskGetInfo")
def test_a_container_can_be_stopped(story: dict[str, Any]) -> None:
    assert story["stopped container"].code == 0, story["stopped container"].err
    assert story["after the stop"]["version"][0] == 2
    assert story["after the stop"]["version"][1] != story["third"]["version"][1]


@covers("AppRollback")
def test_an_app_goes_back_to_an_earlier_version(story: dict[str, Any]) -> None:
    assert story["rollback"].code == 0, story["rollback"].err
    back = story["rolled back"]
    assert back["version"][0] == 1
    assert back["class"] == "hello you from 1"
    assert back["id"] == story["first"]["id"]
    assert story["no version"].code != 0
    assert "no version v9" in story["no version"].out + story["no version"].err


@covers("AppRollover")
def test_an_app_gets_new_containers(story: dict[str, Any]) -> None:
    assert story["rollover"].code == 0, story["rollover"].err
    assert story["rolled over"]["version"][0] == 1
    assert story["rolled over"]["version"][1] != story["rolled back"]["version"][1]


def test_what_was_not_deployed_by_a_program_is_in_the_history_too(story: dict[str, Any]) -> None:
    assert [row["version"].split()[0] for row in story["versions"]] == ["v4", "v3", "v2", "v1"]


@covers("AppRollback")
def test_an_app_goes_back_to_what_another_server_has_kept(tmp_path: Path) -> None:
    if program.LIVE:
        pytest.skip("this is about the emulator, not about Modal")
    source = (PROGRAMS / "service.py").read_text()
    with Emulator(state=tmp_path / "state") as server:
        for version in (1, 2):
            (tmp_path / "service.py").write_text(source.replace("VERSION = 1", f"VERSION = {version}"))
            ran = program.modal(server.environ, "deploy", "service.py", "--name", NAME, cwd=tmp_path)
            assert ran.code == 0, ran.err
    with Emulator(state=tmp_path / "state") as server:
        ran = program.modal(server.environ, "app", "rollback", NAME)
        assert ran.code == 0, ran.err
        said = program.run("using_service.py", server.environ, "look_up").check()
        assert (said["version"][0], said["class"]) == (1, "hello you from 1")


@covers("AppStop")
def test_a_stopped_app_is_gone(story: dict[str, Any]) -> None:
    assert story["stopped"].code == 0, story["stopped"].err
    (row,) = [row for row in story["afterwards"] if row["app_id"] == story["first"]["app"]]
    assert row["state"] == "stopped"
    assert story["gone"].code != 0
    assert "NotFoundError" in story["gone"].err


def test_a_stopped_app_still_has_its_logs(story: dict[str, Any]) -> None:
    ran = story["app logs"]
    assert ran.code == 0, ran.err
    assert "this is version 1" in ran.out
    assert "this is version 2" in ran.out


# --- apps whose clients go ---


@covers("AppHeartbeat")
def test_a_detached_app_ends_when_its_work_does(environ: Mapping[str, str]) -> None:
    started = program.run("detached.py", environ, "start", "one", "detached").check()
    assert "ephemeral (detached)" in state_of(environ, started["app"])
    read = program.run("detached.py", environ, "read", "one", started["call"], "go").check()
    assert read == {"result": "one: go"}
    logs = program.modal(environ, "app", "logs", started["app"], "-f")  # until it has ended
    assert [line for line in logs.out.splitlines() if line.startswith("one ")] == [
        "one works",
        "one is told go",
    ]
    assert state_of(environ, started["app"]) == "stopped"


def test_an_app_that_is_not_detached_ends_with_its_client(environ: Mapping[str, str]) -> None:
    started = program.run("detached.py", environ, "start", "two").check()
    read = program.run("detached.py", environ, "read", "two", started["call"], "").check()
    kind, message = read["error"]
    assert kind == "RemoteError"
    assert "has been stopped" in message


def state_of(environ: Mapping[str, str], app_id: str) -> str:
    rows = json.loads(program.modal(environ, "app", "list", "--json").out)
    (state,) = [row["state"] for row in rows if row["app_id"] == app_id]
    return str(state)


def test_two_clients_run_the_same_app_at_once(environ: Mapping[str, str]) -> None:
    programs = [program.start("detached.py", environ, "start", name) for name in ("three", "four")]
    ended = [(each.communicate(timeout=100), each.returncode) for each in programs]
    assert [code for _, code in ended] == [0, 0], ended


@pytest.mark.parametrize(
    "count", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_apps_leave_nothing_behind(server: Emulator, count: int) -> None:
    """60 apps take a minute or two."""
    before = program.left_of(server)
    said = program.run("many_apps.py", server.environ, f"{count}", timeout=500).check()
    assert said["answers"] == [2 * number for number in range(count)]
    # Less than one of each app: what a first use makes stays, and what tests before have left may go meanwhile.
    program.wait_until(lambda: all(n - before[what] < count for what, n in program.left_of(server).items()))
