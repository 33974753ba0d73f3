"""What people do wrong, or the machine does to them: each a clear error that names the fix, and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pytest
from mini import LocalApparatus
from mini.errors import BackendUnavailable, OptionError, SerializationError, WorkerLost

pytestmark = pytest.mark.timeout(60)


def square(x: int) -> int:
    return x * x


def alive() -> set[int]:
    """The child processes of this one."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in children for pid in path.read_text().split()}


def check_usable(app: LocalApparatus) -> None:
    # Not with a function of this module: each new worker would import it, with all that it imports.
    assert app.run(pow, 3, 2) == 9
    assert list(app.map(pow, range(50), [2] * 50)) == [x * x for x in range(50)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[LocalApparatus]:
    """An apparatus that must be usable after whatever the test does to it, and leave nothing behind."""
    # What others have left running may end meanwhile.
    before, threads = alive(), set(threading.enumerate())
    with LocalApparatus("bad-input", max_workers=2, data_dir=tmp_path / "data") as app:
        yield app
        check_usable(app)
    assert alive() <= before
    assert set(threading.enumerate()) <= threads


@pytest.fixture(scope="module", params=["process", "thread", "inline"])
def long_lived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalApparatus]:
    data_dir = tmp_path_factory.mktemp("data")
    with LocalApparatus("bad-input", max_workers=2, data_dir=data_dir, workers=request.param) as app:
        yield app


@pytest.fixture
def app(long_lived: LocalApparatus) -> Iterator[LocalApparatus]:
    """An apparatus that must be usable after whatever the test does to it. All of them have the same."""
    yield long_lived
    check_usable(long_lived)


def run_script(script: str, *args: object, timeout: float = 60) -> list[str]:
    """What a script prints, one line an item. It must end by itself."""
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- what cannot be pickled -----------------------------------------------------------------------------------------


def over_lock() -> Callable[..., Any]:
    lock = threading.Lock()
    return lambda *_: lock.locked()


def test_a_lambda_over_a_lock(app: LocalApparatus) -> None:
    for call in (lambda: app.run(over_lock()), lambda: list(app.map(over_lock(), range(3)))):
        with pytest.raises(SerializationError) as caught:
            call()
        message = str(caught.value)
        assert "function over_lock.<locals>.<lambda>" in message
        assert "lock" in message
        assert "make it inside the function" in message


def test_a_generator_as_argument(app: LocalApparatus) -> None:
    with pytest.raises(SerializationError, match=r"argument args\[0\].*generator.*pass a list of its items"):
        app.run(sum, (x for x in range(3)))
    with pytest.raises(SerializationError, match=r"argument start.*generator.*pass a list of its items"):
        app.run(sum, [1], start=(x for x in range(3)))  # type: ignore[arg-type]
    results = app.map(sum, [[1], (x for x in range(3)), [2, 3]], return_exceptions=True)
    values = list(results)
    assert values[0::2] == [1, 5]
    assert isinstance(values[1], SerializationError)


def test_a_generator_of_inputs_is_what_map_wants(app: LocalApparatus) -> None:
    assert list(app.map(square, (x for x in range(3)))) == [0, 1, 4]


def count_up(n: int) -> Iterator[int]:
    yield from range(n)


async def count_up_async(n: int) -> Any:
    yield n


@pytest.mark.parametrize("fn", [count_up, count_up_async])
def test_a_generator_function(app: LocalApparatus, fn: Callable[..., Any]) -> None:
    for call in (lambda: app.run(fn, 3), lambda: app.map(fn, [3])):
        with pytest.raises(TypeError, match="is a generator function; return a list from it, or use stream"):
            call()


class StaysHere:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


def bad_result(kind: str) -> Any:
    if kind == "lock":
        return {"deep": [threading.Lock()]}
    if kind == "generator":
        return (x for x in range(3))
    if kind == "stays":
        return [1, StaysHere()]
    return kind


@pytest.mark.parametrize(
    ("kind", "path"), [("lock", r"\['deep'\]\[0\]"), ("generator", "generator"), ("stays", "I stay here")]
)
def test_a_result_that_cannot_be_pickled(app: LocalApparatus, kind: str, path: str) -> None:
    with pytest.raises(SerializationError, match=f"result.*{path}"):
        app.run(bad_result, kind)
    values = list(app.map(bad_result, ["a", kind, "b"], return_exceptions=True))
    assert values[0::2] == ["a", "b"]
    assert isinstance(values[1], SerializationError)


class TwoArgumentsError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


def fail_with_two(x: int) -> None:
    raise TwoArgumentsError(x, "it was late")


def test_an_exception_whose_init_takes_two_arguments(app: LocalApparatus) -> None:
    with pytest.raises(TwoArgumentsError, match="7: it was late") as caught:
        app.run(fail_with_two, 7)
    assert (caught.value.code, caught.value.reason) == (7, "it was late")
    (value,) = app.map(fail_with_two, [8], return_exceptions=True)
    assert isinstance(value, TwoArgumentsError)
    assert value.args == ("8: it was late",)


# --- options and names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "max_workers takes a whole number of at least 1, not 0"),
        ({"max_workers": 1.5}, "max_workers takes a whole number of at least 1, not 1.5"),
        ({"timeout": -1}, r"timeout takes a number above 0 \(seconds\), not -1"),
        ({"timeout": float("nan")}, "timeout takes a number above 0"),
        ({"timeout": "5"}, "timeout takes a number above 0"),
        ({"retries": -1}, "retries takes a whole number of at least 0"),
        ({"window": 0}, "window takes a whole number of at least 1"),
        ({"chunk": 0}, "chunk takes a whole number of at least 1"),
        ({"memory": 0}, r"memory takes a number above 0 \(MiB\)"),
        ({"env": {"A": 1}}, "env: the value of A must be a string"),
        ({"env": {"A=B": "1"}}, "'A=B' is not the name of an environment variable"),
        ({"retrys": 1}, "unknown option 'retrys'; did you mean 'retries'"),
        ({"max_worker": 1}, "did you mean 'max_workers'"),
        ({"tiemout": 1}, "did you mean 'timeout'"),
        ({"locla": {}}, "did you mean 'local'"),
        ({"local": 3}, "local= takes a dict"),
    ],
)
def test_options(app: LocalApparatus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        app.w(**options)
    assert isinstance(caught.value, TypeError)


def test_options_of_the_constructor() -> None:
    with pytest.raises(OptionError, match="max_workers takes a whole number of at least 1"):
        LocalApparatus("x", max_workers=0)
    with pytest.raises(OptionError, match="workers takes 'process', 'thread' or 'inline', not 'proces'"):
        LocalApparatus("x", workers="proces")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="data_dir takes a path"):
        LocalApparatus("x", data_dir=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["a/b", "../b", "/a", "", ".", "..", ".a", "-a", "a b", "a\0", "a\n", "ü", "a" * 64, None, 3]
)
def test_names(name: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"is not a name for an apparatus: use 1 to 63 letters, digits"):
        LocalApparatus(name, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_function_or_not_inputs(app: LocalApparatus) -> None:
    with pytest.raises(TypeError, match="the first argument must be a function, not 3"):
        app.run(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="map takes iterables of inputs"):
        app.map(square, 3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="at least one iterable"):
        app.map(square)


class Unsized:
    """Has a length that it does not know, as tqdm over a generator."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        raise TypeError("object of type 'generator' has no len()")


def test_inputs_that_do_not_know_how_many_they_are(app: LocalApparatus) -> None:
    assert list(app.map(square, Unsized())) == [0, 1, 4]
    assert list(app.map(pow, Unsized(), [2, 2])) == [0, 1]


def test_inputs_that_change_meanwhile(app: LocalApparatus) -> None:
    inputs = dict.fromkeys(range(100_000))
    others = app.map(square, iter(range(300)))
    results = app.map(square, inputs)
    assert next(results) == 0
    future = app.executor().submit(square, 5)
    inputs[-1] = None
    assert list(others) == [square(x) for x in range(300)]
    assert future.result(30) == 25
    with pytest.raises(RuntimeError, match="dictionary changed size"):
        list(results)


def test_a_function_that_has_every_attribute(app: LocalApparatus) -> None:
    class Anything:
        def __getattr__(self, name: str) -> Anything:
            if name.startswith("__"):
                raise AttributeError(name)
            return Anything()

        def __call__(self, x: int) -> int:
            return x + 1

    assert app.run(Anything(), 1) == 2


def test_a_future_that_is_cancelled_before_its_apparatus_is_closed(tmp_path: Path) -> None:
    with LocalApparatus("bad-input", max_workers=1, data_dir=tmp_path) as app:
        executor = app.executor()
        futures = [executor.submit(time.sleep, seconds) for seconds in (60, 0)]
        assert futures[1].cancel()
    assert wait(futures, timeout=10).not_done == set()


def test_backends_that_are_not_there() -> None:
    with pytest.raises(LookupError, match=r"there is no backend 'loca' here; installed are: .*local"):
        mini.apparatus("loca", "x")


# --- large arguments ------------------------------------------------------------------------------------------------


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


MORE_THAN_2_GIB = (2 << 30) + 11


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(available_memory() < 14 << 30, reason="needs 14 GiB of free memory")
@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_an_argument_of_2_gib(processes: LocalApparatus, kind: str) -> None:
    """More than fits a signed 32-bit number, and more than the kernel moves in one call."""
    data = np.ones(MORE_THAN_2_GIB, np.uint8) if kind == "array" else b"\1" * MORE_THAN_2_GIB
    assert processes.run(lambda data: (len(data), int(data[-1])), data) == (MORE_THAN_2_GIB, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(available_memory() < 14 << 30, reason="needs 14 GiB of free memory")
def test_a_constant_of_2_gib(processes: LocalApparatus) -> None:
    """It is sent to each worker once, and the calls do not wait for each other."""
    data = np.ones(MORE_THAN_2_GIB, np.uint8)
    calls = processes.map(lambda i, data: i + int(data[-1]), range(3), kwargs={"data": data})
    assert list(calls) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(available_memory() < 14 << 30, reason="needs 14 GiB of free memory")
def test_a_result_of_2_gib(processes: LocalApparatus) -> None:
    result = processes.run(lambda: np.ones(MORE_THAN_2_GIB, np.uint8))
    assert (len(result), result[-1]) == (MORE_THAN_2_GIB, 1)


# --- data directories -----------------------------------------------------------------------------------------------

DATA_DIR = """
import subprocess, sys
from pathlib import Path
import mini
place, how = sys.argv[1:]

def save(i):
    (mini.get_data_dir() / str(i)).write_bytes(bytes(100_000))
    return i

def show(call):
    try:
        print("returned", call(), flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)

if how != "file":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=6", "tmpfs", place], check=True)
if how == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
if how == "full":
    for i in range(5):
        (Path(place) / str(i)).touch()
if how == "nearly full":
    Path(place, "0").write_bytes(bytes(40_000))
with mini.LocalApparatus("x", max_workers=2, data_dir=place) as app:
    show(lambda: app.run(len, "abc"))
    show(lambda: app.run(save, 1))
    show(lambda: [type(e).__name__ for e in app.map(save, range(3), return_exceptions=True)])
    show(lambda: app.volume.write_bytes("a", bytes(100_000)))
    show(lambda: app.run(len, "abcd"))
"""


def in_data_dir(tmp_path: Path, how: str) -> list[str]:
    place = tmp_path / "place"
    place.mkdir()
    if how == "file":
        place = Path(__file__)
        return run_script(DATA_DIR, place, how)
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        mount = [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            command = [*unshare, sys.executable, "-c", DATA_DIR, str(place), how]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()
    pytest.skip("mounting a small file system needs root, or user namespaces")


@pytest.mark.parametrize(
    ("how", "error", "fix"),
    [
        ("read-only", "OSError", "make it writable for this user, or choose another data_dir"),
        ("full", "OSError", "make room there, or choose another data_dir"),
        ("file", "NotADirectoryError", "choose another data_dir"),
    ],
)
def test_a_data_dir_that_cannot_be_written_to(tmp_path: Path, how: str, error: str, fix: str) -> None:
    """Calls that do not use it are not concerned."""
    lines = in_data_dir(tmp_path, how)
    assert lines[0] == "returned 3"
    assert lines[1].startswith(error)
    assert fix in lines[1]
    assert lines[2] == f"returned {[error] * 3}"
    assert lines[3].startswith(error)
    assert fix in lines[3]
    assert lines[4] == "returned 4"


def test_a_data_dir_that_fills_up(tmp_path: Path) -> None:
    """What a call writes itself raises what Python raises; what the volume writes says what to do."""
    lines = in_data_dir(tmp_path, "nearly full")
    assert lines[0] == "returned 3"
    assert lines[1].startswith("OSError [Errno 28] No space left on device")
    assert lines[3].startswith("OSError [Errno 28]")
    assert "make room there, or choose another data_dir" in lines[3]
    assert lines[4] == "returned 4"


# --- workers that do not come up ------------------------------------------------------------------------------------


@pytest.fixture
def startup(tmp_path: Path) -> Path:
    """A directory whose `sitecustomize.py` a worker's interpreter runs while it starts."""
    (tmp_path / "startup").mkdir()
    return tmp_path / "startup"


def test_a_worker_killed_while_it_starts_is_started_again(processes: LocalApparatus, startup: Path) -> None:
    (startup / "sitecustomize.py").write_text(
        "import os\n"
        "fd = os.open(os.environ['STARTS'], os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
        "os.write(fd, b'x')\n"
        "if os.fstat(fd).st_size < 3: os.kill(os.getpid(), 9)\n"
    )
    for number in range(3):
        env = {"PYTHONPATH": str(startup), "STARTS": str(startup / str(number))}
        app = processes.w(env=env, max_workers=1)
        assert app.run(square, 3) == 9, "no call had begun, so none is lost"
        assert (startup / str(number)).stat().st_size == 3


FIRST = """
import sys, mini
app = mini.LocalApparatus("x", data_dir=sys.argv[1]).w(env={"PYTHONPATH": sys.argv[1]})
for _ in range(2):
    try:
        app.run(len, "abc")
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_workers_that_never_come_up(startup: Path) -> None:
    """In a process of its own, so that the first call of a process is among them."""
    (startup / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    lines = run_script(FIRST, startup)
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("BackendUnavailable 3 worker processes in a row died while they started")
        assert "SIGKILL" in line
        assert "Try it by hand" in line


@pytest.mark.parametrize(
    "how", ["import os; os.kill(os.getpid(), 9)", "raise SystemExit('no')", "import os; os._exit(3)"]
)
def test_an_apparatus_whose_workers_die_stays_usable(
    processes: LocalApparatus, startup: Path, how: str
) -> None:
    (startup / "sitecustomize.py").write_text(how)
    broken = processes.w(env={"PYTHONPATH": str(startup)})
    for call in (
        lambda: broken.run(square, 1),
        lambda: list(broken.map(square, range(100))),
        lambda: list(broken.map(square, range(100), return_exceptions=True)),
        lambda: next(broken.stream(count_up, 3)),
    ):
        with pytest.raises(BackendUnavailable, match="3 worker processes in a row died while they started"):
            call()
    (startup / "sitecustomize.py").write_text("")
    check_usable(broken)


def test_workers_killed_on_sight(processes: LocalApparatus, tmp_path: Path) -> None:
    """Kills every new worker of the first few, at whatever it is doing. A call is lost or runs once, never twice."""
    log = tmp_path / "log"

    def note(i: int) -> int:
        with log.open("ab", buffering=0) as file:
            file.write(b"%d\n" % i)
        return i

    for _ in range(10):
        log.write_bytes(b"")
        app = processes.w(env={"FRESH": os.urandom(4).hex()})  # workers of its own
        others, killed = alive(), set[int]()

        def kill(others: set[int] = others, killed: set[int] = killed) -> None:
            while len(killed) < 2:
                for pid in sorted(alive() - others - killed)[: 2 - len(killed)]:
                    killed.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        values = list(app.map(note, range(20), return_exceptions=True))
        killer.join()
        ran = [int(line) for line in log.read_bytes().split()]
        assert len(ran) == len(set(ran))
        for i, value in enumerate(values):
            assert (value == i and i in ran) or isinstance(value, WorkerLost)
        assert sum(isinstance(value, WorkerLost) for value in values) <= 2


# --- os.fork in the caller ------------------------------------------------------------------------------------------

FORK = """
import os, signal, sys, time
import mini

def square(x):
    return x * x

def in_child(what, call):
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # whoever hangs is killed, and has printed nothing
        try:
            answer = f"returned {call()}"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(w, answer.encode())
        os._exit(0)
    os.close(w)
    with open(r, "rb") as file:
        print(what, "|", file.read().decode(), "|", os.waitpid(pid, 0)[1], flush=True)

app = mini.LocalApparatus("fork", max_workers=2, data_dir=sys.argv[1])
in_child("before use", lambda: app.run(square, 3))
assert app.run(square, 2) == 4
in_child("run", lambda: app.run(square, 3))
in_child("map", lambda: list(app.map(square, range(4))))
results = app.map(square, range(20_000))
assert next(results) == 0
in_child("next of the parent's", lambda: next(results))
in_child("close the parent's", lambda: results.close())
in_child("close", lambda: app.close())
in_child("grandchild", lambda: in_child("inner", lambda: app.run(square, 5)))
assert list(results) == [x * x for x in range(1, 20_000)], "the parent's map has not noticed"
assert app.run(square, 4) == 16
app.close()
with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
    print("left", "|", file.read().strip(), "|", 0)
"""


def test_fork_in_the_caller(tmp_path: Path) -> None:
    lines = [tuple(part.strip() for part in line.split("|")) for line in run_script(FORK, tmp_path)]
    said = {what: answer for what, answer, _ in lines}
    assert {status for _, _, status in lines} == {"0"}, "a child hung and was killed"
    assert said["before use"] == said["run"] == "returned 9"
    assert said["map"] == "returned [0, 1, 4, 9]"
    assert said["next of the parent's"].startswith(
        "RuntimeError: this apparatus was in use when the process was forked"
    )
    assert said["close the parent's"] == said["close"] == "returned None"
    assert said["inner"] == "returned 25"
    assert said["left"] == ""


FORK_BUSY = """
import os, signal, sys, threading
import mini

def square(x):
    return x * x

app = mini.LocalApparatus("fork", max_workers=2, data_dir=sys.argv[1])
stop = threading.Event()

def use():
    while not stop.is_set():
        assert app.run(square, 2) == 4
        assert list(app.map(square, range(50))) == [x * x for x in range(50)]

threads = [threading.Thread(target=use) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        code = 1
        try:
            code = 0 if app.run(square, 3) == 9 and sum(app.map(square, range(4))) == 14 else 2
        finally:
            os._exit(code)
    print(os.waitpid(pid, 0)[1], flush=True)
stop.set()
for thread in threads:
    thread.join()
app.close()
"""


def test_fork_while_other_threads_call(tmp_path: Path) -> None:
    """At any moment some lock is held by a thread that the child does not have."""
    assert run_script(FORK_BUSY, tmp_path) == ["0"] * 20


def fork_and_return() -> tuple[int, bool]:
    return os.getpid(), os.fork() == 0


def fork_and_raise() -> None:
    if os.fork() == 0:
        raise ValueError("only the copy raises")


@pytest.mark.parametrize("fork", [fork_and_return, fork_and_raise])
def test_the_copy_of_a_worker_that_a_call_forks_does_not_answer(
    processes: LocalApparatus, fork: Callable[[], Any]
) -> None:
    app = processes.w(max_workers=1)
    pid = app.run(os.getpid)
    for _ in range(5):
        result = app.run(fork)
        assert result in (None, (pid, False))
        assert {app.run(os.getpid) for _ in range(10)} == {pid}
