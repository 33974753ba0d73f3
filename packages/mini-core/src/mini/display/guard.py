"""Gives a terminal back when the process that had rows of it cannot, because it was killed.

Whoever ends normally, by an exception or by Ctrl-C cleans up itself. After SIGKILL, SIGTERM or a crash nobody would,
and a shell would go on in the upper part of a terminal whose last rows are dead. So while bars are up, a `sh` waits on
a pipe: each line it reads says from which row on the terminal is taken (0: not at all), and the end of the pipe is the
end of the process.
"""

from __future__ import annotations

import contextlib
import os
import signal

__all__ = ["Guard"]

_WATCH = r"""
trap '' HUP INT QUIT TERM TSTP TTOU
top=0
while read -r row; do top=$row; done
[ "$top" = 0 ] || printf '\0337\033[r\033[%d;1H\033[m\033[J\0338' "$top"
"""


class Guard:
    """Watches over one terminal until `close`. Where there is no `sh` it does nothing."""

    def __init__(self, fd: int) -> None:
        self._pid = self._told = 0
        ours, theirs = os.pipe()[::-1]
        try:
            # In a process group of its own: Ctrl-C and Ctrl-\ are meant for the program, not for its guard.
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _WATCH],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_DUP2, fd, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=[signal.SIGPIPE],
            )
        except OSError:
            os.close(ours)
        else:
            self._pipe = ours
        finally:
            os.close(theirs)

    def tell(self, row: int) -> None:
        """From `row` on (the first is 1) the terminal is taken; 0: it is given back."""
        if self._pid and row != self._told:
            self._told = row
            with contextlib.suppress(OSError):
                os.write(self._pipe, b"%d\n" % row)

    def close(self) -> None:
        """End the guard and wait for it."""
        if self._pid:
            os.close(self._pipe)
            with contextlib.suppress(
                ChildProcessError
            ):  # a program that waits for any child may have had this one
                os.waitpid(self._pid, 0)
            self._pid = 0
