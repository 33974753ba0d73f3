"""What is known of jobs outlasts Modal's Dicts: those are deleted here, by Modal's own client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini.jobboard import Select
from mini.jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    GroupRecord,
    JobRecord,
    JobState,
    Origin,
    Report,
    Worker,
)
from mini_modal import ModalApparatus
from mini_modal.jobstore import ModalJobStore
from places import Place
from scripts import PATIENCE, Script, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DONE, FAILED, LOST, RUNNING = JobState.DONE, JobState.FAILED, JobState.LOST, JobState.RUNNING
ME = Worker("here", 1, "fc-none/0")


def delete_dicts(*parts: str) -> None:
    """Delete the Dicts of our jobs whose names have one of some parts; all, if there are none."""
    import modal

    for found in modal.Dict.objects.list():
        name = found.name or ""
        if name.startswith("mini") and (not parts or any(part in name for part in parts)):
            modal.Dict.objects.delete(name)


@pytest.fixture(scope="module")
def app(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalApparatus]:
    with place.apparatus("test-lasting", tmp_path_factory.mktemp("no-project")) as app:
        yield app
        delete_dicts("test-lasting")


def fits(x: int) -> int:
    if x == 1 and mini.current_job().attempt == 1:  # type: ignore[union-attr]
        raise ValueError(x)
    for step in range(4):
        mini.emit_metrics(loss=x / (step + 1))
    return x * x


fits.__module__ = "__main__"  # it travels by value: this module is not where it runs

# What `mini` answers, and what was asked of Modal for it.
COMMANDS = """
    import json, sys
    from click.testing import CliRunner
    from grpclib.client import Channel

    asked = set()
    request = Channel.request

    def noted(self, name, *args, **kwargs):
        asked.add(name.rpartition("/")[2])
        return request(self, name, *args, **kwargs)

    Channel.request = noted
    from mini import launched
    from mini.cli import main

    launched.remember("test-lasting", "modal")
    for command in (["ls"], *([verb, "test-lasting"] for verb in ("status", "results", "report"))):
        done = CliRunner().invoke(main, [*command, "--json"])
        print(done.output.replace(chr(10), " ") or repr(done.exception))
    print(json.dumps(sorted(asked)))
"""
READING = {
    "ClientHello",
    "DictContents",
    "DictGet",
    "DictGetOrCreate",
    "EnvironmentGetOrCreate",
    "VolumeGetFile",
    "VolumeGetFile2",
    "VolumeGetOrCreate",
    "VolumeListFiles",
    "VolumeListFiles2",
}


def test_commands_and_retries_go_on_without_the_dicts(
    app: ModalApparatus, place: Place, tmp_path: Path
) -> None:
    group = app.spawn_map(fits, range(3))
    lone = app.spawn(fits, 5)
    assert group.wait(PATIENCE)
    assert lone.result(PATIENCE) == 25
    before = [
        json.loads(record.to_json()) for record in (*group.records(), *app.group(lone.record.group).records())
    ]
    curves = [job.curves() for job in group]
    assert [point.value for point in curves[2]["loss"]] == [2.0, 1.0, 2 / 3, 0.5]

    delete_dicts()
    with Script(tmp_path, COMMANDS, place.environ) as script:
        assert script.finish() == 0, script.err
    listed, status, results, report, asked = map(json.loads, script.out)
    assert [(name["name"], name["counts"]["DONE"], name["launches"]) for name in listed["names"]] == [
        ("test-lasting", 3, 2)
    ]
    assert (status["counts"]["DONE"], status["counts"]["FAILED"]) == (3, 1)
    assert [(job["state"], job["result"]) for job in results["jobs"]] == [
        ("DONE", 0),
        ("FAILED", None),
        ("DONE", 4),
        ("DONE", 25),
    ]
    assert results["jobs"][2]["metrics"] == {"loss": 0.5}
    assert '"name":"loss"' in Path(report["file"]).read_text()
    assert set(asked) <= READING

    # This process had its own memory of them.
    found = [*group.records(), *app.group(lone.record.group).records()]
    assert [json.loads(record.to_json()) for record in found] == before
    assert [job.curves() for job in group] == curves
    assert [each.id for each in app.groups()] == [group.id, lone.record.group]

    assert group.retry() == 1
    assert list(group.results(timeout=PATIENCE)) == [0, 1, 4]
    assert [attempt.state for attempt in group[1].record.attempts] == [FAILED, DONE]
    assert group.counts() == {DONE: 3}
    delete_dicts()
    other = ModalApparatus("test-lasting").group(group.id)
    assert other.counts() == {DONE: 3}
    assert [attempt.state for attempt in other[1].record.attempts] == [FAILED, DONE]

    for each in app.groups():
        each.remove()
    assert app.groups() == []
    assert ModalApparatus("test-lasting").jobs() == []


LAUNCH = """
    import time
    from mini_modal import ModalApparatus

    def square(x):
        return x * x

    if __name__ == "__main__":
        app = ModalApparatus("unseen", max_workers=2).w(progress=False, modal={"scaledown_window": 2})
        print(app.spawn_map(square, range(6)).id)
        time.sleep(300)
"""


def test_containers_see_to_it_where_nobody_looks(app: ModalApparatus, place: Place, tmp_path: Path) -> None:
    import modal

    with Script(tmp_path, LAUNCH, place.environ) as script:
        id = script.line().strip()
    volume = modal.Volume.from_name("mini-unseen")

    def copies() -> list[str]:
        try:
            return [entry.path.rpartition("/")[2] for entry in volume.listdir("/.mini-jobs/ended")]
        except modal.exception.NotFoundError:
            return []

    try:
        wait_until(lambda: f"{id}.6" in copies())
        delete_dicts(id, "unseen")
        assert list(ModalApparatus("unseen").group(id).results(timeout=PATIENCE)) == [x * x for x in range(6)]
    finally:
        modal.Volume.objects.delete("mini-unseen", allow_missing=True)


# --- the store by itself ---------------------------------------------------------------------------------------------


def new_group(store: ModalJobStore, id: str, count: int, age: float = 0.0) -> None:
    launched = time.time() - age
    origin = Origin(launched, "me@here", None, None, None, None, "3.11", {}, "modal", "a", {})
    records = [
        JobRecord(f"{id}-{n}", id, n, str(n), "f", origin, (Attempt(1, Created(launched)),))
        for n in range(count)
    ]
    store.create(GroupRecord(id, "f", count, origin), records, b"program", [b"input"] * count)


def opened(app: ModalApparatus) -> ModalJobStore:
    store = app._open_jobs().store
    assert isinstance(store, ModalJobStore)
    return store


def states(app: ModalApparatus, group: str) -> list[JobState]:
    return [job.state for job in opened(app).states(Select(group=group))]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_entries_that_modal_has_forgotten_are_in_the_copy(app: ModalApparatus, count: int) -> None:
    store, id = opened(app), f"aged{count}"
    new_group(store, id, count, age=8 * 24 * 3600.0)
    for index in range(count):
        key = (f"{id}-{index}", 1)
        store.put_report(key, Report(metrics={"n": index}))
        assert store.put_once([(key, Claimed(2.0, ME)), (key, Ended(3.0, DONE))]) == [True, True]
    assert [job.state for job in opened(app).states(Select()) if job.group == id] == [DONE] * count
    for entry in (f"{id}/0/1/ended", f"{id}/0/1/report"):
        store._dict(id).pop(entry)
    assert states(app, id) == [DONE] * count
    for select in (Select(group=id), Select([f"{id}-0"])):
        first, *_ = opened(app).read(select)
        assert (first.state, first.current.report.metrics) == (DONE, {"n": 0})
    opened(app).remove(id)
    assert states(app, id) == []


def test_what_had_not_ended_when_the_copy_was_made_is_lost(app: ModalApparatus) -> None:
    store = opened(app)
    new_group(store, "partly", 3)
    for index in range(3):
        store.keep("partly")
        assert store._copies.groups() == []  # some have not begun: whoever runs them sees to it
        assert store.put_once([((f"partly-{index}", 1), Claimed(2.0, ME))]) == [True]
    store.put_once([(("partly-0", 1), Ended(3.0, DONE))])
    store.keep("partly")
    assert states(app, "partly") == [DONE, RUNNING, RUNNING]
    delete_dicts("partly")
    assert states(app, "partly") == [DONE, LOST, LOST]
    assert [job.state for job in opened(app).states(Select(["partly-2"]))] == [LOST]
    # Who had run it wakes up, and is too late; who retries it finds it as it was.
    late = opened(app)
    assert late.states(Select(["partly-1"]))[0].state is LOST
    assert late.put_once([(("partly-1", 1), Ended(4.0, DONE)), (("partly-1", 2), Created(5.0))]) == [
        False,
        True,
    ]
    assert states(app, "partly") == [DONE, JobState.PENDING, LOST]
    opened(app).remove("partly")
    assert opened(app).groups() == []


def test_a_large_group_is_a_small_copy(app: ModalApparatus) -> None:
    store, count = opened(app), 5000
    new_group(store, "large", count)
    keys = [(f"large-{index}", 1) for index in range(count)]
    store.put_once([(key, Claimed(2.0 + key[1], ME)) for key in keys])
    store.put_once([(key, Ended(3.0, DONE)) for key in keys])
    assert states(app, "large") == [DONE] * count
    (size,) = [
        entry.size
        for entry in store._files._volume().listdir("/.mini-jobs/ended")  # type: ignore[attr-defined]
    ]
    assert size < 40 * count
    delete_dicts("large")
    began = time.monotonic()
    assert states(app, "large") == [DONE] * count
    assert time.monotonic() - began < 10
    opened(app).remove("large")


def test_more_jobs_than_a_volume_should_have_files_are_warned_of(
    app: ModalApparatus, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(app)
    new_group(store, "some", 50_000)
    assert not caplog.messages
    new_group(store, "many", 50_001)
    (told,) = caplog.messages
    assert "50001 jobs" in told
    for id in ("some", "many"):
        store.remove(id)
