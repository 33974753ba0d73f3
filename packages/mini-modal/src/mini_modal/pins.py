"""What a lock pins, as layers of an image: from an index, from git, or an archive of this machine."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mini import RequirementsError
from mini.shipment import index_options

if TYPE_CHECKING:
    import modal
    from mini.shipment import Shipment

__all__ = ["install"]

UV = "/.uv/uv"
"""Where Modal's client puts uv into an image."""


def install(image: modal.Image, shipment: Shipment) -> modal.Image:
    """The image with what is to be installed for a project.

    Markers count as they are in it, and what is locked has the hash that it has here.

    Credentials of indexes reach the build as a secret, and are in no layer.
    """
    import modal

    if shipment.own:
        image = image.uv_pip_install(*shipment.own)
    pinned = shipment.pinned
    if pinned is not None and any(" @ git+" in line for line in pinned.requirements):
        image = image.apt_install("git")
    variables = {name: value for index in shipment.indexes for name, value in index.variables.items()}
    options: dict[str, Any] = {"secrets": [modal.Secret.from_dict(dict(variables))]} if variables else {}
    if pinned is not None and pinned.requirements:
        image = image.uv_pip_install(
            requirements=[_kept("pylock.toml", pinned.pylock)],
            extra_options=shlex.join(index_options(shipment.indexes)),
            **options,
        )
    for archive in shipment.archives:
        there = f"/tmp/{archive.name}"
        image = image.add_local_file(archive, there, copy=True).run_commands(
            f"{UV} pip install --python $(command -v python) --no-deps {shlex.quote(there)}"
        )
    return image


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
