"""What containers see of volumes, on real overlays and on private copies."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from boxes import Box, files_of, namespaces_work
from grpclib import GRPCError, Status
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from modal_emulator.volumes.tree import Draft
from modal_emulator.volumes.volume import Volume

OVERLAYS = pytest.mark.skipif(not namespaces_work(), reason="the kernel refuses user namespaces")
KINDS = [pytest.param(True, id="overlays", marks=OVERLAYS), pytest.param(False, id="copies")]
PATHS = st.sampled_from(["f", "g", "d/f", "d/g", "d/e/f", "c/f"])
FOLDERS = st.sampled_from(["d", "d/e", "c"])


@pytest.fixture(params=KINDS)
def overlays(request: pytest.FixtureRequest) -> bool:
    """Whether containers see volumes by overlays; by private copies if not."""
    return bool(request.param)


class VisibilityMachine(RuleBasedStateMachine):
    """Modal's visibility: a container sees the state that it started with or last reloaded, and its own writes; others
    see them after a commit; of two commits of a file the later wins.

    The model has files only. Every write has a text of its own, so that a later write of it is another.
    """

    overlays: bool

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="working"))
        self.count = itertools.count()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def make(self) -> None:
        self.volume = Volume(self.folder / "volume")
        self.head: dict[str, str] = {}
        self.boxes: list[Box] = []
        self.views: list[dict[str, str]] = []
        self.synced: list[dict[str, str]] = []
        for _ in range(2):
            self.boxes.append(self.start())
            self.views.append({})
            self.synced.append({})

    def start(self) -> Box:
        box = Box(self.volume, self.folder / f"box{next(self.count)}", overlays=self.overlays)
        self.run(box.start())
        return box

    def teardown(self) -> None:
        try:
            for box in getattr(self, "boxes", []):
                self.run(box.finish())
            if hasattr(self, "volume"):
                # Nothing is left but the head, and an empty folder for what is on its way.
                left = sorted(path.name for path in self.volume.folder.iterdir())
                assert left == sorted({self.volume.head.path.name, "staging"} & set(left))
                assert list(self.volume.staging.iterdir()) == []
                assert [path for path in self.folder.glob("box*/*") if path.name == "working"] == []
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    @rule(who=st.integers(0, 1), path=PATHS, how=st.sampled_from(["write", "replace", "append"]))
    def write(self, who: int, path: str, how: str) -> None:
        text = f"{next(self.count):04}"
        view = self.views[who]
        if how == "append" and path in view:
            view[path] += text
        else:
            how = "write" if path not in view else how
            how = "write" if how == "append" else how
            view[path] = text
        self.boxes[who].do(how, path, text)

    @rule(who=st.integers(0, 1), path=PATHS)
    def unlink(self, who: int, path: str) -> None:
        if self.views[who].pop(path, None) is not None:
            self.boxes[who].do("unlink", path)

    @rule(who=st.integers(0, 1), path=FOLDERS, again=st.booleans())
    def rmtree(self, who: int, path: str, again: bool) -> None:
        inside = [one for one in self.views[who] if one.startswith(path + "/")]
        if inside:
            self.boxes[who].do("rmtree", path)
            for one in inside:
                del self.views[who][one]
            if again:
                self.boxes[who].do("mkdir", path)

    def _commit(self, who: int) -> None:
        view, synced = self.views[who], self.synced[who]
        for path in synced.keys() - view.keys():
            self.head.pop(path, None)
        self.head |= {path: text for path, text in view.items() if synced.get(path) != text}
        self.synced[who] = dict(view)

    @rule(who=st.integers(0, 1))
    def commit(self, who: int) -> None:
        self.run(self.boxes[who].working.commit())
        self._commit(who)

    @rule(who=st.integers(0, 1))
    def reload(self, who: int) -> None:
        self.run(self.boxes[who].working.reload(self.boxes[who]))
        self._commit(who)
        self.views[who], self.synced[who] = dict(self.head), dict(self.head)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.run(self.boxes[who].finish())
        self._commit(who)
        self.boxes[who] = self.start()
        self.views[who], self.synced[who] = dict(self.head), dict(self.head)

    @rule(path=PATHS)
    def put_by_client(self, path: str) -> None:
        text = f"{next(self.count):04}"
        source = self.folder / "source"
        source.write_text(text)
        names = tuple(path.split("/"))
        self.run(self.volume.change(lambda draft: source.rename(draft.place(names, overwrite=True))))
        self.head[path] = text

    @rule(path=PATHS)
    def remove_by_client(self, path: str) -> None:
        if self.head.pop(path, None) is not None:
            names = tuple(path.split("/"))
            self.run(self.volume.change(lambda draft: draft.remove(names, recursive=False)))

    @invariant()
    def same(self) -> None:
        if hasattr(self, "boxes"):
            assert files_of(self.volume.head.path) == self.head
            for box, view in zip(self.boxes, self.views, strict=True):
                assert box.do("files") == view


def look(overlays: bool, examples: int, steps: int) -> None:
    VisibilityMachine.overlays = overlays
    VisibilityMachine.TestCase.settings = hypothesis_settings(
        max_examples=examples, stateful_step_count=steps, deadline=None
    )
    VisibilityMachine.TestCase().runTest()


def test_visibility(overlays: bool) -> None:
    look(overlays, 7, 15)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_visibility_at_length(overlays: bool) -> None:
    look(overlays, 250, 40)


Start = Callable[..., Coroutine[Any, Any, Box]]
Scenario = Callable[[Volume, Start], Coroutine[Any, Any, None]]


def play(tmp_path: Path, overlays: bool, scenario: Scenario) -> Volume:
    """Run a scenario with a volume and a function that starts containers; afterwards they have ended."""
    volume = Volume(tmp_path / "volume")

    async def run() -> None:
        boxes: list[Box] = []

        async def start(**mount: Any) -> Box:
            box = Box(volume, tmp_path / f"box{len(boxes)}", overlays=overlays, **mount)
            boxes.append(box)
            return await box.start()

        try:
            await scenario(volume, start)
        finally:
            for box in boxes:
                if box.inside.poll() is None:
                    await box.end()
                await box.working.detach()

    asyncio.run(run())
    return volume


def test_links_modes_and_folders_are_committed(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        box = await start()
        box.do("write", "d/script", "x")
        box.do("chmod", "d/script", "750")
        box.do("symlink", "d/link", "script")
        box.do("symlink", "out", "/etc")
        box.do("mkdir", "empty/inner")
        box.do("chmod", "empty", "700")
        box.do("mkfifo", "pipe")
        await box.working.commit()
        head = volume.head.path
        assert files_of(head) == {"d/script": "x", "d/link": "-> script", "out": "-> /etc"}
        assert (head / "d/script").stat().st_mode & 0o777 == 0o750
        assert (head / "empty").stat().st_mode & 0o777 == 0o700
        assert (head / "empty/inner").is_dir()
        other = await start()
        assert other.do("files") == {"d/script": "x", "d/link": "-> script", "out": "-> /etc"}
        assert other.do("folders") == ["d", "empty", "empty/inner", "out"]
        box.do("unlink", "out")
        box.do("mkdir", "out")
        box.do("write", "out/inside", "y")
        box.do("rmtree", "d")
        box.do("write", "d", "a file now")
        box.do("rmtree", "empty")
        await box.working.commit()
        assert files_of(volume.head.path) == {"out/inside": "y", "d": "a file now"}
        await other.working.reload(other)
        assert other.do("files") == {"out/inside": "y", "d": "a file now"}
        assert other.do("folders") == ["out"]

    play(tmp_path, overlays, scenario)
    assert not Path("/etc/inside").exists()


def test_nothing_is_written_through_links_of_others(tmp_path: Path, overlays: bool) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("precious")

    async def scenario(volume: Volume, start: Start) -> None:
        one = await start()
        one.do("write", "d/f", "x")
        one.do("write", "d/g", "x")
        await one.working.commit()
        two = await start()
        two.do("rmtree", "d")
        two.do("symlink", "d", str(tmp_path / "outside"))
        await two.working.commit()
        one.do("unlink", "d/f")
        await one.working.commit()
        one.do("write", "d/h", "mine")
        await one.working.commit()
        assert files_of(volume.head.path) == {"d/h": "mine"}

    play(tmp_path, overlays, scenario)
    assert files_of(tmp_path / "outside") == {"f": "precious"}


def test_open_files_keep_a_reload_from_happening(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        one, two = await start(), await start()
        one.do("write", "f", "1")
        await one.working.commit()
        two.do("write", "g", "2")
        two.do("hold", "g")
        with pytest.raises(GRPCError, match="there are open files preventing the operation") as caught:
            await two.working.reload(two)
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert two.do("files") == {"g": "2"}
        await two.working.commit()
        two.do("release")
        await two.working.reload(two)
        assert two.do("files") == {"f": "1", "g": "2"}

    play(tmp_path, overlays, scenario)


def test_a_commit_of_nothing_is_no_new_state(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        one = await start()
        one.do("write", "d/f", "1")
        await one.working.commit()
        head = volume.head
        await one.working.commit()
        await one.working.reload(one)
        await one.working.commit()
        assert volume.head is head

    play(tmp_path, overlays, scenario)


def test_a_folder_is_mounted_alone(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        whole = await start()
        whole.do("write", "users/me/f", "1")
        whole.do("write", "users/other/f", "2")
        await whole.working.commit()
        mine = await start(sub_path="/users/me")
        assert mine.do("files") == {"f": "1"}
        mine.do("write", "g", "3")
        mine.do("unlink", "f")
        await mine.working.commit()
        assert files_of(volume.head.path) == {"users/other/f": "2", "users/me/g": "3"}
        await whole.working.reload(whole)
        whole.do("write", "users/me/h", "4")
        await whole.working.commit()
        await mine.working.reload(mine)
        assert mine.do("files") == {"g": "3", "h": "4"}
        fresh = await start(sub_path="made/for/it")
        assert fresh.do("files") == {}
        assert (volume.head.path / "made/for/it").is_dir()
        whole.do("symlink", "users/out", "/etc")
        await whole.working.commit()
        for bad in ("../other", "users/out", "users/other/f"):
            with pytest.raises(GRPCError):
                await start(sub_path=bad)

    play(tmp_path, overlays, scenario)


@OVERLAYS
def test_a_read_only_volume_cannot_be_written(tmp_path: Path) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        writer, reader = await start(), await start(read_only=True)
        writer.do("write", "f", "1")
        await writer.working.commit()
        with pytest.raises(OSError, match="write g"):
            reader.do("write", "g", "2")
        await reader.working.commit()
        await reader.working.reload(reader)
        assert reader.do("files") == {"f": "1"}

    play(tmp_path, True, scenario)


def test_a_deleted_volume_stays_for_who_uses_it(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        one = await start()
        one.do("write", "f", "1")
        await one.working.commit()
        await one.working.reload(one)
        await volume.delete()
        assert one.do("files") == {"f": "1"}
        one.do("write", "g", "2")
        with pytest.raises(GRPCError, match="deleted"):
            await one.working.commit()

    volume = play(tmp_path, overlays, scenario)
    assert not volume.folder.exists()


def test_a_container_that_ends_has_its_files_moved_not_copied(tmp_path: Path, overlays: bool) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        box = await start()
        box.do("write", "f", "1")
        overlay = box.working.overlay
        source = overlay.upper if overlay is not None else box.target
        inode = (source / "f").stat().st_ino
        await box.finish()
        assert (volume.head.path / "f").stat().st_ino == inode

    play(tmp_path, overlays, scenario)


def test_what_containers_write_while_a_commit_looks_is_not_followed_out(tmp_path: Path) -> None:
    """A folder becomes a link to somewhere else between being seen and being opened."""
    from modal_emulator.volumes.changes import Tracker

    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("precious")
    upper, keep, staging = (tmp_path / name for name in ("upper", "keep", "staging"))
    for folder in (upper, keep, staging):
        folder.mkdir()
    (upper / "d").mkdir()
    (upper / "d/key").write_text("mine")
    real_open = os.open

    def swap(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "d":
            (upper / "d").rename(upper / "e")
            (upper / "d").symlink_to(tmp_path / "secret")
        return real_open(path, flags, *args, **kwargs)

    tracker = Tracker(upper, None, keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", swap)
        changes, _ = tracker.changes(staging)
    staged = [path for path in changes.put.values() if isinstance(path, Path) and not path.is_symlink()]
    assert "precious" not in [path.read_text() for path in staged]


async def many(tmp_path: Path, count: int) -> Volume:
    """A volume with files in ten folders."""
    volume = Volume(tmp_path / "volume")

    def fill(draft: Draft) -> None:
        for number in range(count):
            draft.place((f"d{number % 10}", f"f{number}"), overwrite=False).write_text("x")

    await volume.change(fill)
    return volume


def test_commits_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        volume = await many(tmp_path, 30)

        def put(name: str) -> Callable[[Draft], object]:
            return lambda draft: draft.place((name,), overwrite=False).write_text(name)

        await asyncio.gather(*(volume.change(put(f"n{number}")) for number in range(20)))
        assert len(files_of(volume.head.path)) == 50

    asyncio.run(run())


def test_a_commit_that_fails_or_is_cancelled_leaves_a_state_as_it_was(tmp_path: Path) -> None:
    async def run() -> None:
        volume = await many(tmp_path, 30)
        head = volume.head

        def bad(draft: Draft) -> None:
            draft.remove(("d0",), recursive=True)
            raise OSError("the disk is full")

        with pytest.raises(OSError, match="full"):
            await volume.change(bad)
        assert volume.head is head
        task = asyncio.ensure_future(volume.change(lambda draft: draft.remove(("d0",), recursive=True)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It went on to its end, and the next one finds the volume in order.
        await volume.change(lambda draft: draft.remove(("d1",), recursive=True))
        assert sorted(path.name for path in volume.head.path.iterdir()) == [f"d{n}" for n in range(2, 10)]
        assert len([path for path in volume.folder.iterdir() if path.name.isdecimal()]) == 1

    asyncio.run(run())


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    async def scenario(volume: Volume, start: Start) -> None:
        box = await start()
        box.do("write", "d/" * 230 + "f", "x")
        with pytest.raises(GRPCError, match="levels deep"):
            await box.working.commit()
        box.do("rmtree", "d")
        box.do("write", "f", "x")
        await box.working.commit()
        assert files_of(volume.head.path) == {"f": "x"}

    play(tmp_path, False, scenario)
