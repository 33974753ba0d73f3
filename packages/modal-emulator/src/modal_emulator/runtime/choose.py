"""Which runtime this machine allows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .launching import LauncherUnavailable
from .namespaces import NamespacesRuntime

if TYPE_CHECKING:
    from ..settings import Settings
    from . import Runtime

__all__ = ["open_runtime"]

log = logging.getLogger(__name__)


def open_runtime(settings: Settings) -> Runtime:
    """The runtime that `settings.isolation` asks for; "auto" tries namespaces and falls back on directories.

    Raises:
        LauncherUnavailable: namespaces were asked for, and the kernel refuses them.
    """
    from .directories import DirectoriesRuntime

    if settings.isolation == "directories":
        return DirectoriesRuntime(settings)
    try:
        return NamespacesRuntime(settings)
    except LauncherUnavailable as exc:
        if settings.isolation == "namespaces":
            raise
        log.warning(
            "containers run in plain directories, without isolation, because the kernel refuses namespaces: %s",
            exc,
        )
        return DirectoriesRuntime(settings)
