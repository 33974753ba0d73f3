"""Commands that come with other packages: found by their entry points, listed without being imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = {
    "adapter_of_tests/__init__.py": "",
    "adapter_of_tests/commands.py": '''
import sys, click
print("imported", file=sys.stderr)

@click.command()
def hello() -> None:
    """Say hello, at once.

    And more.
    """
    click.echo("hello")

@click.command()
def login() -> None:
    """Log in to nowhere."""
    click.echo("logged in")

made = click.Command("made", callback=lambda: click.echo("made"))
''',
    "adapter_of_tests-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: adapter-of-tests\nVersion: 1.0\n",
    "adapter_of_tests-1.0.dist-info/entry_points.txt": """
[mini.commands]
hello = adapter_of_tests.commands:hello
made = adapter_of_tests.commands:made
check = adapter_of_tests.commands:hello
broken = adapter_of_tests.missing:command

[mini.auth]
nowhere = adapter_of_tests.commands:login

[mini.backends]
nowhere = adapter_of_tests.backend:Nowhere
easy = adapter_of_tests.backend:Easy
""",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def without_ray(site: Path) -> Path:
    """With another mini-ray, which brings nothing, before the one that may be installed here."""
    info = site / "mini_ray-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mini-ray\nVersion: 0\n")
    return site


def mini(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "mini", *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_commands_are_listed_without_being_imported(site: Path) -> None:
    listed = mini(site, "--help")
    assert listed.returncode == 0
    assert listed.stderr == ""
    lines = [line.split(maxsplit=1) for line in listed.stdout.partition("Commands:\n")[2].splitlines()]
    texts = {line[0]: line[1] for line in lines if len(line) == 2}
    assert texts["hello"] == "Say hello, at once."
    assert texts["made"] == texts["broken"] == "From adapter-of-tests."
    assert texts["check"].startswith("Say what would travel")
    assert [*texts].index("check") < [*texts].index("hello")


def test_a_command_runs(site: Path) -> None:
    done = mini(site, "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert mini(site, "made").stdout == "made\n"


def test_minis_own_commands_win_and_import_no_others(site: Path) -> None:
    done = mini(site, "check", "--help")
    assert "FILE:FUNCTION" in done.stdout
    assert done.stderr == ""


def test_a_command_that_cannot_be_imported_says_what_to_reinstall(site: Path) -> None:
    done = mini(site, "broken")
    assert done.returncode == 1
    assert "reinstall adapter-of-tests" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_told_the_others(site: Path) -> None:
    done = mini(site, "helo")
    assert done.returncode == 2
    assert "no command 'helo'; there is run, ls, status" in done.stderr
    assert "check, apps, auth, broken, hello, made" in done.stderr


def test_a_command_of_a_backend_that_is_not_installed_names_the_package(without_ray: Path) -> None:
    done = mini(without_ray, "ray")
    assert done.returncode == 2
    assert "uv add mini-ray" in done.stderr


def test_backends_with_a_login(site: Path) -> None:
    listed = mini(site, "auth", "--help")
    assert "nowhere  Log in to nowhere." in listed.stdout
    assert listed.stderr == ""
    assert mini(site, "auth", "nowhere").stdout == "logged in\n"


@pytest.mark.parametrize("backend", ["local", "easy"])
def test_a_backend_without_a_login_says_so(backend: str, site: Path) -> None:
    done = mini(site, "auth", backend)
    assert (done.returncode, done.stdout) == (0, f"{backend} needs no login\n")


def test_the_login_of_a_backend_that_is_not_installed(without_ray: Path) -> None:
    done = mini(without_ray, "auth", "ray")
    assert done.returncode == 2
    assert "uv add mini-ray" in done.stderr
    done = mini(without_ray, "auth", "sun")
    assert done.returncode == 2
    assert "no backend 'sun' with a login" in done.stderr
    assert "Error" in done.stderr
