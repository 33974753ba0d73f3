"""Builds images: one layer per definition, cached by content."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from . import Bind, BuildError, ContainerSpec, Layer, Runtime
from .apt import missing_packages, parse_apt, read_status
from .dockerfile import (
    Copy,
    Instruction,
    Run,
    Source,
    State,
    expand,
    json_list,
    parse,
    parse_copy,
    parse_env,
    parse_run,
    parse_source,
)
from .indexes import index_settings
from .layers import Meta, Stage, remove_tree
from .pythons import host_minors, uv_binary

__all__ = ["Builder", "Definition", "FunctionStep"]

VERSION = "1"
HIDDEN = "/dev/.build"
"""Where what a build needs is mounted: in a container's /dev, which is no part of its image."""

PRELUDE_APT = "apt-get install -y gcc gfortran build-essential"
PRELUDE_DEBCONF = "echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections"
PRELUDE_PIP = re.compile(r"(?:python -m )?pip install --upgrade (?:(?:pip|wheel|uv)(?: |$))+")

_INSPECT = """
import importlib.metadata, json, platform, sys
packages = {}
for each in importlib.metadata.distributions():
    if each.metadata["Name"]: packages.setdefault(each.metadata["Name"], each.version)
libc = " ".join(platform.libc_ver())
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "libc": libc, "packages": packages}))
"""

# Scripts of COPY; $1 is the source, $2 the target, $3 a mode or empty.
COPY_FOLDER = """
mkdir -p -- "$2" && cp -a --no-preserve=ownership -- "$1/." "$2/" || exit
[ -z "$3" ] || find "$1" -mindepth 1 -printf '%P\\0' | (cd -- "$2" && xargs -0 -r chmod -- "$3")
"""
COPY_INTO = """
mkdir -p -- "$2" && cp -a --no-preserve=ownership -- "$1" "$2/" || exit
[ -z "$3" ] || chmod -- "$3" "$2/${1##*/}"
"""
COPY_FILE = """
mkdir -p -- "$(dirname -- "$2")" || exit
if [ -d "$2" ]; then set -- "$1" "$2/${1##*/}" "$3"; fi
cp -a --no-preserve=ownership -- "$1" "$2" || exit
[ -z "$3" ] || chmod -- "$3" "$2"
"""
COPY_UVX = """
mkdir -p -- "$(dirname -- "$2")" && printf '#!/bin/sh\\nexec uv tool uvx "$@"\\n' > "$2" && chmod 755 -- "$2"
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FunctionStep:
    """A function that is called in a container, whose changes become the layer.

    Attributes:
        content: what decides whether it was called before.
        run: calls it, in a container with this image and `ContainerSpec.changes`; BuildError if it fails.
    """

    content: bytes
    run: Callable[[Layer, Path, Say], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Definition:
    """What an image is made of.

    Attributes:
        commands: lines of a Dockerfile.
        bases: keys of the layers that FROM may name, by that name.
        context_files: files that COPY may name; they go before those in `context`.
        context: a folder with files that COPY may name, and the digest of its content.
        build_args, secrets: variables of its RUN lines.
        function: in the place of commands.
    """

    commands: Sequence[str] = ()
    bases: Mapping[str, str] = field(default_factory=dict)
    context_files: Mapping[str, bytes] = field(default_factory=dict)
    context: Path | None = None
    context_digest: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    builder_version: str = ""
    function: FunctionStep | None = None


class Builder:
    """Builds layers with a runtime.

    Args:
        packages: a folder for the caches of pip and uv, which builds share.
        skip_apt: go on without Debian packages that cannot be had.
    """

    def __init__(self, runtime: Runtime, packages: Path, *, skip_apt: bool = False) -> None:
        self.runtime = runtime
        self.cache = runtime.cache
        self._packages = packages
        self._skip_apt = skip_apt
        for name in ("pip", "uv"):
            (packages / name).mkdir(parents=True, exist_ok=True)

    def key(self, definition: Definition) -> str:
        """Names the layer of a definition: the same for the same content.

        Raises:
            BuildError: it cannot be built here.
        """
        digest = hashlib.sha256()

        def add(*parts: str | bytes) -> None:
            for part in parts:
                data = part.encode() if isinstance(part, str) else part
                digest.update(len(data).to_bytes(8, "big") + data)

        add(VERSION, self.runtime.identity, definition.builder_version, definition.context_digest)
        add(*definition.commands)
        for name, data in sorted(definition.context_files.items()):
            add("file", name, hashlib.sha256(data).digest())
        for kind, variables in (("arg", definition.build_args), ("secret", definition.secrets)):
            for name, value in sorted(variables.items()):
                add(kind, name, value)
        if definition.function is not None:
            add("function", definition.function.content, *definition.bases.values())
        else:
            source, _ = self._source(definition)
            if source.base:
                add("base", definition.bases[source.base])
            else:
                add("python", self.runtime.base_key(self._minor(source)))
            instructions = parse(definition.commands)
            if any(
                parse_copy(i.name, i.rest, {}).uv
                for i in instructions
                if i.name == "COPY" and "--from" in i.rest
            ):
                add("uv", str(uv_binary().stat().st_size))
        return digest.hexdigest()[:32]

    async def build(self, definition: Definition, key: str, say: Say) -> Meta:
        """The layer of a definition under `key`, built if it is not there. `say` takes its log; in any thread.

        Raises:
            BuildError: a line failed, or cannot be honoured.
        """
        async with self.cache.lock(key):
            meta = self.cache.get(key)
            if meta is not None:
                return meta
            if definition.function is not None:
                parent = self._parent(next(iter(definition.bases.values())))
                return await self._call(definition.function, parent, key, say)
            source, _ = self._source(definition)
            if source.base:
                parent = self._parent(definition.bases[source.base])
            else:
                parent = await self.runtime.base(self._minor(source), say)
            build = _Build(self, definition, parent, say, official=not source.base)
            return await build.run(key)

    async def _call(self, step: FunctionStep, parent: Meta, key: str, say: Say) -> Meta:
        stage = await self.runtime.stage(parent, key)
        try:
            await step.run(parent.layer, stage.path, say)
            # A function can install packages too.
            meta = await self.inspect(
                replace(parent, key=key, parent=parent.key, lines=("RUN a function",), local=True),
                parent,
                stage,
            )
            return await self.runtime.commit(stage, meta)
        finally:
            stage.close()

    def _parent(self, key: str) -> Meta:
        meta = self.cache.get(key)
        if meta is None:
            raise BuildError(
                "the image that this one is built upon is no longer in the cache; run the program again"
            )
        return meta

    @staticmethod
    def _source(definition: Definition) -> tuple[Source, dict[str, str]]:
        args: dict[str, str] = {}
        for instruction in parse(definition.commands):
            if instruction.name == "FROM":
                return parse_source(instruction.rest, definition.bases, args), args
            name, _, default = instruction.rest.partition("=")
            args[name] = definition.build_args.get(name, default.strip("\"'"))
        raise BuildError("an image's description has a FROM")

    @staticmethod
    def _minor(source: Source) -> str:
        if source.minor:
            return source.minor
        minors = host_minors()
        if not minors:
            raise BuildError("there is no Python on this machine to make an image from")
        return minors[-1]

    async def inspect(self, meta: Meta, parent: Meta, stage: Stage) -> Meta:
        """What `python` in a stage's PATH says of itself."""
        said: list[bytes] = []
        spec = ContainerSpec(
            name="build",
            layer=parent.layer,
            command=["python", "-I", "-c", _INSPECT],
            env=meta.env,
            workdir="/",
            binds=(),
            overlays=(),
            output=lambda _, data: said.append(data),
            changes=stage.path,
        )
        status = await (await self.runtime.start(spec)).wait()
        text = b"".join(said).decode(errors="replace")
        if status != 0:
            raise BuildError(f"the image has no `python` in its PATH that works: {text.strip()[-1000:]}")
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        version: str = found["version"]
        return replace(
            meta,
            python=version.rpartition(".")[0],
            python_version=version,
            libc=found["libc"],
            packages=dict(sorted(found["packages"].items())),
        )


class _Build:
    """The building of one layer."""

    def __init__(
        self, builder: Builder, definition: Definition, parent: Meta, say: Say, *, official: bool
    ) -> None:
        self._builder = builder
        self._runtime = builder.runtime
        self._definition = definition
        self._parent = parent
        self._say = say
        self._official = official
        self._state = State(
            dict(parent.env), parent.workdir, list(parent.shell), list(parent.entrypoint), list(parent.cmd)
        )
        self._changed = not parent.packages
        self._local = parent.local or definition.context is not None
        self._binds: list[Bind] = []
        self._environment: dict[str, str] = {}
        self._last_output: deque[str] = deque(maxlen=30)
        self._files: Path | None = None
        self._stage: Stage | None = None

    async def run(self, key: str) -> Meta:
        stage = self._stage = await self._runtime.stage(self._parent, key)
        folder = stage.path / ".context"
        try:
            self._prepare(folder)
            instructions = parse(self._definition.commands)
            for number, instruction in enumerate(instructions):
                self._say(f"=> Step {number}: {instruction.line}\n")
                await self._follow(instruction)
            state = self._state
            meta = Meta(
                key=key,
                parent=self._parent.key,
                lines=tuple(i.line for i in instructions),
                python=self._parent.python,
                python_version=self._parent.python_version,
                libc=self._parent.libc,
                packages=self._parent.packages,
                env=state.env,
                workdir=state.workdir,
                entrypoint=state.entrypoint,
                cmd=state.cmd,
                shell=state.shell,
                local=self._local,
            )
            if self._changed or state.env.get("PATH") != self._parent.env.get("PATH"):
                meta = await self._builder.inspect(meta, self._parent, stage)
            remove_tree(folder)
            return await self._runtime.commit(stage, meta)
        finally:
            stage.close()

    def _prepare(self, folder: Path) -> None:
        """Make what lines see beside the image: context, uv, caches, and how indexes are reached."""
        files = folder / "files"
        files.mkdir(parents=True)
        for name, data in self._definition.context_files.items():
            path = files / _confined(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._files = files
        packages = self._builder._packages
        uv_cache = packages / "uv"
        if self._local:
            # uv takes what is at a path to be what it was; in another image it may be something else.
            uv_cache = folder / "uv"
            uv_cache.mkdir()
        self._binds = [
            Bind(files, f"{HIDDEN}/files"),
            Bind(uv_binary(), f"{HIDDEN}/uv"),
            Bind(packages / "pip", f"{HIDDEN}/cache/pip", read_only=False),
            Bind(uv_cache, f"{HIDDEN}/cache/uv", read_only=False),
        ]
        if self._definition.context is not None:
            self._binds.append(Bind(self._definition.context, f"{HIDDEN}/context"))
        env, binds = index_settings(f"{HIDDEN}/paths")
        self._binds += binds
        self._environment = {
            "PIP_CACHE_DIR": f"{HIDDEN}/cache/pip",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "UV_CACHE_DIR": f"{HIDDEN}/cache/uv",
            "UV_LINK_MODE": "copy",  # the cache is on another file system, as the image sees it
            "UV_PYTHON_DOWNLOADS": "never",
            **env,
        }

    async def _follow(self, instruction: Instruction) -> None:
        state, rest = self._state, instruction.rest
        match instruction.name:
            case "FROM":
                self._note_source(rest)
            case "ARG":
                name, equals, _ = rest.partition("=")
                given = self._definition.build_args
                if name in given:
                    state.args[name] = given[name]
                elif equals:
                    state.args.update(parse_env(rest, state.variables))
            case "ENV":
                state.env.update(parse_env(rest, state.variables))
            case "WORKDIR":
                path = (
                    parse_env(f"x={rest}", state.variables)["x"]
                    if "'" in rest or '"' in rest
                    else expand(rest, state.variables)
                )
                state.workdir = _join(state.workdir, path)
                await self._expect(["mkdir", "-p", "--", state.workdir], instruction)
            case "CMD":
                state.cmd = json_list(rest) or [*state.shell, rest]
            case "ENTRYPOINT":
                given_list = json_list(rest)
                state.entrypoint = [*state.shell, rest] if given_list is None else given_list
            case "SHELL":
                shell = json_list(rest)
                if not shell:
                    raise BuildError(f"SHELL takes a JSON list: {instruction.line}")
                state.shell = shell
            case "USER":
                if expand(rest, state.variables).partition(":")[0] not in ("root", "0"):
                    raise BuildError(f"{instruction.line}: containers run as root here, as Modal's do")
            case "COPY" | "ADD":
                await self._copy(instruction)
            case "RUN":
                await self._run(instruction)
            case _:  # LABEL, EXPOSE, MAINTAINER, STOPSIGNAL: nothing looks at them
                pass

    def _note_source(self, rest: str) -> None:
        source = parse_source(rest, self._definition.bases, self._state.args)
        if source.debian:
            with contextlib.suppress(OSError):
                text = Path("/etc/os-release").read_text()
                if f"VERSION_CODENAME={source.debian}" not in text:
                    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
                    self._say(
                        f"The userland is this machine's, {name[1] if name else 'unknown'}, not {source.debian}.\n"
                    )

    # Running things

    async def _start(self, argv: Sequence[str], env: Mapping[str, str], workdir: str) -> int:
        assert self._stage is not None
        self._last_output.clear()
        decode: dict[int, str] = {1: "", 2: ""}

        def output(number: int, data: bytes) -> None:
            text = data.decode(errors="replace")
            self._say(text)
            *whole, decode[number] = (decode[number] + text).split("\n")
            self._last_output.extend(whole)

        spec = ContainerSpec(
            name="build",
            layer=self._parent.layer,
            command=argv,
            env=env,
            workdir=workdir,
            binds=self._binds,
            overlays=(),
            output=output,
            changes=self._stage.path,
        )
        try:
            process = await self._runtime.start(spec)
        except OSError as exc:
            raise BuildError(f"a container for the build cannot be started: {exc}") from exc
        try:
            status = await process.wait()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        self._last_output.extend(rest for rest in decode.values() if rest)
        self._changed = True
        return status

    async def _expect(self, argv: Sequence[str], instruction: Instruction) -> None:
        """Run a tool of ours in the image."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        status = await self._start(argv, env, "/")
        if status != 0:
            raise self._failed(instruction, status)

    def _failed(self, instruction: Instruction, status: int) -> BuildError:
        how = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
        said = "\n".join(f"  {line}" for line in self._last_output)
        return BuildError(f"{instruction.line}\n{how}." + (f" Its last output:\n{said}" if said else ""))

    async def _run(self, instruction: Instruction) -> None:
        run = parse_run(instruction.rest)
        if run.command and await self._is_done(run.command, instruction):
            return
        state = self._state
        argv = [*state.shell, run.command] if run.command else list(run.argv)
        env = {**self._environment, "DEBIAN_FRONTEND": "noninteractive", **state.args}
        env |= {**state.env, **self._definition.secrets}
        status = await self._start(argv, env, state.workdir)
        if status == 0:
            return
        if run.command and (apt := parse_apt(run.command)) is not None and self._skip(apt.packages):
            return
        raise self._failed_run(run, instruction, status)

    def _failed_run(self, run: Run, instruction: Instruction, status: int) -> BuildError:
        error = self._failed(instruction, status)
        apt = parse_apt(run.command) if run.command else None
        if apt is None:
            return error
        names = " ".join(missing_packages(apt.packages, self._installed()))
        return BuildError(f"{error}\nThese Debian packages cannot be had: {names}. {SKIP_HINT}")

    def _skip(self, packages: Sequence[str]) -> bool:
        if not self._builder._skip_apt:
            return False
        names = " ".join(missing_packages(packages, self._installed()))
        self._say(f"Going on without these Debian packages, which cannot be had: {names or 'none'}\n")
        return True

    async def _is_done(self, command: str, instruction: Instruction) -> bool:
        """Whether a RUN line needs nothing to be run, because what it asks for is there."""
        plain = " ".join(command.split())
        if self._official and PRELUDE_PIP.fullmatch(plain):
            wanted = plain.split("--upgrade ")[1].split()
            if "wheel" not in wanted or self._has_distribution("wheel"):
                self._say("They came with the copy of Python.\n")
                return True
        if self._official and plain == PRELUDE_DEBCONF:
            # Said once per RUN by a variable instead, and not needed where there is no debconf.
            self._say("RUN lines get DEBIAN_FRONTEND=noninteractive.\n")
            return True
        apt = parse_apt(command)
        if apt is None:
            return False
        missing = missing_packages(apt.packages, self._installed())
        if not missing:
            if apt.packages:
                self._say("All of them are there: an image has the Debian packages of this machine.\n")
            else:
                self._say("Lists are fetched once a package is needed that is not there.\n")
            return True
        if self._official and plain == PRELUDE_APT:
            # The client writes this line, not the user, and nearly all images do without.
            self._say(
                f"Not on this machine, and left out: {' '.join(missing)}. Use apt_install if you need it.\n"
            )
            return True
        if not self._runtime.apt:
            if self._skip(missing):
                return True
            raise BuildError(
                f"{instruction.line}\nThese Debian packages are not on this machine, and only root can install them, "
                f"in namespaces: {' '.join(missing)}. {SKIP_HINT}"
            )
        if not self._lists():
            self._say("apt-get update\n")
            env = {**self._environment, **self._state.env, "DEBIAN_FRONTEND": "noninteractive"}
            await self._start(
                ["apt-get", "update", "-qq"], env, "/"
            )  # what is wrong with it, the install will tell
        return False

    def _find(self, name: str) -> Path | None:
        """The newest version of a file of the image that a layer changed."""
        assert self._stage is not None
        return self._runtime.find(self._stage, self._parent, name)

    def _installed(self) -> dict[str, str]:
        path = self._find("var/lib/dpkg/status")
        return {} if path is None else read_status(path)

    def _lists(self) -> bool:
        assert self._stage is not None
        folder = self._find("var/lib/apt/lists")
        return folder is not None and any(folder.glob("*Packages*"))

    def _has_distribution(self, name: str) -> bool:
        folder = self._find(f"usr/local/lib/python{self._parent.python}/site-packages")
        return folder is not None and any(folder.glob(f"{name}-*.dist-info"))

    # Copying

    async def _copy(self, instruction: Instruction) -> None:
        copy = parse_copy(instruction.name, instruction.rest, self._state.variables)
        target = copy.target
        if not target.startswith("/"):
            slash = "/" if target.endswith("/") or target in (".", "./") else ""
            target = _join(self._state.workdir, target) + slash
        if copy.uv:
            await self._copy_uv(copy, target, instruction)
            return
        for source in copy.sources:
            for path, there in self._context(source, instruction):
                into = COPY_INTO if target.endswith("/") else COPY_FILE
                script = COPY_FOLDER if path.is_dir() else into
                await self._expect(["/bin/sh", "-c", script, "copy", there, target, copy.chmod], instruction)

    async def _copy_uv(self, copy: Copy, target: str, instruction: Instruction) -> None:
        from importlib.metadata import version

        have = version("uv")
        if copy.uv_version not in ("", "latest", have):
            self._say(
                f"uv {have} stands in for uv {copy.uv_version}: it is the one that modal-emulator came with.\n"
            )
        for source in copy.sources:
            name = source.strip("/")
            if name not in ("uv", "uvx"):
                raise BuildError(f"{instruction.line}: uv's image has /uv and /uvx")
            where = f"{target}{name}" if target.endswith("/") else target
            script = COPY_UVX if name == "uvx" else COPY_FILE
            await self._expect(["/bin/sh", "-c", script, "copy", f"{HIDDEN}/uv", where, "755"], instruction)

    def _context(self, source: str, instruction: Instruction) -> list[tuple[Path, str]]:
        """What a COPY source means: paths on this machine, and in the container."""
        relative = _confined(source)
        found = []
        for folder, mounted in ((self._files, "files"), (self._definition.context, "context")):
            if folder is None:
                continue
            if relative == "":
                if mounted == "context" or self._definition.context is None:
                    found.append((folder, f"{HIDDEN}/{mounted}"))
                continue
            names = [relative]
            if glob.has_magic(relative):
                names = [str(path.relative_to(folder)) for path in folder.glob(relative)]
            root = folder.resolve()
            for name in sorted(names):
                path = folder / name
                if path.exists() and path.resolve().is_relative_to(root):
                    found.append((path, f"{HIDDEN}/{mounted}/{name}"))
            if found and not glob.has_magic(relative):
                break  # a file of the description goes before one of the context
        if not found:
            raise BuildError(
                f"{instruction.line}: {source} is not among the files that came with the image's description"
            )
        return found


SKIP_HINT = "`modal-emulator --skip-apt` goes on without them."


def _confined(name: str) -> str:
    """A path within the context, however it is written."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise BuildError(f"COPY cannot take what is outside of the context: {name}")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if "\0" in name:
        raise BuildError("a path of the context has a NUL in it")
    return "/".join(parts)


def _join(folder: str, path: str) -> str:
    """An absolute path in an image."""
    return "/" + os.path.normpath(PurePosixPath("/", folder, path)).lstrip("/")


def fresh_key(key: str) -> str:
    """A key for a build of its own."""
    return hashlib.sha256(f"{key} {secrets.token_hex(16)}".encode()).hexdigest()[:32]


def describe(lines: Sequence[str]) -> str:
    return shlex.join(lines)


async def settle(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(BaseException):
        await task
