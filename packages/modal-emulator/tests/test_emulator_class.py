"""The class `Emulator`, and the fixtures that are made of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import modal_emulator
import pytest
from commands import MODAL, PYTHON, outside, read_until, run, started, wait_until_gone
from google.protobuf.empty_pb2 import Empty
from modal_emulator import Emulator, EmulatorError
from modal_proto import api_pb2
from protocol import ask


def answers(emulator: Emulator) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(emulator.url.rpartition(":")[2]))) == 0


def runs(emulator: Emulator) -> bool:
    return emulator.running


def create(emulator: Emulator, environment: str) -> None:
    ask(emulator, "EnvironmentCreate", api_pb2.EnvironmentCreateRequest(name=environment))


def environments(emulator: Emulator) -> list[str]:
    return [each.name for each in ask(emulator, "EnvironmentList", Empty()).items]


def test_the_package_exports_what_it_says() -> None:
    assert {"Emulator", "EmulatorError", "__version__"} <= set(dir(modal_emulator))
    assert all(hasattr(modal_emulator, name) for name in modal_emulator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        modal_emulator.nothing  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = "import __future__, sys; before = {*sys.modules}; import modal_emulator; print(*{*sys.modules} - before)"
    assert run(*PYTHON, "-c", code).stdout.split() == ["modal_emulator"]


class TestLife:
    def test_it_is_there_for_the_length_of_a_block(self) -> None:
        with Emulator() as emulator:
            assert emulator.running
            assert answers(emulator)
            assert repr(emulator) == f"<Emulator {emulator.url}>"
            pid, work = emulator.pid, Path(emulator.environ["MODAL_CONFIG_PATH"]).parent
            assert emulator.start() is emulator
            assert emulator.pid == pid
        wait_until_gone(pid)
        assert not runs(emulator)
        assert not answers(emulator)
        assert not work.exists()
        assert repr(emulator) == "<Emulator, not running>"
        emulator.stop()
        emulator.kill()

    def test_before_a_start_there_is_nothing_to_ask_for(self) -> None:
        emulator = Emulator()
        for name in ("url", "pid", "token", "ca_file", "environ", "variables"):
            with pytest.raises(EmulatorError, match="has not been started"):
                getattr(emulator, name)
        assert emulator.log == ""

    def test_two_are_apart(self) -> None:
        with Emulator() as one, Emulator() as other:
            assert one.url != other.url
            assert one.token != other.token
            create(one, "dev")
            assert environments(other) == ["main"]

    @pytest.mark.parametrize("how", ["restart", "kill"])
    def test_it_comes_back_as_it_was(self, how: str, tmp_path: Path) -> None:
        with Emulator(state=tmp_path / "state") as emulator:
            environ, pid = emulator.environ, emulator.pid
            create(emulator, "dev")
            if how == "kill":
                emulator.kill()
                assert not answers(emulator)
                emulator.start()
            else:
                emulator.restart()
            assert emulator.environ == environ
            assert emulator.pid != pid
            assert environments(emulator) == ["main", "dev"]

    def test_without_a_state_it_comes_back_empty(self) -> None:
        with Emulator() as emulator:
            create(emulator, "dev")
            emulator.restart()
            assert environments(emulator) == ["main"]

    def test_a_token_and_a_port_can_be_given(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
        with Emulator(port=port, token=("ak-mine", "as-mine")) as emulator:
            assert emulator.url == f"http://127.0.0.1:{port}"
            assert emulator.token == ("ak-mine", "as-mine")
            # Arguments are for all to see.
            assert b"as-mine" not in Path(f"/proc/{emulator.pid}/cmdline").read_bytes()

    def test_a_start_that_fails_says_why_and_leaves_nothing(self, tmp_path: Path) -> None:
        with Emulator(state=tmp_path):
            emulator = Emulator(state=tmp_path)
            with pytest.raises(EmulatorError, match=r"(?s)ended with status 1:.*another modal-emulator"):
                emulator.start()
            assert not emulator.running
            assert "another modal-emulator" in emulator.log
        with emulator:
            assert emulator.running

    def test_a_start_that_takes_too_long_is_given_up(self) -> None:
        emulator = Emulator(start_timeout=0.001)
        with pytest.raises(EmulatorError, match=r"not ready after 0\.001 seconds"):
            emulator.start()
        assert not emulator.running

    def test_a_server_that_does_not_stop_is_killed(self) -> None:
        with Emulator() as emulator:
            pid = emulator.pid
            os.kill(pid, signal.SIGSTOP)
            emulator.stop(timeout=0.1)
        wait_until_gone(pid)

    def test_it_outlives_the_thread_that_started_it(self) -> None:
        emulator = Emulator()
        thread = threading.Thread(target=emulator.start)
        thread.start()
        thread.join()
        try:
            assert environments(emulator) == ["main"]
        finally:
            emulator.stop()

    def test_it_ends_with_its_program(self) -> None:
        program = """if True:
            import signal
            from modal_emulator import Emulator
            emulator = Emulator().start()
            print(emulator.pid, emulator.environ["MODAL_CONFIG_PATH"], flush=True)
            signal.pause()
        """
        with started(*PYTHON, "-c", program) as process:
            pid, config = read_until(process.stdout, lambda _: True).split()
            process.kill()
            wait_until_gone(int(pid))
        assert not Path(config).parent.exists()

    def test_the_working_directory_is_neither_searched_nor_kept(self, tmp_path: Path) -> None:
        (tmp_path / "grpclib.py").write_text("raise ImportError('not this one')")
        program = """if True:
            import os
            from modal_emulator import Emulator
            with Emulator(state="state") as emulator:
                print(os.readlink(f"/proc/{emulator.pid}/cwd"))
        """
        done = run(*PYTHON, "-c", program, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "/\n"), done
        assert (tmp_path / "state").is_dir()

    def test_a_long_temporary_directory_is_no_problem(self, tmp_path: Path) -> None:
        long = tmp_path / ("x" * 100)
        long.mkdir()
        program = """if True:
            from modal_emulator import Emulator
            with Emulator() as emulator:
                print(emulator.environ["MODAL_CONFIG_PATH"])
        """
        done = run(*PYTHON, "-c", program, env=outside(TMPDIR=str(long)))
        assert done.stdout.startswith("/tmp/modal-emulator-"), done


class TestEnviron:
    def test_it_replaces_what_is_there_for_the_real_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODAL_PROFILE", "real")
        monkeypatch.setenv("MODAL_TOKEN_ID", "ak-real")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("OTHER", "kept")
        with Emulator() as emulator:
            environ = emulator.environ
            assert "MODAL_PROFILE" not in environ
            assert environ["MODAL_TOKEN_ID"] == emulator.token[0]
            assert environ["OTHER"] == "kept"
            assert emulator.variables["MODAL_PROFILE"] is None
            assert os.environ["MODAL_PROFILE"] == "real"
            assert run(*MODAL, "token", "info", env=environ).returncode == 0


TESTS = """
import os

def test_one(modal_emulator, modal_environ):
    assert os.environ["MODAL_SERVER_URL"] == modal_emulator.url == modal_environ["MODAL_SERVER_URL"]
    assert "MODAL_PROFILE" not in os.environ
    test_one.pid = modal_emulator.pid

def test_two(modal_emulator):
    assert modal_emulator.pid == test_one.pid
    assert os.environ["MODAL_PROFILE"] == "real"
    assert modal_emulator.token == ("ak-mine", "as-mine")
"""


class TestFixtures:
    def pytest(self, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = outside(MODAL_PROFILE="real", **env)
        return run(
            *PYTHON,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            *arguments,
            env=env,
            cwd=folder,
        )

    def test_one_server_serves_a_session(self, tmp_path: Path) -> None:
        (tmp_path / "test_them.py").write_text(TESTS)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmodal_emulator = --lenient --state=state\n")
        done = self.pytest(tmp_path, MODAL_EMULATOR_TOKEN="ak-mine:as-mine")
        assert done.returncode == 0, done
        assert "2 passed" in done.stdout
        assert (tmp_path / "state" / "state.sqlite").exists()

    def test_options_can_come_from_a_conftest(self, tmp_path: Path) -> None:
        (tmp_path / "test_it.py").write_text(
            "def test_it(modal_emulator):\n    assert modal_emulator.url.startswith('https')\n"
        )
        (tmp_path / "conftest.py").write_text(
            "import pytest\n@pytest.fixture(scope='session')\ndef modal_emulator_options():\n    return {'tls': True}\n"
        )
        done = self.pytest(tmp_path)
        assert done.returncode == 0, done

    def test_options_that_are_none_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "test_it.py").write_text("def test_it(modal_emulator): ...\n")
        (tmp_path / "pytest.ini").write_text("[pytest]\nmodal_emulator = --nonsense\n")
        done = self.pytest(tmp_path)
        assert done.returncode == 1
        assert "No such option" in done.stdout
        assert "--nonsense" in done.stdout

    def test_they_cost_nothing_when_no_test_asks(self, tmp_path: Path) -> None:
        (tmp_path / "test_it.py").write_text(
            "import sys\ndef test_it():\n"
            "    ours = {name for name in sys.modules if name.startswith(('modal', 'grpclib', 'aiohttp', 'click'))}\n"
            "    assert ours == {'modal_emulator', 'modal_emulator.pytest'}\n"
        )
        done = self.pytest(tmp_path)
        assert done.returncode == 0, done
        assert "modal_environ" in self.pytest(tmp_path, "--fixtures", "-p", "no:doctest").stdout
