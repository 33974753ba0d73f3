"""The caller's environment on a cluster: real heads in environments of their own, and small locked projects."""

from __future__ import annotations

import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mini_ray import node
from standing import Cluster, answer, at_home, environment, make_venv, processes, project, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROBE = """
def probe():
    import importlib.metadata, os, sys, mini, six, sample
    return {
        "six": six.__version__, "sample": sample.version, "prefix": sys.prefix, "base": os.path.dirname(mini.__file__),
        "mini-ray": importlib.metadata.version("mini-ray"), "places": [six.__file__, sample.__file__], "path": sys.path,
    }

begun = time.monotonic()
with app:
    found = app.run(probe)
    print(json.dumps({**found, "seconds": time.monotonic() - begun}))
"""
BUILT = "built an environment"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has Ray and nothing else."""
    return make_venv(tmp_path_factory.mktemp("cluster") / "venv")


@pytest.fixture(scope="module")
def cluster(python: Path) -> Iterator[Cluster]:
    with Cluster(python) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("home"), "six==1.16.0")


def test_calls_have_what_is_locked_and_the_source_and_nothing_is_built_twice(
    cluster: Cluster, home: Path
) -> None:
    first, log = cluster.run(home, PROBE)
    assert log.count(BUILT) == 1
    (built,) = cluster.environments()
    assert (first["six"], first["sample"], first["prefix"]) == ("1.16.0", 1, str(built))
    assert first["places"][0].startswith(str(built))
    assert all(
        place.startswith(str(cluster.cache / "sources")) for place in (first["places"][1], first["base"])
    )
    # Ray adds the script's folder and where it was started to the path; other machines do not have them.
    assert not [entry for entry in first["path"] if entry.startswith((str(home), sys.prefix))]
    dates = {path: path.stat().st_mtime_ns for path in built.rglob("*.dist-info")}
    sources = list(cluster.cache.glob("sources/*"))

    again, log = cluster.run(home, PROBE)
    assert BUILT not in log
    assert cluster.environments() == [built]
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*.dist-info")} == dates
    assert list(cluster.cache.glob("sources/*")) == sources
    assert again["prefix"] == first["prefix"]
    print(f"first call {first['seconds']:.1f} s, and {again['seconds']:.1f} s when it is built")

    (home / "src/sample/__init__.py").write_text("version = 2\n")
    edited, log = cluster.run(home, PROBE)
    assert edited["sample"] == 2
    assert BUILT not in log
    assert cluster.environments() == [built]
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*.dist-info")} == dates
    assert cluster.leftovers() == []


def test_detached_jobs_have_what_is_locked(cluster: Cluster, home: Path) -> None:
    probe = PROBE[: PROBE.index("begun = ")]
    (home / "src/sample/__init__.py").write_text("version = 3\n")
    found, _ = cluster.run(home, f"{probe}\nprint(json.dumps(app.spawn(probe).result(100)))")
    (built,) = cluster.environments()
    assert (found["six"], found["sample"]) == ("1.16.0", 3)
    assert found["prefix"] == str(built)
    again, log = cluster.run(home, f"{probe}\nprint(json.dumps(app.job(app.jobs()[0].id).result(0)))")
    assert again == found
    assert BUILT not in log


def test_another_lock_is_built_once_also_for_two_at_once(cluster: Cluster, tmp_path: Path) -> None:
    before = set(cluster.environments())
    home = project(tmp_path, "six==1.15.0")
    both = [cluster.start(home, PROBE) for _ in range(2)]
    (one, log), (other, more) = [answer(each) for each in both]
    assert one["six"] == other["six"] == "1.15.0"
    assert (log + more).count(BUILT) == 1
    assert len(set(cluster.environments()) - before) == 1


def test_calls_of_a_call_have_the_same(cluster: Cluster, home: Path) -> None:
    code = """
    def inside(number):
        import sys, six, sample
        return number, sys.prefix

    def outside():
        import os, sys
        os.chdir("/")
        from mini_ray import RayApparatus
        with RayApparatus("inner", storage="/tmp", max_workers=1).w(progress=False) as app:
            return [*app.run(inside, 3), sys.prefix]

    with app:
        print(json.dumps(app.run(outside)))
    """
    (number, inner, outer), _ = cluster.run(home, code)
    assert number == 3
    assert inner == outer
    assert inner.startswith(str(cluster.cache))


def test_a_script_without_a_project_has_mini(cluster: Cluster) -> None:
    folder = cluster.home / "plain"
    folder.mkdir()
    code = """
    def versions():
        import cloudpickle, ray, sys
        return cloudpickle.__version__, ray.__version__, sys.prefix
    with app:
        import cloudpickle, ray
        print(json.dumps([app.run(versions), [cloudpickle.__version__, ray.__version__, sys.prefix]]))
    """
    (there, here), _ = cluster.run(folder, code)
    assert there[:2] == here[:2]
    assert there[2].startswith(str(cluster.cache))


def test_a_cluster_in_the_callers_own_environment_needs_nothing(home: Path) -> None:
    code = """
    def where():
        import sys
        return sys.prefix, sys.path
    here = sys.prefix, [*sys.path]
    with app:
        print(json.dumps([app.run(where), here]))
    """
    with Cluster(Path(sys.executable)) as cluster:
        (there, here), _ = cluster.run(home, code)
        assert there == here
        assert not cluster.cache.exists()


def test_nodes_with_different_homes_have_it_each_in_its_own(cluster: Cluster, home: Path) -> None:
    code = """
    def where(number):
        import os, ray, sys, six
        from pathlib import Path
        meet = Path(os.environ["MEET"])
        (meet / str(number)).touch()
        while len(list(meet.iterdir())) < 2:
            time.sleep(0.05)
        return sys.prefix

    import os
    with app.w(chunk=1, cpu=1, timeout=60, env={"MEET": os.environ["MEET"]}) as two:
        print(json.dumps(list(two.map(where, range(2)))))
    """
    meet = cluster.home / "meet"
    meet.mkdir()
    other = cluster.directory / "other"
    node = cluster.add_node(at_home(other))
    places, _ = cluster.run(home, code, MEET=str(meet))
    node.kill()
    assert sorted(place.startswith(str(other)) for place in places) == [False, True]
    assert sorted(place.startswith(str(cluster.home)) for place in places) == [False, True]


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Files(http.server.ThreadingHTTPServer):
    """An index with one package, whose wheel is refused, or not answered for while it is `stuck`."""

    def __init__(self, folder: Path) -> None:
        self.asked = threading.Event()
        self.stuck: threading.Event | None = None
        self.refuses = False
        self.metadata = b"Metadata-Version: 2.1\nName: tiny-file\nVersion: 1.0\n"
        info = "tiny_file-1.0.dist-info"
        wheel = folder / "tiny_file-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tiny_file.py", "")
            file.writestr(f"{info}/METADATA", self.metadata)
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        self.wheel = wheel.read_bytes()
        self.page = (
            f"<a href='/{wheel.name}#sha256={hashlib.sha256(self.wheel).hexdigest()}' "
            f"data-core-metadata='sha256={hashlib.sha256(self.metadata).hexdigest()}'>{wheel.name}</a>"
        )
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/simple"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        kind, data = "text/html", self.server.page.encode()
        if self.path.endswith(".metadata"):
            kind, data = "application/octet-stream", self.server.metadata
        elif self.path.endswith(".whl"):
            kind, data = "application/octet-stream", self.server.wheel
            if self.server.stuck is not None:
                self.server.asked.set()
                self.server.stuck.wait(60)
                return
            if self.server.refuses:
                self.send_error(404)
                return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with Files(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        if server.stuck is not None:
            server.stuck.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(files: Files, tmp_path: Path) -> Path:
    """A project that needs what is there; its address is a new one each time, so that no cache has it."""
    more = (
        "[tool.uv.sources]\ntiny-file = { index = 'own' }\n"
        f"[[tool.uv.index]]\nname = 'own'\nurl = '{files.url}'\nexplicit = true"
    )
    return project(tmp_path / "remote", "tiny-file", more=more)


def test_what_cannot_be_installed_is_named_with_its_node(
    cluster: Cluster, remote: Path, files: Files
) -> None:
    files.refuses = True
    before = cluster.environments()
    code = """
    with app:
        try:
            app.run(abs, -1)
        except mini.BackendUnavailable as exc:
            print(json.dumps(str(exc)))
    """
    said, _ = cluster.run(remote, code)
    assert cluster.address.partition(":")[0] in said.splitlines()[0]
    assert "the requirement: tiny-file" in said
    assert "404" in said
    assert cluster.environments() == before
    assert cluster.leftovers() == []


def test_a_caller_who_leaves_ends_the_build(cluster: Cluster, remote: Path, files: Files) -> None:
    before = cluster.environments()
    files.stuck = stuck = threading.Event()
    caller = cluster.start(remote, "with app:\n    app.run(abs, -1)\n")
    try:
        assert files.asked.wait(60)
        (builder,) = processes(f"{cluster.cache}/environments")
        begun = time.monotonic()
        caller.send_signal(signal.SIGINT)
        _, said = caller.communicate(timeout=30)
        assert "KeyboardInterrupt" in said
        assert time.monotonic() - begun < 10
        end = time.monotonic() + 20
        while builder in processes(str(cluster.cache)) and time.monotonic() < end:
            threading.Event().wait(0.05)
        assert builder not in processes(str(cluster.cache))
    finally:
        caller.kill()
        caller.communicate()
    assert cluster.environments() == before
    files.stuck = None
    stuck.set()

    _, log = cluster.run(remote, "with app:\n    print(app.run(abs, -1))\n")
    assert log.count(BUILT) == 1
    assert len(cluster.environments()) == len(before) + 1
    assert cluster.leftovers() == []


BUILDER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("node", sys.argv[1])
node = importlib.util.module_from_spec(spec)
spec.loader.exec_module(node)
from pathlib import Path
order = json.loads(sys.argv[3])
print(*node.environment(Path(sys.argv[2]), "digest", lambda: order))
"""


def test_without_uv_pip_builds_it(python: Path, tmp_path: Path) -> None:
    order = (
        '{"own": ["iniconfig==2.0.0"], "pylock": "", "requirements": ["six==1.16.0"], "archives": [],'
        ' "options": [], "variables": {}, "indexes": []}'
    )
    env = environment(PATH="/usr/bin:/bin")
    told = run(python, "-c", BUILDER, node.__file__, tmp_path, order, env=env)
    folder, seconds = told.split()
    assert float(seconds) > 0
    assert list(Path(folder).glob("lib/*/site-packages/six.py"))
    assert list(Path(folder).glob("lib/*/site-packages/pip"))
    assert run(python, "-c", BUILDER, node.__file__, tmp_path, order, env=env).split() == [folder, "0.0"]


BUILDS = """
import signal, sys
from pathlib import Path
from mini_ray import node

def hang():
    print("builds", flush=True)
    signal.pause()

with node.scratch(Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    node.environment(Path(sys.argv[1]), sys.argv[2], hang)
"""


def test_what_a_killed_process_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    """By one that makes something else, too; what belongs to a process that is there is let be."""

    def begin(digest: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDS, tmp_path, digest], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "builds\n"
        return process

    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def left_after_another() -> int:
        with pytest.raises(OSError, match="no order"):
            node.environment(tmp_path, "another", no_order)
        with node.scratch(tmp_path):
            pass
        return left()

    def no_order() -> dict[str, object]:
        raise OSError("no order")

    def left() -> int:
        return sum(path.is_dir() for path in [*tmp_path.glob("environments/*"), *tmp_path.glob("scratch/*")])

    first = begin("first")
    try:
        second = begin("second")
        try:
            assert left() == 4
            first.kill()
            first.wait()
            assert left() == 4
            assert left_after_another() == 2
        finally:
            end(second)
        assert left_after_another() == 0
    finally:
        end(first)


def test_source_is_unpacked_once_and_what_nobody_uses_goes(tmp_path: Path) -> None:
    from mini.shipment import our_source

    archive = our_source({}).archive()
    first = node.source(tmp_path, "a" * 64, lambda: archive)
    assert (first / "tree/mini/__init__.py").is_file()
    assert node.source(tmp_path, "a" * 64, lambda: pytest.fail("asked for again")) == first
    left = tmp_path / "sources/.new-left"
    left.mkdir()
    subprocess.run(["touch", "-d", "40 days ago", str(first / "archive.tar")], check=True)
    second = node.source(tmp_path, "b" * 64, lambda: archive)
    assert list((tmp_path / "sources").iterdir()) == [second]
