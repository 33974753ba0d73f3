"""The documentation does what it says: the code of every page is run, and what it prints is compared.

docs/README.md describes the convention.
"""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["docs/**/*.md", "packages/*/README.md", "examples/**/*.md", "CONTRIBUTING.md"]
# The README at the root has commands that only make sense in a checkout: test_readme.py runs those.
PAGES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in ROOT.glob(folder))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    pages.check(ROOT / name, tmp_path, env={"MINI_PROGRESS": "0"})


def test_every_page_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    others = [
        path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md") if path.name != "README.md"
    ]
    assert [str(path) for path in others if f"]({path})" not in index] == []


def page(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


GOOD = """
Put this into a file:

<!-- file: package/name.py -->
```python
NAME = "page"
```

More of it:

<!-- append: package/name.py -->
```python
NUMBER = 1
```

A namespace for all blocks, indented ones included:

```python
from package.name import NAME, NUMBER
total = NUMBER
```

- in a list

  ```python
  def grow():
      return total + 1
  print(NAME, grow())
  print(0.123, "s")
  print("more")
  print("and more")
  ```

  <!-- output -->
  ```
  page 2
  … s
  …
  ```

```sh
python -c "from package.name import NAME; print(NAME)"
```

<!-- output -->
```text
page
```

```console
$ echo one two
one …
$ true
```

<!-- exit: 3 -->
```sh
exit 3
```

<!-- not run: it would never end -->
```sh
sleep infinity
```

```toml
[not code]
```
"""


def test_a_good_page_passes(tmp_path: Path) -> None:
    pages.check(page(tmp_path, GOOD), tmp_path)
    assert (tmp_path / "package" / "name.py").read_text() == 'NAME = "page"\n\nNUMBER = 1\n'


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("print(NAME, grow())", "print(unknown)", "page.md:26: it raises(.|\n)*line 28.*\n.*unknown"),
        ("print(NAME, grow())", "raise SystemExit", "it raises(.|\n)*SystemExit"),
        ("print(NAME, grow())", "__import__('os')._exit(0)", "the interpreter ended"),
        ("page 2", "page 3", "it says\npage 3(.|\n)*what came is\npage 2"),
        ("… s\n", "… m\n", "it says\npage 2\n… m"),
        ("one …", "two …", r"\$ echo one two\nit says\ntwo"),
        ("$ true", "$ false", "it exits with 1"),
        ("exit 3\n```", "exit 2\n```", "it exits with 2"),
        ("not run: it would never end", "not run", "needs a reason"),
        ("file: package/name.py", "file: ../name.py", "outside of the page's folder"),
        ("$ echo one", "echo one", "begins with a command"),
    ],
)
def test_a_page_that_is_wrong_fails(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(AssertionError, match=complaint):
        pages.check(page(tmp_path, GOOD.replace(old, new)), tmp_path)


def test_pages_with_code_are_found() -> None:
    assert any(re.match(r"docs/tutorial/.*\.md", name) for name in PAGES)
    assert sum(block.language in pages.RUN for name in PAGES for block in pages.blocks(ROOT / name)) > 10
