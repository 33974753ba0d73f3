"""`ModalApparatus` on modal-emulator, or on Modal: the real client, the real wire, real containers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from mini_modal import ModalApparatus
from places import Place
from scripts import Script


@pytest.fixture(scope="module")
def app(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalApparatus]:
    with place.apparatus("test-apparatus", tmp_path_factory.mktemp("no-project")) as app:
        yield app


def test_it_is_found_by_its_name() -> None:
    assert type(mini.apparatus("modal", "found")) is ModalApparatus


def test_a_call_runs_in_a_container(app: ModalApparatus) -> None:
    def surroundings() -> tuple[str | None, int, bool]:
        return os.environ.get("MODAL_IS_REMOTE"), os.getpid(), "MODAL_TOKEN_SECRET" in os.environ

    remote, pid, has_secret = app.run(surroundings)
    assert remote == "1"
    assert pid != os.getpid()
    assert not has_secret


def test_a_map_keeps_its_order(app: ModalApparatus) -> None:
    assert list(app.map(lambda x: x * x, range(5000))) == [x * x for x in range(5000)]


def test_a_stream_comes_item_by_item(app: ModalApparatus) -> None:
    def count() -> Iterator[int]:
        yield from range(10**9)

    stream = app.stream(count)
    assert [next(stream) for _ in range(40)] == [*range(40)]
    stream.close()


def test_an_error_is_raised_as_itself_with_the_workers_frames(app: ModalApparatus) -> None:
    class Odd(Exception):
        pass

    def fails(x: int) -> None:
        raise Odd(x)

    with pytest.raises(Odd) as caught:
        app.run(fails, 3)
    assert caught.value.args == (3,)
    assert any(entry.name == "fails" for entry in caught.traceback)


def test_a_call_that_dies_costs_itself(app: ModalApparatus) -> None:
    def fragile(x: int) -> int:
        if x == 7:
            os._exit(3)
        return x

    outcomes = list(app.map(fragile, range(20), return_exceptions=True))
    assert [x for x in outcomes if not isinstance(x, BaseException)] == [x for x in range(20) if x != 7]
    assert isinstance(outcomes[7], mini.WorkerLost)


def test_a_timeout_ends_the_call_and_not_the_container(app: ModalApparatus) -> None:
    def sleepy() -> None:
        import time

        time.sleep(60)

    with pytest.raises(mini.JobTimeout):
        app.w(timeout=0.5).run(sleepy)
    assert app.run(abs, -1) == 1


def test_files_are_shared_by_calls_and_the_caller(app: ModalApparatus, tmp_path: Path) -> None:
    def write(text: str) -> None:
        (mini.get_data_dir() / "from-a-call.txt").write_text(text)

    def read(name: str) -> str:
        return (mini.get_data_dir() / name).read_text()

    app.run(write, "hello")
    assert app.run(read, "from-a-call.txt") == "hello"
    assert app.volume.read_bytes("from-a-call.txt") == b"hello"
    app.volume.write_bytes("folder/from-outside.txt", b"hi")
    assert app.run(read, "folder/from-outside.txt") == "hi"
    app.volume.download("folder", tmp_path / "copy")
    assert (tmp_path / "copy" / "from-outside.txt").read_bytes() == b"hi"
    names = {entry.path for entry in app.volume.list(recursive=True)}
    assert names >= {"from-a-call.txt", "folder", "folder/from-outside.txt"}


def test_a_large_constant_goes_through_the_volume_once(app: ModalApparatus) -> None:
    data = os.urandom(3_000_000)
    assert list(app.w(chunk=1).map(lambda i, data: data[i], range(8), kwargs={"data": data})) == [*data[:8]]
    assert not any(entry.path.startswith(".mini") for entry in app.volume.list())


def test_constants_do_not_outlive_the_apparatus_in_the_volume(app: ModalApparatus) -> None:
    import modal

    data = os.urandom(1_000_000)
    with ModalApparatus("constants", max_workers=1).w(progress=False) as other:
        assert list(other.w(chunk=1).map(lambda i, data: data[i], range(2), kwargs={"data": data})) == [
            *data[:2]
        ]
        there = modal.Volume.from_name("mini-constants")
        assert any(entry.path.startswith(".mini-constants/") for entry in there.listdir("/", recursive=True))
    files = [entry for entry in there.listdir("/", recursive=True) if entry.type.name == "FILE"]
    assert not any(entry.path.startswith(".mini") for entry in files)


def test_what_a_call_prints_and_emits_is_kept(app: ModalApparatus) -> None:
    def talk() -> None:
        print("from the container")
        mini.emit_metrics(loss=0.5)

    app.run(talk)
    assert app.logs()[-1].text == "from the container"
    assert app.records()[-1].metrics == {"loss": 0.5}


def test_a_call_may_make_calls(app: ModalApparatus) -> None:
    def outer(n: int) -> int:
        with ModalApparatus("inner", max_workers=2) as inner:
            return sum(inner.map(lambda x: x + 1, range(n)))

    assert app.run(outer, 4) == 10


def test_env_is_there_when_the_call_runs(app: ModalApparatus) -> None:
    def colour() -> str | None:
        return os.environ.get("COLOUR")

    assert app.w(env={"COLOUR": "green"}).run(colour) == "green"


def test_a_token_that_is_not_accepted_is_an_auth_error(
    app: ModalApparatus, place: Place, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import mini_modal\nmini_modal.ModalApparatus('nobody').run(abs, -1)\n")
    import subprocess
    import sys

    env = {**place.environ, "MODAL_TOKEN_SECRET": "as-wrong"}
    done = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "AuthError" in done.stderr
    assert "as-wrong" not in done.stderr


def test_an_image_that_cannot_be_built_is_what_the_error_is_about(app: ModalApparatus) -> None:
    import modal

    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    broken = modal.Image.debian_slim(python_version=python).run_commands("exit 3")
    with pytest.raises(
        mini.BackendUnavailable, match=r"^the image for the calls cannot be built\nthe line .*exit 3"
    ):
        app.w(image=broken).run(abs, -1)
    assert app.run(abs, -1) == 1


@pytest.mark.slow
@pytest.mark.parametrize("progress", [True, False])
def test_it_says_once_where_the_app_can_be_looked_at(progress: bool, place: Place, tmp_path: Path) -> None:
    text = f"""
    from mini_modal import ModalApparatus

    with ModalApparatus("looked-at", max_workers=1).w(progress={progress}) as app:
        print(list(app.map(abs, range(-3, 0))), app.run(abs, -7))
    """
    with Script(tmp_path, text, place.environ) as script:
        assert script.finish() == 0, script.err
    assert script.out == ["[3, 2, 1] 7"]
    told = [line for line in script.err if "/ap-" in line]
    assert len(told) == progress
    assert all(line.startswith("mini: the app is at http") for line in told)


def test_a_modal_app_gives_its_name() -> None:
    import modal

    assert ModalApparatus(modal.App("named")).name == "named"
    with pytest.raises(mini.OptionError):
        ModalApparatus(modal.App())


def test_libraries_keep_what_they_download_on_a_shared_volume(app: ModalApparatus) -> None:
    def folders() -> tuple[str | None, str | None]:
        return os.environ.get("HF_HOME"), os.environ.get("TORCH_HOME")

    assert app.run(folders) == ("/mini/cache/huggingface", "/mini/cache/torch")
    assert app.w(env={"HF_HOME": "/tmp/hf"}).run(folders) == ("/tmp/hf", "/mini/cache/torch")
