"""Which modules a worker has to import to run a function.

Three sources together: what unpickling imports, which a pickler that takes notes tells; the import statements in
functions that travel as code; and those of the project's own modules that are imported by name, one after the other.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from mini.diagnose import hint_for
from mini.pickling import Pickler
from mini.requirements import ProjectPackage

__all__ = ["Import", "imports_of", "is_standard"]


@dataclass(frozen=True, slots=True)
class Import:
    """A module that is imported.

    Attributes:
        name: dotted name of the module.
        where: what imports it, for people: a file and line, or the function that uses it.
        optional: it stands in a `try` that goes on without it.
    """

    name: str
    where: str
    optional: bool = False


def imports_of(obj: object, name: str, packages: Iterable[ProjectPackage]) -> list[Import]:
    """The modules that a worker imports to unpickle and run `obj`, which people call `name`.

    Modules of `packages` are looked into, others are not: what they need is their distribution's affair. An import
    whose name is only known when it happens (`importlib.import_module(name)`) is not seen.
    """
    notes = _take_notes(obj)
    found = [Import(module, name) for module in notes.modules]
    for code in notes.codes:
        found += _imports_of_code(code)
    own = {package.name: package.path for package in packages}
    queue, seen = list(found), set()
    for item in queue:  # which grows
        for module, file in _own_files(item.name, own):
            if module not in seen:
                seen.add(module)
                queue += _imports_of_file(file, module)
    return list(dict.fromkeys(queue))


# --- what unpickling imports ----------------------------------------------------------------------------------------


class _NoteTaker(Pickler):
    """Pickles to nowhere and notes the modules that unpickling imports, and the code that travels by value."""

    def __init__(self) -> None:
        super().__init__(self, buffer_callback=lambda _: False)
        self.modules: dict[str, None] = {}
        self.codes: dict[CodeType, None] = {}

    def write(self, data: Any) -> int:
        return len(data)

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, ModuleType):
            self.modules[obj.__name__] = None
        elif isinstance(obj, FunctionType | BuiltinFunctionType | type):
            if reduced is not NotImplemented and isinstance(obj, FunctionType):
                self.codes[obj.__code__] = None
            elif reduced is NotImplemented and isinstance(obj.__module__, str):
                self.modules[obj.__module__] = None
        elif reduced is NotImplemented and _fails(obj, self.dispatch_table):
            return str, ()  # in its place: the notes are about the rest
        return reduced


def _fails(obj: Any, table: Any) -> bool:
    if hint_for(obj) is not None:
        return True
    if type(obj) in table:
        return False
    try:
        obj.__reduce_ex__(5)
    except Exception:
        return True
    return False


def _take_notes(obj: object) -> _NoteTaker:
    notes = _NoteTaker()
    # If it fails all the same, the preflight tells of it elsewhere, and what was noted until then holds.
    with contextlib.suppress(Exception):
        notes.dump(obj)
    return notes


# --- what the source imports ----------------------------------------------------------------------------------------


class _Visitor(ast.NodeVisitor):
    """Collects import statements, but not those that only type checkers read."""

    def __init__(self, file: Path, package: str) -> None:
        self.file = file
        self.package = package
        self.found: list[Import] = []
        self._optional = 0

    def _add(self, name: str, node: ast.AST) -> None:
        where = f"{self.file.name}:{getattr(node, 'lineno', 0)}"
        self.found.append(Import(name, where, self._optional > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            # It may be a module or a name in one; what is no module has no file and ends there.
            self._add(f"{base}.{alias.name}" if alias.name != "*" else base, node)

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
        for child in node.orelse if name == "TYPE_CHECKING" else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_Try(self, node: ast.Try) -> None:
        tolerant = any(_catches_import_errors(handler.type) for handler in node.handlers)
        self._optional += tolerant
        for child in (*node.body, *node.handlers):
            self.visit(child)
        self._optional -= tolerant
        for child in (*node.orelse, *node.finalbody):
            self.visit(child)


def _catches_import_errors(caught: ast.expr | None) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    known = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    return any(name is None or (isinstance(name, ast.Name) and name.id in known) for name in names)


@cache
def _tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError):
        return None


def _imports_of_file(file: Path, module: str) -> list[Import]:
    if (tree := _tree(file)) is None:
        return []
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    visitor = _Visitor(file, package)
    visitor.visit(tree)
    return visitor.found


def _imports_of_code(code: CodeType) -> list[Import]:
    """The imports in a function that travels as code; a lambda has none."""
    if (tree := _tree(Path(code.co_filename))) is None:
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                visitor = _Visitor(Path(code.co_filename), "")
                visitor.visit(node)
                return visitor.found
    return []


def _own_files(name: str, own: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """The project's modules that `import name` executes, as (module, file): the packages on the way, and itself."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        for top, path in own.items():
            if module == top or module.startswith(f"{top}."):
                place = (
                    path.joinpath(*module.removeprefix(top).strip(".").split(".")) if module != top else path
                )
                for file in (place, place / "__init__.py", place.with_name(f"{place.name}.py")):
                    if file.is_file():
                        yield module, file
                        break


def is_standard(name: str) -> bool:
    """Whether a module belongs to Python itself."""
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in sys.builtin_module_names or top == "__future__"
