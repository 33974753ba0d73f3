"""A package index of one's own on the loopback interface, which may want a password; and wheels for it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

__all__ = ["PackageIndex", "make_wheel"]


def make_wheel(folder: Path, name: str, version: str = "1.0", requires: Sequence[str] = ()) -> Path:
    """A wheel with a module that knows its version, and is called as the distribution, with underscores."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join([*metadata, *(f"Requires-Dist: {each}" for each in requires), ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(zipfile.ZipInfo(each), text)  # a fixed date: the same content is the same file
    return path


class PackageIndex:
    """Serves what is in a folder: `NAME/*.whl` as an index, and whatever else there is as files.

    Args:
        folder: the files.
        credentials: user and password that have to be given; None for none.
    """

    def __init__(self, folder: Path, credentials: tuple[str, str] | None = None) -> None:
        self.folder = folder
        self.credentials = credentials
        wanted = None
        if credentials is not None:
            wanted = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def do_GET(self) -> None:
                if wanted is not None and self.headers.get("Authorization") != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                super().do_GET()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, version: str = "1.0", requires: Sequence[str] = ()) -> None:
        """Have another wheel."""
        wheel = make_wheel(self.folder / name, name, version, requires)
        links = [
            f"<a href='{each.name}#sha256={hashlib.sha256(each.read_bytes()).hexdigest()}'>{each.name}</a>"
            for each in sorted(wheel.parent.glob("*.whl"))
        ]
        (wheel.parent / "index.html").write_text("\n".join(links))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
