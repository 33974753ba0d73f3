"""What is said when an image cannot be built or has another Python, and of modules that are not in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import mini
import modal
import pytest
from image_projects import CREDENTIALS, LOGIN, private, project, run_script, uv
from mini_modal import make_image
from mini_modal.building import PYTHON, build_log, check_python, explain_build, explain_image
from modal_emulator import Emulator
from modal_emulator.runtime.pythons import host_minors
from package_index import PackageIndex

OTHER = next(
    (minor for minor in host_minors() if minor != PYTHON and minor in ("3.11", "3.12", "3.13")), None
)
STRANGE = "3.12" if PYTHON != "3.12" else "3.13"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def environment(builder: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in builder.variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with PackageIndex(tmp_path / "index", CREDENTIALS) as index:
        yield index


def failure(builder: Emulator, make: Callable[[], modal.Image]) -> mini.MiniError:
    """What starting an app with an image raises, as mini says it."""

    async def start() -> mini.MiniError:
        client = await modal.Client.from_credentials.aio(*builder.token)
        image = make()
        app = modal.App("broken-image")
        app.function(image=image, serialized=True)(lambda: None)
        try:
            with pytest.raises(modal.exception.Error) as caught:
                async with app.run.aio(client=client):
                    pass
            error = await explain_image(caught.value, image, client)
            if isinstance(caught.value, modal.exception.ImageBuildError):
                assert "=> Step" in await build_log(client, caught.value.image_id)
        finally:
            await client.close.aio()
        assert error is not None
        assert error.__cause__ is caught.value
        return error

    return asyncio.run(start())


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_failed_build_names_the_line_and_the_requirement(
    builder: Emulator, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tiny-gone", "1.5")
    more = "[tool.uv.sources]\ntiny-gone = { index = 'private' }\n" + private(index)
    root = project(tmp_path / "gone", "gone", "tiny-gone", more=more)
    uv("lock", cwd=root, **LOGIN)
    next(index.folder.glob("*/*.whl")).unlink()
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    error = failure(builder, lambda: make_image(root))
    assert isinstance(error, mini.BackendUnavailable)
    said = str(error)
    assert said.startswith("the image for the calls cannot be built")
    assert "the line that failed: RUN /.uv/uv pip install" in said
    assert "pylock.toml" in said
    assert "the requirement: tiny-gone==1.5" in said or "the requirement: tiny-gone" in said
    assert "404" in said
    assert CREDENTIALS[1] not in said


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("add", "line", "requirement"),
    [
        (lambda image: image.pip_install("six==0.0.1"), "RUN python -m pip install six==0.0.1", "six==0.0.1"),
        (lambda image: image.uv_pip_install("six==0.0.1"), "RUN /.uv/uv pip install", "six==0.0.1"),
        (lambda image: image.run_commands("echo before", "echo so; exit 3"), "RUN echo so; exit 3", None),
    ],
    ids=["pip", "uv", "command"],
)
def test_a_failed_build_of_ones_own_says_the_same(
    builder: Emulator, add: Callable[[modal.Image], modal.Image], line: str, requirement: str | None
) -> None:
    error = failure(builder, lambda: add(modal.Image.debian_slim(python_version=PYTHON)))
    assert isinstance(error, mini.BackendUnavailable)
    assert f"the line that failed: {line}" in str(error)
    assert f"the requirement: {requirement}" in str(error) if requirement else "how it ended:" in str(error)
    assert "\x1b" not in str(error)


def test_without_a_log_it_says_where_that_is() -> None:
    exc = modal.exception.ImageBuildError("Image build for im-1 failed.", "im-1")
    error = explain_build(exc)
    assert "modal image logs im-1" in str(error)
    assert error.__cause__ is exc


def test_of_a_long_log_the_end_is_told() -> None:
    exc = modal.exception.ImageBuildError("Image build for im-1 failed.", "im-1")
    log = "=> Step 0: FROM base\n=> Step 1: RUN make\n" + "".join(
        f"line {n}\r\x1b[31mline {n}!\x1b[0m\n" for n in range(999)
    )
    said = str(explain_build(exc, log))
    assert "the line that failed: RUN make" in said
    assert said.endswith("line 998!")
    assert len(said.splitlines()) < 40
    assert "line 998\r" not in said


# --- another Python ---------------------------------------------------------------------------------------------------


def test_a_base_with_another_python_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    project(tmp_path, "other", more=f"[tool.mini.modal]\nbase = 'python:{STRANGE}-slim'\n")
    uv("lock", cwd=tmp_path)
    with pytest.raises(mini.OptionError, match=f"has Python {STRANGE}, and this is Python {PYTHON}"):
        make_image(tmp_path)


@pytest.mark.parametrize(
    "base", ["python", "python:3", f"docker.io/library/python:{PYTHON}.1-slim", "ubuntu:24.04"]
)
def test_a_base_that_may_fit_is_taken(tmp_path: Path, base: str) -> None:
    project(tmp_path, "based", more=f"[tool.mini.modal]\nbase = '{base}'\n")
    uv("lock", cwd=tmp_path)
    assert isinstance(make_image(tmp_path), modal.Image)


def test_a_python_that_nobody_knows_passes() -> None:
    check_python(None)
    check_python(PYTHON)
    with pytest.raises(mini.OptionError):
        check_python("3.9")


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.skipif(OTHER is None, reason="this machine has one Python only")
def test_an_image_with_another_python_is_refused(builder: Emulator) -> None:
    error = failure(builder, lambda: modal.Image.debian_slim(python_version=OTHER))
    assert isinstance(error, mini.OptionError)
    assert f"has Python {OTHER}, and this is Python {PYTHON}" in str(error)


# --- what only the caller has -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by name", "in the call"])
def test_a_module_that_is_only_here_is_named_with_how_to_ship_it(
    builder: Emulator, tmp_path: Path, how: str
) -> None:
    project(tmp_path, "shipped")
    (tmp_path / "only_here.py").write_text("def answer():\n    return 42\n")
    uv("lock", cwd=tmp_path)
    said = run_script(
        builder,
        tmp_path,
        f"""
        import traceback
        import only_here
        from mini_modal import ModalApparatus

        def imports():
            import only_here
            return only_here.answer()

        with ModalApparatus("missing").w(progress=False) as app:
            try:
                app.run({"only_here.answer" if how == "by name" else "imports"})
            except Exception as exc:
                print("".join(traceback.format_exception_only(exc)))
        """,
    )
    assert "the module 'only_here' is only here" in said
    assert "put it under the project's src/" in said
    assert str(tmp_path / "only_here.py") in said
    assert "uv add" in said
