"""The source code that containers get: no layer of an image, but put there when a container starts."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from mini.shipment import METADATA

if TYPE_CHECKING:
    import modal
    from mini.requirements import ProjectPackage
    from mini.shipment import Source

__all__ = ["add_source"]

ROOT = "/root"
"""Where source code is, which is on the containers' import path, before what is installed."""
STAYS = ["**/.*", "**/__pycache__", "**/*.pyc", "**/*.pyo", "**/*.egg-info", "**/*~"]
"""What does not travel, as `mini.requirements.source_files` has it: hidden files are where secrets are."""


def add_source(image: modal.Image, source: Source) -> modal.Image:
    """The image with source code. Nothing that has to be built can be put on top of that one."""
    image = reduce(_add_package, source.packages, image)
    for folder in source.metadata():
        image = image.add_local_dir(
            folder, f"{ROOT}/{folder.name}", ignore=lambda path: str(path) not in METADATA
        )
    return image


def _add_package(image: modal.Image, package: ProjectPackage) -> modal.Image:
    target = f"{ROOT}/{package.name.replace('.', '/')}"
    if package.path.is_file():
        return image.add_local_file(package.path, f"{target}.py")
    return image.add_local_dir(package.path, target, ignore=STAYS)
