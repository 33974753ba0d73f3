"""`mini.adapter`, with workers that share nothing with the caller, goes through the conformance kit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from mini.conformance import ApparatusConformance, MakeApparatus
from pipe_adapter import PipeApparatus


@pytest.mark.slow
class TestStationInAnotherProcess(ApparatusConformance):
    @pytest.fixture
    def make_apparatus(self, tmp_path_factory: pytest.TempPathFactory) -> MakeApparatus:
        data_dir = tmp_path_factory.getbasetemp() / "pipe"
        return lambda name: PipeApparatus(name, data_dir=str(data_dir))

    @pytest.fixture
    def script_prelude(self, unused_name: str, make_apparatus: MakeApparatus) -> str:
        """Scripts have to find the adapter, which is not installed."""
        data = pickle.dumps(make_apparatus(unused_name).w(max_workers=2))
        path = str(Path(__file__).parent)
        return f"import pickle, sys\nsys.path.append({path!r})\napp = pickle.loads({data!r})\n"
