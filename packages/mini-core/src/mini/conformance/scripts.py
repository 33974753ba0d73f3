"""Programs of their own, for what only holds, or only breaks, in one: `__main__`, notebook cells, signals, the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .footprint import descendants
from .probes import until

__all__ = ["Script", "Scripts"]

_CELLS = '''
import ast, asyncio, inspect, linecache
def run_cell(number, source):
    """As IPython does: compiled with a name of its own, source kept for tracebacks, within a running event loop."""
    name = f"<ipython-input-{number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return eval(compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), globals())
async def notebook():
    for number, source in enumerate(CELLS, 1):
        if inspect.isawaitable(pending := run_cell(number, source)):
            await pending
asyncio.run(notebook())
'''


class Script:
    """A program that runs."""

    def __init__(self, file: Path, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._out, self._err = file.with_suffix(".out"), file.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            # A process group of its own, so that it can be sent what a terminal sends.
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self, seconds: float) -> int:
        """Wait for its end and return its exit status; after `seconds` it is killed and the test fails."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the script has not ended after {seconds:g} s\n{self.words()}") from None

    def signal_group(self, signal: int) -> None:
        """Send a signal as a terminal does: to the whole process group."""
        os.killpg(self.pid, signal)

    def wait_for_line(self, text: str, seconds: float) -> None:
        """Wait until it has printed a line that is or contains `text`."""
        until(lambda: text in self.out or self.process.poll() is not None, seconds, f"the output {text!r}")
        assert text in self.out, self.words()

    def words(self) -> str:
        """What it said."""
        return f"--- stdout ---\n{self.out[-3000:]}\n--- stderr ---\n{self.err[-6000:]}"

    def kill(self) -> None:
        if self.process.poll() is None:
            family = descendants(self.pid)
            self.process.kill()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        self.process.wait()


class Scripts:
    """Writes scripts that begin with a prelude, and runs them.

    Attributes:
        patience: seconds that one may take for something that should happen.
        temporary: their directory for temporary files.
    """

    def __init__(self, directory: Path, python: str, prelude: str, patience: float) -> None:
        self._directory = directory
        self._python = python
        self._prelude = prelude
        self.patience = patience
        self._scripts: list[Script] = []
        # Of their own, so that what they leave there can be seen; and short, because sockets may have to go there.
        self.temporary = Path(tempfile.mkdtemp(prefix="mini-"))

    def start(
        self,
        source: str,
        *args: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        path: Path | None = None,
        prelude: str | None = None,
    ) -> Script:
        """Start a script.

        Args:
            source: what follows the prelude, in which `app` is an apparatus.
            args: for `sys.argv`.
            env: environment variables on top of those of this process.
            cwd: where it runs; by default in the directory that it is in.
            path: put in front of its import path.
            prelude: instead of the one that all scripts have.
        """
        directory = self._directory / str(len(self._scripts))
        directory.mkdir(parents=True)
        file = directory / "script.py"
        file.write_text((self._prelude if prelude is None else prelude) + source)
        # As this process imports, so does the script; a test's backend may be in a test's folder.
        entries = [str(path)] if path else []
        entries += [entry for entry in sys.path if entry]
        full = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entries),
            "MINI_PROGRESS": "0",
            "TMPDIR": str(self.temporary),
            **(env or {}),
        }
        script = Script(file, [self._python, str(file), *map(str, args)], cwd or directory, full)
        self._scripts.append(script)
        return script

    def run(
        self,
        source: str,
        *args: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        path: Path | None = None,
        seconds: float | None = None,
    ) -> Script:
        """Run a script to its end; it has to succeed."""
        script = self.start(source, *args, env=env, cwd=cwd, path=path)
        status = script.wait(seconds or 3 * self.patience)
        assert status == 0, f"the script ended with status {status}\n{script.words()}"
        return script

    def run_cells(self, *cells: str) -> Script:
        """Run source as the cells of a notebook, one after the other."""
        return self.run(f"CELLS = {list(cells)!r}\n{_CELLS}")

    def close(self) -> None:
        for script in self._scripts:
            script.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)
