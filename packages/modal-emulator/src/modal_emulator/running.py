"""Running a command in the foreground, so that nobody notices that it has a parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

__all__ = ["run_command"]

FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
SI_KERNEL = 128  # where a signal comes from when a terminal sends it, to all of its foreground group


def run_command(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command with this process's standard streams, and return its exit code as a shell has it.

    Signals that come to this process are forwarded. What a terminal sends goes to the command anyway, which is in the
    same process group, and is not sent twice. Afterwards the signals of `FORWARDED` are blocked: this process is to
    clean up and exit.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    waited = FORWARDED | {signal.SIGCHLD}
    # Blocked signals are kept until they are asked for below, so that none is lost between two lines of this.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        pid = os.posix_spawnp(
            command[0],
            tuple(command),
            env,
            setsigmask=before,
            # What Python ignores, for its own sake.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as exc:
        # As a shell would have it.
        os.write(2, f"modal-emulator: {command[0]}: {exc.strerror}\n".encode())
        return 127 if isinstance(exc, FileNotFoundError) else 126
    while True:
        info = signal.sigwaitinfo(waited)
        if info.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
        elif info.si_code != SI_KERNEL:
            os.kill(pid, info.si_signo)
