"""What goes wrong with an image, in words: it cannot be built, or has another Python."""

from __future__ import annotations

import re
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from mini import BackendUnavailable, MiniError, OptionError
from mini.buildlog import ending, failed_requirement, plain

if TYPE_CHECKING:
    import modal

__all__ = ["PYTHON", "build_log", "check_python", "explain_build", "explain_image", "python_of"]

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The caller's minor version."""
MOST_CHARACTERS = 6000
LOG_SECONDS = 10

_LINE = re.compile(r"^(?:=> Step \d+: )?((?:RUN|COPY|FROM|ENV|WORKDIR|ADD|SHELL|ARG) .*)$", re.MULTILINE)


def explain_build(exc: modal.exception.ImageBuildError, log: str = "") -> BackendUnavailable:
    """That an image cannot be built, as an error of mini's: with the line that failed, the requirement, and the end.

    Args:
        exc: what Modal's client has raised. It becomes the cause.
        log: of the build, or its end; see `build_log`.
    """
    said = plain(str(exc))
    log = plain(log)
    # Modal's own words may have all of it or nothing; the log is what happened.
    lines = _LINE.findall(log) or _LINE.findall(said)
    text = log if log.strip() else said
    parts = ["the image for the calls cannot be built"]
    if lines:
        parts.append(f"the line that failed: {lines[-1].strip()}")
    if requirement := failed_requirement(text):
        parts.append(f"the requirement: {requirement}")
    more = [line for line in said.splitlines()[1:] if line.strip() and line.strip() not in text]
    parts += [f"Modal says: {' '.join(line.strip() for line in more)[:MOST_CHARACTERS]}"] if more else []
    parts.append(f"how it ended:\n{ending(text)}")
    if not log.strip():
        parts.append(f"all of it: modal image logs {exc.image_id}")
    error = BackendUnavailable("\n".join(parts))
    error.__cause__ = exc
    return error


async def build_log(client: modal.Client, image_id: str) -> str:
    """What was said when an image was built, or was being built until it failed; empty if Modal does not tell."""
    from modal._utils.async_utils import synchronizer

    with suppress(Exception):  # it is for an error message, which must not be replaced by another one
        return await synchronizer.create_blocking(_join_log).aio(client, image_id)  # type: ignore[no-any-return]
    return ""


async def _join_log(client: modal.Client, image_id: str) -> str:
    """In the thread of Modal's client, to whose event loop its connection belongs."""
    import asyncio

    from modal_proto import api_pb2

    request = api_pb2.ImageJoinStreamingRequest(
        image_id=image_id, timeout=LOG_SECONDS, include_logs_for_finished=True
    )
    said: deque[str] = deque(maxlen=2000)
    async with asyncio.timeout(LOG_SECONDS):
        async for answer in client._stub.ImageJoinStreaming.unary_stream(request):
            said.extend(entry.data for entry in answer.task_logs)
            if answer.eof or answer.result.status:
                break
    return "".join(said)


def python_of(image: modal.Image) -> str | None:
    """The minor version of the Python in an image, which has been built; None if Modal has not told."""
    metadata = None
    with suppress(Exception):  # no part of Modal's public interface
        metadata = image._get_metadata()
    found = re.match(r"Python (\d+\.\d+)", getattr(metadata, "python_version_info", ""))
    return found[1] if found else None


def check_python(version: str | None) -> None:
    """Refuse an image whose Python is of another minor version than the caller's; one that is unknown passes.

    Raises:
        OptionError: it is. What one version has pickled the other cannot read, or reads as something else.
    """
    if version is not None and version != PYTHON:
        raise OptionError(
            f"the image has Python {version}, and this is Python {PYTHON}: functions can only be sent to the same"
            f" one. Use an image with Python {PYTHON}, such as modal.Image.debian_slim(python_version={PYTHON!r}),"
            f" or run this with Python {version}"
        )


async def explain_image(exc: BaseException, image: modal.Image, client: modal.Client) -> MiniError | None:
    """What a failure to start an app means, if it is for its image: the error to raise; else None."""
    import modal

    if isinstance(exc, modal.exception.ImageBuildError):
        return explain_build(exc, await build_log(client, exc.image_id))
    try:
        check_python(python_of(image))
    except OptionError as error:
        error.__cause__ = exc
        return error
    return None
