"""Long use grows nothing: not the memory of the caller or of its workers, nor descriptors, threads, processes or files.

Each workload runs in a process of its own, which takes a measurement after warming up and another after doing a
multiple of that work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import gc, json, os, sys, threading
from pathlib import Path
import mini

MIB = 1 << 20

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB

def workers():
    return [pid for f in Path(f"/proc/{os.getpid()}/task").glob("*/children") for pid in f.read_text().split()]

def shared_files():
    return {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").exists() else set()

shared_before = shared_files()

def measure():
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "worker descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers()),
        "threads": threading.active_count(),
        "processes": len(workers()),
        "shared files": sorted(n for n in shared_files() - shared_before if "mini" in n or str(os.getpid()) in n),
        "memory": resident("self"),
        "worker memory": sum(map(resident, workers())),
    }

measurements = []
app = mini.LocalApparatus("leaks", max_workers=2, data_dir=sys.argv[1]).w(progress=False)
count = int(sys.argv[2])
"""

CLOSURES = """
def make(i):
    data = i.to_bytes(4, "little") * (MIB // 4)
    return lambda: data[:4]

def call(closure):
    return int.from_bytes(closure(), "little")

peak = 0
for i, result in enumerate(app.map(call, (make(i) for i in range(count)))):
    assert result == i
    if i % 20 == 0:
        peak = max(peak, resident("self"))
    if i in (count // 10, count - 1):
        measurements.append({**measure(), "memory": peak})
"""

MAPS = """
def square(x):
    return x * x

def round():
    big = bytes(MIB)
    assert sum(app.map(square, range(300))) == sum(x * x for x in range(300))
    assert list(app.map(lambda x: len(big) + x, range(3))) == [MIB, MIB + 1, MIB + 2]
    assert next(app.map(square, iter(range(10_000)))) == 0  # and given up
    assert isinstance(list(app.map(lambda x: 1 / x, [1, 0], return_exceptions=True))[1], ZeroDivisionError)

for i in range(count):
    round()
    if i in (count // 4, count - 1):
        measurements.append(measure())
"""

THREADS = """
def square(x):
    return x * x

def use(seed):
    big = bytes([seed]) * MIB
    assert sum(app.map(square, range(500))) == sum(x * x for x in range(500))
    assert list(app.map(lambda x: big[x], range(4))) == [seed] * 4
    assert app.run(square, seed) == seed * seed

def round():
    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for i in range(count):
    round()
    if i in (count // 3, count - 1):
        measurements.append(measure())
"""

END = """
app.close()
measurements.append(measure())
print(json.dumps(measurements))
"""

GROWTH = 48.0
"""MiB that a process may grow by: allocators keep some of what they once had. A leak here is hundreds."""


def check(script: str, folder: Path, count: int) -> None:
    code = PRELUDE + script + END
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(count)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    early, late, closed = json.loads(done.stdout)
    for what in ("descriptors", "worker descriptors", "threads", "processes", "shared files"):
        assert late[what] == early[what], f"{what} grew: {early} -> {late}"
    for what in ("memory", "worker memory"):
        assert late[what] < early[what] + GROWTH, f"{what} grew: {early} -> {late}"
    assert (closed["processes"], closed["threads"], closed["shared files"]) == (0, 1, [])
    assert closed["descriptors"] <= 5, closed


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(500, id="few"),
        pytest.param(10_000, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_a_map_of_closures_over_1_mib_each(tmp_path: Path, count: int) -> None:
    check(CLOSURES, tmp_path, count)


def test_200_maps_one_after_the_other(tmp_path: Path) -> None:
    check(MAPS, tmp_path, 200)


def test_8_maps_at_once_from_8_threads(tmp_path: Path) -> None:
    check(THREADS, tmp_path, 12)


CONSTANT = """
size = count * MIB
data = bytes([1]) * size
assert list(app.map(lambda i, data: data[i], range(3), kwargs={"data": data})) == [1, 1, 1]
# Not getrusage's ru_maxrss: that of the process which started this one counts there too.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(int(peak) >> 10)
app.close()
"""


def test_a_large_constant_costs_few_copies(tmp_path: Path) -> None:
    """The caller's object, its pickle and what building the pickle takes; nothing may print or keep a copy of it."""
    command = [sys.executable, "-c", PRELUDE + CONSTANT, str(tmp_path), "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500
