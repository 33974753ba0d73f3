"""The conformance kit: the contract as tests, for every adapter's author to run.

```python
import pytest
from mini.conformance import ApparatusConformance
from my_adapter import MyApparatus

class TestMyApparatus(ApparatusConformance):
    @pytest.fixture
    def make_apparatus(self, tmp_path_factory):
        data_dir = tmp_path_factory.mktemp("data")
        return lambda name: MyApparatus(name, data_dir=data_dir)
```

It needs `pip install mini-core[conformance]`. See docs/how-to/write-an-adapter.md and docs/reference/conformance.md.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import MakeApparatus as MakeApparatus
    from .base import Suite as Suite
    from .base import overridden as overridden
    from .base import requires as requires
    from .base import when_declined as when_declined
    from .cap import CapSuite as CapSuite
    from .clauses import CLAUSES as CLAUSES
    from .clauses import GROUPS as GROUPS
    from .ctx import CtxSuite as CtxSuite
    from .det import DetSuite as DetSuite
    from .err import ErrSuite as ErrSuite
    from .every import ApparatusConformance as ApparatusConformance
    from .life import LifeSuite as LifeSuite
    from .map import MapSuite as MapSuite
    from .opt import OptSuite as OptSuite
    from .run import RunSuite as RunSuite
    from .vol import VolSuite as VolSuite

# Where each name lives. pytest imports this package in every session where mini-core is installed, to find the plugin,
# so it loads nothing by itself.
_MODULE_OF = {
    "ApparatusConformance": "every",
    "CLAUSES": "clauses",
    "CapSuite": "cap",
    "CtxSuite": "ctx",
    "DetSuite": "det",
    "ErrSuite": "err",
    "GROUPS": "clauses",
    "LifeSuite": "life",
    "MakeApparatus": "base",
    "MapSuite": "map",
    "OptSuite": "opt",
    "RunSuite": "run",
    "Suite": "base",
    "VolSuite": "vol",
    "overridden": "base",
    "requires": "base",
    "when_declined": "base",
}

__all__ = sorted(_MODULE_OF)

if "pytest" in sys.modules:
    # The suites are no test files, so pytest has to be told to explain their assertions.
    _suites = sorted({f"{__name__}.{module}" for module in _MODULE_OF.values()} - set(sys.modules))
    sys.modules["pytest"].register_assert_rewrite(*_suites)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_MODULE_OF[name]}")
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"the conformance kit needs {exc.name}, which is not installed; "
            "uv add --dev 'mini-core[conformance]' installs all that it needs",
            name=exc.name,
        ) from exc
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
