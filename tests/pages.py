"""Runs a Markdown page's code as its reader would, from the top down; docs/README.md describes the convention."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PYTHON = {"python", "py"}
SHELL = {"sh", "bash", "shell"}
RUN = PYTHON | SHELL | {"console"}

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[\w.+-]*)[^\n]*\n(?P<code>.*?)^ *(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!-- *(?P<mark>file|append|output|not run|exit)\b *(?:: *(?P<value>[^\n]*?))? *-->\s*\Z")

# Runs one block after the other in the namespace of __main__, as a notebook would, and answers each with its outcome.
_SESSION = """
def _serve():
    import json, os, sys, traceback
    answers = os.fdopen(int(sys.argv.pop(1)), "w")
    requests, sys.stdin = sys.stdin, open(os.devnull)
    for request in requests:
        name, line, code = json.loads(request)
        error = None
        try:
            exec(compile("\\n" * (line - 1) + code, name, "exec"), globals())
        except BaseException:
            error = traceback.format_exc()
        sys.stdout.flush()
        print(json.dumps(error), file=answers, flush=True)
_serve()
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, what is in it, and what the comment before it says about it."""

    page: Path
    line: int
    """Of its first line of code, from 1."""
    language: str
    code: str
    mark: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, match.start())
        indent = len(match["indent"])
        code = re.sub(rf"(?m)^ {{0,{indent}}}", "", match["code"])
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(
            Block(
                page,
                line,
                match["language"].lower(),
                code,
                *(mark["mark"], mark["value"] or "") if mark else (),
            )
        )
    return found


def check(page: Path, folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a page's blocks in `folder`, which becomes what a reader's own would.

    Raises AssertionError, naming the block's line, if one fails or if what it prints is not what the page says.
    """
    full = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **(env or {}),
    }
    full.pop("VIRTUAL_ENV", None)
    session: _Session | None = None
    printed = ""
    try:
        for block in blocks(page):
            if block.mark == "not run":
                assert block.value, f"{block}: 'not run' needs a reason"
            elif block.mark in ("file", "append"):
                path = folder / block.value
                assert path.resolve().is_relative_to(folder.resolve()), (
                    f"{block}: outside of the page's folder"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                before = f"{path.read_text()}\n" if block.mark == "append" else ""
                path.write_text(before + block.code)
            elif block.mark == "output":
                assert matches(block.code, printed), (
                    f"{block}: it says\n{block.code}\nand what came is\n{printed}"
                )
            elif block.language in PYTHON:
                session = session or _Session(folder, full)
                printed = session.run(block)
            elif block.language in SHELL:
                printed = _shell(block, block.code, folder, full)
            elif block.language == "console":
                for command, expected in _commands(block):
                    printed = _shell(block, command, folder, full)
                    assert matches(expected, printed), (
                        f"{block}: $ {command}\nit says\n{expected}\nand gives\n{printed}"
                    )
    finally:
        if session is not None:
            session.close()


def matches(expected: str, printed: str) -> bool:
    """Whether a text is the expected one, where `…` stands for anything within a line, and alone for any lines."""

    def lines(text: str) -> str:
        return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())

    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", r"[^\n]*?") + r"\n"
        for line in lines(expected).splitlines()
    )
    return re.fullmatch(pattern, lines(printed)) is not None


def _commands(block: Block) -> list[tuple[str, str]]:
    """A console block's commands, each with what it is to print."""
    first, *parts = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
    assert not first.strip(), f"{block}: a console block begins with a command, '$ …'"
    return [(command, expected) for command, _, expected in (part.partition("\n") for part in parts)]


def _shell(block: Block, script: str, folder: Path, env: Mapping[str, str]) -> str:
    status = int(block.value) if block.mark == "exit" else 0
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{block}: it exits with {done.returncode}\n{done.stdout}"
    return done.stdout


class _Session:
    """The interpreter that a page's Python blocks share."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        read, write = os.pipe()
        self._log = (folder / ".page-output").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SESSION, str(write)],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            text=True,
        )
        os.close(write)
        self._answers = os.fdopen(read)

    def run(self, block: Block) -> str:
        assert self._process.stdin is not None
        start = self._log.seek(0, os.SEEK_END)
        print(json.dumps([str(block.page), block.line, block.code]), file=self._process.stdin, flush=True)
        answer = self._answers.readline()
        self._log.seek(start)
        printed = self._log.read().decode()
        assert answer, f"{block}: the interpreter ended\n{printed}"
        error = json.loads(answer)
        assert error is None, f"{block}: it raises\n{printed}{error}"
        return printed

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()
        self._log.close()
