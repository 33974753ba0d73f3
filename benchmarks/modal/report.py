"""What the page says, and the figures that it shows."""

from __future__ import annotations

from ..common.report import Figure, milliseconds, seconds
from ..common.targets import number

DISTRIBUTIONS = ("mini-core", "mini-modal", "modal", "modal-emulator", "grpclib")

METHOD = [
    "Both sides call in one process, by the same Modal client, on the same server in another process, which has its",
    "own, empty cache of images. Both have as many containers, which are there before the clock starts, of the image",
    "that `mini_modal.make_image()` makes for a small project with a lock. In each round each side is measured once,",
    "in an order that changes; the other one waits meanwhile. Ratios are taken within each round; *measured* is their",
    "median over the rounds, *spread* the least and the greatest.",
]
READINGS = [
    "- **Tiny**: a map of 10 000 calls of a function that returns its input, at mini's default settings, hence with 8",
    "  containers.",
    "- **100 ms**: calls that sleep, so that two cores are enough for 8 containers; 40 for each container.",
    "- **Warm**: one container that waits. `run` brings the function along each time, runs it in a process of its own",
    "  beside Modal's, and claims the call so that it never runs twice.",
    "- **Constant**: bytes, other ones each time. Modal's own function has them as an argument of each call; mini as a",
    "  keyword argument that all calls share. Two containers.",
    "- **`import mini_modal`**: new interpreters that run `import mini; import mini_modal` against `import mini`,",
    "  compiled. Modal's client is not imported by it, nor by making an apparatus.",
    "- **Image**: in a process that has connected, `make_image()` (which has `uv export` read the lock) and `build` of",
    "  what it returns in an app that is there: one request for each layer, and one for each file and mount of the",
    "  source code that the server does not know to have. *With the start of the app*: `make_image()`, a new app with",
    "  one function of that image, until it runs.",
]
REASONS = [
    "## Where the time of a warm `run` goes",
    "",
    "A container of mini's was timed from inside, as a median of 200 calls, on a machine that was busy otherwise, so",
    "that `.remote` took 5.3 ms and `run` 7.1 ms. What `run` takes longer:",
    "",
    "| what                                                                             | time    |",
    "|----------------------------------------------------------------------------------|---------|",
    "| the container claims the call: one request to the server, before anything runs   | 1.10 ms |",
    "| the call's way to the process that runs calls, the call, and the way back        | 0.43 ms |",
    "| in the caller: pickling, the engine, and the way to the thread that asks Modal   | 0.24 ms |",
    "",
    "The claim is what keeps the contract: Modal gives the input of a container that died to another one, and that one",
    "cannot tell from what Modal says whether the call has begun before. It cannot be made meanwhile either, because a",
    "call can end its container before the claim arrives. A map makes one claim for each group of calls.",
    "",
    "A thread of the container that only waited for the call cost another 0.3 ms, and is gone. The ratio depends on",
    "what else the machine does: 1.36× was measured at a load of 4, where all wait for a processor; idle it is more.",
    "",
    "The volume costs nothing where no call asks for its directory. From the first call on that does, each group in",
    "that container has two more requests, to have the volume as it is before and after. When every group had them,",
    "`run` took 12.6 ms beside a `.remote` of 2.8 ms: the emulator mounts the volume anew for the first of them.",
    "",
    "## Why calls of 100 ms are faster",
    "",
    "They go in pairs, and a container that has a pair is sent its next one meanwhile, so it does not wait for the way",
    "to the server and back. One by one they had 0.949× with 8 containers and 0.959× with 2. Calls of more than an",
    "eighth of a second go one by one: when a container dies, nobody knows which of those that it was sent have run.",
]


def _rate(value: float) -> str:
    return f"{number(value)} /s"


FIGURES: list[Figure] = [
    ("10 000 tiny calls, `Function.map`", "tiny.rate", "raw", _rate),
    ("… processor time of the server, per call", "tiny.server", "raw", milliseconds),
    ("… of the client", "tiny.client", "raw", milliseconds),
    ("… of the containers", "tiny.containers", "raw", milliseconds),
    ("10 000 tiny calls, mini's `map`", "tiny.rate", "mini", _rate),
    ("… processor time of the server, per call", "tiny.server", "mini", milliseconds),
    ("… of the client", "tiny.client", "mini", milliseconds),
    ("… of the containers", "tiny.containers", "mini", milliseconds),
    ("calls of 100 ms, 8 containers, `Function.map`", "slow_8.rate", "raw", _rate),
    ("… mini's `map`", "slow_8.rate", "mini", _rate),
    ("calls of 100 ms, 2 containers, `Function.map`", "slow_2.rate", "raw", _rate),
    ("… mini's `map`", "slow_2.rate", "mini", _rate),
    ("warm `.remote`, p50", "single.median", "raw", milliseconds),
    ("… p99", "single.p99", "raw", milliseconds),
    ("… processor time of the server", "single.server", "raw", milliseconds),
    ("… of the client", "single.client", "raw", milliseconds),
    ("… of the container", "single.containers", "raw", milliseconds),
    ("warm `run`, p50", "single.median", "mini", milliseconds),
    ("… p99", "single.p99", "mini", milliseconds),
    ("… processor time of the server", "single.server", "mini", milliseconds),
    ("… of the client", "single.client", "mini", milliseconds),
    ("… of the container", "single.containers", "mini", milliseconds),
    ("50 calls with 100 MB, `Function.map`", "constant.seconds", "raw", seconds),
    ("… mini's `map`", "constant.seconds", "mini", seconds),
    ("`import mini`", "imports.seconds", "mini", milliseconds),
    ("`import mini; import mini_modal`", "imports.seconds", "mini_modal", milliseconds),
    ("… and an apparatus made", "imports.seconds", "apparatus", milliseconds),
    ("`import modal`", "imports.seconds", "modal", milliseconds),
    ("`make_image()`", "image.seconds", "make_image", milliseconds),
    ("… and the server asked", "image.seconds", "ask", milliseconds),
    ("… and an app started", "image.seconds", "start", milliseconds),
]
