"""The Pythons of this machine, and copies of them that work elsewhere."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import BuildError

__all__ = ["HostPython", "find_python", "host_minors", "relocate", "uv_binary"]

_DESCRIBE = """
import json, os, sys, sysconfig
var = sysconfig.get_config_var
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "threads": bool(var("Py_GIL_DISABLED")),
    "prefix": os.path.realpath(sys.base_prefix),
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "stdlib": os.path.realpath(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})),
    "platstdlib": os.path.realpath(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})),
    "include": os.path.realpath(sysconfig.get_path("include", vars={"installed_base": sys.base_prefix})),
    "library": os.path.join(var("LIBDIR") or "", var("INSTSONAME") or "") if var("Py_ENABLE_SHARED") else "",
}))
"""
_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "turtledemo",
    "EXTERNALLY-MANAGED",
}


@dataclass(frozen=True, slots=True)
class HostPython:
    """A Python installation of this machine; the paths are real ones."""

    version: str
    prefix: Path
    executable: Path
    stdlib: Path
    platstdlib: Path
    include: Path
    library: Path | None

    @property
    def minor(self) -> str:
        return self.version.rpartition(".")[0]

    @property
    def identity(self) -> str:
        """Changes when the installation does."""
        return f"{self.version} {self.executable} {self.executable.stat().st_mtime_ns}"


def _candidates(minor: str | None = None) -> Iterator[Path]:
    name = f"python{minor or '3.*'}"
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    yield base
    for folder, pattern in ((pyenv / "versions", f"*/bin/{name}"), (uv, f"*/bin/{name}")):
        yield from sorted(folder.glob(pattern), key=_newest_first)
    for entry in (*os.environ.get("PATH", "").split(":"), "/usr/local/bin", "/usr/bin"):
        if entry and "shims" not in Path(entry).parts:
            yield from sorted(Path(entry).glob(name))


def _newest_first(path: Path) -> list[int]:
    return [-int(number) for number in re.findall(r"\d+", path.parts[-3])]


@functools.lru_cache(maxsize=256)
def _describe(executable: Path, _modified: int) -> HostPython | None:
    try:
        done = subprocess.run(
            [executable, "-I", "-S", "-c", _DESCRIBE],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        said = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if said["threads"]:
        return None
    library = Path(said["library"]) if said["library"] else None
    paths = {name: Path(said[name]) for name in ("prefix", "executable", "stdlib", "platstdlib", "include")}
    if library is not None and not os.access(library, os.R_OK):
        library = Path(said["prefix"]) / "lib" / library.name  # it was moved after it was built
    needed = (paths["stdlib"] / "os.py", *([library] if library is not None else []))
    if not all(os.access(path, os.R_OK) for path in needed):
        return None
    return HostPython(version=said["version"], library=library, **paths)


def find_python(minor: str) -> HostPython:
    """An installation of a minor version; BuildError if there is none.

    The one that this server runs in comes first, and the system's own last: it is patched for the system.
    """
    found: dict[Path, HostPython] = {}
    for path in _candidates(minor):
        real = path.resolve()
        if real in found or not re.fullmatch(r"python3(\.\d+)?", real.name) or not os.access(real, os.X_OK):
            continue
        python = _describe(real, real.stat().st_mtime_ns)
        if python is not None and python.minor == minor:
            if python.prefix != Path("/usr"):
                return python
            found[real] = python
    if not found:
        have = ", ".join(host_minors()) or "none"
        raise BuildError(
            f"Python {minor} is not on this machine, and images are made from what is (found: {have})."
            f" `uv python install {minor}` gets it."
        )
    return next(iter(found.values()))


def host_minors() -> list[str]:
    """The minor versions that there are, by the names of the programs."""
    minors: set[str] = set()
    for path in _candidates():
        match = re.fullmatch(r"python(3\.\d+)", path.name)
        if match:
            minors.add(match[1])
    return sorted(minors, key=lambda text: int(text.split(".")[1]))


def uv_binary() -> Path:
    """The `uv` that we depend on."""
    import uv

    return Path(uv.find_uv_bin())


def relocate(python: HostPython, target: Path, prefix: str, say: Callable[[str], None]) -> None:
    """Put a copy of a Python at `target`, with pip, wheel and uv, that will be run as `prefix`."""
    name = f"python{python.minor}"
    (target / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(python.executable, target / "bin" / name)
    for link in ("python3", "python"):
        (target / "bin" / link).symlink_to(name)

    def left_out(folder: str, names: list[str]) -> set[str]:
        static = {n for n in names if n.endswith((".a", ".opt-1.pyc", ".opt-2.pyc"))}
        return static | (_LEFT_OUT & set(names))

    for source in {python.stdlib, python.platstdlib}:
        relative = (
            source.relative_to(python.prefix) if source.is_relative_to(python.prefix) else Path("lib", name)
        )
        shutil.copytree(
            source,
            target / relative,
            ignore=left_out,
            symlinks=True,
            ignore_dangling_symlinks=True,
            dirs_exist_ok=True,
        )
        _dereference(target / relative, python.prefix)
        (target / relative / "site-packages").mkdir(exist_ok=True)
    if python.include.is_dir():
        shutil.copytree(python.include, target / "include" / python.include.name, dirs_exist_ok=True)
    if python.library is not None:
        (target / "lib").mkdir(exist_ok=True)
        library = shutil.copy2(python.library.resolve(), target / "lib" / python.library.name)
        _set_runpath(Path(library), python)
        plain = target / "lib" / f"lib{name}.so"
        if not plain.exists():
            plain.symlink_to(python.library.name)
    _set_runpath(target / "bin" / name, python)
    _rewrite(target, str(python.prefix), prefix, python)
    _add_packages(python, target, say)
    _fix_scripts(target / "bin", str(target), prefix)


def _dereference(folder: Path, prefix: Path) -> None:
    """Replace links that lead out of the installation by what they lead to."""
    for path in [Path(root, name) for root, _, names in os.walk(folder) for name in names]:
        if path.is_symlink() and path.readlink().is_absolute():
            real = path.resolve()
            path.unlink()
            if real.is_file():
                shutil.copy2(real, path)


def _set_runpath(file: Path, python: HostPython) -> None:
    """Let a program find libpython beside itself: the path to it is overwritten in place, with a shorter one."""
    data = file.read_bytes()
    old = str((python.library or python.prefix / "lib" / "x").parent).encode() + b"\0"
    new = b"$ORIGIN/../lib\0"
    for candidate in {old, f"{python.prefix}/lib".encode() + b"\0"}:
        if candidate in data and len(candidate) >= len(new):
            data = data.replace(b"\0" + candidate, b"\0" + new.ljust(len(candidate), b"\0"))
    file.write_bytes(data)


def _rewrite(target: Path, old: str, new: str, python: HostPython) -> None:
    """Name the new place in what describes the installation to compilers."""
    if old == "/usr":
        return  # too short to be told from other paths; the describing files are the system's
    for pattern in (
        "lib*/python*/_sysconfigdata*.py",
        "lib*/python*/config-*/Makefile",
        "lib*/pkgconfig/*.pc",
    ):
        for file in target.glob(pattern):
            text = file.read_text(errors="surrogateescape")
            file.write_text(text.replace(old, new), errors="surrogateescape")


def _add_packages(python: HostPython, target: Path, say: Callable[[str], None]) -> None:
    """Install pip and wheel, the newest that can be had; and our own uv."""
    wanted = ["pip", "wheel", *(["setuptools"] if int(python.minor.split(".")[1]) < 12 else [])]
    executable = target / "bin" / f"python{python.minor}"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON", "UV_PYTHON"))}
    command: list[str | Path] = [
        uv_binary(),
        "pip",
        "install",
        "--quiet",
        "--python",
        executable,
        "--break-system-packages",
    ]
    for offline in (["--offline"], []):
        done = subprocess.run(
            [*command, "--compile-bytecode", "--link-mode", "copy", *offline, *wanted],
            env=env | {"UV_HTTP_TIMEOUT": env.get("UV_HTTP_TIMEOUT", "15")},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 0:
            break
    else:
        say("pip cannot be had from the package index; taking the one that comes with Python\n")
        site = next(target.glob("lib*/python*/site-packages"))
        for wheel in (python.stdlib / "ensurepip" / "_bundled").glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        for name in ("pip", "pip3", f"pip{python.minor}"):
            script = target / "bin" / name
            script.write_text(
                f"#!{executable}\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
            )
            script.chmod(0o755)
    _add_own_uv(next(target.glob("lib*/python*/site-packages")), target / "bin")


def _add_own_uv(site: Path, scripts: Path) -> None:
    for file in importlib.metadata.files("uv") or []:
        source = Path(str(file.locate()))
        if not source.is_file() or source.suffix == ".pyc":
            continue
        destination = site / file if ".." not in file.parts else scripts / file.name
        if file.name in ("uv", "uvx") or ".." not in file.parts:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)


def _fix_scripts(scripts: Path, old: str, new: str) -> None:
    """Let scripts name the interpreter by the path that it will have."""
    for script in scripts.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        with script.open("rb") as file:
            start = file.read(2)
        if start == b"#!":
            text = script.read_bytes()
            mode = script.stat().st_mode
            script.write_bytes(text.replace(old.encode(), new.encode()))
            script.chmod(mode)


async def relocated(python: HostPython, target: Path, prefix: str, say: Callable[[str], None]) -> None:
    """`relocate`, in a thread."""
    await asyncio.to_thread(relocate, python, target, prefix, say)
