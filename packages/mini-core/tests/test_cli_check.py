"""`mini check`, as a user runs it: on scripts and on projects that uv has locked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini
import pytest
from uv_projects import bare_uv, outside_of_projects, project, serving, uv, write

REPORT_KEYS = {"schema", "ok", "target", "project", "ships", "modules", "problems", "notes"}


@pytest.fixture(scope="module", autouse=True)
def _uv_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with bare_uv(tmp_path_factory.mktemp("uv-cache")):
        yield


@pytest.fixture
def nowhere() -> Iterator[Path]:
    with outside_of_projects() as folder:
        yield folder


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mini", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def check(target: str | Path, *arguments: str, cwd: Path | None = None) -> dict[str, Any]:
    """The report on a target, whose exit status must fit it."""
    done = run("check", target, "--json", *arguments, cwd=cwd)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["schema"] == 1
    assert set(report) == REPORT_KEYS
    assert done.returncode == (0 if report["ok"] else 1)
    assert report["ok"] is not bool(report["problems"])
    return report


def script(folder: Path, text: str) -> Path:
    return write(folder, {"train.py": text}) / "train.py"


def origins(report: dict[str, Any]) -> dict[str, str]:
    return {module["name"]: module["origin"] for module in report["modules"]}


@pytest.fixture(scope="module")
def flat_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A table for pyproject.toml: an index that has distributions called like some that the tests have installed."""
    folder = tmp_path_factory.mktemp("index")
    for name in ("click", "pluggy"):
        uv(
            "build",
            "--wheel",
            "--out-dir",
            folder,
            cwd=project(tmp_path_factory.mktemp("source"), name, version="99"),
        )
    with serving(folder) as url:
        yield f"[[tool.uv.index]]\nname = 'flat'\nurl = '{url}'\nformat = 'flat'\ndefault = true\n"


@pytest.fixture
def locked(tmp_path: Path, flat_index: str) -> Path:
    """A project with the package `app`, a script beside it, and `click` in its lock."""
    more = "[dependency-groups]\ndev = ['pluggy']\n"
    root = project(tmp_path / "app", "app", "click", more=more + flat_index)
    uv("lock", cwd=root)
    return root


# --- the command line -----------------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_imports_little() -> None:
    code = (
        "import sys; from mini.cli import main\n"
        "try: main(['--help'], prog_name='mini')\n"
        "finally: print({'rich', 'cloudpickle', 'asyncio', 'mini.cli.check', 'mini.engine'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^  check +Say what would travel", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "set()"


def test_version() -> None:
    assert run("--version").stdout == f"mini {mini.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "no command 'chek'"),
        (["check"], "Missing argument 'FILE:FUNCTION'"),
        (["check", "train.py"], "is not FILE:FUNCTION"),
        (["check", "gone.py:fit"], "there is no file 'gone.py'"),
        (["check", "notes.txt:fit"], "not a Python file"),
        (["check", "train.py:fit", "--input", "{"], "not JSON"),
        (["check", "train.py:fit", "--inptu", "1"], "--inptu"),
        (["check", "train.py:gone"], "there is no 'gone' in"),
        (["check", "train.py:RATE"], "'RATE' is a float and no function"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_line_exits_with_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    script(tmp_path, "RATE = 0.1\ndef fit(x): return x\n")
    write(tmp_path, {"notes.txt": ""})
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_function_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    file = script(
        tmp_path, "from json import dumps\ndef fit(x): return x\ndef score(x): return x\nRATE = 0.1\n"
    )
    assert "it has fit, score" in " ".join(run("check", f"{file}:fitt").stderr.split())


# --- a plain script -------------------------------------------------------------------------------------------------


def test_script_without_a_project_is_fine_and_says_so(nowhere: Path) -> None:
    file = script(
        nowhere,
        "import json, sys\n"
        "class Model:\n"
        "    def fit(self, x): return json.dumps(x)\n"
        "MODEL = Model()\n"
        "def fit(x): return MODEL.fit(x)\n"
        "print('noise', sys.argv)\n"
        "if __name__ == '__main__':\n"
        "    raise SystemExit('the last lines of a script must not run')\n",
    )
    report = check(f"{file}:fit", "--input", '{"a": 1}')
    assert report["ok"]
    assert report["target"] == {"file": str(file), "function": "fit", "loaded_as": "script"}
    assert report["project"] is None
    assert [note["kind"] for note in report["notes"]] == ["project"]
    assert report["ships"]["function_bytes"] > 200  # its code, and that of the class
    assert 0 < report["ships"]["input_bytes"] < 200
    assert [(c["path"], c["type"]) for c in report["ships"]["captures"]] == [
        ("fit.__globals__['MODEL']", "Model")
    ]
    assert report["modules"] == []


def test_size_is_that_of_what_travels(nowhere: Path) -> None:
    file = script(nowhere, "TABLE = b'x' * 12_000_000\ndef fit(x): return TABLE\ndef other(x): return x\n")
    report = check(f"{file}:fit")
    assert 12_000_000 < report["ships"]["function_bytes"] < 12_010_000
    (large,) = [note for note in report["notes"] if note["kind"] == "large"]
    assert large["subject"] == "fit.__globals__['TABLE']"
    assert check(f"{file}:other")["ships"]["function_bytes"] < 1000


def test_everything_that_cannot_travel_is_named(nowhere: Path) -> None:
    file = script(
        nowhere,
        "import socket, threading\n"
        "lock = threading.Lock()\n"
        "connection = socket.socket()\n"
        "log = open(__file__)\n"
        "def helper(): return connection\n"
        "def fit(x): return lock, helper(), log\n",
    )
    report = check(f"{file}:fit")
    assert {(problem["kind"], problem["subject"]) for problem in report["problems"]} == {
        ("unpicklable", "fit.__globals__['lock']"),
        ("unpicklable", "fit.__globals__['helper'].__globals__['connection']"),
        ("handle", "fit.__globals__['log']"),
    }
    assert all(problem["hint"] for problem in report["problems"])
    assert report["ships"]["function_bytes"] is None


def test_modules_beside_a_script_and_missing_ones_are_named(nowhere: Path) -> None:
    write(nowhere, {"helpers.py": "def help(): pass\n"})
    file = script(
        nowhere,
        "import helpers, click\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import only_for_types\n"
        "def fit(x):\n"
        "    import not_installed_anywhere.deep\n"
        "    from concurrent import futures\n"
        "    try:\n"
        "        import also_not_there\n"
        "    except ImportError:\n"
        "        also_not_there = None\n"
        "    return helpers.help(), click.echo\n"
        "def other(x): return x\n",
    )
    report = check(f"{file}:fit")
    assert origins(report) == {"helpers": "local", "not_installed_anywhere": "missing", "click": "installed"}
    assert {problem["subject"] for problem in report["problems"]} == {"helpers", "not_installed_anywhere"}
    (missing,) = [p for p in report["problems"] if p["subject"] == "not_installed_anywhere"]
    assert missing["message"].startswith("train.py:6 imports")
    assert [note["subject"] for note in report["notes"] if note["kind"] == "unpinned"] == ["click"]
    assert check(f"{file}:other")["modules"] == []


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("import nowhere_to_be_found\n", "train.py:1", "ModuleNotFoundError", "uv add nowhere_to_be_found"),
        ("\n1 / 0\n", "train.py:2", "ZeroDivisionError: division by zero", ""),
        ("def fit(:\n", "train.py", "SyntaxError", ""),
        ("import sys\nsys.exit(3)\n", "train.py:2", "SystemExit: 3", "if __name__ == '__main__'"),
    ],
)
def test_file_that_cannot_be_imported(nowhere: Path, text: str, where: str, message: str, hint: str) -> None:
    (problem,) = check(f"{script(nowhere, text)}:fit")["problems"]
    assert (problem["kind"], problem["subject"]) == ("import", where)
    assert message in problem["message"]
    assert hint in problem["hint"]


def test_call_that_the_function_does_not_take(nowhere: Path) -> None:
    file = script(nowhere, "def fit(x, y): return x\ndef items(x): yield x\n")
    (problem,) = check(f"{file}:fit", "--input", "[1, 2]")["problems"]
    assert (problem["kind"], problem["subject"]) == ("signature", "fit")
    assert "missing a required argument: 'y'" in problem["message"]
    report = check(f"{file}:items", "--input", "1")
    assert "generator" in [note["kind"] for note in report["notes"]]


@pytest.mark.parametrize(
    "target",
    ["Model.fit", "partial", "Callable", "wrapped", "fetch", "made", "builtin"],
    ids=lambda value: value,
)
def test_anything_that_can_be_called_is_checked(nowhere: Path, target: str) -> None:
    file = script(
        nowhere,
        "import functools, threading, asyncio\n"
        "lock = threading.Lock()\n"
        "class Model:\n"
        "    def fit(self): return lock\n"
        "class Callable:\n"
        "    def __call__(self): return lock\n"
        "def plain(x): return lock\n"
        "partial = functools.partial(plain, 1)\n"
        "def decorate(fn):\n"
        "    @functools.wraps(fn)\n"
        "    def wrapper(x): return fn(x)\n"
        "    return wrapper\n"
        "@decorate\n"
        "def wrapped(x): return lock\n"
        "async def fetch(x): return lock\n"
        "made = Callable()\n"
        "builtin = lock.acquire\n",
    )
    (problem,) = check(f"{file}:{target}")["problems"]
    assert problem["kind"] == "unpicklable"
    assert problem["subject"].startswith(target)


# --- a project ------------------------------------------------------------------------------------------------------


def test_project_ships_its_packages_and_its_lock(locked: Path) -> None:
    write(
        locked, {"src/app/model.py": "import click\nfrom . import deep\n", "src/app/deep.py": "import json\n"}
    )
    file = script(locked, "from app import model\nimport click\ndef fit(x): return model, click.echo\n")
    report = check(f"{file}:fit", "--input", "1")
    assert report["ok"], report["problems"]
    assert report["notes"] == []
    assert report["project"] == {"root": str(locked), "workspace_root": str(locked), "lock": "ok"}
    assert report["ships"]["requirements"] == ["click==99"]
    assert len(report["ships"]["requirements_digest"]) == 64
    assert report["ships"]["local"] == [{"name": "app", "path": str(locked), "editable": True}]
    sizes = sum(path.stat().st_size for path in (locked / "src/app").glob("*.py"))
    assert report["ships"]["packages"] == [
        {"name": "app", "path": str(locked / "src/app"), "files": 3, "bytes": sizes}
    ]
    assert origins(report) == {"app": "project", "click": "lock"}


def test_function_of_a_package_is_checked_under_its_own_name(locked: Path) -> None:
    write(
        locked,
        {
            "src/app/model.py": "import threading\nfrom .deep import helper\nlock = threading.Lock()\n"
            "def fit(x): return helper(lock)\n",
            "src/app/deep.py": "def helper(x):\n    import pluggy\n    return x\n",
        },
    )
    report = check("src/app/model.py:fit", cwd=locked)
    assert report["target"]["loaded_as"] == "module"
    # The lock is made again where the module is imported; what that imports has to be there.
    (problem,) = report["problems"]
    assert (problem["kind"], problem["subject"]) == ("module", "pluggy")
    assert problem["message"] == "deep.py:2 imports pluggy (pluggy), which is not in uv.lock"
    assert "a dependency group (dev, local) now, which workers do not get" in problem["hint"]
    assert report["ships"]["function_bytes"] < 100


def test_packages_of_the_workspace_travel_too(locked: Path, tmp_path: Path) -> None:
    project(tmp_path / "lib", "lib")
    pyproject = (locked / "pyproject.toml").read_text()
    sources = "[tool.uv.sources]\nlib = { path = '../lib', editable = true }\n"
    (locked / "pyproject.toml").write_text(pyproject.replace("'click'", "'click', 'lib'") + sources)
    uv("lock", cwd=locked)
    file = script(locked, "def fit(x):\n    import lib\n    return lib\n")
    report = check(f"{file}:fit")
    assert report["ok"], report["problems"]
    assert [package["name"] for package in report["ships"]["packages"]] == ["app", "lib"]
    assert origins(report) == {"lib": "project"}


def test_all_that_workers_get_travels(locked: Path, tmp_path: Path) -> None:
    """As `mini_modal.make_image` has it: the whole of src/, archives, and all groups but two."""
    project(tmp_path / "lib", "lib")
    uv("build", "--wheel", "--out-dir", tmp_path / "dist", cwd=tmp_path / "lib")
    write(locked, {"src/beside.py": "", "src/another/__init__.py": "", "src/app/.env": "SECRET=1"})
    pyproject = (locked / "pyproject.toml").read_text()
    archive = tmp_path / "dist/lib-1.0-py3-none-any.whl"
    (locked / "pyproject.toml").write_text(
        pyproject.replace("'click'", "'lib'").replace(
            "[dependency-groups]\n", "[dependency-groups]\ncuda = ['click']\nlocal = ['pluggy']\n"
        )
        + f"[tool.uv.sources]\nlib = {{ path = '{archive}' }}\n"
    )
    uv("lock", cwd=locked)
    file = script(locked, "import click, beside, another\ndef fit(x): return click, beside, another\n")
    report = check(f"{file}:fit")
    assert report["ok"], report["problems"]
    assert origins(report) == {"click": "lock", "beside": "project", "another": "project"}
    assert {package["name"]: package["files"] for package in report["ships"]["packages"]} == {
        "another": 1,
        "app": 1,
        "beside": 1,
    }
    assert report["ships"]["requirements"] == ["click==99"]
    assert {"name": "lib", "path": str(archive), "editable": False} in report["ships"]["local"]
    said = run("check", f"{file}:fit").stdout
    assert re.search(rf"^archive +[\d.]+ k?B  lib: {archive}$", said, re.MULTILINE)


def test_a_backend_may_have_groups_of_its_own(locked: Path) -> None:
    """As `[tool.mini.modal] groups` says which dependency groups are installed there."""
    pyproject = (locked / "pyproject.toml").read_text().replace("'click'", "")
    tables = "[dependency-groups]\ncuda = ['click']\n"
    settings = "[tool.mini.elsewhere]\ngroups = []\n"
    (locked / "pyproject.toml").write_text(pyproject.replace("[dependency-groups]\n", tables) + settings)
    uv("lock", cwd=locked)
    file = script(locked, "import click\ndef fit(x): return click.echo\n")
    assert check(f"{file}:fit")["ships"]["requirements"] == ["click==99"]
    report = check(f"{file}:fit", "--app", "elsewhere")
    assert report["ships"]["requirements"] == []
    assert [problem["subject"] for problem in report["problems"]] == ["click"]


def test_lock_that_is_missing_or_stale_is_a_problem(locked: Path) -> None:
    file = script(locked, "import click\ndef fit(x): return click.echo\n")
    pyproject = (locked / "pyproject.toml").read_text()
    (locked / "pyproject.toml").write_text(pyproject.replace("'click'", "'click', 'pluggy'"))
    (problem,) = check(f"{file}:fit")["problems"]
    assert problem["kind"] == "lock"
    assert "run `uv lock`" in problem["message"]
    uv("lock", cwd=locked)
    assert check(f"{file}:fit")["ok"]
    (locked / "uv.lock").unlink()
    report = check(f"{file}:fit")
    assert [problem["kind"] for problem in report["problems"]] == ["lock"]
    assert report["project"]["lock"] == "bad"
    assert "has no uv.lock; run `uv lock`" in report["problems"][0]["message"]


def test_report_for_people(locked: Path) -> None:
    file = script(
        locked,
        "import threading\n[lock] = [threading.Lock()]\nRATES = {'a': [1]}\ndef fit(x): return lock, RATES\n"
        "def fine(x): return RATES\n",
    )
    done = run("check", f"{file}:fine", "--input", "[1]")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0] == "train.py:fine"
    assert any(re.match(r"function +\d+ B +by value: ", line) for line in lines)
    assert any(re.match(r"  with +\d+ B +fine.__globals__\['RATES'\] \(dict\)", line) for line in lines)
    assert any(re.match(rf"package +\d+ B +app: 1 file in {locked}/src/app", line) for line in lines)
    assert any(re.match(r"requirements +1 +click==99", line) for line in lines)
    assert lines[-1] == "nothing found that would fail on a worker elsewhere"
    done = run("check", f"{file}:fit")
    assert done.returncode == 1
    assert "FAILS fit.__globals__['lock']: _thread.lock: cannot pickle '_thread.lock' object" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 thing would fail on a worker elsewhere"
