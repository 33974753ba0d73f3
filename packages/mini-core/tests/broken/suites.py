"""The conformance kit on each of the broken apparatuses, and on a sound one, as an adapter's author has it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from mini import LocalApparatus
from mini.conformance import ApparatusConformance, MakeApparatus

from . import BROKEN, Broken


class _Of(ApparatusConformance):
    broken: ClassVar[Broken]

    @pytest.fixture
    def make_apparatus(self, tmp_path_factory: pytest.TempPathFactory) -> MakeApparatus:
        data_dir = tmp_path_factory.getbasetemp() / "mini"
        broken = self.broken
        return lambda name: broken.apparatus(name, data_dir=data_dir, workers=broken.workers)

    @pytest.fixture
    def patience(self, request: pytest.FixtureRequest) -> float:
        return self.broken.patience if request.node.name == self.broken.test else 20


class TestSoundProcess(_Of):
    broken = Broken(LocalApparatus, "test_run_01", "", "process")


class TestSoundThread(_Of):
    broken = Broken(LocalApparatus, "test_run_01", "", "thread")


for _broken in BROKEN:
    globals()[f"Test{_broken.name}"] = type(f"Test{_broken.name}", (_Of,), {"broken": _broken})
