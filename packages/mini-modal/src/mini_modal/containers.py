"""The Modal app of a session, and the class whose instances are its containers.

A module of its own, because it needs `modal` when it is imported, here and in the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import modal

from .cache import MOUNT, VOLUME, cache_variables
from .messages import Setup
from .worker import Host

if TYPE_CHECKING:
    from .session import Definition

__all__ = ["make_app"]


def make_app(
    definition: Definition, image: modal.Image, setup: Setup, volume: modal.Volume
) -> tuple[modal.App, Any]:
    """An app with one class, `Worker`, and that class."""
    from .session import CALL_SECONDS

    class Worker:
        @modal.enter()
        async def begin(self) -> None:
            self.host = Host(setup)
            await self.host.begin()

        @modal.exit()
        async def end(self) -> None:
            self.host.close()

        @modal.method()
        async def call(self, data: bytes) -> bytes:
            return await self.host.call(data)

    app = modal.App(definition.name)
    env: dict[str, str | None] = {**cache_variables(definition.env), **definition.env}
    cache = modal.Volume.from_name(VOLUME, create_if_missing=True)
    native = definition.options
    # Modal is to have a container for each group; whether one gets the next group early is decided there.
    concurrent = modal.concurrent(max_inputs=2, target_inputs=1)(Worker)
    options = {
        "image": image,
        "serialized": True,
        "timeout": CALL_SECONDS,
        **native,
        "volumes": {MOUNT: cache, **native.get("volumes", {}), definition.mount: volume},
        "secrets": [*native.get("secrets", ()), modal.Secret.from_dict(env)],
    }
    return app, app.cls(**options)(concurrent)
