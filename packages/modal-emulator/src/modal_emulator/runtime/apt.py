"""Debian packages: which a command asks for, and whether they are there already."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AptCall", "missing_packages", "parse_apt", "read_status"]

_HARMLESS = re.compile(
    r"(?:sudo )?(?:apt-get|apt) (?:-\S+ )*(?:update|clean|autoclean|autoremove)(?: -\S+)*"
    r"|rm -r?f?r? /var/lib/apt/lists(?:/\*)?|rm -rf /var/cache/apt(?:/\S*)?"
)


@dataclass(frozen=True, slots=True)
class AptCall:
    """A command that does nothing but install Debian packages; `packages` is empty if it only updates lists."""

    packages: Sequence[str]


def parse_apt(command: str) -> AptCall | None:
    """What a shell command asks apt for; None if it does anything else as well."""
    packages: list[str] = []
    for piece in re.split(r"&&|;", command):
        text = " ".join(piece.split())
        if not text or _HARMLESS.fullmatch(text):
            continue
        try:
            words = shlex.split(text)
        except ValueError:
            return None
        while words and (words[0] == "sudo" or re.fullmatch(r"\w+=\S*", words[0])):
            words.pop(0)
        if not words or words[0] not in ("apt-get", "apt"):
            return None
        rest = [word for word in words[1:] if not word.startswith("-")]
        if "-o" in words or "-t" in words or not rest or rest[0] != "install":
            return None
        if any(not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*(?::\w+)?(?:=\S+)?", word) for word in rest[1:]):
            return None
        packages += rest[1:]
    return AptCall(packages)


def read_status(file: Path) -> dict[str, str]:
    """The installed packages and their versions, by dpkg's database."""
    installed: dict[str, str] = {}
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            installed[fields.get("Package", "")] = fields.get("Version", "")
    return installed


def missing_packages(packages: Sequence[str], installed: Mapping[str, str]) -> list[str]:
    missing = []
    for package in packages:
        name, _, version = package.partition("=")
        name = name.partition(":")[0]
        if name not in installed or (version and installed[name] != version):
            missing.append(package)
    return missing
