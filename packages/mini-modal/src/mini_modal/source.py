"""The source code that containers get: no layer of an image, but put there when a container starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from mini.requirements import ProjectPackage, importable_packages

if TYPE_CHECKING:
    import modal

__all__ = ["OURS", "Source", "our_source", "project_source"]

OURS = {"mini": "mini-core", "mini_modal": "mini-modal"}
"""What of ours a container needs, by module and distribution."""
ROOT = "/root"
"""Where source code is, which is on the containers' import path, before what is installed."""
STAYS = ["**/.*", "**/__pycache__", "**/*.pyc", "**/*.pyo", "**/*.egg-info", "**/*~"]
"""What does not travel, as `mini.requirements.source_files` has it: hidden files are where secrets are."""
METADATA = ("METADATA", "entry_points.txt")
"""What of an installed distribution travels with its source: its version, and what others find it by."""


@dataclass(frozen=True, slots=True)
class Source:
    """Import packages and modules, and the names of distributions whose metadata goes with them."""

    packages: tuple[ProjectPackage, ...]
    distributions: tuple[str, ...]

    def __add__(self, other: Source) -> Source:
        """Both; where a name is in both it is the first one's."""
        known = {package.name for package in self.packages}
        more = (package for package in other.packages if package.name not in known)
        return Source((*self.packages, *more), tuple(dict.fromkeys(self.distributions + other.distributions)))

    def add_to(self, image: modal.Image) -> modal.Image:
        """The image with it. Nothing that has to be built can be put on top of that one."""
        image = reduce(_add_package, self.packages, image)
        for folder in filter(None, map(_metadata_folder, self.distributions)):
            image = image.add_local_dir(
                folder, f"{ROOT}/{folder.name}", ignore=lambda path: str(path) not in METADATA
            )
        return image


def our_source() -> Source:
    """mini's own packages, as they are here: both sides have to speak the same version of mini's own messages."""
    return Source(tuple(_installed(OURS)), tuple(OURS.values()))


def project_source(folders: Iterable[Path], distributions: Iterable[str]) -> Source:
    """All that can be imported from projects in `folders`."""
    found = Source((), tuple(distributions))
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        found += Source(tuple(importable_packages(folder)), ())
    return found


def installed_source(*modules: str) -> Source:
    """Packages and modules that are installed here and need nothing that is not plain Python."""
    return Source(tuple(_installed(modules)), ())


def _installed(modules: Iterable[str]) -> Iterator[ProjectPackage]:
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        yield ProjectPackage(name, path.parent if spec.submodule_search_locations else path)


def _add_package(image: modal.Image, package: ProjectPackage) -> modal.Image:
    target = f"{ROOT}/{package.name.replace('.', '/')}"
    if package.path.is_file():
        return image.add_local_file(package.path, f"{target}.py")
    return image.add_local_dir(package.path, target, ignore=STAYS)


def _metadata_folder(distribution: str) -> Path | None:
    """Where the metadata of a distribution is here; None if it is not installed."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in found.files or ():
        if file.name in METADATA and file.parent.name.endswith(".dist-info"):
            return Path(str(found.locate_file(file))).parent
    return None
