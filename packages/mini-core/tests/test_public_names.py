"""What `mini` exports, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import mini
import pytest


def test_the_exported_names() -> None:
    assert sorted(mini.__all__) == sorted(
        [
            "Apparatus",
            "AuthError",
            "BackendNotFound",
            "BackendUnavailable",
            "CallError",
            "CallRecord",
            "Capability",
            "FailureRecord",
            "Job",
            "JobCancelled",
            "JobGroup",
            "JobInfo",
            "JobState",
            "JobStateError",
            "JobTimeout",
            "LocalApparatus",
            "LogLine",
            "MiniError",
            "OptionError",
            "RemoteError",
            "RequirementsError",
            "SerializationError",
            "Unsupported",
            "Volume",
            "VolumePathError",
            "WorkerLost",
            "__version__",
            "apparatus",
            "current_job",
            "emit_metrics",
            "emit_progress",
            "failure_record",
            "find_project_root",
            "get_data_dir",
            "jobs",
            "project_packages",
            "uv_freeze",
        ]
    )
    assert dir(mini) == mini.__all__
    for name in mini.__all__:
        assert getattr(mini, name) is not None


def test_every_exported_class_and_function_says_what_it_is() -> None:
    for name in mini.__all__:
        value = getattr(mini, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'aparatus'"):
        mini.aparatus  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mini", ["typing", "pickle", "cloudpickle", "rich", "click", "asyncio", "mini.protocol"]),
        (
            "import mini; mini.LocalApparatus('x')",
            ["rich", "click", "asyncio", "importlib.metadata"],
        ),
        ("import mini.local.child", ["rich", "click", "asyncio", "subprocess", "importlib.metadata"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str, absent: list[str]) -> None:
    # Without `site`: what an environment's .pth files import is not mini's doing.
    code = f"import sys; sys.path[:] = {sys.path!r}; {statement}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in absent if name in loaded] == []


def test_the_error_tree() -> None:
    """The tree in the docstring of `mini.errors` is the tree there is."""
    assert issubclass(mini.OptionError, TypeError)
    assert issubclass(mini.BackendNotFound, LookupError)
    assert issubclass(mini.Unsupported, NotImplementedError)
    assert issubclass(mini.RequirementsError, RuntimeError)
    assert issubclass(mini.VolumePathError, ValueError)
    assert issubclass(mini.BackendUnavailable, ConnectionError)
    assert issubclass(mini.AuthError, mini.BackendUnavailable)
    assert issubclass(mini.SerializationError, TypeError)
    assert issubclass(mini.JobTimeout, TimeoutError)
    for name in ("WorkerLost", "JobTimeout", "JobCancelled", "RemoteError"):
        assert issubclass(getattr(mini, name), mini.CallError)
    for name in mini.__all__:
        value = getattr(mini, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, mini.MiniError)
