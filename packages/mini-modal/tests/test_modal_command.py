"""`mini modal`: Modal's own command line behind an inspecting proxy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from modal_emulator import Emulator
from programs import mini


@pytest.fixture
def env(emulator: Emulator, tls_url: str, ca: Path) -> dict[str, str]:
    """The emulator behind TLS, by a CA that only a variable names."""
    return {
        "MODAL_SERVER_URL": tls_url,
        "MODAL_TOKEN_ID": emulator.token[0],
        "MODAL_TOKEN_SECRET": emulator.token[1],
        "REQUESTS_CA_BUNDLE": str(ca),
        "COLUMNS": "120",
    }


def test_it_reaches_modal_and_its_exit_codes_pass(env: dict[str, str]) -> None:
    good = mini("modal", "token", "info", env=env)
    assert good.returncode == 0, good.stderr
    assert "Workspace: emulator" in good.stdout
    assert mini("modal", "app", "logs", "no-such-app", env=env).returncode == 1


def test_options_and_usage_are_modals(env: dict[str, str]) -> None:
    assert "modal client version" in mini("modal", "--version", env=env).stdout
    usage = mini("modal", "app", "--no-such-option", env=env)
    assert usage.returncode == 2
    assert "Usage: modal app" in usage.stderr


APP = """
import multiprocessing, modal

app = modal.App("spawning")

@app.local_entrypoint()
def main():
    code = "import modal; modal.Client.from_env().hello(); print('said hello', flush=True)"
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""


@pytest.mark.slow
def test_a_process_that_modals_command_spawns_trusts_the_same(env: dict[str, str], tmp_path: Path) -> None:
    """As `modal serve` does when a file has changed: the new process reaches Modal by itself."""
    (tmp_path / "app.py").write_text(APP)
    done = mini("modal", "run", "app.py", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "said hello" in done.stdout


def test_the_module_that_it_runs_establishes_trust_when_it_is_imported() -> None:
    """As multiprocessing does with the main module of a process's parent."""
    code = (
        "import runpy; runpy.run_module('mini_modal.modal_command', run_name='__mp_main__');"
        "from modal._utils import http_utils; print(http_utils._http_client_with_tls.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "mini_modal._tls\n"
