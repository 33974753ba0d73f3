"""An S3 server on this machine: moto's, as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Self
from urllib.request import ProxyHandler, Request, build_opener

__all__ = ["S3Server"]

START_SECONDS = 60.0


class S3Server:
    """Serves one bucket, and forgets it in the end.

    Attributes:
        bucket: its URL.
        variables: what clients have to have in their environment.
    """

    bucket = "s3://volumes"

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", "--port=0"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            found: Future[str] = Future()
            self._reader = threading.Thread(target=self._read, args=[found], daemon=True)
            self._reader.start()
            url = found.result(START_SECONDS)
            request = Request(f"{url}/volumes", method="PUT")
            build_opener(ProxyHandler({})).open(request, timeout=START_SECONDS).close()
        except BaseException:
            self.close()
            raise
        self.variables = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return self

    def _read(self, found: Future[str]) -> None:
        """Take what it says, which would be in its way otherwise."""
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if not found.done() and (match := re.search(r"Running on (http://\S+)", line)):
                found.set_result(match[1])
        if not found.done():
            found.set_exception(RuntimeError("".join(said)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
