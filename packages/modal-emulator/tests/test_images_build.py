"""Images by the builder, with both runtimes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from containers import MINOR, Lab
from modal_emulator.runtime import BuildError, Layer
from modal_emulator.runtime.build import Builder, Definition, FunctionStep
from modal_emulator.runtime.cache import list_images, prune
from modal_emulator.runtime.choose import open_runtime
from modal_emulator.runtime.client import client_tree
from modal_emulator.runtime.layers import LayerCache, Meta
from modal_emulator.runtime.pythons import find_python, host_minors
from modal_emulator.settings import Settings

pytestmark = pytest.mark.slow

SLIM = (
    f"FROM python:{MINOR}.10-slim-bookworm",
    "RUN apt-get update",
    "RUN apt-get install -y gcc gfortran build-essential",
    "RUN pip install --upgrade pip wheel uv",
    "RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections",
    'CMD ["sleep", "172800"]',
)


@pytest.fixture
def once() -> str:
    """A word that no image in the cache has."""
    return uuid.uuid4().hex


def said(lab: Lab) -> str:
    return "".join(lab.said)


# --- lines ---


def test_debian_slim(lab: Lab) -> None:
    meta = lab.define(Definition(commands=SLIM))
    assert meta.python == MINOR
    assert meta.cmd == ["sleep", "172800"] or tuple(meta.cmd) == ("sleep", "172800")
    assert {"pip", "wheel", "uv"} <= set(meta.packages)
    ran = lab.run("sh", "-c", "python -m pip --version && uv --version && pip --version", layer=meta.layer)
    assert ran.status == 0, ran.err
    assert ran.out.count(" from ") == 2


def test_env_workdir_and_copies(lab: Lab, tmp_path: Path, once: str) -> None:
    (tmp_path / "app" / "sub").mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_text("print('hello')\n")
    (tmp_path / "app" / "sub" / ".hidden").write_text("")
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "two.txt").write_text("2")
    meta = lab.build(
        f"ENV FOO='bar baz' ONCE={once}",
        "ENV PATH=/extra/bin:$PATH",
        "WORKDIR /srv/it",
        "WORKDIR here",
        "COPY /.requirements.txt r.txt",
        "COPY . /data",
        "COPY *.txt /texts/",
        "COPY --chmod=700 app/main.py /extra/bin/",
        "COPY --chmod=640 app /app2",
        "ARG LEVEL=low",
        "ARG NAME",
        'RUN echo "$FOO|$LEVEL|$NAME|$TOKEN" > said; pwd',
        "CMD python main.py",
        'ENTRYPOINT ["/bin/sh", "-c"]',
        "LABEL a=b",
        "EXPOSE 80",
        "USER root",
        context_files={"/.requirements.txt": b"six\n"},
        context=tmp_path,
        context_digest=once,
        build_args={"LEVEL": "high", "NAME": "n"},
        secrets={"TOKEN": "t0ken"},
    )
    assert meta.workdir == "/srv/it/here"
    assert meta.env["FOO"] == "bar baz"
    assert meta.env["PATH"].startswith("/extra/bin:/usr/local/bin:")
    assert "TOKEN" not in meta.env
    assert "NAME" not in meta.env
    assert list(meta.entrypoint) == ["/bin/sh", "-c"]
    assert list(meta.cmd) == ["/bin/sh", "-c", "python main.py"]
    script = (
        "import os, subprocess\n"
        "print(open('said').read().strip(), open('r.txt').read().strip())\n"
        "print(sorted(os.listdir('/data')), sorted(os.listdir('/texts')), os.listdir('/data/app/sub'))\n"
        "print(oct(os.stat('/extra/bin/main.py').st_mode), oct(os.stat('/app2/main.py').st_mode))\n"
        "print(sorted(os.listdir('/dev')).count('.build'))\n"
    )
    ran = lab.run("python", "-c", script, layer=meta.layer, workdir=meta.workdir)
    assert ran.out.splitlines() == [
        "bar baz|high|n|t0ken six",
        "['app', 'one.txt', 'two.txt'] ['.requirements.txt', 'one.txt', 'two.txt'] ['.hidden']",
        "0o100700 0o100640",
        "0",
    ], ran.err


def test_what_was_changed_beneath_stays(lab: Lab, once: str) -> None:
    one = lab.build(f"RUN mkdir /data && echo {once} > /data/one && echo 1 > /data/gone")
    two = lab.build("RUN echo two > /data/two && rm /data/gone", upon=one)
    ran = lab.run("python", "-c", "import os; print(sorted(os.listdir('/data')))", layer=two.layer)
    assert ran.out == "['one', 'two']\n"
    ran = lab.run("python", "-c", "import os; print(sorted(os.listdir('/data')))", layer=one.layer)
    assert ran.out == "['gone', 'one']\n"


def test_another_shell(isolated: Lab) -> None:
    meta = isolated.build('SHELL ["/bin/bash", "-c"]', "RUN [[ -v BASH_VERSION ]]")
    assert list(meta.shell) == ["/bin/bash", "-c"]


def test_uv_is_copied(lab: Lab, once: str) -> None:
    meta = lab.build(
        "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv", f"RUN /.uv/uv --version && echo {once}"
    )
    assert "uv " in said(lab)
    assert lab.run("/.uv/uv", "--version", layer=meta.layer).status == 0


def wheel(folder: Path, name: str, version: str, content: str) -> None:
    """Write a package to install, without an index."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-says = {name}:main\n")
        archive.writestr(f"{info}/RECORD", "")


def test_packages_are_installed(lab: Lab, tmp_path: Path, once: str) -> None:
    wheel(tmp_path, "lab_one", "1.0", "def main(): print('one')\n")
    wheel(tmp_path, "lab_two", "2.0", f"def main(): print('two {once}')\n")
    meta = lab.build(
        "COPY . /wheels",
        "RUN python -m pip install --no-index --find-links /wheels lab_one",
        "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv",
        "RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode --no-index"
        " --find-links /wheels lab_two",
        context=tmp_path,
        context_digest=once,
    )
    assert (meta.packages["lab_one"], meta.packages["lab_two"]) == ("1.0", "2.0")
    ran = lab.run("sh", "-c", "lab_one-says && lab_two-says", layer=meta.layer)
    assert ran.out == f"one\ntwo {once}\n", ran.err
    # An environment is found again in the images above.
    above = lab.build("RUN lab_one-says", upon=meta)
    assert lab.run("lab_two-says", layer=above.layer).out == f"two {once}\n"
    assert lab.run("python", "-c", "import lab_one").status == 1


def test_an_index_on_this_machine(
    lab: Lab, tmp_path: Path, once: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages have links to where the files are, which is beside it."""
    simple, files = tmp_path / "pypi" / "simple", tmp_path / "pypi" / "files"
    files.mkdir(parents=True)
    for name in ("lab_three", "lab_four"):
        wheel(files, name, "1.0", "")
        page = simple / name.replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True)
        file = f"{name}-1.0-py3-none-any.whl"
        page.write_text(f'<!DOCTYPE html><html><body><a href="../../files/{file}">{file}</a></body></html>')
    (tmp_path / "pypi" / "private").write_text("")
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(variable, f"file://{simple}")
    meta = lab.build(
        f"RUN python -m pip install lab_three && uv pip install --system lab_four && echo {once}",
        "RUN folder=$(dirname ${PIP_INDEX_URL#file://}) && ls $folder && test ! -e $folder/private",
    )
    assert (meta.packages["lab_three"], meta.packages["lab_four"]) == ("1.0", "1.0")


def test_an_environment_in_the_image(lab: Lab, once: str) -> None:
    meta = lab.build(f"RUN uv venv /.uv/.venv && echo {once}", "ENV PATH=/.uv/.venv/bin:$PATH")
    ran = lab.run("python", "-c", "import sys; print(sys.prefix != sys.base_prefix)", layer=meta.layer)
    assert ran.out == "True\n", ran.err
    assert lab.build("RUN echo above", upon=meta).python == MINOR


# --- the cache ---


def test_what_was_built_is_not_built_again(lab: Lab, tmp_path: Path, once: str) -> None:
    (tmp_path / "f").write_text("f")
    options: dict[str, Any] = {
        "context": tmp_path,
        "context_digest": once,
        "context_files": {"/x": b"1"},
        "build_args": {"A": "1"},
    }
    one = lab.build("RUN true", **options)
    assert "RUN true" in said(lab)
    assert lab.build("RUN true", **options) == one
    assert said(lab) == ""
    changes: list[dict[str, Any]] = [
        {"context_digest": once + "x"},
        {"context_files": {"/x": b"2"}},
        {"build_args": {"A": "2"}},
        {"secrets": {"S": "1"}},
        {"builder_version": "2024.10"},
    ]
    same = Definition(commands=("FROM base", "RUN true"), bases={"base": lab.image.key}, **options)
    assert lab.builder.key(same) == one.key
    assert len({one.key, *(lab.builder.key(replace(same, **change)) for change in changes)}) == 6


def test_two_builders_run_a_line_once(lab: Lab, tmp_path: Path, once: str) -> None:
    settings = Settings(work=tmp_path, isolation=lab.runtime.name)  # type: ignore[arg-type]

    async def work() -> tuple[list[Meta], list[str]]:
        other = open_runtime(settings)
        heard: list[str] = []
        definition = Definition(commands=("FROM base", f"RUN echo {once}"), bases={"base": lab.image.key})
        try:
            builders = [lab.builder, Builder(other, settings.cache / "packages")] * 2
            builds = [b.build(definition, b.key(definition), heard.append) for b in builders]
            return list(await asyncio.gather(*builds)), heard
        finally:
            await other.close()

    metas, heard = lab.do(work())
    assert len({meta.key for meta in metas}) == 1
    assert heard.count(f"{once}\n") == 1


BUILDER = """
import asyncio, sys
from pathlib import Path
from modal_emulator.runtime.build import Builder, Definition
from modal_emulator.runtime.choose import open_runtime
from modal_emulator.settings import Settings

async def main(work, cache, isolation, minor):
    runtime = open_runtime(Settings(work=work, cache=cache, isolation=isolation))
    base = await runtime.base(minor, lambda _: None)
    builder = Builder(runtime, cache / "packages")
    definition = Definition(commands=("FROM base", "RUN echo begun; sleep 1000"), bases={"base": base.key})
    await builder.build(definition, builder.key(definition), lambda text: print(text, flush=True))

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
"""


def test_a_build_that_is_cut_short_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    """In a cache of its own: in the one that all share others may be building meanwhile."""
    folder = tmp_path / "cache" / lab.runtime.name

    def begin_and_kill(work: str) -> None:
        where = [str(tmp_path / work), str(tmp_path / "cache"), lab.runtime.name, MINOR]
        command = [sys.executable, "-c", BUILDER, *where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert "begun\n" in server.stdout
            assert list((folder / "unfinished").iterdir())
            server.kill()
        assert server.returncode == -signal.SIGKILL

    begin_and_kill("work")
    cache = LayerCache(folder)
    assert [*(folder / "unfinished").iterdir()] == []
    assert [path for path in cache.layers.iterdir() if not (path / "meta.json").exists()] == []
    begin_and_kill("another")  # the line is run by who comes next


def test_a_failed_build_leaves_nothing(lab: Lab) -> None:
    folder = lab.runtime.cache.layers.parent
    before = {path for name in ("layers", "unfinished") for path in (folder / name).iterdir()}
    with pytest.raises(BuildError):
        lab.build("RUN echo > /x; false")
    assert {path for name in ("layers", "unfinished") for path in (folder / name).iterdir()} == before


def test_list_and_prune(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "namespaces")

    def add(key: str, parent: str = "") -> None:
        stage = cache.stage()
        (stage.path / "file").write_text("x" * 10)
        cache.publish(stage, Meta(key=key, parent=parent, lines=("RUN x",), python="3.12"))

    add("low")
    add("middle", "low")
    add("top", "middle")
    add("other", "low")
    assert {(image.key, image.size) for image in list_images(tmp_path)} == {
        ("low", 10), ("middle", 10), ("top", 10), ("other", 10),
    }  # fmt: skip
    assert prune(tmp_path, 3600) == []
    os.utime(cache.layers / "top" / "meta.json", (0, 0))
    assert [image.key for image in prune(tmp_path, 3600)] == ["top"]
    cache.use("other")
    assert [image.key for image in prune(tmp_path)] == ["middle"]
    cache.close()
    assert [image.key for image in prune(tmp_path)] == ["other", "low"]
    assert list_images(tmp_path) == []


# --- what fails ---


def test_a_line_that_fails(lab: Lab) -> None:
    with pytest.raises(BuildError) as caught:
        lab.build("RUN echo before", "RUN echo to stdout; echo to stderr >&2; exit 3", "RUN echo after")
    message = str(caught.value)
    assert "RUN echo to stdout; echo to stderr >&2; exit 3\nfailed with exit status 3" in message
    assert "  to stdout" in message
    assert "  to stderr" in message
    assert "after" not in said(lab)


def test_a_line_that_is_killed(lab: Lab) -> None:
    with pytest.raises(BuildError, match="was killed by signal 9"):
        lab.build("RUN kill -9 $$")


@pytest.mark.parametrize("source", ["../x", "a/../../x", "/../x", "missing", "link/passwd", "*.none"])
def test_files_outside_of_the_context(lab: Lab, tmp_path: Path, source: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(BuildError, match=r"outside|is not among the files"):
        lab.build(f"COPY {source} /x", context=tmp_path, context_digest=source)


def test_an_image_without_python(isolated: Lab, once: str) -> None:
    with pytest.raises(BuildError, match="no `python` in its PATH"):
        isolated.build(f"ENV PATH=/usr/bin ONCE={once}")


def test_a_python_that_is_not_here(lab: Lab) -> None:
    with pytest.raises(BuildError, match=rf"Python 3\.99 is not on this machine.*{MINOR}"):
        lab.builder.key(Definition(commands=("FROM python:3.99-slim",)))


def test_packages_that_are_there(lab: Lab, once: str) -> None:
    if not Path("/var/lib/dpkg/status").exists():
        pytest.skip("this is no Debian")
    lab.build(f"ENV ONCE={once}", "RUN apt-get update", "RUN apt-get install -y coreutils dash")
    assert "All of them are there" in said(lab)


def test_packages_that_are_not_there(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.runtime, "apt", False)
    line = "RUN apt-get update && apt-get install -y coreutils no-such-package"
    with pytest.raises(
        BuildError, match=r"only root can install them.* no-such-package\. `modal-emulator --skip-apt`"
    ):
        lab.build(line)
    lab.builder, builder = Builder(lab.runtime, tmp_path, skip_apt=True), lab.builder
    try:
        lab.build(line, f"ENV ONCE={tmp_path}")
    finally:
        lab.builder = builder
    assert "Going on without these Debian packages, which cannot be had: no-such-package" in said(lab)


@pytest.mark.slow
def test_packages_are_fetched(isolated: Lab) -> None:
    if not isolated.runtime.apt:
        pytest.skip("only root can install packages")
    try:
        meta = isolated.build("RUN apt-get update", "RUN apt-get install -y hello", "RUN hello")
    except BuildError as exc:
        if "Unable to locate" in str(exc) or "Failed to fetch" in str(exc):
            pytest.skip("the archive is out of reach")
        raise
    assert isolated.run("hello", layer=meta.layer).out == "Hello, world!\n"


# --- functions, the client, Pythons ---


def test_changes_of_a_function(lab: Lab, tmp_path: Path, once: str) -> None:
    from modal_emulator.runtime import Bind

    (tmp_path / "f").write_text("")

    async def run(layer: Layer, changes: Path, say: object) -> None:
        script = "mkdir -p /model && echo weights > /model/w && echo $HOME > /root/home"
        binds = [Bind(tmp_path / "f", "/root/code.py"), Bind(tmp_path, "/mounted/here")]
        ran = await lab.ran("sh", "-c", script, layer=layer, changes=changes, binds=binds)
        assert ran.status == 0, ran.err

    definition = Definition(bases={"base": lab.image.key}, function=FunctionStep(once.encode(), run))
    meta = lab.define(definition)
    assert meta.key == lab.builder.key(definition)
    script = "import os; print(open('/model/w').read(), [os.path.exists(p) for p in ('/root/code.py', '/mounted')])"
    assert lab.run("python", "-c", script, layer=meta.layer).out == "weights\n [False, False]\n"


def test_the_client_in_a_container(lab: Lab, tmp_path: Path) -> None:
    from importlib.metadata import version

    settings = Settings(work=tmp_path)
    tree = lab.do(client_tree(settings, version("modal"), MINOR))
    assert lab.do(client_tree(settings, version("modal"), MINOR)) == tree
    env = {**lab.image.env, "PYTHONPATH": "/root:/pkg"}
    script = "import modal, grpclib, sys; print(modal.__version__, '/__modal/deps' in sys.path or True)"
    ran = lab.run("python", "-c", script, env=env, binds=tree.binds)
    assert ran.out.split()[0] == version("modal"), ran.err
    assert list((tree.pkg / "modal" / "__pycache__").glob("*.pyc"))
    assert not (tree.deps / "rich").exists()


@pytest.mark.slow
@pytest.mark.parametrize("minor", host_minors())
def test_every_python_here(isolated: Lab, minor: str) -> None:
    if int(minor.split(".")[1]) < 10:
        pytest.skip("the client does not run on it")
    find_python(minor)
    meta = isolated.define(Definition(commands=(f"FROM python:{minor}-slim",)))
    tree = isolated.do(client_tree(Settings(work=isolated.work), "", minor))
    env = {**meta.env, "PYTHONPATH": "/root:/pkg"}
    ran = isolated.run("python", "-c", "import modal", layer=meta.layer, env=env, binds=tree.binds)
    assert ran.status == 0, ran.err
    script = (
        "import bz2, ctypes, lzma, sqlite3, ssl, sys, sysconfig, zlib; print('%d.%d' % sys.version_info[:2])"
    )
    ran = isolated.run("python", "-c", script, layer=meta.layer)
    assert ran.out.strip() == minor, ran.err
    assert isolated.run("sh", "-c", "python -m pip --version", layer=meta.layer).status == 0
