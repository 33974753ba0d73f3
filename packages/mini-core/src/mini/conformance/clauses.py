"""The contract's clauses: the sentences that an apparatus is held to.

They are the same, word for word, as in docs/reference/contract.md.
"""

from __future__ import annotations

__all__ = ["CLAUSES", "GROUPS", "clause_of"]

GROUPS = {
    "RUN": "one call",
    "MAP": "many calls",
    "ERR": "when it goes wrong",
    "OPT": "options",
    "CTX": "what a function can ask for",
    "VOL": "the volume",
    "DET": "detached jobs",
    "CAP": "capabilities",
    "LIFE": "life cycle",
}
"""What the clauses whose ids begin like this are about, in the contract's order."""

CLAUSES = {
    "RUN-01": "`run(fn, *args, **kwargs)` calls `fn` once on a worker and returns what it returned.",
    "RUN-02": (
        "Positional and keyword arguments arrive unchanged; `None`, `...`, numpy arrays, dataclasses, classes "
        "defined in `__main__`, and functions as arguments all survive; arrays arrive writable."
    ),
    "RUN-03": "`await arun(...)` is the same call without blocking the event loop: other tasks keep running.",
    "RUN-04": "`run` and `map` work when an event loop is already running in the calling thread (notebooks).",
    "RUN-05": "An `async def` function is awaited on the worker and its value returned.",
    "RUN-06": "Called from several threads at once, one apparatus serves them all.",
    "RUN-07": (
        '`fn` never runs in the calling process unless the apparatus was made with `workers="inline"` or '
        '`"thread"`.'
    ),
    "RUN-08": "Rebinding or mutating an argument on the worker is not seen by the caller (pass by value).",
    "RUN-09": (
        "A generator function is refused with a `TypeError` before anything starts; it says to return a list "
        "or use `stream`."
    ),
    "RUN-10": (
        "`stream(fn, *args, **kwargs)` yields what a generator function yields, as it yields it; `astream` is "
        "its twin."
    ),
    "RUN-11": (
        "One class identity: an object of a `__main__` class that comes back is an instance of the caller's "
        "class, and `except MyError` catches what `fn` raised."
    ),
    "MAP-01": (
        "`map(fn, *iterables, kwargs=None)` zips the iterables and stops at the shortest, as `Executor.map` "
        "does; `kwargs` goes to every call."
    ),
    "MAP-02": "It returns an iterator; results come as they are ready, not after the last call.",
    "MAP-03": "Results keep the order of the inputs. With `ordered=False` they come as they finish.",
    "MAP-04": (
        "Inputs are pulled lazily. A generator of any length, also an endless one, may be passed; at most "
        "`window` inputs (default: a few groups per worker, at most some thousands) are in flight or waiting "
        "to be consumed."
    ),
    "MAP-05": "An empty input gives an empty iterator and starts nothing: no worker, no cluster, no image.",
    "MAP-06": (
        "The first call that raises, in the order results are handed out, raises at that place, and calls not "
        "yet started are dropped and running ones cancelled where the backend can. With "
        "`return_exceptions=True` the exception is a result like any other."
    ),
    "MAP-07": (
        "Closing the iterator early (`break`, `close()`, garbage collection) cancels what has not started and "
        "leaves the apparatus usable."
    ),
    "MAP-08": "`amap` is the same as an async iterator; leaving `async for` early does the same clean-up.",
    "MAP-09": "An exception raised by an input iterator reaches the caller unchanged.",
    "MAP-10": (
        "A large object in `kwargs`, or closed over by `fn`, is sent to each worker at most once per map, not "
        "once per call."
    ),
    "MAP-11": (
        "Tiny calls are grouped so that the cost of a call is not a round trip each; grouping changes no "
        "result, no order, no error and no count of attempts."
    ),
    "MAP-12": "Iterables of unequal length, a million inputs and results of 100 MB are all legal.",
    "MAP-13": (
        "Without `retries` a call starts at most once, and a result that was computed is not computed again, "
        "whatever dies. With `chunk=1` this holds everywhere; at default settings a backend that cannot know "
        "what a dead worker had finished may run again the tiny calls grouped with it (it then declines the "
        "capability `at_most_once_grouped`; `local` does not decline it)."
    ),
    "ERR-01": "An exception raised by `fn` is raised in the caller with its own type, `args` and attributes.",
    "ERR-02": "Its traceback shows the worker's frames: file, line and source of the failing line.",
    "ERR-03": "`__cause__`, `__context__`, `__notes__` and exception groups arrive whole.",
    "ERR-04": (
        "An exception that cannot be pickled arrives as `RemoteError` holding its type name, message and "
        "formatted traceback."
    ),
    "ERR-05": (
        "A function, argument or result that cannot be pickled raises `SerializationError`, naming which of "
        "the three it was and the path to the part that failed; a bad function or constant raises before "
        "anything is started, a bad input of a map at its place."
    ),
    "ERR-06": (
        "A worker that dies (SIGKILL, `os._exit`, out of memory, lost node) raises `WorkerLost` for the call "
        "that it was running and for no other call: with `return_exceptions=True` the rest of the map "
        "completes."
    ),
    "ERR-07": (
        "`sys.exit()` in `fn` is an error of that call (`RemoteError`), not the end of a worker or the "
        "caller."
    ),
    "ERR-08": (
        "`KeyboardInterrupt` in the caller stops the map, leaves no process behind and raises within 2 s."
    ),
    "ERR-09": (
        "A backend that is not installed, not reachable or not authorised raises `BackendUnavailable` (or its "
        "subclass `AuthError`) saying what to do next, within its connect timeout, and without a token in the "
        "text."
    ),
    "ERR-10": (
        "`StopIteration`, `TimeoutError`, `CancelledError`, `GeneratorExit` or `KeyboardInterrupt` raised by "
        "`fn` is an error of that call; it never passes for the library's own control flow."
    ),
    "ERR-11": "An exception from a map carries a note with the input's index and a short repr of it.",
    "OPT-01": (
        "`w(**options)` returns a new apparatus; the old one is unchanged; calls chain and later ones win."
    ),
    "OPT-02": (
        "These are understood everywhere: `cpu` (cores, float), `memory` (MiB), `gpu` (count, or a name such "
        'as `"L4"`, or `"A100:2"`), `timeout` (s), `retries` (count), `max_workers` (count), `env` (dict), '
        "`image` (a backend's own object), `window` (inputs in flight), `chunk` (calls per group at most; 1 = "
        "never grouped). A dict under a backend's name (`modal={…}`, `ray={…}`) passes native options to that "
        "backend; the others ignore it. What a backend has no use for it ignores and says so once, at INFO."
    ),
    "OPT-03": "An option that nobody knows raises `TypeError` naming the nearest one.",
    "OPT-04": "`timeout` ends the call on the worker and raises `JobTimeout` (a `TimeoutError`).",
    "OPT-05": (
        "`retries=n` runs a call that raised or lost its worker up to n more times; the last error is raised, "
        "with a note of how many attempts there were."
    ),
    "OPT-06": "`env` variables are there when the worker's process imports the function's modules.",
    "OPT-07": (
        "`before_each(hook)` returns a new apparatus whose hook runs on the worker before every call, hooks "
        "in the order added; a hook that raises fails that call alone."
    ),
    "CTX-01": "`get_data_dir()` in a call is the volume's directory; outside one it raises `RuntimeError`.",
    "CTX-02": (
        '`emit_progress(step, total, message="")` and `emit_metrics(**values)` reach the caller\'s display and '
        "the job's record; a call that emits a million times neither blocks nor floods."
    ),
    "CTX-03": (
        "`current_job()` gives the job's id, attempt, and the apparatus name; outside one it returns `None`."
    ),
    "CTX-04": (
        "What a call prints or logs is kept with its job and shown by `logs`; it appears live when asked for."
    ),
    "CTX-05": "A call may itself use an apparatus (nested `run`/`map`) without deadlock.",
    "VOL-01": "What one call writes under `get_data_dir()` a later call on the same apparatus name reads.",
    "VOL-02": "So does the caller, by `volume.download(remote, local)`, `volume.read_bytes`, `volume.list`.",
    "VOL-03": "`volume.upload(local, remote)` makes files and directories visible to later calls.",
    "VOL-04": "Contents outlive the process, the pool and the cluster.",
    "VOL-05": (
        "A path that leaves the volume (`..`, absolute, symlink) is refused; nothing outside it is read or "
        "written."
    ),
    "VOL-06": "A half-finished upload or download is never seen under its final name.",
    "VOL-07": "The volume's calls have async twins (`aupload`, `adownload`, …).",
    "DET-01": (
        "`spawn(fn, *args, **kwargs)` returns a `Job` at once; `spawn_map` returns a `JobGroup`; the work "
        "goes on when the calling process ends."
    ),
    "DET-02": (
        "Another process, given the apparatus name, lists the jobs and reads state, progress, metrics, "
        "result, error and logs; reading starts no worker, no cluster and no image build."
    ),
    "DET-03": (
        "States are PENDING → RUNNING → DONE | FAILED | CANCELLED | LOST and never go backwards within an "
        "attempt; a result is visible if and only if its state is DONE."
    ),
    "DET-04": "`job.result(timeout=None)` waits; `aresult` awaits; a failed job raises as ERR-01…07 say.",
    "DET-05": (
        "`cancel()` ends a pending job at once and a running one within 10 s; cancelling twice is harmless."
    ),
    "DET-06": "A job whose worker or host vanished is seen as LOST by a reader, never as RUNNING for ever.",
    "DET-07": (
        "Two processes that write to the same record at once lose no update; a worker that was given up on "
        "cannot overwrite a newer attempt."
    ),
    "DET-08": "`retry(job)` runs a FAILED, LOST or CANCELLED job again under the same id, with attempt + 1.",
    "CAP-01": (
        '`app.supports("cancel_running")` and the like answer without starting anything; the names are a '
        "fixed enum."
    ),
    "LIFE-01": "Making an apparatus starts nothing and reaches nothing: no network, no process, under 5 ms.",
    "LIFE-02": (
        "`with app:` closes on leaving; `close()` is idempotent; using a closed one raises `RuntimeError`."
    ),
    "LIFE-03": (
        "After `close()` or the end of the process no worker, thread, socket, temp file or shared memory is "
        "left."
    ),
    "LIFE-04": "An apparatus, as an object, can be pickled into a call and used there.",
    "LIFE-05": (
        "`app.executor()` is a `concurrent.futures.Executor` over the same backend (`submit`, `map`, "
        "`shutdown`, cancellable futures), so that code written for one (`run_in_executor`, `workers=` of "
        "SciPy) takes it."
    ),
    "LIFE-06": (
        "Forking after use, and use in a forked child, either works or raises at once; it never hangs."
    ),
}
"""Each clause's sentence by its id, in the contract's order."""


def clause_of(test: str) -> str | None:
    """The id of the clause that a test is about, from its name: `test_map_03_results_keep_input_order`."""
    _, group, number, *_ = [*test.split("_", 3), "", "", ""]
    id = f"{group.upper()}-{number}"
    return id if id in CLAUSES else None
