"""`./go`: what it says, where it can be called from, and what it sets up on a machine that has little."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run

# Where the interpreter that runs this comes from: a Python >= 3.11 to be found.
PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


def go(root: Path, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    # nox tells the uv of its session to use the session's environment; go is to use the checkout's own.
    outside = {
        name: value
        for name, value in os.environ.items()
        if name not in {"UV_PYTHON", "UV_PROJECT_ENVIRONMENT"}
    }
    return run(root / "go", *arguments, cwd=cwd or root, env={**outside, **env})


def shell(root: Path, script: str, **env: str) -> str:
    """Run lines of bash with the functions of `go` at hand, and nothing in the environment but `env`."""
    script = f"source '{root}/go'\n{script}"
    env = {"PATH": "/usr/bin:/bin", **env}
    return subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A copy of what is or would be committed, in a folder with a space in its name, and nothing else."""
    copy = tmp_path / "a checkout"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split(
        "\0"
    ):
        if name and (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    return copy


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
def test_it_lists_its_commands(root: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = go(root, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    listed = re.findall(r"^  (\w+) ", result.stdout, re.MULTILINE)
    assert listed == [
        *("install", "demo", "test", "check", "conformance", "bench", "docs", "auth", "nox", "mini", "modal"),
    ]


def test_an_unknown_command_is_an_error_that_lists_the_known(root: Path) -> None:
    result = go(root, "tset")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "no command called 'tset'" in result.stderr
    assert "  test " in result.stderr


def test_auth_is_minis(root: Path, tmp_path: Path) -> None:
    """Without a terminal and a token it says what to set, and its exit status is what comes out."""
    outside = {"MODAL_CONFIG_PATH": "none.toml", "MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": ""}
    result = go(root, "auth", "--no-input", cwd=tmp_path, **outside)
    assert result.returncode == 3
    assert result.stdout == ""
    assert "mini auth modal: MODAL_TOKEN_SECRET is empty" in result.stderr
    assert go(root, "auth", "--no-such-option").returncode == 2


def test_modal_is_passed_on_where_the_caller_is(root: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit('it has been found')\n")
    assert "modal client version" in go(root, "modal", "--version", cwd=tmp_path).stdout
    result = go(root, "modal", "run", "app.py", cwd=tmp_path, MODAL_CONFIG_PATH="none.toml")
    assert result.returncode == 1
    assert "it has been found" in result.stderr


def test_mini_is_passed_on_where_the_caller_is(root: Path, tmp_path: Path) -> None:
    """Paths among the arguments mean what they mean to the caller, and so does the exit status."""
    (tmp_path / "job.py").write_text("def double(x):\n    return 2 * x\n")
    assert go(root, "mini", "check", "job.py:double", "--input", "1", cwd=tmp_path).returncode == 0
    assert go(root, "mini", "no-such-command", cwd=tmp_path).returncode == 2


def test_the_arguments_of_a_command_are_its_own(root: Path) -> None:
    result = go(root, "test", "--version")
    assert result.stdout.startswith("pytest ")


@pytest.mark.parametrize("how", ["HOME", "PYENV_ROOT", "shims"])
def test_interpreters_of_pyenv_come_before_its_shims(root: Path, tmp_path: Path, how: str) -> None:
    """The newest patch of each supported minor, wherever pyenv is known to be; no other version, no virtualenv."""
    pyenv = tmp_path / "my pyenv" / ".pyenv"
    for version in ("3.10.4", "3.11.9", "3.11.10", "3.13.1", "3.12.0/envs", "3.12-dev"):
        python = "python" + ".".join(version.split(".")[:2])
        executable(pyenv / "versions" / version / "bin" / python, "#!/bin/sh\n")
    executable(pyenv / "shims" / "python3.11", "#!/bin/sh\nexit 127\n")
    path = f"{pyenv / 'shims'}:/usr/bin:/bin" if how == "shims" else "/usr/bin:/bin"
    env = {"HOME": str(pyenv.parent if how == "HOME" else tmp_path), "PATH": path}
    if how == "PYENV_ROOT":
        env["PYENV_ROOT"] = str(pyenv)
    found = shell(root, "add_pyenv; echo $PATH", **env).removesuffix(path).rstrip(":").split(":")
    assert [Path(path) for path in found if path.startswith(str(tmp_path))] == [
        pyenv / "versions" / version / "bin" for version in ("3.11.10", "3.13.1")
    ]


@pytest.mark.parametrize("home", [None, "", "/does/not/exist"])
def test_there_is_always_a_home(root: Path, home: str | None) -> None:
    found = shell(root, "ensure_home; echo $HOME", **({} if home is None else {"HOME": home}))
    assert os.access(found, os.W_OK)


@pytest.mark.parametrize(
    ("version", "enough"),
    [("0.8.99", False), ("0.9.0", True), ("0.10.1 (abc 2026-01-01)", True), ("1.0", True), ("", False)],
)
def test_a_uv_too_old_for_the_lock_is_not_used(
    root: Path, tmp_path: Path, version: str, enough: bool
) -> None:
    uv = executable(tmp_path / "uv", f'#!/bin/sh\n[ -n "{version}" ] && echo "uv {version}"\n')
    assert (shell(root, f"if new_enough '{uv}'; then echo yes; fi") == "yes") is enough


def test_a_machine_without_a_python_is_told_what_to_install(root: Path, tmp_path: Path) -> None:
    """The Pythons found here are all too old, and one is a broken shim."""
    for name in ("python3", "python"):
        executable(tmp_path / name, "#!/bin/sh\nexit 1\n")
    for minor in range(11, 20):
        executable(tmp_path / f"python3.{minor}", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    out = shell(root, "(find_python) 2>&1 || echo status $?", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert "no Python >= 3.11" in out
    assert "apt-get install" in out
    assert out.endswith("status 1")


def test_a_python_without_venv_and_pip_is_told_what_to_install(checkout: Path, tmp_path: Path) -> None:
    """Debian's python3 can run code, but has neither `ensurepip` nor `pip`."""
    bare = (
        f"#!/bin/sh\ncase $1 in -m) echo 'No module named '$2 >&2; exit 1 ;; esac\nexec '{PYTHON}' \"$@\"\n"
    )
    executable(tmp_path / "bin" / "python3", bare)
    out = shell(checkout, "(install_uv) 2>&1 || echo status $?", PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert "No module named pip" in out
    assert "apt-get install python3-venv" in out
    assert out.endswith("status 1")
    assert [path.name for path in (checkout / ".uv").iterdir()] == ["bin"]


@pytest.mark.slow
def test_pip_is_enough_where_venv_is_missing(checkout: Path, tmp_path: Path) -> None:
    """Debian's venv fails halfway without `ensurepip`, and leaves a folder behind."""
    halfway = f'#!/bin/sh\n[ "$2" != venv ] || {{ mkdir -p "$3/bin"; exit 1; }}\nexec \'{PYTHON}\' "$@"\n'
    executable(tmp_path / "bin" / "python3", halfway)
    reach = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    shell(checkout, "install_uv", PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin", **reach)
    assert subprocess.run(
        [checkout / ".uv" / "bin" / "uv", "--version"], check=True, capture_output=True
    ).stdout
    assert [path.name for path in (checkout / ".uv").iterdir()] == ["bin"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_checkout_sets_itself_up(checkout: Path, tmp_path: Path, uv: str) -> None:
    """With an empty HOME, called from another folder, and a uv on PATH that cannot read the lock."""
    tools = tmp_path / "bin"
    executable(tools / "uv", "#!/bin/sh\necho uv 0.1.0\n")
    executable(tools / "python3", f"#!/bin/sh\nexec '{PYTHON}' \"$@\"\n")
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    home = tmp_path / "home"
    home.mkdir()
    result = go(
        checkout,
        "mini",
        "--version",
        cwd=tmp_path,
        HOME=str(home),
        PATH=f"{tools}:/usr/bin:/bin",
        UV_CACHE_DIR=cache,
    )
    assert result.returncode == 0, result.stderr
    assert "installing uv" in result.stderr
    assert (checkout / ".uv" / "bin" / "uv").exists()
    assert (checkout / ".venv" / "bin" / "mini").exists()
    again = go(checkout, "mini", "--version", cwd=tmp_path, HOME=str(home), PATH=f"{tools}:/usr/bin:/bin")
    assert again.stdout == result.stdout
    assert "installing uv" not in again.stderr


class Home:
    """A checkout and an empty home, of somebody who has neither a cluster nor a token."""

    def __init__(self, checkout: Path, folder: Path, uv: str) -> None:
        self.checkout = checkout
        folder.mkdir()
        caches = [("UV_CACHE_DIR", [uv, "cache", "dir"])]
        found = {name: run(*command, cwd=folder).stdout.strip() for name, command in caches}
        kept = {
            name: os.environ[name]
            for name in os.environ
            if name.startswith(("SSL_", "UV_INDEX", "UV_DEFAULT"))
        }
        self.env = {
            "PATH": f"{Path(uv).parent}:{PYTHON.parent}:/usr/bin:/bin",
            "HOME": str(folder),
            **kept,
            **found,
        }

    def go(self, *arguments: str) -> str:
        """What `./go` prints, in a session of its own, as another terminal has it."""
        done = subprocess.run(
            [self.checkout / "go", *arguments],
            cwd=self.checkout,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    def go_in_a_terminal(self, *arguments: str) -> str:
        """Run `./go` at a prompt, and close the terminal as soon as it is back; what was to be seen there."""
        master, slave = os.openpty()
        prompt = '"$@"; echo "ended with $?"; read -r'
        with subprocess.Popen(
            ["setsid", "--ctty", "bash", "-c", prompt, "bash", self.checkout / "go", *arguments],
            cwd=self.checkout,
            env={**self.env, "MINI_PROGRESS": "0"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        ) as shell:
            os.close(slave)
            said = b""
            while b"ended with " not in said:
                said += os.read(master, 65536)
            os.close(master)
            shell.wait(60)
        return said.decode()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("app", ["local", "ray", "modal"])
def test_a_demo_that_is_left_is_found_from_another_terminal(
    app: str, checkout: Path, tmp_path: Path, uv: str
) -> None:
    """On a machine without a cluster and without a token; what was started for it is gone afterwards."""
    home = Home(checkout, tmp_path / "home", uv)
    try:
        said = home.go_in_a_terminal("demo", "--app", app, "--epochs", "2", "--detach")
        assert "ended with 0" in said, said
        assert f"launched 36 jobs on {app}" in said
        if app == "ray":
            assert re.search(
                r"a Ray instance has been started at 127.0.0.1:\d+, .*; to end it: mini ray stop", said
            )
        if app == "modal":
            assert "it stays, at http://127.0.0.1:" in said
        assert home.go("mini", "watch", "digits").endswith(f"digits on {app}: 36 DONE\n")
        assert home.go("mini", "status", "digits") == f"digits on {app}: 36 DONE\n"
        assert "36 jobs" in home.go("mini", "report", "digits")
        if app == "modal":
            assert "mini-digits" in home.go("modal", "volume", "list")
    finally:
        ended = home.go("demo", "--stop")
    assert ("the Ray instance has ended" in ended) is (app == "ray")
    assert ("the modal-emulator has ended" in ended) is (app == "modal")
    left = [
        line
        for line in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if str(checkout) in line and "runner" not in line
    ]
    assert left == []
