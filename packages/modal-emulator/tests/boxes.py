"""Containers for the tests of working copies: a directory that something writes into, without images or client."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modal_emulator.runtime import Overlay, Process
from modal_emulator.volumes.volume import Volume
from modal_emulator.volumes.working import Working
from modal_proto import api_pb2

# Runs in namespaces of its own: what a container does in its volumes. One JSON command a line.
INSIDE = r"""
import errno, json, os, shutil, subprocess, sys
held = []
def do(what, root, path="", text=""):
    full = os.path.join(root, path)
    if what == "mount":
        os.makedirs(root, exist_ok=True)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", text, root], check=True, capture_output=True)
    elif what == "umount":
        done = subprocess.run(["umount", root], capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stderr
    elif what == "write":
        os.makedirs(os.path.dirname(full), exist_ok=True)
        open(full, "w").write(text)
    elif what == "append":
        open(full, "a").write(text)
    elif what == "replace":
        open(full + "~", "w").write(text)
        os.rename(full + "~", full)
    elif what == "unlink":
        os.unlink(full)
    elif what == "rmtree":
        shutil.rmtree(full)
    elif what == "mkdir":
        os.makedirs(full, exist_ok=True)
    elif what == "symlink":
        os.symlink(text, full)
    elif what == "chmod":
        os.chmod(full, int(text, 8))
    elif what == "mkfifo":
        os.mkfifo(full)
    elif what == "hold":
        held.append(open(full))
    elif what == "release":
        held.clear()
    elif what == "files":
        found = {}
        for folder, folders, names in os.walk(root):
            for name in names + [one for one in folders if os.path.islink(os.path.join(folder, one))]:
                one = os.path.join(folder, name)
                key = os.path.relpath(one, root)
                if os.path.islink(one): found[key] = "-> " + os.readlink(one)
                elif os.path.isfile(one): found[key] = open(one).read()
        return found
    elif what == "folders":
        inside = [os.path.join(folder, one) for folder, folders, _ in os.walk(root) for one in folders]
        return sorted(os.path.relpath(one, root) for one in inside)
for line in sys.stdin:
    try:
        answer = do(**json.loads(line))
    except OSError as exc:
        answer = {"errno": exc.errno}
    print(json.dumps(answer), flush=True)
"""


def namespaces_work() -> bool:
    try:
        done = subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


class Box(Process):
    """A container with one volume, which sees it in an overlay or in a private copy."""

    def __init__(self, volume: Volume, folder: Path, *, overlays: bool, **mount: Any) -> None:
        self.folder = folder
        self.target = folder / "seen"
        message = api_pb2.VolumeMount(mount_path=str(self.target), allow_background_commits=True, **mount)
        self.working = Working(volume, message, folder / "working", overlays=overlays)
        prefix = ["unshare", "-Urm"] if overlays else []
        self.inside = subprocess.Popen(
            [*prefix, sys.executable, "-S", "-c", INSIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self.inside.pid

    async def start(self) -> Box:
        await self.working.attach()
        if self.working.overlay is not None:
            self._mount(self.working.overlay)
        else:
            assert self.working.bind is not None
            self.target = self.working.bind.source
        return self

    def do(self, what: str, path: str = "", text: str = "") -> Any:
        assert self.inside.stdin is not None
        assert self.inside.stdout is not None
        command = {"what": what, "root": str(self.target), "path": path, "text": text}
        self.inside.stdin.write(json.dumps(command) + "\n")
        self.inside.stdin.flush()
        answer = json.loads(self.inside.stdout.readline())
        if isinstance(answer, dict) and set(answer) == {"errno"}:
            raise OSError(answer["errno"], f"{what} {path}")
        return answer

    def _mount(self, overlay: Overlay) -> None:
        options = (
            f"lowerdir={overlay.lower},upperdir={overlay.upper},workdir={overlay.work},userxattr,volatile"
        )
        self.do("mount", text=options + (",ro" if overlay.read_only else ""))

    async def remount(self, overlay: Overlay) -> None:
        if self.do("umount"):
            raise OSError(errno.EBUSY, "target is busy")
        self._mount(overlay)

    async def end(self) -> None:
        """The container ends."""
        assert self.inside.stdin is not None
        assert self.inside.stdout is not None
        self.inside.stdin.close()
        self.inside.wait()
        self.inside.stdout.close()

    async def finish(self) -> None:
        """It ends, and what it left is committed."""
        await self.end()
        await self.working.commit(final=True)
        await self.working.detach()

    async def wait(self) -> int:
        return self.inside.wait()

    def interrupt(self) -> None:
        self.inside.terminate()

    def drain(self) -> None:
        """It writes nothing."""

    def kill(self) -> None:
        self.inside.kill()


def files_of(root: Path) -> dict[str, str]:
    """What is in a tree: texts of files, and where links lead to."""
    found: dict[str, str] = {}
    for path in root.rglob("*"):
        key = str(path.relative_to(root))
        if path.is_symlink():
            found[key] = f"-> {path.readlink()}"
        elif path.is_file():
            found[key] = path.read_text()
    return found
