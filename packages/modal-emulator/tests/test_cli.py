"""The command `modal-emulator`: what a shell sees of it."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import EMULATOR, MODAL, PYTHON, outside, read_until, run, started, wait_until_gone
from modal_emulator import Emulator
from modal_emulator.runtime.layers import LayerCache, Meta

RUN = [*EMULATOR, "run", "--"]

# Counts how often it is interrupted or terminated, until its standard input or a SIGUSR1 ends it.
COUNTER = """
import os, signal, sys
seen = []
done = False
def note(number, frame):
    global done
    done = done or number == signal.SIGUSR1
    seen.append(signal.Signals(number).name)
signals = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
for each in signals:
    signal.signal(each, note)
print("ready", os.getpid(), os.environ["MODAL_CONFIG_PATH"], os.environ["MODAL_SERVER_URL"], flush=True)
while not done:
    signal.pause()
print("seen", *seen, flush=True)
sys.exit(9)
"""


def test_the_module_is_the_command() -> None:
    assert run(*EMULATOR, "--version").stdout == f"modal-emulator, version {version('modal-emulator')}\n"
    assert run("modal-emulator", "--version").stdout == run(*EMULATOR, "--version").stdout


class TestRun:
    def test_output_and_exit_code_are_the_commands(self) -> None:
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
        done = run(*RUN, *PYTHON, "-c", code)
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)

    def test_the_dashes_may_be_left_out(self) -> None:
        done = run(*EMULATOR, "run", *PYTHON, "-c", "import sys; print(sys.argv)", "--port", "x")
        assert done.stdout == "['-c', '--port', 'x']\n"

    def test_standard_input_is_the_commands(self) -> None:
        done = subprocess.run([*RUN, "cat"], input="hello", capture_output=True, text=True, check=True)
        assert done.stdout == "hello"

    @pytest.mark.parametrize(
        ("command", "code", "message"),
        [
            (["/no/such/program"], 127, "/no/such/program: No such file or directory"),
            (["./not-executable"], 126, "./not-executable: Permission denied"),
            (["sh", "-c", "kill -TERM $$"], 143, ""),
            (["sh", "-c", "kill -KILL $$"], 137, ""),
        ],
    )
    def test_exit_codes_are_a_shells(
        self, command: list[str], code: int, message: str, tmp_path: Path
    ) -> None:
        (tmp_path / "not-executable").write_text("echo")
        done = run(*RUN, *command, cwd=tmp_path)
        assert done.returncode == code
        assert message in done.stderr

    def test_the_command_gets_an_environment_of_its_own(self, tmp_path: Path) -> None:
        mine = tmp_path / "mine.toml"
        mine.write_text('[real]\ntoken_id = "ak-real"\ntoken_secret = "as-real"\nactive = true\n')
        env = outside(
            MODAL_PROFILE="real",
            MODAL_CONFIG_PATH=str(mine),
            MODAL_ENVIRONMENT="prod",
            MODAL_TOKEN_ID="ak-real",
        )
        code = """if True:
            import os, pathlib
            e = os.environ
            print(e["MODAL_SERVER_URL"], e.get("MODAL_PROFILE"), e["MODAL_ENVIRONMENT"], e["MODAL_TOKEN_ID"][:7])
            path = pathlib.Path(e["MODAL_CONFIG_PATH"])
            print(path, *(oct(each.stat().st_mode & 0o777) for each in (path, path.parent)), path.stat().st_size)
        """
        done = run(*RUN, *PYTHON, "-c", code, env=env)
        first, second = done.stdout.splitlines()
        url, *rest = first.split()
        assert url.startswith("http://127.0.0.1:")
        assert rest[:2] == ["None", "main"]
        assert rest[2] != "ak-real"
        config, *rest = second.split()
        assert rest == ["0o600", "0o700", "0"]
        assert not Path(config).parent.exists()
        assert "real" in mine.read_text()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_goes_to_the_command(self, number: signal.Signals) -> None:
        with started(*RUN, *PYTHON, "-c", COUNTER) as process:
            read_until(process.stdout, lambda line: line.startswith("ready"))
            process.send_signal(number)
            process.send_signal(signal.SIGUSR1)
            out, err = process.communicate(timeout=60)
            assert sorted(out.split()[1:]) == sorted([number.name, "SIGUSR1"])
            assert (process.returncode, err) == (9, "")

    def test_control_c_in_a_terminal_comes_once(self) -> None:
        ours, theirs = pty.openpty()
        # The terminal is the controlling one of the session that `run` is the leader of.
        lead = """if True:
            import fcntl, os, sys, termios
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.execvp(sys.argv[1], sys.argv[1:])
        """
        process = subprocess.Popen(
            [*PYTHON, "-c", lead, *RUN, *PYTHON, "-c", COUNTER],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=outside(),
        )
        os.close(theirs)
        with process, os.fdopen(ours, "r+b", buffering=0) as terminal:
            try:
                text = b""
                while b"\n" not in text:
                    text += terminal.read(4096)
                terminal.write(b"\x03")
                while text.count(b"^C") < 1:
                    text += terminal.read(4096)
                os.kill(int(text.split()[1]), signal.SIGUSR1)
                while b"seen" not in text or not text.endswith(b"\n"):
                    text += terminal.read(4096)
                assert text.split(b"seen")[1].split() in ([b"SIGINT", b"SIGUSR1"], [b"SIGUSR1", b"SIGINT"])
                assert process.wait(60) == 9
            finally:
                process.kill()

    def test_nothing_is_left_when_it_is_killed(self) -> None:
        with started(*RUN, *PYTHON, "-c", COUNTER) as process:
            _, pid, config, url = read_until(process.stdout, lambda line: line.startswith("ready")).split()
            (server,) = children(process.pid) - {int(pid)}
            process.kill()
            wait_until_gone(server)
            os.kill(int(pid), signal.SIGUSR1)
            process.communicate(timeout=60)
            assert not Path(config).parent.exists()
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0

    def test_a_server_that_ends_first_is_reported(self) -> None:
        code = "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGKILL)"
        with started(*RUN, *PYTHON, "-c", COUNTER) as process:
            _, pid, *_ = read_until(process.stdout, lambda line: line.startswith("ready")).split()
            (server,) = children(process.pid) - {int(pid)}
            run(*PYTHON, "-c", code, str(server))
            wait_until_gone(server)
            os.kill(int(pid), signal.SIGUSR1)
            _, err = process.communicate(timeout=60)
            assert "the server ended before the command" in err
            assert process.returncode == 9

    def test_a_server_that_cannot_start_says_why(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            done = run(*EMULATOR, "run", f"--port={port}", "--", "true")
        assert done.returncode == 1
        assert f"port {port} cannot be had (address already in use)" in done.stderr
        assert "Traceback" not in done.stderr


class TestServe:
    def test_a_shell_can_use_and_end_it(self) -> None:
        script = """
        eval "$(modal-emulator serve &)"
        modal token info
        kill $MODAL_EMULATOR_PID
        echo "$MODAL_EMULATOR_PID $MODAL_CONFIG_PATH"
        """
        done = run("bash", "-euc", script)
        assert done.returncode == 0, done
        assert "Workspace: emulator" in done.stdout
        pid, config = done.stdout.splitlines()[-1].split()
        wait_until_gone(int(pid))
        assert not Path(config).parent.exists()
        assert "serves at http://127.0.0.1:" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_in_good_order(self, number: signal.Signals, tmp_path: Path) -> None:
        with started(*EMULATOR, "serve", f"--state={tmp_path / 'state'}") as process:
            exports = parse(read_until(process.stdout, lambda line: "_PID" in line))
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in err
        assert not Path(exports["MODAL_CONFIG_PATH"]).parent.exists()
        assert (tmp_path / "state" / "state.sqlite").exists()

    def test_only_this_machine_can_connect(self) -> None:
        with started(*EMULATOR, "serve") as process:
            exports = parse(read_until(process.stdout, lambda line: "_PID" in line))
            # The control plane's, and that of the pages.
            listening = {line.split()[1] for line in sockets_of(process.pid) if line.split()[3] == "0A"}
            port = int(exports["MODAL_SERVER_URL"].rpartition(":")[2])
            assert f"0100007F:{port:04X}" in listening
            assert {address.rpartition(":")[0] for address in listening} == {"0100007F"}

    def test_a_port_that_is_in_use_is_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            done = run(*EMULATOR, "serve", f"--port={port}")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"Error: port {port} cannot be had (address already in use)")

    def test_a_state_folder_has_one_server(self, tmp_path: Path) -> None:
        with started(*EMULATOR, "serve", f"--state={tmp_path}") as process:
            read_until(process.stdout, lambda line: "_PID" in line)
            done = run(*EMULATOR, "serve", f"--state={tmp_path}")
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"Error: another modal-emulator (process {process.pid}) keeps its state in {tmp_path}"
        )

    def test_a_state_folder_that_cannot_be_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        done = run(*EMULATOR, "serve", f"--state={tmp_path / 'file' / 'state'}")
        assert done.returncode == 1
        assert "cannot be used" in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_a_killed_server_leaves_is_removed_by_the_next(self) -> None:
        with started(*EMULATOR, "serve") as process:
            exports = parse(read_until(process.stdout, lambda line: "_PID" in line))
        work = Path(exports["MODAL_CONFIG_PATH"]).parent
        assert work.exists()
        run(*RUN, "true")
        assert not work.exists()

    @pytest.mark.parametrize("token", ["no-secret", ":x", "ä:ö"])
    def test_a_token_has_two_parts(self, token: str) -> None:
        done = run(*EMULATOR, "serve", env=outside(MODAL_EMULATOR_TOKEN=token))
        assert done.returncode == 2
        assert "ID:SECRET" in done.stderr

    def test_a_token_can_be_given(self) -> None:
        env = outside(MODAL_EMULATOR_TOKEN="ak-mine:as-mine")
        with started(*EMULATOR, "serve", env=env) as process:
            exports = parse(read_until(process.stdout, lambda line: "_PID" in line))
        assert (exports["MODAL_TOKEN_ID"], exports["MODAL_TOKEN_SECRET"]) == ("ak-mine", "as-mine")


class TestLogs:
    def test_a_server_is_needed(self) -> None:
        done = run(*EMULATOR, "logs")
        assert done.returncode == 1
        assert "MODAL_SERVER_URL is not set" in done.stderr

    def test_a_server_that_is_gone_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"http://127.0.0.1:{other.getsockname()[1]}"
        env = outside(MODAL_SERVER_URL=url, MODAL_TOKEN_ID="ak-x", MODAL_TOKEN_SECRET="as-x")
        done = run(*EMULATOR, "logs", env=env)
        assert done.returncode == 1
        assert f"no server answers at {url}" in done.stderr


class TestImages:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        """A cache with two images, of which one was last used long ago."""
        layers = LayerCache(tmp_path / "namespaces")
        for key, line in {"a" * 32: "RUN one", "b" * 32: "RUN other"}.items():
            stage = layers.stage()
            (stage.path / "file").write_bytes(bytes(5000))
            layers.publish(stage, Meta(key=key, lines=["FROM base", line], python="3.12"))
        os.utime(tmp_path / "namespaces" / "layers" / ("a" * 32) / "meta.json", (86400, 86400))
        return tmp_path

    def keys(self, cache: Path) -> list[str]:
        done = run(*EMULATOR, "images", f"--cache={cache}")
        assert done.returncode == 0, done
        header, *rows = done.stdout.splitlines()
        assert header.split() == ["KEY", "PYTHON", "SIZE", "LAST", "USED", "LAST", "LINE"]
        return [row.split()[0] for row in rows]

    def test_they_are_listed_the_oldest_first(self, cache: Path) -> None:
        assert self.keys(cache) == ["a" * 16, "b" * 16]
        rows = run(*EMULATOR, "images", f"--cache={cache}").stdout.splitlines()
        assert "3.12    5 kB" in rows[1]
        assert rows[2].endswith("RUN other")

    def test_those_not_used_for_long_are_removed(self, cache: Path) -> None:
        done = run(*EMULATOR, "prune", "--older-than=30", f"--cache={cache}")
        assert done.stdout == "removed 1 images, 5 kB\n"
        assert self.keys(cache) == ["b" * 16]

    def test_all_are_removed(self, cache: Path) -> None:
        assert run(*EMULATOR, "prune", "--all", f"--cache={cache}").returncode == 0
        assert self.keys(cache) == []

    @pytest.mark.parametrize("options", [[], ["--all", "--older-than=3"], ["--older-than=-1"]])
    def test_what_is_to_be_removed_has_to_be_said(self, cache: Path, options: list[str]) -> None:
        assert run(*EMULATOR, "prune", f"--cache={cache}", *options).returncode == 2
        assert len(self.keys(cache)) == 2


class TestLogsOfApps:
    def test_they_are_shown_by_app_and_marked_with_its_name(
        self, modal_emulator: Emulator, tmp_path: Path
    ) -> None:
        (tmp_path / "talk.py").write_text(TALK)
        done = run(*MODAL, "run", "talk.py", env=modal_emulator.environ, cwd=tmp_path)
        assert done.returncode == 0, done
        done = run(*EMULATOR, "logs", "talker", env=modal_emulator.environ)
        assert (done.stdout, done.stderr) == ("one\ntwo\n", "error\n")
        done = run(*EMULATOR, "logs", env=modal_emulator.environ)
        assert "[talker] one\n[talker] two\n" in done.stdout
        done = run(*EMULATOR, "logs", "--follow", "talker", env=modal_emulator.environ)
        assert done.stdout == "one\ntwo\n"
        done = run(*EMULATOR, "logs", "nobody", env=modal_emulator.environ)
        assert (done.returncode, done.stderr.split(":")[1]) == (1, " there is no app 'nobody'")


TALK = """
import sys
import modal

app = modal.App("talker")

@app.function()
def talk():
    print("one")
    print("error", file=sys.stderr)
    print("two")

@app.local_entrypoint()
def main():
    talk.remote()
"""


def parse(exports: str) -> dict[str, str]:
    lines = (line for line in exports.splitlines() if line.startswith("export "))
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def sockets_of(pid: int) -> list[str]:
    """The lines of the kernel's tables about a process's TCP sockets."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        target = str(each.readlink())
        if target.startswith("socket:"):
            inodes.add(target[8:-1])
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return [line for line in lines if line.split()[9] in inodes]
