"""What is sent to where calls run: source code, its archive, what is installed there, and from where."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import mini
import pytest
from mini.buildlog import ending, failed_requirement, plain
from mini.shipment import (
    Index,
    Source,
    backend_settings,
    indexes_of,
    our_source,
    pack_project,
    project_source,
)
from uv_projects import project, write


def test_indexes_have_their_credentials_apart_from_the_url(tmp_path: Path) -> None:
    config = {
        "tool": {
            "uv": {
                "index": [
                    {"name": "my-own", "url": "https://u:p%40ss@packages.example/simple", "explicit": True},
                    {"name": "other", "url": "https://other.example/simple", "default": True},
                    {"name": "flat", "url": "https://flat.example", "format": "flat"},
                    {"name": "here", "url": "./wheels"},
                ]
            }
        }
    }
    own, other = indexes_of(tmp_path, config, {})
    assert own == Index("my-own", "https://packages.example/simple", False, True, "u", "p@ss")
    assert own.variables == {"UV_INDEX_MY_OWN_USERNAME": "u", "UV_INDEX_MY_OWN_PASSWORD": "p@ss"}
    assert other == Index("other", "https://other.example/simple", True)
    assert other.variables == {}
    own, _ = indexes_of(tmp_path, config, {"UV_INDEX_MY_OWN_PASSWORD": "newer"})
    assert (own.username, own.password) == ("u", "newer")


def test_a_package_of_two_projects_is_the_first_ones(tmp_path: Path) -> None:
    for name in ("one", "two"):
        project(tmp_path / name, name)
        (tmp_path / name / "src/shared.py").touch()
    found = {p.name: p.path for p in project_source([tmp_path / "one", tmp_path / "two"], []).packages}
    assert found["shared"] == tmp_path / "one/src/shared.py"
    assert found.keys() == {"one", "two", "shared"}


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_mini_itself_travels_with_its_metadata() -> None:
    source = our_source({})
    assert source.distributions == ("mini-core",)
    listed = names(source.archive())
    assert "mini/__init__.py" in listed
    assert "mini/local/pool.py" in listed
    assert [name for name in listed if name.endswith("dist-info/METADATA")]


def test_an_archive_changes_with_what_is_in_it_and_with_nothing_else(tmp_path: Path) -> None:
    root = write(
        project(tmp_path, "sample"),
        {
            "src/tool.py": "",
            "src/sample/data/x.csv": "1",
            "src/sample/.secret": "",
            "src/sample/__pycache__/a.pyc": "",
        },
    )
    source = project_source([root], [])
    first = source.archive()
    assert names(first) == ["sample/__init__.py", "sample/data/x.csv", "tool.py"]
    (root / "src/tool.py").touch()
    assert source.archive() == first
    (root / "src/tool.py").write_text("x = 1")
    assert source.archive() != first
    assert Source((), ()).archive() != first


def test_without_a_project_it_is_mini_and_what_mini_needs() -> None:
    shipment = pack_project(None, {}, there=["tblib"])
    needed = [line.partition("==")[0] for line in shipment.own]
    assert "cloudpickle" in needed
    assert "tblib" not in needed
    assert shipment.pinned is None
    assert [package.name for package in shipment.source.packages] == ["mini"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("bases = []", "has no setting 'bases'; there are base, groups"),
        ("groups = 'x'", "groups takes a list of names"),
        ("base = 3", "base takes a string"),
    ],
)
def test_a_setting_that_means_nothing_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    write(tmp_path, {"pyproject.toml": f"[tool.mini.elsewhere]\n{line}\n"})
    with pytest.raises(mini.OptionError, match=complaint):
        backend_settings(tmp_path, "elsewhere", lists=["groups"], strings=["base"])


def test_a_log_is_read_for_what_failed() -> None:
    log = plain("\x1b[31m 10%\r 100%\x1b[0m\nBecause six==99 was not found, …\nlast\n")
    assert log.startswith(" 100%\n")
    assert failed_requirement(log) == "six==99"
    assert failed_requirement("all is well") is None
    assert ending(log).splitlines()[-1] == "  last"
