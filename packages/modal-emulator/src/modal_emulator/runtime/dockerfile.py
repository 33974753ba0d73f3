"""The lines by which Modal's client describes an image: a subset of the Dockerfile language, parsed."""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import BuildError

__all__ = [
    "Copy",
    "Instruction",
    "Run",
    "Source",
    "expand",
    "parse",
    "parse_copy",
    "parse_env",
    "parse_run",
    "parse_source",
]

KNOWN = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "MAINTAINER", "RUN", "SHELL",
    "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip
NOT_HERE = {
    "HEALTHCHECK": "nothing here looks after the health of containers",
    "ONBUILD": "images here are not made into bases of Dockerfiles elsewhere",
    "VOLUME": "use a modal.Volume",
}
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals, what follows it, and the line as it was written."""

    name: str
    rest: str
    line: str


@dataclass(frozen=True, slots=True)
class Source:
    """What FROM names: an image given with the definition (`base`), or the Python of an official image's tag.

    `minor` is empty if the tag leaves it open; `debian` is the release that it names, if any.
    """

    base: str = ""
    minor: str = ""
    debian: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY or ADD. `uv` if what is copied comes from the image of uv, in the version `uv_version`, or the newest."""

    sources: Sequence[str]
    target: str
    chmod: str = ""
    uv: bool = False
    uv_version: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """RUN: a command for the shell, or, as `argv`, a program with its arguments."""

    command: str = ""
    argv: Sequence[str] = ()


def parse(lines: Sequence[str]) -> list[Instruction]:
    """The instructions in `lines`, each of which may be several lines.

    Raises:
        BuildError: there is one that is unknown, or that cannot be honoured.
    """
    instructions = []
    for line in _logical_lines(lines):
        match = re.match(r"([A-Za-z]+)(?:\s+(.*))?$", line, re.DOTALL)
        if match is None:
            raise BuildError(f"this is no Dockerfile instruction: {line}")
        name, rest = match[1].upper(), (match[2] or "").strip()
        if name in NOT_HERE:
            raise BuildError(f"modal-emulator does not honour {name}: {NOT_HERE[name]}. The line is: {line}")
        if name not in KNOWN:
            raise BuildError(f"there is no Dockerfile instruction {match[1]}: {line}")
        if name in ("RUN", "COPY", "ADD") and re.search(r"<<-?[\"']?[A-Z]+[\"']?(?:\s|$)", rest):
            raise BuildError(
                f"modal-emulator does not read here-documents; write the commands with && between them: {line}"
            )
        if not rest:
            raise BuildError(f"{name} needs something after it")
        instructions.append(Instruction(name, rest, line))
    if not instructions or instructions[0].name not in ("FROM", "ARG"):
        raise BuildError("an image's description begins with FROM")
    if sum(each.name == "FROM" for each in instructions) > 1:
        raise BuildError(
            "modal-emulator builds no Dockerfiles of several stages: there is more than one FROM"
        )
    return instructions


def _logical_lines(lines: Sequence[str]) -> Iterator[str]:
    """Lines with their continuations, without comments."""
    pending: list[str] = []
    for line in "\n".join(lines).split("\n"):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not pending):
            continue
        if not stripped:
            continue
        if stripped.endswith("\\"):
            pending.append(stripped[:-1].rstrip() if pending else stripped[:-1].strip())
            continue
        pending.append(stripped)
        yield " ".join(pending)
        pending = []
    if pending:
        yield " ".join(pending)


_VARIABLE = re.compile(
    r"\\(?P<escaped>.)|\$(?:(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::(?P<op>[-+])(?P<word>[^}]*))?\})"
)


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace $NAME, ${NAME}, ${NAME:-default} and ${NAME:+alternative}; `\\$` is a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return "$" if match["escaped"] == "$" else match[0]
        value = env.get(match["name"] or match["braced"], "")
        if match["op"] == "-":
            return value or expand(match["word"], env)
        if match["op"] == "+":
            return expand(match["word"], env) if value else ""
        return value

    return _VARIABLE.sub(replace, text)


def words(text: str, env: Mapping[str, str]) -> list[str]:
    """Split like a shell; variables are expanded, though not between single quotes."""
    found: list[str] = []
    current: list[str] | None = None
    position = 0
    quote = ""
    plain = ""

    def flush() -> None:
        nonlocal plain, current
        if plain:
            current = [*(current or []), expand(plain, env)]
            plain = ""

    while position < len(text):
        char = text[position]
        following = text[position + 1 : position + 2]
        if quote == "'":
            if char == "'":
                quote = ""
            else:
                current = [*(current or []), char]
        elif char == "\\" and following:
            position += 1
            if following == "$":
                plain += "\\$"
            elif quote and following not in '"\\':
                plain += char + char + following if following == "\\" else char + following
            else:
                flush()
                current = [*(current or []), following]
        elif char == quote == '"':
            quote = ""
        elif not quote and char in "'\"":
            flush()
            current = current or []
            quote = char
        elif not quote and char.isspace():
            flush()
            if current is not None:
                found.append("".join(current))
            current = None
        else:
            plain += char
        position += 1
        if quote == "'" and plain:
            flush()
    if quote:
        raise BuildError(f"a quote is not closed: {text}")
    flush()
    if current is not None:
        found.append("".join(current))
    return found


def parse_env(rest: str, env: Mapping[str, str]) -> dict[str, str]:
    """The variables that ENV, ARG or LABEL set: `NAME=value …`, or, as it used to be, `NAME value`."""
    if not re.match(r"[^\s=]+=", rest):
        name, _, value = rest.partition(" ")
        return {name: expand(value.strip(), env)}
    result = {}
    for word in words(rest, env):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BuildError(f"this is not NAME=value: {word}")
        result[name] = value
    return result


def json_list(rest: str) -> list[str] | None:
    """The strings of a JSON list; None if it is none."""
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else None


def _flags(rest: str) -> tuple[dict[str, list[str]], str]:
    flags: dict[str, list[str]] = {}
    while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
        flags.setdefault(match[1], []).append(match[2] or "")
        rest = rest[match.end() :]
    return flags, rest


def parse_run(rest: str) -> Run:
    flags, rest = _flags(rest)
    for name, values in flags.items():
        # A cache makes the command faster, and nothing else.
        if name == "mount" and all("type=cache" in value.split(",") for value in values):
            continue
        if name == "network" and values == ["default"]:
            continue
        raise BuildError(f"modal-emulator does not honour RUN --{name}={values[0]}")
    if rest.startswith("<<"):
        raise BuildError(
            "modal-emulator does not read here-documents; write the commands with && between them"
        )
    argv = json_list(rest)
    return Run(argv=argv) if argv else Run(command=rest)


def parse_copy(name: str, rest: str, env: Mapping[str, str]) -> Copy:
    flags, rest = _flags(rest)
    chmod, uv, uv_version = "", False, ""
    for flag, values in flags.items():
        value = values[-1]
        if flag == "from":
            match = re.fullmatch(r"(?:ghcr\.io/astral-sh|astral)/uv(?::([\w.-]+))?(?:@sha256:\w+)?", value)
            if match is None:
                raise BuildError(
                    f"{name} --from={value}: only uv's image can be copied from, as no registry is reached"
                )
            uv, uv_version = True, match[1] or ""
        elif flag == "chmod":
            if not re.fullmatch(r"[0-7]{3,4}", value):
                raise BuildError(f"{name} --chmod={value}: three or four octal digits are understood")
            chmod = value
        elif flag == "chown":
            if value.partition(":")[0] not in ("root", "0"):
                raise BuildError(f"{name} --chown={value}: files of an image belong to root here")
        elif flag != "link":
            raise BuildError(f"modal-emulator does not honour {name} --{flag}")
    parts = json_list(rest)
    parts = [expand(part, env) for part in parts] if parts is not None else words(rest, env)
    if len(parts) < 2:
        raise BuildError(f"{name} needs a source and a target: {rest}")
    *sources, target = parts
    for source in sources:
        if re.match(r"(?:https?|git|ssh)://|git@", source):
            raise BuildError(
                f"{name} {source}: only files of the context can be added; `RUN curl` can fetch others"
            )
        if name == "ADD" and re.search(r"\.(?:tar|tgz|tar\.\w+)$", source):
            raise BuildError(f"ADD {source}: archives are not unpacked here; COPY it and unpack it with RUN")
    if (len(sources) > 1 or any(c in source for source in sources for c in "*?[")) and not target.endswith(
        "/"
    ):
        target += "/"
    return Copy(sources, target, chmod, uv, uv_version)


def parse_source(rest: str, bases: Mapping[str, str], env: Mapping[str, str]) -> Source:
    """What FROM names. `bases` are the tags of the images that came with the definition."""
    flags, rest = _flags(rest + " ")
    for flag, values in flags.items():
        if flag != "platform":
            raise BuildError(f"modal-emulator does not honour FROM --{flag}")
        own = f"linux/{MACHINES.get(platform.machine(), platform.machine())}"
        if expand(values[-1], env).lower() not in (own, f"{own}/v8"):
            raise BuildError(f"FROM --platform={values[-1]}: containers run on this machine, which is {own}")
    parts = expand(rest, env).split()
    tag = parts[0] if parts else ""
    if tag in bases:
        return Source(base=tag)
    bare = re.sub(r"^(?:(?:index\.)?docker\.io/)?(?:library/)?", "", tag)
    match = re.fullmatch(r"python(?::([\w.-]+))?(?:@sha256:\w+)?", bare)
    if match is not None:
        version, _, variant = (match[1] or "latest").partition("-")
        if version in ("latest", "3", "slim", "bookworm", "trixie", "bullseye"):
            minor = ""
            variant = variant or version
        elif numbers := re.fullmatch(r"(3\.\d+)(?:\.\d+)?(?:(?:a|b|rc)\d+)?", version):
            minor = numbers[1]
        else:
            raise BuildError(f"FROM {tag}: this version of Python is not understood")
        if "alpine" in variant or "windows" in variant:
            raise BuildError(
                f"FROM {tag}: an image's userland is this machine's; only Debian-like tags can stand for it"
            )
        release = next((r for r in ("bullseye", "bookworm", "trixie", "buster") if r in variant), "")
        return Source(minor=minor, debian=release)
    raise BuildError(f"FROM {tag}: {_why_not(bare)}")


def _why_not(tag: str) -> str:
    if "cuda" in tag or tag.startswith(("nvcr.io/", "nvidia/")):
        why = "images with CUDA cannot be had offline"
    elif "micromamba" in tag or "conda" in tag:
        why = "micromamba and conda images cannot be had offline"
    else:
        why = "no registry is reached"
    return f"{why}. modal-emulator builds from Image.debian_slim() and from_registry('python:3.x')"


def quoted(parts: Sequence[str]) -> str:
    return shlex.join(parts)


@dataclass(slots=True)
class State:
    """What instructions set, as they are gone through."""

    env: dict[str, str]
    workdir: str
    shell: list[str]
    entrypoint: list[str]
    cmd: list[str]
    args: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What $NAME means in an instruction: ENV goes before ARG."""
        return {**self.args, **self.env}
