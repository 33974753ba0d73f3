"""What the suites are made of: their fixtures, tests that depend on a capability, and tests that are overridden."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar, cast

import pytest

# What mini imports only when it is needed is imported here, before there are threads: pytest rewrites the assertions
# of every module of mini, and CPython 3.11 cannot parse in two threads at once (python/cpython#106905).
from .. import diagnose, display, executor, joblaunch, requirements, staging  # noqa: F401
from ..capability import Capability
from ..display import lines  # noqa: F401
from ..jobboard import Job
from ..protocol import Apparatus
from . import subjects
from .plugin import recorder_of
from .probes import Gate, Tally
from .scripts import Scripts

__all__ = [
    "Declined",
    "MakeApparatus",
    "Suite",
    "Supports",
    "overridden",
    "requires",
    "when_declined",
]

MakeApparatus = Callable[[str], Apparatus]
Supports = Callable[[Capability], bool]
Test = TypeVar("Test", bound=Callable[..., Any])

WORKERS = 2
"""How many workers the apparatuses of the tests may have."""


class Declined(pytest.skip.Exception):  # type: ignore[misc,name-defined,unused-ignore]
    """The backend declines what a test is about, and refuses it as the contract says."""


# --- tests that depend on a capability ---


def requires(*capabilities: Capability) -> Callable[[Test], Test]:
    """Mark a test as one of `capabilities` that a backend may decline.

    Where the backend declines one, the test's declined form is run (see `when_declined`), or, if it has none, the test
    itself, which then has to fail. So a capability that is declared and missing fails, and so does one that is
    declined and there. What was declined properly is reported as declined, and never counts as passed.
    """

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def checked(self: Suite, supports: Supports, request: pytest.FixtureRequest, **fixtures: Any) -> None:
            fixtures |= {"supports": supports, "request": request}
            missing = [name for name in capabilities if not supports(name)]
            if not missing:
                _call(test, self, fixtures)
                return
            refusal = getattr(checked, "__mini_refusal__", None)
            if refusal is not None:
                _call(refusal, self, fixtures)
            else:
                _must_fail(test, self, fixtures, missing[0])
            request.node.user_properties.append(("mini-declined", str(missing[0])))
            raise Declined(f"declines {missing[0]}")

        checked.__signature__ = _union(checked, test)  # type: ignore[attr-defined]
        return cast("Test", checked)

    return decorate


def when_declined(test: Callable[..., Any]) -> Callable[[Test], Test]:
    """Make a function the declined form of `test`: it checks that what the backend declines is refused as promised."""

    def decorate(refusal: Test) -> Test:
        test.__mini_refusal__ = refusal  # type: ignore[attr-defined]
        test.__signature__ = _union(test, refusal)  # type: ignore[attr-defined]
        return refusal

    return decorate


def _must_fail(test: Callable[..., Any], suite: Suite, fixtures: dict[str, Any], name: str) -> None:
    try:
        _call(test, suite, fixtures)
    except (Exception, pytest.fail.Exception):
        return
    pytest.fail(f"the backend declines '{name}', but what the test checks works: declare it", pytrace=False)


def _call(function: Callable[..., Any], suite: Suite, fixtures: dict[str, Any]) -> None:
    wanted = list(inspect.signature(function).parameters)[1:]
    function(suite, **{name: fixtures[name] for name in wanted})


def _union(*functions: Callable[..., Any]) -> inspect.Signature:
    """The signature from which pytest reads the fixtures that any of the functions needs."""
    parameters: dict[str, inspect.Parameter] = {}
    for function in functions:
        for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.setdefault(name, parameter)
    return inspect.Signature(list(parameters.values()))


# --- tests that are overridden ---


def overridden(*, reason: str) -> Callable[[Test], Test]:
    """Mark a test of a subclass that replaces one of the kit's, with the reason; without, the class is refused.

    The report shows the reason beside the clause.
    """
    if not reason.strip():
        raise ValueError("overridden() needs the reason for which the kit's test does not do")

    def decorate(test: Test) -> Test:
        test.__mini_overridden__ = reason  # type: ignore[attr-defined]
        return test

    return decorate


# --- suites ---


class Suite:
    """Base of the suites. A subclass whose name begins with "Test" is run by pytest; it gives the fixtures below.

    Fixtures that a subclass must override: `make_apparatus`. Those that it may: `patience`, `shared_dir`,
    `project_src`, `deadly`, `kill_worker_of`, `python`, `script_prelude`. The others belong to the kit.

    Attributes:
        variant: tells columns of the same backend in the report apart, such as "thread".
    """

    variant: ClassVar[str] = ""

    pytestmark = pytest.mark.timeout(120)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in vars(cls).items():
            if not name.startswith("test_") or hasattr(test, "__mini_overridden__"):
                continue
            if any(name in vars(base) for base in cls.__mro__[1:]):
                raise TypeError(
                    f"{cls.__name__}.{name} overrides a test of the conformance kit without saying why; "
                    "put @overridden(reason=...) above it"
                )

    # --- must be overridden ---

    @pytest.fixture
    def make_apparatus(self) -> MakeApparatus:
        """Returns a function that makes an apparatus of the backend with a given name, all else at its default.

        It is called many times in a test session. Apparatuses of the same name have to share a volume, and one that it
        made first may be used after the test that needed it, so whatever it takes from other fixtures must last.
        """
        raise NotImplementedError(f"{type(self).__name__} has to override the fixture make_apparatus")

    # --- may be overridden ---

    @pytest.fixture
    def patience(self) -> float:
        """Seconds after which something that should happen is taken for not happening."""
        return 20.0

    @pytest.fixture
    def shared_dir(self, tmp_path: Path) -> Path:
        """A directory that the caller and all workers see under the same path."""
        return tmp_path

    @pytest.fixture
    def project_src(self, tmp_path: Path) -> Path:
        """The `src` directory of a project, for modules of its own; scripts that use them are run with it.

        It may exist and have modules in it.
        """
        return tmp_path / "project" / "src"

    @pytest.fixture
    def deadly(self) -> Callable[..., int]:
        """A call that ends its worker, and makes a backend that declines `at_most_once_grouped` run others again.

        Where calls run beside the backend's own process (`mini.adapter.Relay`) it is `subjects.note_and_end_host`.
        """
        return subjects.note_and_die

    @pytest.fixture
    def kill_worker_of(self) -> Callable[[Job], None]:
        """Ends, with SIGKILL, the process that has claimed a job which is running, and nothing beside it.

        Where that is a container or on another machine, a subclass has to say how.
        """

        def kill(job: Job) -> None:
            claimed = job.record.current.claimed
            assert claimed is not None
            os.kill(claimed.worker.pid, signal.SIGKILL)

        return kill

    @pytest.fixture
    def python(self) -> str:
        """The interpreter that runs scripts which act as a caller."""
        return sys.executable

    @pytest.fixture
    def script_prelude(self, unused_name: str, make_apparatus: MakeApparatus) -> str:
        """Python source that makes `app`, an apparatus that is not in use yet, in a script.

        By default it is pickled here and unpickled there, as LIFE-04 allows.
        """
        data = pickle.dumps(make_apparatus(unused_name).w(max_workers=WORKERS))
        return f"import pickle\napp = pickle.loads({data!r})\n"

    # --- the kit's own ---

    @pytest.fixture(autouse=True)
    def _own_temporary_directory(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Keep what other programs have in the directory for temporary files out of what tests see of it."""
        tmp_path_factory.getbasetemp()  # stays where it is
        directory = _shared_by(request).temporary.name
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)

    @pytest.fixture
    def unused_name(self) -> str:
        """A name that no apparatus had before."""
        return f"conformance-{uuid.uuid4().hex[:10]}"

    @pytest.fixture
    def fresh(self, request: pytest.FixtureRequest, make_apparatus: MakeApparatus) -> Iterator[MakeApparatus]:
        """As `make_apparatus`, with two workers at most; what it makes is closed after the test."""
        made: list[Apparatus] = []

        def make(name: str) -> Apparatus:
            apparatus = make_apparatus(name).w(max_workers=WORKERS)
            made.append(apparatus)
            _tell_backend(request, apparatus)
            return apparatus

        yield make
        for apparatus in made:
            apparatus.close()

    @pytest.fixture
    def apparatus(self, request: pytest.FixtureRequest, make_apparatus: MakeApparatus) -> Iterator[Apparatus]:
        """An apparatus with two workers at most, shared by the tests of a class so that its workers stay warm."""
        shared = _shared_by(request)
        if shared.apparatus is None:
            # Not `unused_name`, which the first of them may use as well.
            name = f"conformance-{uuid.uuid4().hex[:10]}"
            shared.apparatus = make_apparatus(name).w(max_workers=WORKERS)
        _tell_backend(request, shared.apparatus)
        yield shared.apparatus
        recorder = recorder_of(request.config)
        if recorder is None or request.node.nodeid in recorder.failed:
            shared.close()  # the next test is not to suffer from what this one has left behind

    @pytest.fixture
    def supports(self, request: pytest.FixtureRequest, make_apparatus: MakeApparatus) -> Supports:
        """What the backend says about its capabilities, before anything was started."""
        shared = _shared_by(request)
        if shared.answers is None:
            apparatus = make_apparatus(f"conformance-{uuid.uuid4().hex[:10]}")
            shared.answers = {capability: apparatus.supports(capability) for capability in Capability}
            _tell_backend(request, apparatus)
            apparatus.close()
        return shared.answers.__getitem__

    @pytest.fixture
    def tally(self, shared_dir: Path) -> Tally:
        """Counts what happens in calls."""
        return Tally(str(shared_dir / f"tally-{uuid.uuid4().hex[:8]}"))

    @pytest.fixture
    def gate(self, shared_dir: Path, patience: float) -> Gate:
        """Holds calls up until it is opened."""
        return Gate(str(shared_dir / f"gate-{uuid.uuid4().hex[:8]}"), patience)

    @pytest.fixture
    def gate2(self, shared_dir: Path, patience: float) -> Gate:
        """Another one."""
        return Gate(str(shared_dir / f"gate-{uuid.uuid4().hex[:8]}"), patience)

    @pytest.fixture
    def scripts(self, tmp_path: Path, python: str, script_prelude: str, patience: float) -> Iterator[Scripts]:
        """Runs Python source as a program of its own, in which `app` is an apparatus of the backend."""
        scripts = Scripts(tmp_path / "scripts", python, script_prelude, patience)
        yield scripts
        scripts.close()


class _Shared:
    def __init__(self) -> None:
        self.apparatus: Apparatus | None = None
        self.answers: dict[Capability, bool] | None = None
        # A short name, because backends may have sockets in there.
        self.temporary = tempfile.TemporaryDirectory(prefix="mini-", ignore_cleanup_errors=True)

    def close(self) -> None:
        apparatus, self.apparatus = self.apparatus, None
        if apparatus is not None:
            apparatus.close()


_SHARED = pytest.StashKey[_Shared]()


def _shared_by(request: pytest.FixtureRequest) -> _Shared:
    """What the tests of a class share; closed after the last of them."""
    node = request.node.getparent(pytest.Class)
    if node is None:
        _misused()
    if _SHARED not in node.stash:
        node.stash[_SHARED] = _Shared()
        node.addfinalizer(node.stash[_SHARED].temporary.cleanup)
        node.addfinalizer(node.stash[_SHARED].close)
    shared: _Shared = node.stash[_SHARED]
    return shared


def _tell_backend(request: pytest.FixtureRequest, apparatus: Apparatus) -> None:
    """Tell the report which backend the tests of a suite are about."""
    request.node.user_properties.append(("mini-backend", apparatus.backend))


def _misused() -> NoReturn:
    raise TypeError("the fixtures of the conformance kit are for the methods of its suites")
