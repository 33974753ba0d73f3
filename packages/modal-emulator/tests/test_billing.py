"""What apps cost, as the client's report has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import program
import pytest
from covers import covers
from modal_emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def reported(emulator: Emulator) -> dict[str, Any]:
    return program.run("billing.py", emulator.environ).check()


@covers("WorkspaceBillingReport")
def test_a_report_has_what_containers_reserved_at_the_prices_given(tmp_path: Path) -> None:
    with Emulator(state=tmp_path / "state", prices={"cpu": 8000.0, "memory": 80000.0}) as emulator:
        assert program.modal(emulator.environ, "run", "hello.py::greet").code == 0
        said = reported(emulator)
        for resolution in ("h", "d"):
            ((kind, description, environment, cost, by_resource),) = said[resolution]
            assert (kind, description, environment) == ("ap-", "test-hello", "main")
            # An eighth of a core and of a GiB, which is what Modal reserves where nothing is asked for.
            assert by_resource["memory"] == pytest.approx(10 * by_resource["cpu"], rel=1e-3)
            assert cost == pytest.approx(sum(by_resource.values()), rel=1e-3)
            assert cost > 0
        assert said["over"] == []
        assert "'w'" in said["wrong"]
        emulator.stop()
        emulator.start()
        assert reported(emulator)["h"] == said["h"]


@covers("WorkspaceBillingReport")
def test_without_prices_nothing_costs_anything(modal_emulator: Emulator) -> None:
    assert program.modal(modal_emulator.environ, "run", "hello.py::greet").code == 0
    mine = [item for item in reported(modal_emulator)["h"] if item[1] == "test-hello"]
    assert mine
    assert all(item[3:] == [0.0, {"cpu": 0.0, "memory": 0.0}] for item in mine)


def test_what_is_no_price_is_refused() -> None:
    from click.testing import CliRunner
    from modal_emulator.cli import main

    for wrong in ("cpu", "cpu=", "disk=1", "cpu=-1", "gpu=nan", "gpu=inf"):
        done = CliRunner().invoke(main, ["run", f"--price={wrong}", "true"])
        assert done.exit_code == 2
        assert "is no price" in done.output
