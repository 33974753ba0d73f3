"""What a lock pins, as layers of an image: from an index, from git, or an archive of this machine."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
import tomllib
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini import RequirementsError
from mini.requirements import find_workspace_root

if TYPE_CHECKING:
    import modal
    from mini.requirements import Requirements

__all__ = ["Index", "indexes_of", "install"]

UV = "/.uv/uv"
"""Where Modal's client puts uv into an image."""


@dataclass(frozen=True, slots=True)
class Index:
    """A package index that a project names.

    Attributes:
        name, url: as in pyproject.toml, without credentials.
        default: it stands in for PyPI.
        explicit: only what names it comes from it.
        username, password: from the URL, or from the variables that uv reads; empty if there are none.
    """

    name: str
    url: str
    default: bool = False
    explicit: bool = False
    username: str = ""
    password: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The variables that uv reads the credentials from."""
        if not self.username and not self.password:
            return {}
        prefix = _variable(self.name)
        return {f"{prefix}_USERNAME": self.username, f"{prefix}_PASSWORD": self.password}


def indexes_of(root: Path, config: Mapping[str, Any], environment: Mapping[str, str]) -> list[Index]:
    """The indexes that the project at `root` names, or its workspace; only what can be reached from elsewhere.

    Args:
        config: the project's pyproject.toml.
        environment: has credentials in variables, as uv wants them.
    """
    tables = list(_index_tables(config))
    workspace = find_workspace_root(root)
    if workspace != root.absolute():
        file = workspace / "pyproject.toml"
        tables += _index_tables(tomllib.loads(file.read_text(encoding="utf-8")))
    found: dict[str, Index] = {}
    for number, table in enumerate(tables):
        url = urllib.parse.urlsplit(str(table.get("url", "")))
        if url.scheme not in ("http", "https") or table.get("format") == "flat":
            continue
        index = Index(
            str(table.get("name") or f"index-{number}"),
            url._replace(netloc=url.netloc.rpartition("@")[2]).geturl(),
            bool(table.get("default", False)),
            bool(table.get("explicit", False)),
            urllib.parse.unquote(url.username or ""),
            urllib.parse.unquote(url.password or ""),
        )
        prefix = _variable(index.name)
        index = replace(
            index,
            username=environment.get(f"{prefix}_USERNAME", index.username),
            password=environment.get(f"{prefix}_PASSWORD", index.password),
        )
        found.setdefault(index.url, index)
    return list(found.values())


def install(image: modal.Image, frozen: Requirements, indexes: list[Index]) -> modal.Image:
    """The image with what a lock pins; markers count as they are in it, and each package has the hash that it has here.

    Credentials of indexes reach the build as a secret, and are in no layer.
    """
    import modal

    if any(" @ git+" in line for line in frozen.requirements):
        image = image.apt_install("git")
    variables = {name: value for index in indexes for name, value in index.variables.items()}
    options: dict[str, Any] = {"secrets": [modal.Secret.from_dict(dict(variables))]} if variables else {}
    if frozen.requirements:
        image = image.uv_pip_install(
            requirements=[_kept("pylock.toml", frozen.pylock)],
            extra_options=shlex.join(_index_options(indexes)),
            **options,
        )
    for archive in (local.path for local in frozen.local if local.path.is_file()):
        there = f"/tmp/{archive.name}"
        image = image.add_local_file(archive, there, copy=True).run_commands(
            f"{UV} pip install --python $(command -v python) --no-deps {shlex.quote(there)}"
        )
    return image


def _index_options(indexes: list[Index]) -> Iterator[str]:
    """What is pinned says itself where it comes from; what its building needs does not, and neither do credentials."""
    for index in indexes:
        if index.default:
            yield f"--default-index={index.name}={index.url}"
        elif not index.explicit or index.variables:
            yield f"--index={index.name}={index.url}"


def _index_tables(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from config.get("tool", {}).get("uv", {}).get("index", [])


def _variable(name: str) -> str:
    return f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"


def _kept(name: str, text: str) -> str:
    """The path of a file with that text: an image reads it when it is built, whenever that is.

    It is in the user's cache, called by what it says, and stays there for the next time.
    """
    data = text.encode()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mini", "modal")
    folder = root / hashlib.sha256(data).hexdigest()[:32]
    path = folder / name
    if not path.is_file() or path.read_bytes() != data:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(data)
            Path(file.name).replace(path)
        except OSError as exc:
            raise RequirementsError(
                f"what the lock pins cannot be kept in {root}: {exc}; make it writable, or set XDG_CACHE_HOME"
            ) from exc
    return str(path)
