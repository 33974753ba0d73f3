"""Images through the real client."""

from __future__ import annotations

import uuid
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(server: Emulator) -> program.Ran:
    return program.run("images.py", server.environ, uuid.uuid4().hex)


@pytest.fixture(scope="module")
def said(ran: program.Ran) -> dict[str, Any]:
    return ran.check()


@covers("ImageGetOrCreate", "ImageJoinStreaming")
def test_what_an_image_has(said: dict[str, Any]) -> None:
    assert said["look"] == {
        "env": ["bar baz", 'it\'s "so" $HOME'],
        "workdir": "/srv/app",
        "made": "built by bar baz\n",
        "copied": "copied",
        "text": "copied",
        "late": "copied",
        "pip": 0,
    }


def test_a_function_that_builds(said: dict[str, Any]) -> None:
    assert said["model"] == "42"


def test_a_line_that_fails(said: dict[str, Any]) -> None:
    kind, message = said["failing"]
    assert kind == "ImageBuildError"
    assert "RUN echo it goes wrong; exit 3" in message
    assert "exit status 3" in message
    assert "it goes wrong" in message


@pytest.mark.parametrize(
    ("name", "text"), [("cuda", "CUDA"), ("micromamba", "micromamba"), ("no python", "3.15")]
)
def test_bases_that_cannot_be_had(said: dict[str, Any], name: str, text: str) -> None:
    kind, message = said[name]
    assert kind == "ImageBuildError"
    assert text in message


def test_an_official_image(said: dict[str, Any]) -> None:
    assert said["registry"] == ["nothing", ""]


def test_volumes_of_a_build_are_refused(said: dict[str, Any]) -> None:
    _, message = said["volumes"]
    assert "volume_mounts" in message


def test_what_is_built_again(ran: program.Ran, said: dict[str, Any]) -> None:
    first, again, forced, after = said["ids"]
    assert first == again
    assert forced != first
    assert after == forced


def test_the_log_reaches_the_client(ran: program.Ran, said: dict[str, Any]) -> None:
    assert ran.out.count("\ncounted ") + ran.err.count("\ncounted ") == 2


@covers("ImageFromId", "ImagePublish", "ImageGetByTag")
def test_images_are_found_again(said: dict[str, Any]) -> None:
    assert said["from id"] == said["ids"][0]
    assert said["from name"] == said["ids"][0]
