"""Containers by the interface of `runtime`, in namespaces and in plain directories."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import wait_until_gone
from containers import MINOR, Lab, first_line
from modal_emulator.runtime import Bind, BuildError, Layer, Overlay
from modal_emulator.runtime.choose import open_runtime
from modal_emulator.settings import Settings


def processes_with(word: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


# --- start and end ---


def test_output_and_status(lab: Lab) -> None:
    ran = lab.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.status, ran.out, ran.err, ran.oom) == (7, "out\n", "err\n", False)


def test_a_signal_is_a_negative_status(lab: Lab) -> None:
    assert lab.run("sh", "-c", "kill -9 $$").status == -signal.SIGKILL
    assert lab.run("python", "-c", "import os; os.abort()").status == -signal.SIGABRT


def test_a_program_that_is_not_there(lab: Lab) -> None:
    ran = lab.run("no-such-program")
    assert ran.status == 127
    assert "no-such-program" in ran.err


def test_output_is_whole(lab: Lab) -> None:
    assert len(lab.run("python", "-c", "print('x' * 1_000_000)").out) == 1_000_001


def test_interrupt_and_kill(lab: Lab) -> None:
    async def work() -> None:
        output: list[tuple[int, bytes]] = []
        script = (
            "import signal; signal.signal(signal.SIGINT, lambda *_: exit(3)); print('on'); signal.pause()"
        )
        process = await lab.start("python", "-u", "-c", script, output=output)
        await first_line(output, process)
        process.interrupt()
        assert await process.wait() == 3
        assert await process.wait() == 3
        process.interrupt()  # nothing happens
        process.kill()
        process = await lab.start("sleep", "1000")
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    lab.do(work())


def test_workdir_is_made(lab: Lab) -> None:
    ran = lab.run("python", "-c", "import os; print(os.getcwd())", workdir="/srv/some/where")
    assert ran.out == "/srv/some/where\n"


def test_an_image_that_is_gone(lab: Lab) -> None:
    with pytest.raises(BuildError, match="no longer in the cache"):
        lab.run("true", layer=Layer(key="0" * 32, python=MINOR))


def test_a_mount_that_is_gone(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be mounted at /data"):
        lab.run("true", binds=[Bind(tmp_path / "gone", "/data")])
    assert lab.run("true").status == 0


def test_the_python_of_the_image(lab: Lab) -> None:
    ran = lab.run("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.prefix)")
    assert ran.out.split()[0] == MINOR
    assert not ran.out.split()[1].startswith(sys.prefix)


# --- what a container sees ---


def test_environment_is_the_one_given(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hidden")
    env = {"PATH": lab.image.env["PATH"], "GIVEN": "one two"}
    ran = lab.run("python", "-c", "import json, os; print(json.dumps(dict(os.environ)))", env=env)
    seen = __import__("json").loads(ran.out)
    assert seen["GIVEN"] == "one two"
    assert "SERVER_SECRET" not in seen
    if lab.isolated:
        assert set(seen) <= {"PATH", "GIVEN", "LC_CTYPE"}


def test_descriptors_are_not_inherited(lab: Lab, tmp_path: Path) -> None:
    file = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(file, True)
    try:
        ran = lab.run("python", "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
    finally:
        os.close(file)
    assert ran.out.strip() == "[0, 1, 2]"


def test_binds(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "folder" / "in" / "f").write_text("one")
    (tmp_path / "file").write_text("two")
    (tmp_path / "free").mkdir()
    binds = [
        Bind(tmp_path / "folder", "/data"),
        Bind(tmp_path / "file", "/root/deep/file.txt"),
        Bind(tmp_path / "free", "/vol/x", read_only=False),
    ]
    script = (
        "import os, pathlib\n"
        "print(open('/data/in/f').read(), pathlib.Path('/root/deep/file.txt').read_text())\n"
        "print(os.listdir('/data'), os.path.isdir('/vol/x'), os.path.exists('/vol/y'))\n"
        "pathlib.Path('/vol/x/new').write_text('three')\n"
        "os.rename('/vol/x/new', '/vol/x/newer')\n"
    )
    ran = lab.run("python", "-c", script, binds=binds)
    assert (ran.status, ran.out) == (0, "one two\n['in'] True False\n"), ran.err
    assert (tmp_path / "free" / "newer").read_text() == "three"
    ran = lab.run("sh", "-c", "cat /data/in/f /root/deep/file.txt; echo four > /vol/x/more", binds=binds)
    assert ran.out == "onetwo", ran.err
    assert (tmp_path / "free" / "more").read_text() == "four\n"


def test_imports_from_mounts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mine.py").write_text("VALUE = 42\n")
    (tmp_path / "pkg" / "other").mkdir(parents=True)
    (tmp_path / "pkg" / "other" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "sitecustomize.py").write_text("import sys; sys.path.append('/late')\n")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "later.py").write_text("")
    binds = [
        Bind(tmp_path / "root" / "mine.py", "/root/mine.py"),
        Bind(tmp_path / "pkg", "/pkg"),
        Bind(tmp_path / "late", "/late"),
    ]
    env = {**lab.image.env, "PYTHONPATH": "/root:/pkg"}
    ran = lab.run("python", "-c", "import later, mine, other; print(mine.VALUE)", binds=binds, env=env)
    assert ran.out == "42\n", ran.err


def test_what_one_writes_the_next_does_not_see(lab: Lab) -> None:
    script = "for p in ('/tmp/x', '/root/x', '/srv/x', '/etc/x'): open(p, 'w').write('mine')"
    assert lab.run("python", "-c", script).status == 0
    script = "import os; print([p for p in ('/tmp/x', '/root/x', '/srv/x', '/etc/x') if os.path.exists(p)])"
    assert lab.run("python", "-c", script).out == "[]\n"
    assert not Path("/etc/x").exists()


def test_nothing_of_the_machine_is_seen(isolated: Lab) -> None:
    for path in (isolated.work, isolated.runtime.cache.layers, Path.home() / ".ssh", Path(__file__)):
        assert isolated.run("test", "-e", str(path)).status == 1, path


def test_others_are_not_seen(isolated: Lab) -> None:
    async def work() -> None:
        output: list[tuple[int, bytes]] = []
        script = "echo secret > /tmp/secret; echo secret > /dev/shm/secret; echo on; exec sleep 1000"
        one = await isolated.start("sh", "-c", script, output=output)
        await first_line(output, one)
        look = "ls /tmp /dev/shm; cat /proc/[0-9]*/root/tmp/secret /etc/shadow"
        ran = await isolated.ran("sh", "-c", look)
        assert "secret\n" not in ran.out
        assert "$" not in ran.out
        seen = await isolated.ran(
            "python", "-c", "import os; print([p for p in os.listdir('/proc') if p.isdigit()])"
        )
        assert seen.out.count("'") == 4  # its init and itself
        one.kill()
        await one.wait()

    isolated.do(work())


def test_the_kernel_cannot_be_changed(isolated: Lab) -> None:
    script = (
        "echo x > /proc/sys/kernel/core_pattern && echo bad; mount -t tmpfs none /mnt && echo bad;"
        " umount /proc/sys && echo bad; mount -o remount,rw /proc/sys && echo bad;"
        " echo b > /proc/sysrq-trigger && echo bad"
    )
    assert isolated.run("sh", "-c", script).out == ""


def test_read_only_mounts(isolated: Lab, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("as it was")
    assert isolated.run("sh", "-c", "echo no > /data/f", binds=[Bind(tmp_path, "/data")]).status != 0
    assert (tmp_path / "f").read_text() == "as it was"


def test_a_target_that_leads_out(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("here")
    ran = lab.run("python", "-c", "print(open('/up/f').read())", binds=[Bind(tmp_path, "/../../up")])
    assert ran.out == "here\n", ran.err
    assert not Path("/up").exists()


# --- overlays ---


def overlay(folder: Path, name: str, content: str, *, read_only: bool = False) -> Overlay:
    for each in ("lower", "upper", "work"):
        (folder / name / each).mkdir(parents=True)
    (folder / name / "lower" / "f").write_text(content)
    return Overlay(
        "/vol", folder / name / "lower", folder / name / "upper", folder / name / "work", read_only
    )


def test_overlay(isolated: Lab, tmp_path: Path) -> None:
    one = overlay(tmp_path, "one", "one")
    assert (
        isolated.run("sh", "-c", "cat /vol/f; echo two > /vol/f; rm -f /vol/none", overlays=[one]).out
        == "one"
    )
    assert (one.lower / "f").read_text() == "one"
    assert (one.upper / "f").read_text() == "two\n"
    fixed = overlay(tmp_path, "fixed", "fixed", read_only=True)
    ran = isolated.run("sh", "-c", "cat /vol/f; echo two > /vol/f", overlays=[fixed])
    assert ran.out == "fixed"
    assert "Read-only" in ran.err


def test_remount(isolated: Lab, tmp_path: Path) -> None:
    one, two = overlay(tmp_path, "one", "one"), overlay(tmp_path, "two", "two")
    three = overlay(tmp_path, "three", "three", read_only=True)
    # One for each time: a reader that comes again may find the writer of the first time still there.
    first, second = tmp_path / "first", tmp_path / "second"
    for fifo in (first, second):
        os.mkfifo(fifo)

    async def work() -> None:
        output: list[tuple[int, bytes]] = []
        script = "cat /vol/f; echo; read x < /1; cat /vol/f; echo new > /vol/new; read x < /2; cat /vol/f"
        binds = [Bind(first, "/1", False), Bind(second, "/2", False)]
        process = await isolated.start("sh", "-c", script, overlays=[one], binds=binds, output=output)
        await first_line(output, process)
        await process.remount(two)
        await asyncio.to_thread(first.write_text, "go\n")
        while b"two" not in b"".join(data for _, data in output):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await process.remount(three)
        await asyncio.to_thread(second.write_text, "go\n")
        assert await process.wait() == 0
        assert b"".join(data for _, data in output) == b"one\ntwothree"

    isolated.do(work())
    assert (two.upper / "new").exists()


def test_remount_of_what_is_in_use(isolated: Lab, tmp_path: Path) -> None:
    one, two = overlay(tmp_path, "one", "one"), overlay(tmp_path, "two", "two")

    async def work() -> None:
        output: list[tuple[int, bytes]] = []
        process = await isolated.start(
            "sh", "-c", "exec 5< /vol/f; echo on; exec sleep 1000", overlays=[one], output=output
        )
        await first_line(output, process)
        with pytest.raises(OSError, match="busy"):
            await process.remount(two)
        process.kill()
        await process.wait()
        with pytest.raises(OSError):  # noqa: PT011  # it is gone
            await process.remount(two)

    isolated.do(work())


# --- limits ---


def test_out_of_memory(lab: Lab) -> None:
    script = "x = []\nwhile True: x.append(bytearray(b'1' * 8_000_000))"
    ran = lab.run("python", "-c", script, memory_mib=96)
    assert ran.oom
    assert ran.status == -signal.SIGKILL
    assert not lab.run("python", "-c", "bytearray(10_000_000)", memory_mib=96).oom


def test_out_of_memory_without_control_groups(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.runtime.cgroups, "_parents", {})  # type: ignore[attr-defined]
    script = "import time\nx = bytearray(b'1' * 300_000_000)\ntime.sleep(1000)"
    ran = lab.run("python", "-c", script, memory_mib=96, milli_cpu=500)
    assert ran.oom
    assert ran.status == -signal.SIGKILL


def test_processor_limit(lab: Lab) -> None:
    if not lab.runtime.cgroups.cpu:  # type: ignore[attr-defined]
        pytest.skip("no control groups can be made here")
    began = time.monotonic()
    script = "import time\nwhile time.process_time() < 0.3: pass"
    assert lab.run("python", "-c", script, milli_cpu=200).status == 0
    assert time.monotonic() - began > 0.8


# --- nothing is left ---


def test_all_processes_end_with_the_first(lab: Lab) -> None:
    word = f"31536{os.getpid()}"
    ran = lab.run(
        "sh", "-c", f"setsid sleep {word} & (setsid sh -c 'sleep {word} & sleep {word}' &) ; sleep 0.1"
    )
    assert ran.status == 0
    assert processes_with(word) == []


def test_all_processes_are_killed(lab: Lab) -> None:
    word = f"31537{os.getpid()}"

    async def work() -> None:
        output: list[tuple[int, bytes]] = []
        process = await lab.start("sh", "-c", f"setsid sleep {word} & echo on; sleep {word}", output=output)
        await first_line(output, process)
        process.kill()
        await process.wait()

    lab.do(work())
    assert processes_with(word) == []


SERVER = """
import asyncio, sys
from pathlib import Path
from modal_emulator.runtime import ContainerSpec
from modal_emulator.runtime.choose import open_runtime
from modal_emulator.settings import Settings

async def main():
    runtime = open_runtime(Settings(work=Path(sys.argv[1]), isolation=sys.argv[2]))
    image = await runtime.base(sys.argv[3], lambda _: None)
    command = ["sh", "-c", f"setsid sleep {sys.argv[4]} & echo on; sleep {sys.argv[4]}"]
    said = asyncio.Event()
    spec = ContainerSpec("c", image.layer, command, image.env, "/", [], [], lambda *_: said.set())
    process = await runtime.start(spec)
    await said.wait()
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""


def test_containers_die_with_the_server(lab: Lab, tmp_path: Path) -> None:
    word = f"31538{os.getpid()}"
    mounts = Path("/proc/self/mountinfo").read_text()
    arguments = [str(tmp_path), lab.runtime.name, MINOR, word]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        alive = processes_with(word)
        assert len(alive) >= 2
        server.kill()
        server.wait()
        for each in (pid, *alive):
            wait_until_gone(each)
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_nothing_is_left(lab: Lab) -> None:
    folder = lab.work / "containers"
    lab.run("sh", "-c", "mkdir -p /a/b; echo > /a/b/c; chmod 0 /a/b; mkdir /tmp/x; chmod 0 /tmp/x")
    before = (
        len(list(Path("/proc/self/fd").iterdir())),
        sorted(folder.iterdir()),
        Path("/proc/self/mountinfo").read_text(),
    )
    for _ in range(5):
        lab.run("sh", "-c", "mkdir -p /a/b; echo > /a/b/c", memory_mib=500, milli_cpu=1000)
    after = (
        len(list(Path("/proc/self/fd").iterdir())),
        sorted(folder.iterdir()),
        Path("/proc/self/mountinfo").read_text(),
    )
    assert after == before
    assert [path for path in folder.iterdir() if path.name.isdigit()] == []


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_containers(lab: Lab) -> None:
    lab.run("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        assert lab.run("true", memory_mib=100).status == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert [path for path in (lab.work / "containers").iterdir() if path.name.isdigit()] == []
    assert lab.runtime.launcher._ended == {}  # type: ignore[attr-defined]


def test_close_ends_containers(lab: Lab, tmp_path: Path) -> None:
    word = f"31539{os.getpid()}"

    async def work() -> None:
        runtime = open_runtime(Settings(work=tmp_path, isolation=lab.runtime.name))  # type: ignore[arg-type]
        output: list[tuple[int, bytes]] = []
        other = Lab(lab.runner, runtime, lab.builder, tmp_path, lab.image)
        process = await other.start("sh", "-c", f"echo on; sleep {word}; true", output=output)
        await first_line(output, process)
        await runtime.close()
        assert await process.wait() == -signal.SIGKILL

    lab.do(work())
    assert processes_with(word) == []
    assert not (tmp_path / "containers").exists()


def test_auto_prefers_namespaces(isolated: Lab, tmp_path: Path) -> None:
    runtime = open_runtime(Settings(work=tmp_path))
    assert runtime.name == "namespaces"
    isolated.do(runtime.close())
