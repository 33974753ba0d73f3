"""The lowest layer of each image: this machine's own userland.

What programs need of it is seen through an overlay (`/usr`, and `/bin`, `/lib` and so on where they are folders):
images cost no space and what is installed here need not be fetched. `/etc` and the database of packages are copied, and
of `/etc` only what everybody may read. Nothing else of the machine is in an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path

__all__ = ["TOPS", "host_identity", "make_host_layer", "system_tops"]

TOPS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt")
"""Folders of the root directory that images share with this machine, where they are no links."""

_COPIED = (
    "etc",
    "var/lib/dpkg",
    "var/lib/ucf",
    "var/lib/pam",
    "var/lib/python",
    "var/lib/systemd/deb-systemd-helper-enabled",
    "var/cache/debconf",
)
_LEFT_OUT = {"hosts", "resolv.conf", "mtab", "hostname"}
_EMPTY = (
    "dev", "proc", "sys", "run", "run/lock", "home", "mnt", "media", "srv", "boot", "root", "tmp", "etc", "opt", "usr",
    "var/tmp", "var/log/apt", "var/log", "var/mail", "var/spool", "var/opt", "var/local",
    "var/cache/apt/archives/partial", "var/lib/apt/lists/partial",
)  # fmt: skip


def system_tops() -> list[str]:
    """Those of `TOPS` that are folders of this machine which can be shared."""
    mounts = []
    with contextlib.suppress(OSError):
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tops = []
    for name in TOPS:
        path = Path("/", name)
        # A folder with mounts of its own cannot be the lower part of an overlay in a user namespace.
        optional = name == "opt"
        if (
            path.is_dir()
            and not path.is_symlink()
            and not (optional and any(m.startswith(f"{path}/") for m in mounts))
        ):
            tops.append(name)
    return tops


def host_identity() -> str:
    """Changes when the machine's packages do."""
    digest = hashlib.sha256()
    for name in ("/etc/os-release", "/var/lib/dpkg/status"):
        with contextlib.suppress(OSError):
            digest.update(Path(name).read_bytes())
    digest.update(" ".join(system_tops()).encode() + f" {os.getuid()}".encode())
    return digest.hexdigest()


def make_host_layer(target: Path, *, ids: bool) -> None:
    """Write the lowest layer to `target`; `ids` says whether files can be given to other users."""
    root = target / "root"
    for name in _EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    for name in TOPS:
        path = Path("/", name)
        if path.is_symlink():
            (root / name).symlink_to(path.readlink())
        elif path.is_dir():
            (root / name).mkdir(exist_ok=True)
    for name, link in (("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "/proc/self/mounts")):
        (root / name).symlink_to(link)
    for name in _COPIED:
        if Path("/", name).is_dir():
            _copy(Path("/", name), root / name, ids=ids)
    for name in ("hosts", "resolv.conf"):  # mounted when a container starts
        (root / "etc" / name).touch()
    _write_shadow(root / "etc")
    if not ids and (root / "etc/apt/apt.conf.d").is_dir():
        # It would drop its rights for those of a user that is not there.
        (root / "etc/apt/apt.conf.d/99-one-user").write_text('APT::Sandbox::User "root";\n')
    policy = target / "usr" / "sbin" / "policy-rc.d"
    policy.parent.mkdir(parents=True)
    # Asked by the scripts of Debian packages before they start a service: there is nothing to start one with.
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def _write_shadow(etc: Path) -> None:
    """Nobody has a password; but tools that add users want to find the files."""
    for name in ("passwd", "group"):
        if (etc / name).is_file():
            names = [line.partition(":")[0] for line in (etc / name).read_text().splitlines() if ":" in line]
            shadow = etc / ("shadow" if name == "passwd" else "gshadow")
            rest = ":*:19000:0:99999:7:::" if name == "passwd" else ":*::"
            shadow.write_text("".join(f"{each}{rest}\n" for each in names))
            shadow.chmod(0o640)


def _copy(source: Path, target: Path, *, ids: bool) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        shutil.copystat(source, target)
    for entry in os.scandir(source):
        if entry.name in _LEFT_OUT and source == Path("/etc"):
            continue
        there = target / entry.name
        try:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                there.symlink_to(os.readlink(entry.path))  # noqa: PTH115
            elif stat.S_ISDIR(info.st_mode):
                if info.st_mode & 0o005 == 0o005:
                    _copy(Path(entry.path), there, ids=ids)
            elif stat.S_ISREG(info.st_mode) and info.st_mode & 0o004:
                shutil.copy2(entry.path, there)
            else:
                continue
            if ids:
                os.chown(there, info.st_uid, info.st_gid, follow_symlinks=False)
        except OSError:
            continue  # gone in the meantime, or not ours to read
