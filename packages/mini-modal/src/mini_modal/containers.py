"""The Modal app of a session, and the class whose instances are its containers.

A module of its own, because it needs `modal` when it is imported, here and in the container.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import modal

from .cache import MOUNT, VOLUME, cache_variables
from .messages import Setup
from .worker import Host

if TYPE_CHECKING:
    from modal_proto import api_pb2

    from .session import Definition

__all__ = ["class_options", "make_app", "page_of", "task_result"]


def make_app(
    definition: Definition, image: modal.Image, setup: Setup, volume: modal.Volume
) -> tuple[modal.App, Any]:
    """An app with one class, `Worker`, and that class."""

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

    # Modal is to have a container for each group; whether one gets the next group early is decided there.
    concurrent = modal.concurrent(max_inputs=2, target_inputs=1)(Worker)
    app = modal.App(definition.name)
    return app, app.cls(**class_options(definition, image, volume))(concurrent)


def class_options(definition: Definition, image: modal.Image, volume: modal.Volume) -> dict[str, Any]:
    """What `modal.App.cls` takes."""
    from .session import CALL_SECONDS

    env: dict[str, str | None] = {**cache_variables(definition.env), **definition.env}
    cache = modal.Volume.from_name(VOLUME, create_if_missing=True)
    native = definition.options
    return {
        "image": image,
        "serialized": True,
        "timeout": CALL_SECONDS,
        **native,
        "volumes": {MOUNT: cache, **native.get("volumes", {}), definition.mount: volume},
        "secrets": [*native.get("secrets", ()), modal.Secret.from_dict(env)],
    }


async def page_of(app: modal.App) -> str:
    """The address of an app's page, for people. The app runs."""
    from modal._utils.async_utils import synchronizer

    with suppress(Exception):  # no part of Modal's public interface, whose address is always one at Modal
        if url := synchronizer._translate_in(app)._running_app.app_page_url:  # type: ignore[no-untyped-call]
            return str(url)
    return await app.get_dashboard_url.aio()


async def task_result(client: modal.Client, container: str) -> api_pb2.GenericResult:
    """How a container has ended."""
    from modal._utils.async_utils import synchronizer

    result: api_pb2.GenericResult = await synchronizer.create_blocking(_ask_result).aio(client, container)
    return result


async def _ask_result(client: modal.Client, container: str) -> api_pb2.GenericResult:
    """In the thread of Modal's client, to whose event loop its connection belongs."""
    from modal_proto import api_pb2

    answer = await client._stub.TaskGetInfo(api_pb2.TaskGetInfoRequest(task_id=container))
    return answer.info.result
