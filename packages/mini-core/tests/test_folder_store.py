"""Jobs in a folder that several machines share: what a crash leaves, many jobs, many entries, and what is refused."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mini import folderstore
from mini.errors import BackendUnavailable, MiniError
from mini.folderstore import FolderStore
from mini.jobboard import GroupRecord, JobBoard, JobGroup, JobHost, JobStatus, JobStore, Select
from mini.jobrecord import (
    Attempt,
    Claimed,
    Created,
    Ended,
    Fact,
    JobRecord,
    JobState,
    Key,
    Origin,
    Outcome,
    Report,
    Worker,
)
from mini.status import LogLine

ORIGIN = Origin(1.0, "me@here", None, None, None, None, "3.11", {})
ME = Worker("here", 1, "me")


class Nobody(JobHost):
    def start(self, jobs: Sequence[JobStatus]) -> None:
        pass

    def stop(self, jobs: Sequence[JobStatus]) -> None:
        pass

    def lost(self, jobs: Sequence[JobStatus]) -> set[str]:
        return set()


def open_store(folder: Path) -> FolderStore:
    return FolderStore(folder / "jobs", folder / "source")


def create(store: FolderStore, group: str, count: int) -> None:
    records = [
        JobRecord(f"{group}-{i}", group, i, repr(i), "f", ORIGIN, (Attempt(1, Created(1.0)),))
        for i in range(count)
    ]
    store.create(
        GroupRecord(group, "f", count, ORIGIN), records, b"program", [b"%d" % i for i in range(count)]
    )


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return open_store(tmp_path)


def test_many_jobs_are_few_files(store: FolderStore, tmp_path: Path) -> None:
    create(store, "g", 10_000)
    board = JobBoard(store, Nobody())
    group = JobGroup(board, "g", 10_000)
    group.cancel()
    assert group.retry(failed=False) == 10_000
    assert group.counts() == {JobState.PENDING: 10_000}
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) < 20
    assert store.input("g-9999") == b"9999"
    again = JobGroup(JobBoard(open_store(tmp_path), Nobody()), "g", 10_000)
    assert [a.state for a in again.records()[-1].attempts] == ["CANCELLED", "PENDING"]


def test_who_comes_later_reads_what_was_written_in_many_entries(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folderstore, "CHECKPOINT_EVERY", 7)
    other = open_store(tmp_path)
    create(store, "g", 20)
    order = random.Random(1)
    for step in range(200):
        writer = order.choice([store, other])
        key = (f"g-{order.randrange(20)}", order.randint(1, 4))
        ends = (JobState.LOST, JobState.DONE)
        facts: list[Fact] = [Created(step), Claimed(step, ME), *(Ended(step, state) for state in ends)]
        fact = order.choice(facts)
        current = {(job.id, job.attempt) for job in writer.states(Select())}
        if isinstance(fact, Created) and (key[0], key[1] - 1) not in current:
            continue
        writer.put_once([(key, fact)])
        assert writer.states(Select()) == open_store(tmp_path).states(Select())
    assert (tmp_path / "jobs" / "g" / "checkpoint").is_file()
    expected = list(open_store(tmp_path).read(Select()))
    assert list(store.read(Select())) == list(other.read(Select())) == expected
    # The log says it all.
    (tmp_path / "jobs" / "g" / "checkpoint").unlink()
    assert list(open_store(tmp_path).read(Select())) == expected


def test_a_writer_is_told_what_others_have_written_before(store: FolderStore, tmp_path: Path) -> None:
    other = open_store(tmp_path)
    create(store, "g", 3)
    claim = Claimed(2.0, ME)
    assert other.put_once([(("g-1", 1), claim)]) == [True]
    assert store.put_once([((f"g-{i}", 1), claim) for i in range(4)]) == [True, False, True, False]
    assert other.put_once([(("g-0", 1), claim), (("g-0", 2), claim), (("h-0", 1), claim)]) == [False] * 3
    assert other.pending("g") == []
    store.put_once([(("g-2", 1), Ended(3.0, JobState.LOST)), (("g-2", 2), Created(4.0))])
    assert other.pending("g") == [("g-2", 2)]


def test_what_was_spent_is_added_up(store: FolderStore) -> None:
    create(store, "g", 4)
    now = time.time()
    store.put_once([(("g-0", 1), Claimed(10.0, ME)), (("g-1", 1), Claimed(20.0, ME))])
    store.put_once([(("g-2", 1), Claimed(now - 5, ME)), (("g-0", 1), Ended(13.0, JobState.LOST))])
    store.put_once(
        [(("g-1", 1), Ended(19.0, JobState.LOST)), (("g-1", 2), Created(30.0))]
    )  # by another clock
    store.put_once([(("g-1", 2), Claimed(31.0, ME)), (("g-1", 2), Ended(33.0, JobState.DONE))])
    assert store.spent("g") == pytest.approx(3 + 2 + 5, abs=1)
    assert store.spent("g") == pytest.approx(JobStore.spent(store, "g"), abs=1)
    assert store.spent("h") == 0


def test_many_that_have_ended_are_counted_quickly(store: FolderStore, tmp_path: Path) -> None:
    create(store, "g", 10_000)
    for start in range(0, 10_000, 100):
        keys: list[Key] = [(f"g-{i}", 1) for i in range(start, start + 100)]
        store.put_once([(key, Claimed(2.0, ME)) for key in keys])
        store.put_once([(key, Ended(3.0, JobState.DONE, Outcome(9, "d" * 64))) for key in keys])
    group = JobGroup(JobBoard(open_store(tmp_path), Nobody()), "g", 10_000)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert group.counts() == {JobState.DONE: 10_000}
        took.append(time.perf_counter() - began)
    assert min(took) < 0.5


WRITE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from test_folder_store import ME, create, open_store
    from mini.jobrecord import Claimed, Ended, JobState, Outcome, Report
    from mini.status import LogLine
    store = open_store(Path(sys.argv[1]))
    for n in range(1_000_000):
        group = f"g{n}"
        create(store, group, 5)
        for i in range(5):
            key = (f"{group}-{i}", 1)
            store.put_once([(key, Claimed(1.0, ME))])
            store.add_log(key, [LogLine(key[0], i, "stdout", "x" * 10_000)])
            store.put_report(key, Report(metrics={"n": n}))
            store.put_outcome(key, b"x" * 100_000)
            store.put_once([(key, Ended(2.0, JobState.DONE, Outcome(100_000, "")))])
        print(n, flush=True)
        if n % 3 == 2:
            store.remove(f"g{n - 1}")
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_writer_that_is_killed_leaves_nothing_half_done(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITE), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3 + seed):
            process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.05))  # wherever it may be then
        process.send_signal(signal.SIGKILL)
    store = open_store(tmp_path)
    groups = store.groups()
    assert len(groups) >= 2
    for group in groups:
        records = list(store.read(Select(group=group.id)))
        assert [record.index for record in records] == [0, 1, 2, 3, 4]
        assert store.program(group.id) == b"program"
        for record in records:
            assert store.input(record.id) == b"%d" % record.index
            assert all(line.text == "x" * 10_000 for line in store.log(record.key))
            if record.state is JobState.DONE:
                assert store.outcome(record.key) == b"x" * 100_000
        # Whoever comes next goes on.
        key = records[-1].key
        store.put_once([(key, Claimed(3.0, ME)), (key, Ended(3.0, JobState.LOST))])
        assert next(iter(store.read(Select([key[0]])))).state.is_final
        store.remove(group.id)
    assert store.groups() == []
    assert [file for file in (tmp_path / "jobs").iterdir() if not file.name.startswith(".new-")] == []


def test_what_was_begun_long_ago_goes(store: FolderStore, tmp_path: Path) -> None:
    create(store, "g", 1)
    old, new = (tmp_path / "jobs" / f".new-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    store.remove("g")
    assert [file.name for file in (tmp_path / "jobs").iterdir()] == [".new-new"]


def test_who_is_late_changes_nothing_of_a_group_that_was_removed(store: FolderStore, tmp_path: Path) -> None:
    create(store, "g", 1)
    other = open_store(tmp_path)
    assert len(other.states(Select())) == 1
    store.remove("g")
    store.remove("g")
    key = ("g-0", 1)
    other.add_log(key, [LogLine("g-0", 0, "stdout", "late")])
    other.put_report(key, Report())
    other.put_outcome(key, b"late")
    assert other.put_once([(key, Claimed(1.0, ME))]) == [False]
    assert (other.states(Select()), other.groups(), other.log(key)) == ([], [], [])
    for ask in (other.program, lambda _: other.input("g-0"), lambda _: other.outcome(key)):
        with pytest.raises(LookupError, match="it was removed"):
            ask("g")
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    "id", ["", "-", "g", "g-", "g-x", "g-5", "g-01", "../jobs/g-0", "/etc-0", ".-0", "g\0-0", "-0"]
)
def test_what_is_no_id_is_not_found(id: str, store: FolderStore) -> None:
    create(store, "g", 5)
    assert store.states(Select([id])) == []
    assert store.put_once([((id, 1), Claimed(1.0, ME))]) == [False]
    with pytest.raises(LookupError):
        JobBoard(store, Nobody()).job(id)


def test_reading_makes_nothing(store: FolderStore, tmp_path: Path) -> None:
    assert (store.groups(), store.states(Select()), list(store.read(Select()))) == ([], [], [])
    with pytest.raises(LookupError):
        store.source("ab")
    store.remove("g")
    assert list(tmp_path.iterdir()) == []


def test_source_is_kept_once(store: FolderStore, tmp_path: Path) -> None:
    store.put_source("ab", b"first")
    open_store(tmp_path).put_source("ab", b"second")
    assert store.source("ab") == b"first"
    assert [file.name for file in (tmp_path / "source").iterdir()] == ["ab.tar"]


def test_a_newer_folder_is_left_alone(store: FolderStore, tmp_path: Path) -> None:
    create(store, "g", 1)
    file = tmp_path / "jobs" / "g" / "group.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(MiniError, match="newer mini: upgrade mini-core"):
        open_store(tmp_path).groups()


def test_a_file_system_without_links_is_refused(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create(store, "g", 1)

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(BackendUnavailable, match=r"no hard links, .* such as NFS or a local disk"):
        store.put_once([(("g-0", 1), Claimed(1.0, ME))])


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(BackendUnavailable, match=r"the jobs in .*jobs cannot be read or written"):
        create(open_store(tmp_path), "g", 1)
