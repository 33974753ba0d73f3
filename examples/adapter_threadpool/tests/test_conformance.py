"""The contract, on the backend `threadpool`."""

from __future__ import annotations

import pytest
from mini.conformance import ApparatusConformance, MakeApparatus
from mini_threadpool import ThreadPoolApparatus


class TestThreadPool(ApparatusConformance):
    @pytest.fixture
    def make_apparatus(self, tmp_path_factory: pytest.TempPathFactory) -> MakeApparatus:
        data_dir = tmp_path_factory.getbasetemp() / "data"
        return lambda name: ThreadPoolApparatus(name, data_dir=data_dir)
