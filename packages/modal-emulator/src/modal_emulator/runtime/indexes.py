"""How this machine reaches its package indexes, for lines that install: variables, and folders that they name."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path

from . import Bind

__all__ = ["index_settings"]

_PASSED_ON = re.compile(
    r"^(?:PIP_|UV_|SSL_CERT|REQUESTS_CA_BUNDLE$|CURL_CA_BUNDLE$)|^(?:https?|all|no)_proxy$", re.IGNORECASE
)
_NOT_PASSED_ON = re.compile(
    r"^(?:PIP|UV)_(?:TARGET|PREFIX|USER|PYTHON|REQUIRE|CACHE|PROJECT|WORKING|NO_CACHE|CONFIG|LOG)"
)
_LINK_OUT = re.compile(r"""href=["']?\.\./\.\./([^/"'.][^/"']*)/""")


def index_settings(folder: str) -> tuple[dict[str, str], list[Bind]]:
    """The environment variables that say how indexes are reached, and the mounts that these need.

    Args:
        folder: of the container, below which files and folders of this machine are seen.
    """
    env, binds = _environment(), []
    for number, path in enumerate(_local_paths(env)):
        there = f"{folder}/{number}/{path.name}"
        binds.append(Bind(path, there))
        binds += [Bind(files, f"{folder}/{number}/{files.name}") for files in _linked_folders(path)]
        env = {name: _replace_path(value, str(path), there) for name, value in env.items()}
    return env, binds


def _environment() -> dict[str, str]:
    """Those of this process that are about indexes.

    pip reads its files of configuration too, those of the user among them, which an image does not have: what they
    say is put in variables.
    """
    env = {k: v for k, v in os.environ.items() if _PASSED_ON.match(k) and not _NOT_PASSED_ON.match(k)}
    for name, value in _pip_configuration().items():
        env.setdefault(name, value)
    return env


def _pip_configuration() -> dict[str, str]:
    if os.environ.get("PIP_CONFIG_FILE") == os.devnull:
        return {}
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        config_home / "pip" / "pip.conf",
    ]
    if given := os.environ.get("PIP_CONFIG_FILE"):
        files.append(Path(given))
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                for key, value in parser.items(section):
                    name = "PIP_" + key.upper().replace("-", "_")
                    if not _NOT_PASSED_ON.match(name):
                        found[name] = " ".join(value.split())
    return found


def _local_paths(env: Mapping[str, str]) -> list[Path]:
    """Files and folders of this machine that variables name, each once."""
    words = (word.removeprefix("file://") for value in env.values() for word in value.split())
    return [Path(word) for word in dict.fromkeys(words) if word.startswith("/") and Path(word).exists()]


def _linked_folders(path: Path) -> list[Path]:
    """Where the files are that an index lists, if that is beside it: its pages have links that lead there."""
    try:
        page = next(path.glob("*/index.html")).read_text(errors="replace")
    except (StopIteration, OSError):
        return []
    beside = (path.parent / name for name in sorted({*_LINK_OUT.findall(page)} - {path.name}))
    return [folder for folder in beside if folder.is_dir()]


def _replace_path(value: str, old: str, new: str) -> str:
    return " ".join(
        new if word == old else f"file://{new}" if word == f"file://{old}" else word for word in value.split()
    )
