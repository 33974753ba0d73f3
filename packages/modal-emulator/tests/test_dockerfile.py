"""The lines that describe an image, read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modal_emulator.runtime import BuildError
from modal_emulator.runtime.apt import AptCall, missing_packages, parse_apt, read_status
from modal_emulator.runtime.dockerfile import (
    Copy,
    Run,
    Source,
    expand,
    parse,
    parse_copy,
    parse_env,
    parse_run,
    parse_source,
)


def test_instructions() -> None:
    lines = [
        "FROM base",
        "# a remark",
        "",
        "run cd /tmp && \\ ",
        "  # inside",
        "  true && \\ ",
        "false",
        "ENV A=1\nENV B=2",
    ]
    assert [(i.name, i.rest) for i in parse(lines)] == [
        ("FROM", "base"),
        ("RUN", "cd /tmp && true && false"),
        ("ENV", "A=1"),
        ("ENV", "B=2"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "begins with FROM"),
        (["RUN true"], "begins with FROM"),
        (["FROM a", "FROM b"], "several stages"),
        (["FROM a", "VOLUME /x"], "modal.Volume"),
        (["FROM a", "HEALTHCHECK NONE"], "HEALTHCHECK"),
        (["FROM a", "FETCH x"], "no Dockerfile instruction FETCH"),
        (["FROM a", "=> x"], "no Dockerfile instruction"),
        (["FROM a", "RUN"], "RUN needs something"),
        (["FROM a", "COPY <<EOF /x", "text", "EOF"], "here-documents"),
        (["FROM a", "RUN cat <<EOF > /x", "text", "EOF"], "here-documents"),
    ],
)
def test_what_is_no_description(lines: list[str], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        parse(lines)


@pytest.mark.parametrize(
    ("tag", "minor"),
    [
        ("python:3.12.10-slim-bookworm", "3.12"),
        ("python:3.11", "3.11"),
        ("python:3.13-slim", "3.13"),
        ("docker.io/library/python:3.12-bookworm", "3.12"),
        ("python:3.14.0rc2-slim", "3.14"),
        ("python", ""),
        ("python:slim", ""),
        ("--platform=linux/$arch python:3.12", "3.12"),
    ],
)
def test_pythons(tag: str, minor: str) -> None:
    import platform

    arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert parse_source(tag, {}, {"arch": arch}).minor == minor


def test_images_that_were_given() -> None:
    assert parse_source("base AS it", {"base": "key"}, {}) == Source(base="base")
    assert parse_source("${WHICH:-base}", {"base": "key"}, {}) == Source(base="base")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("nvidia/cuda:12.4.0-devel-ubuntu22.04", "CUDA"),
        ("nvcr.io/nvidia/pytorch:22.12-py3", "CUDA"),
        ("mambaorg/micromamba:2.1.1-debian12-slim", "micromamba"),
        ("ubuntu:22.04", "no registry"),
        ("ghcr.io/me/mine:1", "no registry"),
        ("python:3.12-alpine", "Debian"),
        ("python:2.7", "not understood"),
        ("--platform=windows/amd64 python:3.12", "this machine"),
        ("scratch", "no registry"),
    ],
)
def test_bases_that_cannot_be_had(tag: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        parse_source(tag, {}, {})


def test_variables() -> None:
    env = {"A": "x", "EMPTY": ""}
    assert expand("$A ${A}b \\$A ${NONE:-d $A} ${A:+y}${EMPTY:+z} $NONE.", env) == "x xb $A d x y ."


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("FOO='bar baz'", {"FOO": "bar baz"}),
        ("PATH=/x:$PATH", {"PATH": "/x:/bin"}),
        ("A=1 B=\"$PATH x\" C='$PATH'", {"A": "1", "B": "/bin x", "C": "$PATH"}),
        ("A=a\\ b", {"A": "a b"}),
        ("A='it'\"'\"'s'", {"A": "it's"}),
        ('A="a \\"b\\" \\$PATH"', {"A": 'a "b" $PATH'}),
        ("A=", {"A": ""}),
        ("A=x=y", {"A": "x=y"}),
        ("OLD some words", {"OLD": "some words"}),
    ],
)
def test_env(rest: str, found: dict[str, str]) -> None:
    assert parse_env(rest, {"PATH": "/bin"}) == found


@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Z]{1,5}\Z"), st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"))
    )
)
def test_env_as_the_client_quotes_it(variables: dict[str, str]) -> None:
    import shlex

    for name, value in variables.items():
        assert (
            parse_env(f"{name}={shlex.quote(value)}", {"A": "other"})[name] == value or value != value.strip()
        )


def test_env_that_is_wrong() -> None:
    with pytest.raises(BuildError, match="quote"):
        parse_env("A='x", {})
    with pytest.raises(BuildError, match="NAME=value"):
        parse_env("A=1 b", {})


def test_run() -> None:
    assert parse_run("echo $HOME | cat") == Run(command="echo $HOME | cat")
    assert parse_run('["echo", "a b"]') == Run(argv=["echo", "a b"])
    assert parse_run("[ -e /x ]") == Run(command="[ -e /x ]")
    assert parse_run("--mount=type=cache,target=/root/.cache true") == Run(command="true")
    with pytest.raises(BuildError, match="--mount=type=secret"):
        parse_run("--mount=type=secret,id=x true")


def test_copy() -> None:
    assert parse_copy("COPY", "a b /to", {}) == Copy(["a", "b"], "/to/")
    assert parse_copy("COPY", '["a b", "$X"]', {"X": "/x"}) == Copy(["a b"], "/x")
    assert parse_copy("COPY", "--chmod=755 --chown=root:root --link a /to", {}) == Copy(["a"], "/to", "755")
    uv = parse_copy("COPY", "--from=ghcr.io/astral-sh/uv:0.5.1 /uv /uvx /bin/", {})
    assert (uv.uv, uv.uv_version) == (True, "0.5.1")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("--from=builder /x /y", "only uv's image"),
        ("--chown=me a b", "belong to root"),
        ("--chmod=u+x a b", "octal"),
        ("--parents a b", "--parents"),
        ("a", "a source and a target"),
        ("https://example.com/x /y", "files of the context"),
    ],
)
def test_copies_that_are_refused(rest: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        parse_copy("COPY", rest, {})


@pytest.mark.parametrize(
    ("command", "packages"),
    [
        ("apt-get update", []),
        ("apt-get install -y jq git", ["jq", "git"]),
        (
            "apt-get update && apt-get install -y --no-install-recommends 'jq=1.6' && rm -rf /var/lib/apt/lists/*",
            ["jq=1.6"],
        ),
        ("DEBIAN_FRONTEND=noninteractive apt install jq", ["jq"]),
    ],
)
def test_commands_that_only_install(command: str, packages: list[str]) -> None:
    assert parse_apt(command) == AptCall(packages)


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "apt-get install -y jq && jq .",
        "apt-get install ./x.deb",
        "apt-get remove jq",
        "apt-get install '",
    ],
)
def test_commands_that_do_more(command: str) -> None:
    assert parse_apt(command) is None


def test_packages(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "status"
    file.write_text(
        "Package: jq\nStatus: install ok installed\nVersion: 1.6\n\n"
        "Package: old\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    installed = read_status(file)
    assert installed == {"jq": "1.6"}
    assert missing_packages(["jq", "jq:amd64", "jq=1.6", "jq=1.7", "old"], installed) == ["jq=1.7", "old"]
    assert read_status(tmp_path / "none") == {}
