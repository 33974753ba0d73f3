"""What is said of a module that a worker has not."""

from __future__ import annotations

from pathlib import Path

import pytest
from mini.failure import Failure
from mini.worker import _not_loaded


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def notes(failure: Failure) -> str:
    return "\n".join(getattr(failure.exception(), "__notes__", ()))


def test_one_from_an_index_is_added_by_its_distributions_name() -> None:
    said = notes(Failure.of(missing("_pytest.config")))
    assert "'_pytest'" in said
    assert "`uv add pytest`" in said


def test_one_beside_the_script_goes_under_src(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    failure = _not_loaded("function", missing("only_here"))
    assert "needs the module 'only_here'" in failure.message
    assert "src/" in failure.message
    said = notes(failure)
    assert str(tmp_path / "only_here.py") in said
    assert "put it under the project's src/" in said


def test_one_that_is_nowhere_is_not_remarked_upon() -> None:
    assert not notes(Failure.of(missing("no_such_module_anywhere")))
    assert not notes(Failure.of(ValueError("other")))
