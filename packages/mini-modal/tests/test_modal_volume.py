"""What calls see of their volume, however Modal goes about it: it is empty while it is reloaded, and open files keep it
from being so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mini
import pytest
from mini.jobrecord import JobState
from mini_modal import ModalApparatus
from places import Place
from scripts import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LARGE = bytes(1_000_000)
"""More than goes with each group."""


@pytest.fixture
def app(place: Place, tmp_path: Path) -> Iterator[ModalApparatus]:
    with place.apparatus("test-volume", tmp_path) as app:
        app.volume.write_bytes("there.txt", b"it is")
        yield app.w(max_workers=1)


def names(_: int = 0, /, large: bytes = b"") -> list[str]:
    """What a call sees in its data directory."""
    return sorted(path.name for path in mini.get_data_dir().iterdir() if not path.name.startswith("."))


def keep_open(name: str) -> None:
    """As somebody does who has a log that lasts."""
    import builtins

    builtins.kept = (mini.get_data_dir() / name).open("a")  # type: ignore[attr-defined]
    builtins.kept.write("said")  # type: ignore[attr-defined]
    builtins.kept.flush()  # type: ignore[attr-defined]


def let_go() -> None:
    import builtins

    builtins.kept.close()  # type: ignore[attr-defined]


def map_file(name: str) -> None:
    import builtins
    import mmap

    with (mini.get_data_dir() / name).open("rb") as file:
        builtins.kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # type: ignore[attr-defined]


def move_in() -> None:
    import os

    os.chdir(mini.get_data_dir())


def size(large: bytes) -> int:
    return len(large)


# They travel by value: this module is not where they run.
for function in (names, keep_open, let_go, map_file, move_in, size):
    function.__module__ = "__main__"


def test_no_call_sees_the_volume_empty_while_it_is_reloaded(app: ModalApparatus) -> None:
    def finds(_: int) -> bool:
        import time

        time.sleep(0.01)
        return (mini.get_data_dir() / "there.txt").exists()

    assert list(app.map(finds, range(200))) == [True] * 200


def test_processes_of_a_call_do_not_empty_the_volume_of_each_other(app: ModalApparatus) -> None:
    def finds(number: int) -> bool:
        import time

        found = (mini.get_data_dir() / "there.txt").exists()
        time.sleep(0.1)
        return found and (mini.get_data_dir() / "there.txt").exists()

    def calls(count: int) -> list[bool]:
        found = finds(0)
        with ModalApparatus("test-volume").w(max_workers=count, chunk=1, progress=False) as inner:
            outcomes = inner.map(finds, range(count))
            return [found, *outcomes]

    assert app.run(calls, 3) == [True] * 4


def test_a_large_constant_does_not_keep_calls_from_seeing_what_is_new(app: ModalApparatus) -> None:
    def looks(step: int, large: bytes) -> list[str]:
        if step == 1:
            return names()
        import io

        import modal

        with modal.Volume.from_name("mini-test-volume").batch_upload() as batch:
            batch.put_file(io.BytesIO(large), "new.txt")
        return []

    assert list(app.w(chunk=1).map(looks, range(2), kwargs={"large": LARGE})) == [
        [],
        ["new.txt", "there.txt"],
    ]


def test_large_constants_reach_a_container_in_which_a_file_stays_open(app: ModalApparatus) -> None:
    app.run(keep_open, "log.txt")
    assert list(app.map(size, [LARGE])) == [len(LARGE)]
    assert list(app.map(lambda _, large: len(large), range(3), kwargs={"large": LARGE})) == [len(LARGE)] * 3


@pytest.mark.parametrize(
    ("hold", "arguments", "said"),
    [
        (keep_open, ["log.txt"], r"log\.txt is open since an earlier call; close files there"),
        (map_file, ["there.txt"], r"there\.txt is open since an earlier call; close files there"),
        (move_in, [], "a process works in .*; change its working directory"),
    ],
)
def test_a_call_that_would_see_an_old_volume_says_what_is_in_the_way(
    app: ModalApparatus, hold: Callable[..., None], arguments: list[str], said: str
) -> None:
    app.run(hold, *arguments)
    app.volume.write_bytes("new.txt", b"")
    with pytest.raises(OSError, match=f"the volume cannot be brought up to date: .*{said}"):
        app.run(names)
    assert app.run(size, b"12") == 2  # it asks for nothing


def test_the_volume_is_up_to_date_again_as_soon_as_the_file_is_closed(app: ModalApparatus) -> None:
    def closes_first() -> list[str]:
        let_go()
        return names()

    app.run(keep_open, "log.txt")
    app.volume.write_bytes("new.txt", b"")
    assert app.run(closes_first) == ["log.txt", "new.txt", "there.txt"]
    app.volume.write_bytes("newer.txt", b"")
    assert app.run(names) == ["log.txt", "new.txt", "newer.txt", "there.txt"]


def test_what_a_call_has_written_is_kept_though_the_file_stays_open(app: ModalApparatus) -> None:
    app.run(keep_open, "log.txt")
    assert app.volume.read_bytes("log.txt") == b"said"


def test_calls_with_a_large_constant_write_to_the_volume(app: ModalApparatus) -> None:
    def write(number: int, large: bytes) -> int:
        (mini.get_data_dir() / f"{number}.txt").write_text(str(len(large)))
        return number

    assert list(app.map(write, range(3), kwargs={"large": LARGE})) == [0, 1, 2]
    assert app.volume.read_bytes("2.txt") == str(len(LARGE)).encode()


def test_calls_whose_volume_is_gone_say_so(app: ModalApparatus) -> None:
    def removes(number: int) -> int:
        import modal

        mini.get_data_dir()
        if number == 1:
            modal.Volume.objects.delete("mini-test-volume")
        return number

    outcomes = list(app.w(chunk=1).map(removes, range(2), return_exceptions=True))
    assert outcomes[0] == 0
    assert isinstance(outcomes[1], mini.WorkerLost)
    assert "NotFoundError" in str(outcomes[1])


def test_jobs_that_leave_a_file_open_are_done(app: ModalApparatus) -> None:
    group = app.spawn_map(keep_open, [f"{number}.log" for number in range(2)])
    assert group.wait(PATIENCE)
    assert group[0].state is JobState.DONE
    assert app.volume.read_bytes("0.log") == b"said"
    # The second may have had the same container.
    if group[1].state is not JobState.DONE:
        with pytest.raises(OSError, match=r"0\.log is open since an earlier call"):
            group[1].result()
    group.remove()


def test_a_job_whose_volume_is_gone_says_so(app: ModalApparatus) -> None:
    def removes() -> None:
        import modal

        mini.get_data_dir()
        modal.Volume.objects.delete("mini-test-volume")

    job = app.spawn(removes)
    with pytest.raises(mini.WorkerLost, match=r"what came of it could not be kept: .*NotFoundError"):
        job.result(PATIENCE)
    assert job.state is JobState.FAILED
