"""All suites in one."""

from __future__ import annotations

from .cap import CapSuite
from .ctx import CtxSuite
from .det import DetSuite
from .err import ErrSuite
from .life import LifeSuite
from .map import MapSuite
from .opt import OptSuite
from .run import RunSuite
from .vol import VolSuite

__all__ = ["ApparatusConformance"]


class ApparatusConformance(
    RunSuite, MapSuite, ErrSuite, OptSuite, CtxSuite, VolSuite, DetSuite, CapSuite, LifeSuite
):
    """The whole contract: every test of every suite."""
