"""What the page says, and the figures that it shows."""

from __future__ import annotations

from ..common.report import Figure, megabytes, milliseconds, seconds
from .conduct import LARGE, SMALL, VERSIONS

DISTRIBUTIONS = ("modal-emulator", "modal", "grpclib", "protobuf", "aiohttp")

METHOD = [
    "Modal's unmodified client runs in a process of its own, against a server in another one that has its own, empty",
    "cache of images; nothing else of the benchmark runs meanwhile. In each round everything that is compared is",
    "measured once, in an order that changes. Ratios are taken within each round; *measured* is their median over the",
    "rounds, *spread* the least and the greatest.",
]
READINGS = [
    "- **Cold**: from `.remote()` to its result in a process that has imported `modal` and whose app runs, of a",
    "  function whose image is built and that has no container. Against a new interpreter that only runs",
    "  `import modal`, compiled.",
    "- **Warm**: `.remote()` of a function with one container that waits. A *bare unary call* is `Client.hello()`: one",
    "  RPC by the same client in the same process, which the server answers at once.",
    "- **`map`**: of a function that returns its input, with two containers that wait. *No more* per input is read as",
    "  1.1×, which is what two runs of the same differ by.",
    "- **Volume**: a file of random bytes by `batch_upload`, and by `read_file` into another file, against `cp` of it",
    "  on the same file system. None of them waits for the disk (no `fsync`); before each, everything is synced.",
    "- **Idle**: the server and the process that starts its containers, resident memory added up, after a deployment.",
    "- **Ephemeral apps**: each has one call, hence one container. *Left* is what is there more than after the first",
    "  twenty; *no growth* of memory is read as 10 MB.",
]


REASONS = [
    "## Where the time of a warm `.remote` goes",
    "",
    "It is four calls of the protocol, two of the client and two of the container, each with about what a bare unary",
    "call takes of a processor; the three processes together work for longer than the call lasts. Between them lies",
    "what Modal's runtime does in the container, where an input changes threads twice. The library on both sides",
    "speaks HTTP/2 in pure Python: by py-spy, 91 % of the server's time for a bare call go there, or to asyncio.",
    "That the container gets its input before the client is told that it was taken, and the client its result before",
    "the container is told, was tried, and made no difference.",
    "",
    "## Where the time of 1 GiB into a Volume v1 goes",
    "",
    "Modal's client hashes a file twice, one after the other: SHA-256 before it asks where to put it, MD5 of what it",
    "sends, piece by piece, to hold it against the server's answer. On this machine they take 0.50 s and 1.18 s of one",
    "processor, together more than three times what `cp` takes. Into a Volume v2 it does not go that way.",
    "",
    "`cp` copies within the system's file cache, at a pace of its own: 0.26 s in one run, 0.52 s in another. The ways",
    "into a Volume and out of it, over HTTP and through Python on both sides, took the same in both.",
]


FIGURES: list[Figure] = [
    ("`import modal`", "cold.seconds", "import modal", seconds),
    ("cold `.remote`", "cold.seconds", "remote", seconds),
    ("bare unary call, p50", "warm.median", "hello", milliseconds),
    ("… p99", "warm.p99", "hello", milliseconds),
    ("warm `.remote`, p50", "warm.median", "remote", milliseconds),
    ("… p99", "warm.p99", "remote", milliseconds),
    ("… processor time of the server", "warm.server", "remote", milliseconds),
    ("… of the client", "warm.client", "remote", milliseconds),
    ("… of the container", "warm.containers", "remote", milliseconds),
    ("`map` of 1 000, per input", "map.per_input", SMALL, milliseconds),
    ("… of 10 000", "map.per_input", LARGE, milliseconds),
    ("… processor time of the server", "map.server", LARGE, milliseconds),
    ("… of the client", "map.client", LARGE, milliseconds),
    ("… of the containers", "map.containers", LARGE, milliseconds),
    ("`cp` of 1 GiB", "volume.seconds", "cp", seconds),
    *(
        row
        for version in VERSIONS
        for row in (
            (f"1 GiB into a Volume v{version}", "volume.seconds", f"put v{version}", seconds),
            ("… the server grows by", "volume.grown", f"put v{version}", megabytes),
            ("… out of it again", "volume.seconds", f"get v{version}", seconds),
            ("… the server grows by", "volume.grown", f"get v{version}", megabytes),
        )
    ),
    ("idle server, memory", "idle.memory", "server", megabytes),
    ("… processor", "idle.load", "server", lambda percent: f"{percent:.2g} %"),
    ("an ephemeral app with one call", "apps.seconds", "server", seconds),
]
