"""The contract on the local backend: worker processes, threads, and the calling thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from mini import LocalApparatus
from mini.conformance import ApparatusConformance, MakeApparatus


class Local(ApparatusConformance):
    workers: ClassVar[Any]

    @pytest.fixture
    def make_apparatus(self, tmp_path_factory: pytest.TempPathFactory) -> MakeApparatus:
        data_dir: Path = tmp_path_factory.getbasetemp() / "mini"
        return lambda name: LocalApparatus(name, data_dir=data_dir, workers=self.workers)


class TestProcess(Local):
    variant = workers = "process"


class TestThread(Local):
    variant = workers = "thread"


class TestInline(Local):
    variant = workers = "inline"
