"""What paths in a container mean where it has no root directory of its own.

Used by the server, and, as a start-up hook, by the Python in the container; it imports nothing of ours.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

__all__ = ["Paths"]

_lstat = os.lstat  # as it is before `install`

SYSTEM = frozenset(
    ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "dev", "proc", "sys", "run", "var", "opt", "boot",
     "lost+found", "nix", "snap")
)  # fmt: skip
"""Folders of the machine that programs in containers see as they are, unless the image or the container has a file of
that path."""

READ_ONLY = ("/dev", "/proc", "/sys")
_IN_TEXT = re.compile(r"(>>?\|?\s*)?(?<![\w./:~$}*?\]-])(/(?:[\w.@+-]+/?)*)")
_SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ash"))


def _lexists(path: str) -> bool:
    try:
        _lstat(path)
    except OSError:
        return False
    return True


class Paths:
    """Translates paths of a container.

    Args:
        root: the folder that stands for its root directory.
        local: that which stands for /usr/local.
        real: folders of the machine whose paths are never translated: they are translations already.
    """

    def __init__(self, root: str, local: str, real: Sequence[str]) -> None:
        self.root = root
        self.local = local
        self.real = tuple(dict.fromkeys((root, local, *real)))

    def __call__(self, path: str, *, write: bool = False) -> str:
        """Where `path` is on the machine. Paths that are not absolute stay as they are.

        With `write` a file that is only on the machine is not meant, but one of the container's.
        """
        if not path.startswith("/"):
            return path
        path = "/" + path.lstrip("/")
        for folder in self.real:
            if path == folder or path.startswith(folder + "/"):
                return path
        if path == "/usr/local" or path.startswith("/usr/local/"):
            return self.local + path[len("/usr/local") :]
        inside = self.root + path.rstrip("/") if path != "/" else self.root
        top = path.split("/", 2)[1]
        if top not in SYSTEM:
            return inside
        if os.path.lexists(inside) and path.rstrip("/").count("/") > 1:
            return inside
        if write and not path.startswith(READ_ONLY):
            return inside
        return path

    def back(self, path: str) -> str:
        """The path in the container of one on the machine."""
        if path == self.root:
            return "/"
        return path[len(self.root) :] if path.startswith(self.root + "/") else path

    def text(self, text: str) -> str:
        """Translate the paths in a shell command; those that it puts together itself are not seen."""

        def replace(match: re.Match[str]) -> str:
            arrow = match[1] or ""
            return arrow + self(match[2], write=bool(arrow)) if match[2] != "/" else match[0]

        return _IN_TEXT.sub(replace, text)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Translate the arguments of a program: whole ones, and the commands of shells."""
        if not argv:
            return []
        shell = os.path.basename(argv[0]) in _SHELLS  # noqa: PTH119
        result = [self(argv[0])]
        for previous, argument in itertools.pairwise(argv):
            if shell and re.fullmatch(r"-\w*c", previous):
                result.append(self.text(argument))
            elif argument.startswith("--") and "=/" in argument:
                name, _, value = argument.partition("=")
                result.append(f"{name}={self(value)}")
            else:
                result.append(self(argument))
        return result

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        return {name: self.value(value) for name, value in env.items()}

    def value(self, value: str) -> str:
        """Translate a variable's value: a path, several with colons between them, or addresses of files and sockets."""
        if "://" in value:
            return re.sub(r"((?:file|unix)://)(/[^\s]*)", lambda match: match[1] + self(match[2]), value)
        separator = " " if " /" in value else ":"
        return separator.join(self(part) if part.startswith("/") else part for part in value.split(separator))


def install(paths: Paths) -> None:
    """Let this Python see paths as its container has them: what opens, lists and changes files is wrapped."""
    import builtins
    import sys
    from importlib import import_module

    # Modules are changed here, which their types do not foresee.
    _io, io, posix, subprocess = (
        cast("Any", import_module(name)) for name in ("_io", "io", "posix", "subprocess")
    )
    os_module = cast("Any", os)

    def fix(path: Any, *, write: bool = False) -> Any:
        if isinstance(path, int) or path is None:
            return path
        try:
            plain = os.fspath(path)
        except TypeError:
            return path
        if isinstance(plain, bytes):
            text = os.fsdecode(plain)
            return os.fsencode(paths(text, write=write)) if text.startswith("/") else path
        return paths(plain, write=write) if plain.startswith("/") else path

    def wrap(name: str, count: int = 1, *, write: bool = False, named: Sequence[str] = ("path",)) -> None:
        original: Callable[..., Any] | None = getattr(posix, name, None)
        if original is None:
            return

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            fixed = [fix(each, write=write) if i < count else each for i, each in enumerate(args)]
            for key in named:
                if key in kwargs:
                    kwargs[key] = fix(kwargs[key], write=write)
            return original(*fixed, **kwargs)

        wrapper.__name__ = wrapper.__qualname__ = name
        setattr(posix, name, wrapper)
        if getattr(os, name, None) is original:
            setattr(os, name, wrapper)
        # What os says can be done with descriptors and links is kept by the function itself.
        for kind in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks", "supports_effective_ids"):
            group = getattr(os, kind)
            if original in group:
                group.add(wrapper)

    for name in (
        "stat",
        "lstat",
        "listdir",
        "scandir",
        "readlink",
        "access",
        "chdir",
        "statvfs",
        "getxattr",
        "listxattr",
    ):
        wrap(name)
    for name in (
        "mkdir",
        "rmdir",
        "remove",
        "unlink",
        "chmod",
        "chown",
        "lchown",
        "utime",
        "truncate",
        "mkfifo",
        "setxattr",
    ):
        wrap(name)
    for name in ("rename", "replace", "link"):
        wrap(name, 2, named=("src", "dst"))
    for name in ("execv", "execve", "posix_spawn"):
        wrap(name)

    posix_symlink = posix.symlink

    def symlink(src: Any, dst: Any, *args: Any, **kwargs: Any) -> None:
        posix_symlink(fix(src), fix(dst), *args, **kwargs)

    posix.symlink = os_module.symlink = symlink

    posix_open = posix.open
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def open_fd(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        number: int = posix_open(fix(path, write=bool(flags & writing)), flags, *args, **kwargs)
        return number

    posix.open = os_module.open = open_fd
    if posix_open in os.supports_dir_fd:
        os.supports_dir_fd.add(open_fd)

    getcwd, getcwdb = posix.getcwd, posix.getcwdb
    posix.getcwd = os_module.getcwd = lambda: paths.back(getcwd())
    posix.getcwdb = os_module.getcwdb = lambda: os.fsencode(paths.back(os.fsdecode(getcwdb())))

    io_open = _io.open

    def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return io_open(fix(file, write=mode[:1] in "wax" or "+" in mode), mode, *args, **kwargs)

    open_file.__name__ = "open"
    _io.open = io.open = cast("Any", builtins).open = open_file
    open_code = _io.open_code
    _io.open_code = io.open_code = lambda path: open_code(fix(path))

    file_io = _io.FileIO

    class FileIO(file_io):  # type: ignore[misc, valid-type]
        def __init__(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
            super().__init__(fix(file, write=mode[:1] in "wax" or "+" in mode), mode, *args, **kwargs)

    _io.FileIO = io.FileIO = FileIO

    fork_exec = subprocess._fork_exec

    def run(
        args: Sequence[Any],
        executables: Sequence[bytes],
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        *rest: Any,
    ) -> Any:
        argv = paths.command([os.fsdecode(each) for each in args])
        programs = [os.fsencode(paths(os.fsdecode(each))) for each in executables]
        return fork_exec([os.fsencode(each) for each in argv], programs, close_fds, pass_fds, fix(cwd), *rest)

    subprocess._fork_exec = run
    sys.path[:] = [paths(each) for each in sys.path]
