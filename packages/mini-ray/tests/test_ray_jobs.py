"""Detached jobs on clusters: what becomes of them when nodes, heads, actors or launchers die, and what is refused."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mini
import pytest
from mini.conformance.footprint import alive, descendants
from mini.conformance.ordeal import Ordeal
from mini.conformance.probes import Gate, Tally, until
from mini.jobboard import JobState
from mini_ray import RayApparatus
from mini_ray.census import Actor, take_census
from ray_calls import square, wait
from ray_clusters import RayCluster, can_hide

# Clusters take their time to start, the more so on a machine that has other things to do.
pytestmark = pytest.mark.timeout(300)

log = logging.getLogger(__name__)
PATIENCE = 90.0
DONE, FAILED, LOST, CANCELLED = JobState.DONE, JobState.FAILED, JobState.LOST, JobState.CANCELLED
PENDING, RUNNING = JobState.PENDING, JobState.RUNNING


def actors(address: str, name: str) -> list[Actor]:
    """Those that run jobs of that name."""
    return take_census(address).named(f"mini-jobs/{name}/")


def script(name: str, address: str, storage: Path, code: str) -> list[str]:
    """The command of a process in which `app` is that apparatus."""
    prelude = f"""
        import os, signal, sys, mini
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from mini.conformance.probes import Gate, Tally
        from mini_ray import RayApparatus
        from ray_calls import square, wait
        app = RayApparatus({name!r}, {address!r}, {str(storage)!r}).w(progress=False)
    """
    return [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


# --- without a cluster ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "storage", "reason"),
    [
        (
            None,
            "here",
            r"ends with it, .* \(mini ray start\), .* \(ray start --head\) and join it with address='auto'",
        ),
        ("ray://head:10001", "here", "use address='host:6379' on a host that belongs to the cluster"),
        ("head:6379", "s3://bucket/prefix", "have storage= name such a directory"),
    ],
)
def test_where_there_are_no_detached_jobs_it_is_said_why(
    address: str | None, storage: str, reason: str
) -> None:
    app = RayApparatus("none", address, storage)
    assert not app.supports("detached_jobs")
    with pytest.raises(mini.Unsupported, match=rf"spawn\(\) is not available: .*{reason}"):
        app.spawn(square, 1)


def test_it_depends_on_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RayApparatus("some", "auto").supports("detached_jobs")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert RayApparatus("some").supports("detached_jobs")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert not RayApparatus("some").supports("detached_jobs")


def test_reading_needs_no_cluster(tmp_path: Path) -> None:
    app = RayApparatus("nowhere", "127.0.0.1:9", tmp_path)
    assert (app.jobs(), app.groups(), list(tmp_path.iterdir())) == ([], [], [])
    with pytest.raises(mini.BackendUnavailable, match="nothing answers"):
        app.spawn(square, 1)
    assert app.jobs() == []


# --- on a cluster that stays ----------------------------------------------------------------------------------------


@pytest.fixture
def app(cluster: RayCluster, storage: Path) -> Iterator[mini.Apparatus]:
    with RayApparatus(f"jobs-{uuid.uuid4().hex[:8]}", cluster.address, storage).w(progress=False) as app:
        yield app


@pytest.mark.slow
def test_actors_come_for_jobs_and_go_when_there_are_none(
    app: mini.Apparatus, cluster: RayCluster, tally: Tally, gate: Gate
) -> None:
    app = app.w(max_workers=3)
    group = app.spawn_map(wait, range(7), kwargs={"tally": tally, "gate": gate})
    tally.wait_for(3, PATIENCE)
    there = actors(cluster.address, app.name)
    assert len(there) == 3
    assert len({actor.node for actor in there}) == 3, "they are spread over the nodes"
    assert group.counts() == {RUNNING: 3, PENDING: 4}
    gate.open()
    assert list(group.results(timeout=PATIENCE)) == [*range(7)]
    assert len({line.split()[1] for line in tally.read()}) == 3, "an actor takes one job after the other"
    until(lambda: not actors(cluster.address, app.name), PATIENCE, "the end of the actors")
    # And come again.
    assert app.spawn(square, 3).result(PATIENCE) == 9


@pytest.mark.slow
def test_there_are_never_too_many_whoever_launches(
    app: mini.Apparatus, cluster: RayCluster, storage: Path, tally: Tally, gate: Gate
) -> None:
    code = f"""
        tally, gate = Tally({tally.path!r}), Gate({gate.path!r}, {PATIENCE})
        for _ in range(4):
            app.w(max_workers=2).spawn_map(wait, range(2), kwargs={{"tally": tally, "gate": gate}})
    """
    command = script(app.name, cluster.address, storage, code)
    launchers = [subprocess.Popen(command) for _ in range(2)]
    for launcher in launchers:
        assert launcher.wait(PATIENCE) == 0
    tally.wait_for(2, PATIENCE)
    assert len(actors(cluster.address, app.name)) == 2
    states = Counter(job.state for job in app.jobs())
    assert states == {RUNNING: 2, PENDING: 14}
    gate.open()
    for group in app.groups():
        assert sorted(group.results(timeout=PATIENCE)) == [0, 1]
    assert len(tally.read()) == 16, "a job was run twice"


@pytest.mark.slow
def test_a_launch_that_races_with_the_end_of_actors_is_not_missed(app: mini.Apparatus) -> None:
    from mini_ray.jobactor import LINGER_SECONDS

    app = app.w(max_workers=1)
    for step in range(6):
        assert app.spawn(square, step).result(PATIENCE) == step * step
        time.sleep(LINGER_SECONDS - 0.1 + step * 0.04)


@pytest.mark.slow
def test_another_process_retries_with_the_options_of_the_launch(
    app: mini.Apparatus, cluster: RayCluster, storage: Path, tally: Tally, gate: Gate
) -> None:
    def fail_at_first(tally: Tally, gate: Gate) -> str:
        tally.add(os.getpid())
        if len(tally.read()) == 1:
            raise LookupError("at first")
        gate.wait()
        return os.environ["FLAVOUR"]

    special = cluster.add_node(options=["--resources", '{"special": 1}'])
    try:
        asked = app.w(ray={"resources": {"special": 1}}, env={"FLAVOUR": "bitter"})
        job = asked.spawn(fail_at_first, tally, gate)
        with pytest.raises(LookupError, match="at first"):
            job.result(PATIENCE)
        with pytest.raises(mini.OptionError, match="no node of the Ray cluster has 7 special"):
            app.w(ray={"resources": {"special": 7}}).spawn(square, 1)
        assert [each.id for each in app.jobs()] == [job.id], "what cannot be run was launched"
        until(lambda: not actors(cluster.address, app.name), PATIENCE, "the end of the actor")
        run(script(app.name, cluster.address, storage, f"app.job({job.id!r}).retry()"))
        tally.wait_for(2, PATIENCE)
        assert int(tally.read()[1]) in special.pids
        gate.open()
        assert job.result(PATIENCE) == "bitter"
        assert job.attempt == 2
    finally:
        special.kill()
        cluster.nodes.remove(special)


@pytest.mark.slow
def test_what_lies_beside_a_script_goes_with_its_jobs(
    app: mini.Apparatus, cluster: RayCluster, storage: Path, gate: Gate, tmp_path: Path
) -> None:
    folder = tmp_path / "no-project"
    folder.mkdir()
    (folder / "beside.py").write_text("WHEN = 'then'\n")
    (folder / "launch.py").write_text(
        "import sys, beside\n"
        "from mini.conformance.probes import Gate\n"
        "from mini_ray import RayApparatus\n"
        "def f(gate):\n"
        "    gate.wait()\n"
        "    import beside\n"
        "    return beside.WHEN\n"
        f"app = RayApparatus({app.name!r}, {cluster.address!r}, {str(storage)!r})\n"
        f"app.w(progress=False).spawn(f, Gate({gate.path!r}, {gate.patience!r}))\n"
    )
    run([sys.executable, str(folder / "launch.py")])
    (folder / "beside.py").unlink()
    gate.open()
    (job,) = app.jobs()
    assert job.result(PATIENCE) == "then"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_launcher_that_is_killed_leaves_no_job_pending_for_ever(
    when: str, app: mini.Apparatus, cluster: RayCluster, storage: Path
) -> None:
    act = "os.kill(os.getpid(), signal.SIGKILL)"
    code = f"""
        host = app._board("spawn").host
        start = host.start
        def start_and_die(jobs):
            {"start(jobs)" if when == "after" else ""}
            {act}
        host.start = start_and_die
        app.spawn_map(square, range(5))
    """
    done = subprocess.run(
        script(app.name, cluster.address, storage, code), capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (group,) = app.groups()
    assert group.wait(PATIENCE)
    if when == "after":
        assert group.counts() == {DONE: 5}
    else:
        assert group.counts() == {LOST: 5}
        assert group.retry() == 5
    assert list(group.results(timeout=PATIENCE)) == [0, 1, 4, 9, 16]


@pytest.mark.slow
def test_a_job_that_kills_its_actor_is_lost_and_the_others_are_not(app: mini.Apparatus, tally: Tally) -> None:
    def kill_actor(number: int, tally: Tally) -> int:
        tally.add(number)
        if number == 2 and tally.read().count("2") == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return number

    group = app.w(max_workers=2).spawn_map(kill_actor, range(10), kwargs={"tally": tally})
    assert group.wait(PATIENCE)
    assert group.counts() == {DONE: 9, LOST: 1}
    assert isinstance(group[2].exception(), mini.WorkerLost)
    assert group.retry() == 1
    assert list(group.results(timeout=PATIENCE)) == [*range(10)]
    assert sorted(Counter(tally.read()).values()) == [1] * 9 + [2]


@pytest.mark.slow
def test_the_source_that_a_killed_actor_has_unpacked_is_cleared_away_by_the_next(
    app: mini.Apparatus, cluster: RayCluster, tally: Tally, gate: Gate
) -> None:
    def unpacked() -> list[Path]:
        return [path for path in cluster.directory.glob("session_latest/mini/scratch/*") if path.is_dir()]

    app = app.w(max_workers=1)
    before = set(unpacked())
    job = app.spawn(wait, 1, tally, gate)
    tally.wait_for(1, PATIENCE)
    # An actor of an earlier test may just have come as well; what it has unpacked, it clears away itself.
    left = set(unpacked()) - before
    assert any([*each.iterdir()] for each in left)
    status = job.record.current.claimed
    assert status is not None
    os.kill(status.worker.pid, signal.SIGKILL)
    assert job.wait(PATIENCE)
    assert job.state is LOST
    assert left & set(unpacked())
    gate.open()
    job.retry()
    assert job.result(PATIENCE) == 1
    until(lambda: not left & set(unpacked()), PATIENCE, "the end of what the killed one had unpacked")
    until(lambda: not actors(cluster.address, app.name), PATIENCE, "the end of the actors")
    until(lambda: set(unpacked()) <= before, PATIENCE, "the end of what they had unpacked")


@pytest.mark.slow
def test_the_address_of_a_launch_is_found_by_whoever_comes_back(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(script("noted", cluster.address, tmp_path / "elsewhere", "print(len(app.spawn_map(square, [3])))"))
    assert "noted on ray: 1 DONE" in run([sys.executable, "-m", "mini", "watch", "noted"])
    (job,) = mini.jobs("noted", app="ray")
    assert job.result(0) == 9
    assert len(run([sys.executable, "-m", "mini", "volume", "ls", "noted"])) == 0
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    again = [sys.executable, "-m", "mini", "run", "double.py", "--map", "x=4", "--name", "noted"]
    assert "noted on ray: 1 DONE" in run(again)
    # Who says where the cluster is now knows better.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    said = subprocess.run(again, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.returncode == 3
    assert "nothing answers at" in said.stderr
    assert ":9 (" in said.stderr


@pytest.mark.slow
def test_a_node_that_is_killed_costs_what_ran_there(
    app: mini.Apparatus, cluster: RayCluster, tally: Tally, gate: Gate
) -> None:
    group = app.w(max_workers=6).spawn_map(wait, range(12), kwargs={"tally": tally, "gate": gate})
    tally.wait_for(6, PATIENCE)
    running = {int(line.split()[1]) for line in tally.read()}
    victim = max(cluster.nodes[1:], key=lambda node: len(running & node.pids))
    there = len(running & victim.pids)
    assert there
    victim.kill()
    cluster.nodes.remove(victim)
    gate.open()
    try:
        assert group.wait(PATIENCE)
        assert group.counts() == {DONE: 12 - there, LOST: there}
        assert group.retry() == there
        assert list(group.results(timeout=PATIENCE)) == [*range(12)]
        assert len(tally.read()) == 12 + there, "what was not lost ran again"
    finally:
        cluster.add_node()


@pytest.mark.slow
def test_a_node_that_does_not_see_the_directory_is_named_and_nothing_is_launched(
    cluster: RayCluster, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    if not can_hide(storage):
        pytest.skip("mount namespaces are not allowed here")
    blind = cluster.add_node(hidden=storage)
    try:
        with RayApparatus("blind", cluster.address, storage).w(progress=False) as app:
            with pytest.raises(
                mini.BackendUnavailable, match=f"does not see the storage directory {storage}"
            ):
                app.spawn(square, 1)
            assert app.jobs() == []
    finally:
        blind.kill()
        cluster.nodes.remove(blind)


@pytest.mark.slow
def test_many_jobs(app: mini.Apparatus, tally: Tally) -> None:
    def note(number: int, tally: Tally) -> int:
        tally.add(number)
        return number

    group = app.w(max_workers=4).spawn_map(note, range(1000), kwargs={"tally": tally})
    assert list(group.results(timeout=PATIENCE)) == [*range(1000)]
    assert group.counts() == {DONE: 1000}
    assert sorted(map(int, tally.read())) == [*range(1000)]
    group.remove()
    assert app.jobs() == []


# --- on clusters that die -------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A head and a node, or another number of them, which a test may kill."""
    with RayCluster(getattr(request, "param", 1)) as cluster:
        for name, value in cluster.variables.items():
            monkeypatch.setenv(name, value)
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("where", ["at its place", "elsewhere"])
def test_after_the_head_was_killed_and_started_again(
    where: str, mortal: RayCluster, tmp_path: Path, tally: Tally, gate: Gate
) -> None:
    storage = tmp_path / "storage"
    # The process that launches is another one: of whoever is connected to a head that dies Ray makes an end.
    code = f"""
        tally, gate = Tally({tally.path!r}), Gate({gate.path!r}, {2 * PATIENCE})
        app.w(max_workers=4).spawn_map(wait, range(8), kwargs={{"tally": tally, "gate": gate}})
    """
    run(script("head", mortal.address, storage, code))
    tally.wait_for(4, PATIENCE)
    (group,) = RayApparatus("head", mortal.address, storage).groups()
    assert group.counts() == {RUNNING: 4, PENDING: 4}
    head, other = mortal.nodes
    survivors = {int(line.split()[1]) for line in tally.read()} & other.pids
    assert survivors
    head.kill()
    # Nobody can tell what has become of them. On the other node they run on.
    assert group.counts() == {RUNNING: 4, PENDING: 4}
    assert Counter(record.state for record in group.records()) == {RUNNING: 4, PENDING: 4}
    if where == "elsewhere":
        mortal.move()
    else:  # where `ray start` refuses to start a head while there are nodes that look for one
        other.kill()
    mortal.start_head()
    with RayApparatus("head", mortal.address, storage, max_workers=4).w(progress=False) as app:
        (group,) = app.groups()
        assert group.counts() == {LOST: 8}
        assert group.retry() == 8
        tally.wait_for(8, PATIENCE)
        assert group.counts() == {RUNNING: 4, PENDING: 4}
        gate.open()  # those that still run of the first attempts end now, and are not heard
        until(lambda: not any(map(alive, survivors)), PATIENCE, "the end of the first attempts")
        assert list(group.results(timeout=PATIENCE)) == [*range(8)]
        for record in group.records():
            assert [attempt.state for attempt in record.attempts] == [LOST, DONE]
            first, second = (attempt.claimed for attempt in record.attempts)
            assert second is not None
            assert first is None or first.worker.id != second.worker.id


@pytest.mark.slow
@pytest.mark.parametrize("mortal", [0], indirect=True)
def test_a_launcher_stays_when_the_head_dies_and_goes_on_with_the_next(
    mortal: RayCluster, tmp_path: Path
) -> None:
    with RayApparatus("stays", mortal.address, tmp_path / "storage").w(progress=False, max_workers=1) as app:
        first = app.spawn(square, 2)
        assert first.result(PATIENCE) == 4
        mortal.nodes[0].kill()
        assert first.result(0) == 4
        with pytest.raises(mini.BackendUnavailable, match="nothing answers"):
            app.spawn(square, 3)
        assert [job.id for job in app.jobs()] == [first.id]
        mortal.start_head()
        assert app.spawn(square, 3).result(PATIENCE) == 9


# --- many deaths ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "kills"),
    [
        (40, {"process": 4, "actor": 2}),
        pytest.param(
            1000,
            {"process": 150, "actor": 45, "node": 5},
            marks=[pytest.mark.soak, pytest.mark.timeout(3600)],
        ),
    ],
    ids=["few", "many"],
)
def test_random_kills(
    app: mini.Apparatus, cluster: RayCluster, tmp_path: Path, jobs: int, kills: dict[str, int]
) -> None:
    """Each job ends in one true terminal state, and nothing is run again that nobody has retried."""
    ordeal = Ordeal(app.w(max_workers=4), tmp_path, jobs, sum(kills.values()), 2 * PATIENCE)
    while left := Counter(kills) - ordeal.killed:
        what = ordeal.chance.choice([*left.elements()])
        running = ordeal.advance()
        if what == "node":
            victim = ordeal.chance.choice(cluster.nodes[1:])
            victim.kill()
            cluster.nodes.remove(victim)
            cluster.add_node()
            ordeal.killed[what] += 1
        elif actors := [job.worker.pid for job in running if job.worker is not None]:
            actor = ordeal.chance.choice(actors)
            below = sorted(descendants(actor))
            with suppress(ProcessLookupError):  # it has just ended, of what was done to it before
                if what == "actor" or below:
                    os.kill(actor if what == "actor" else ordeal.chance.choice(below), signal.SIGKILL)
                    ordeal.killed[what] += 1
        log.info("killed %s", dict(ordeal.killed))
    ordeal.prove()
