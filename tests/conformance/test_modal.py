"""The contract on Modal, or rather on modal-emulator: the real client over the real wire, and real containers.

The kit's gates and tallies are files that caller and workers share, so this cannot be pointed at Modal itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mini.conformance import ApparatusConformance, MakeApparatus
from mini_modal import ModalApparatus
from modal_emulator import Emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with (
        Emulator(share=[tmp_path_factory.getbasetemp()]) as emulator,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in emulator.variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield emulator


class TestModal(ApparatusConformance):
    @pytest.fixture
    def make_apparatus(self, emulator: Emulator) -> MakeApparatus:
        return lambda name: ModalApparatus(name)
