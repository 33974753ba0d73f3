"""What a container can see and do that it should not: it tries, and reports. Prints JSON."""

# ruff: noqa: PTH101, PTH103, PTH107, PTH110, PTH115, PTH123, PTH202, PTH208

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

app = modal.App("test-prisoner")
image = modal.Image.debian_slim(python_version=f"{sys.version_info[0]}.{sys.version_info[1]}")
mine = modal.Volume.from_name("test-prisoner-mine", create_if_missing=True)
other = modal.Volume.from_name("test-prisoner-other", create_if_missing=True)
secret = modal.Secret.from_dict({"PRISONERS_SECRET": "a-secret-value"})
here = Path(__file__).parent / "calls.py"


def attempt(act: Callable[[], Any]) -> str:
    """What came of it: "" if it worked."""
    try:
        act()
    except BaseException as exc:
        return type(exc).__name__ + (f" {exc.errno}" if isinstance(exc, OSError) else "")
    return ""


@app.function(image=image, volumes={"/mine": mine}, secrets=[secret], max_containers=1)
def surroundings() -> dict[str, Any]:
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "environ": dict(os.environ),
        "environ at start": Path("/proc/self/environ").read_bytes().decode().split("\0"),
        "descriptors of init": attempt(lambda: os.listdir("/proc/1/fd"))
        or sorted(map(int, os.listdir("/proc/1/fd"))),
        "environ of init": attempt(lambda: Path("/proc/1/environ").read_bytes())
        or Path("/proc/1/environ").read_bytes().decode(errors="replace"),
        "descriptors": descriptors,
        "processes": [p for p in os.listdir("/proc") if p.isdigit()],
        "commands": [
            Path(f"/proc/{p}/cmdline").read_bytes().decode() for p in os.listdir("/proc") if p.isdigit()
        ],
        "mounts": [[m[4], m[5], m[m.index("-") + 1]] for m in mounts],
        "root": sorted(os.listdir("/")),
        "tmp": os.listdir("/tmp"),
        "home": os.listdir("/home"),
        "roots home": sorted(os.listdir("/root")),
        "secrets place": sorted(os.listdir("/__modal")),
        "shadow": Path("/etc/shadow").read_text() if os.path.exists("/etc/shadow") else "",
        "capabilities": [
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")
        ],
        "host name": socket.gethostname(),
        "keys": Path("/proc/keys").read_text() if os.path.exists("/proc/keys") else "",
    }


@app.function(image=image)
def see(paths: list[str]) -> list[str]:
    """Those of these paths that are there."""
    return [path for path in paths if os.path.lexists(path)]


@app.function(image=image, volumes={"/mine": mine, "/fixed": other.read_only()}, max_containers=1)
def trespass(pids: list[int]) -> dict[str, Any]:
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int) -> str:
        result = libc.mount(
            source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None
        )
        return "" if result == 0 else f"errno {ctypes.get_errno()}"

    os.makedirs("/tmp/there", exist_ok=True)
    write_null = attempt(lambda: Path("/dev/null").write_bytes(b"x"))
    unshared = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t proc proc /proc || mount -o remount,rw,bind /fixed"],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    return {
        "kill": [attempt(lambda: os.kill(pid, 0)) for pid in pids],  # noqa: B023
        "mount tmpfs": mount("none", "/tmp/there", "tmpfs", 0),
        "mount proc": mount("proc", "/tmp/there", "proc", 0),
        "bind": mount("/root", "/tmp/there", None, 4096),
        "remount": mount("none", "/fixed", None, 32 | 4096),
        "mknod": attempt(lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))),
        "chroot out": _out_of_chroot(),
        "write /dev/null": write_null,
        "chmod /dev/null": attempt(lambda: os.chmod("/dev/null", 0o600)),
        "chown /dev/null": attempt(lambda: os.chown("/dev/null", 1, 1)),
        "touch /dev/null": attempt(lambda: os.utime("/dev/null", (0, 0))),
        "chmod hosts": attempt(lambda: os.chmod("/etc/hosts", 0o600)),
        "write hosts": attempt(lambda: Path("/etc/hosts").write_text("")),
        "write sysctl": attempt(lambda: Path("/proc/sys/kernel/hostname").write_text("x")),
        "sysrq": attempt(lambda: Path("/proc/sysrq-trigger").write_text("h")),
        "write sys": attempt(lambda: Path("/sys/devices/system/cpu/cpu0/online").write_text("1")),
        "set host name": attempt(lambda: socket.sethostname("x")),
        "set clock": attempt(lambda: __import__("time").clock_settime(0, 0)),
        "write read-only volume": attempt(lambda: Path("/fixed/file").write_text("x")),
        "write own volume": attempt(lambda: Path("/mine/file").write_text("x")),
        "write mounted source": attempt(lambda: Path("/root/prisoner.py").write_text("x")),
        "chmod mounted source": attempt(lambda: os.chmod("/root/prisoner.py", 0o777)),
        "write client": attempt(lambda: Path(modal.__file__).write_text("x")),
        "unshare": [unshared.returncode, unshared.stderr],
        "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()),
        "renice": attempt(lambda: os.nice(-5)),
        "ptrace": [libc.ptrace(16, pid, None, None) for pid in pids],
        "first process": Path("/proc/1/status").read_text(),
        "lie of status": attempt(
            lambda: [
                os.write(os.open(f"/proc/1/fd/{fd}", os.O_WRONLY), b"zz")
                for fd in os.listdir("/proc/1/fd")
                if int(fd) > 2
            ]
        ),
        "kernel module": attempt(lambda: open("/proc/kcore", "rb").read(1)),
    }


def _out_of_chroot() -> list[str]:
    """What the root directory has after the old trick of leaving one."""
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import os; os.makedirs('/tmp/jail'); os.chroot('/tmp/jail'); [os.chdir('..') for _ in range(64)];"
                " os.chroot('.'); print(*sorted(os.listdir('/')))"
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return child.stdout.split()


@app.function(image=image, max_containers=1, single_use_containers=True)
def leave(mark: str) -> list[str]:
    """Change the image's own files; what was there before."""
    before = [path for path in ("/usr/mark", "/etc/mark", "/root/mark", "/tmp/mark") if os.path.exists(path)]
    for path in ("/usr/mark", "/etc/mark", "/root/mark", "/tmp/mark", "/dev/shm/mark"):
        Path(path).write_text(mark)
    os.remove("/usr/bin/yes")
    Path("/usr/bin/env").write_text("changed")
    return before


@app.function(image=image, max_containers=1, single_use_containers=True)
def sound() -> bool:
    return os.path.exists("/usr/bin/yes") and os.path.getsize("/usr/bin/env") > 100


def report(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)


def main() -> None:
    paths, pids = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    with app.run():
        report("surroundings", surroundings.remote())
        report("seen", see.remote(paths))
        report("trespass", trespass.remote([os.getpid(), *pids]))
        report("left", [leave.remote("one"), leave.remote("two")])
        report("sound", sound.remote())


if __name__ == "__main__":
    main()
