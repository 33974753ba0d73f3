"""What a container can see and do, tried from inside of one, where the kernel allows namespaces."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import program
import pytest
from modal_emulator import Emulator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cell() -> Iterator[Emulator]:
    with Emulator() as server:
        yield server


@pytest.fixture(scope="module")
def said(cell: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = Path(cell.variables["MODAL_CONFIG_PATH"] or "").parent
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.touch()
    before = Path("/dev/null").stat()
    paths = [str(each) for each in (work, outside, Path(__file__), Path.home() / ".cache", sys.prefix)]
    said = program.run("prisoner.py", cell.environ, json.dumps(paths), json.dumps([cell.pid])).check()
    after = Path("/dev/null").stat()
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    if "namespaces" in cell.log and "plain directories" in cell.log:
        pytest.skip("this machine's kernel refuses namespaces")
    return said


@pytest.fixture(scope="module")
def around(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = said["surroundings"]
    return found


@pytest.fixture(scope="module")
def tried(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = said["trespass"]
    return found


def test_the_environment_is_the_images_the_secrets_and_modals_own(around: dict[str, Any]) -> None:
    environ = around["environ"]
    assert set(environ) == {
        *("PATH", "HOME", "LANG", "PYTHONUNBUFFERED", "PYTHON_VERSION", "PYTHONPATH"),
        *("MODAL_IS_REMOTE", "MODAL_SERVER_URL", "MODAL_CONTAINER_ARGUMENTS_PATH", "MODAL_TASK_ID"),
        *("MODAL_IMAGE_ID", "MODAL_ENVIRONMENT", "MODAL_CLOUD_PROVIDER", "MODAL_REGION"),
        "PRISONERS_SECRET",
    }
    assert environ["PRISONERS_SECRET"] == "a-secret-value"
    assert sorted(around["environ at start"]) == sorted([f"{k}={v}" for k, v in environ.items()] + [""])


def test_the_token_is_nowhere(around: dict[str, Any], cell: Emulator) -> None:
    assert cell.token[1] not in json.dumps(around)


def test_no_descriptor_is_inherited(around: dict[str, Any]) -> None:
    descriptors = around["descriptors"]
    assert descriptors["0"] == "/dev/null"
    # The client's runtime has sockets and event loops of its own. What it did not open would be a file or a pipe.
    rest = [target for number, target in descriptors.items() if int(number) > 2]
    assert all(target.startswith(("socket:", "anon_inode:")) for target in rest), descriptors
    assert {target.split(":")[0] for number, target in descriptors.items() if number in "12"} == {"pipe"}


def test_only_its_own_processes_are_there(around: dict[str, Any], tried: dict[str, Any]) -> None:
    assert len(around["processes"]) == 2
    assert around["commands"][1].split("\0")[:3] == ["python", "-m", "modal._container_entrypoint"]
    assert tried["kill"] == ["ProcessLookupError 3"] * 2
    assert tried["ptrace"] == [-1, -1]


def test_the_first_process_may_do_no_more_than_the_others(
    around: dict[str, Any], tried: dict[str, Any]
) -> None:
    first = [line for line in tried["first process"].splitlines() if line.startswith("Cap")]
    assert first == around["capabilities"]
    assert around["environ of init"].startswith("PATH=")
    assert "MODAL" not in around["environ of init"]


def test_the_machines_files_are_not_there(said: dict[str, Any], around: dict[str, Any]) -> None:
    assert said["seen"] == []
    assert around["tmp"] == around["home"] == []
    assert set(around["roots home"]) <= {"__pycache__", "prisoner.py"}
    assert around["secrets place"] == ["arguments", "deps", "socket"]
    assert "other" not in around["root"]
    assert "/fixed" not in [mount[0] for mount in around["mounts"]]


def test_nobodys_password_is_there(around: dict[str, Any]) -> None:
    assert {line.split(":")[1] for line in around["shadow"].splitlines()} <= {"*"}


def test_what_it_mounts_is_what_it_asked_for(around: dict[str, Any]) -> None:
    writable = {target for target, options, _ in around["mounts"] if options.startswith("rw")}
    tops = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"}
    assert writable - tops <= {"/", "/proc", "/dev", "/dev/shm", "/dev/pts", "/__modal/socket", "/mine"}


def test_nothing_can_be_mounted(tried: dict[str, Any]) -> None:
    for what in ("mount tmpfs", "mount proc", "bind", "remount"):
        assert tried[what] == "errno 1", what
    # In a user namespace of its own it may mount, but neither /proc anew nor what is read-only writable.
    assert tried["unshare"][0] != 0
    assert "__modal" in tried["chroot out"]


@pytest.mark.parametrize(
    "what",
    [
        *(
            "chmod /dev/null",
            "chown /dev/null",
            "touch /dev/null",
            "chmod hosts",
            "write hosts",
            "write sysctl",
        ),
        *(
            "sysrq",
            "write sys",
            "set host name",
            "set clock",
            "mknod",
            "raw socket",
            "renice",
            "kernel module",
        ),
        *("write read-only volume", "write mounted source", "chmod mounted source", "write client"),
    ],
)
def test_is_refused(tried: dict[str, Any], what: str) -> None:
    assert tried[what]


def test_its_own_is_writable(tried: dict[str, Any]) -> None:
    assert tried["write /dev/null"] == tried["write own volume"] == ""


def test_what_it_changes_of_its_image_is_its_own(said: dict[str, Any]) -> None:
    assert said["left"] == [[], []]
    assert said["sound"] is True
    assert Path("/usr/bin/yes").exists()
    assert not Path("/usr/mark").exists()
    assert not Path("/dev/shm/mark").exists()
