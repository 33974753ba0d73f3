"""Small projects that tests make, and the uv that locks and builds them."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mini.requirements import find_project_root, find_uv


@contextlib.contextmanager
def bare_uv(cache: Path) -> Iterator[None]:
    """uv as it is where nobody has set it up but for what it needs to reach an index, and with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("UV_") and not re.search("INDEX|CERTS|NATIVE_TLS|INSECURE|HTTP", name):
                patch.delenv(name)
        patch.delenv("VIRTUAL_ENV", raising=False)
        patch.setenv("UV_CACHE_DIR", str(cache))
        patch.setenv("UV_PYTHON", sys.executable)
        patch.setenv("UV_PYTHON_DOWNLOADS", "never")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        yield


@contextlib.contextmanager
def outside_of_projects() -> Iterator[Path]:
    """A new folder that no project is above of, as the usual temporary folder may be within a checkout."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", str(Path.home())):
        if os.access(base, os.W_OK) and find_project_root(Path(base)) is None:
            with tempfile.TemporaryDirectory(dir=base) as folder:
                yield Path(folder).resolve()
            return
    pytest.fail("every folder for temporary files is within a project")


def uv(*arguments: str | Path, cwd: Path) -> str:
    """Run uv, which must succeed; return what it wrote."""
    command = [str(find_uv()), "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files, whose names are relative to `root`; return `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def project(root: Path, name: str, *dependencies: str, version: str = "1.0", more: str = "") -> Path:
    """Write a project that uv_build builds, with a module that knows its version; return `root`."""
    quoted = ", ".join(f"'{dependency}'" for dependency in dependencies)
    pyproject = (
        f"[project]\nname = '{name}'\nversion = '{version}'\nrequires-python = '>=3.11'\ndependencies = [{quoted}]\n"
        f"{more}\n[build-system]\nrequires = ['uv_build']\nbuild-backend = 'uv_build'\n"
    )
    module = f"src/{name.replace('-', '_')}/__init__.py"
    return write(root, {"pyproject.toml": pyproject, module: f"version = '{version}'\n"})


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP; the URL."""
    handler = partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
