"""What Modal itself charges, beside our estimate; and that an estimate is there when it does not say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from places import Place
from scripts import PATIENCE, Script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COST = """
    from click.testing import CliRunner
    from mini.cli import main

    for more in ([], ["--json"]):
        done = CliRunner().invoke(main, ["cost", "billed", "--app", "modal", *more])
        assert done.exit_code == 0, done.output
        print(done.output.replace(chr(10), " "))
"""


def test_cost_has_what_modal_bills_beside_the_estimate(place: Place, tmp_path: Path) -> None:
    with place.apparatus("billed", tmp_path) as app:
        assert app.spawn(abs, -1).result(PATIENCE) == 1
        with Script(tmp_path, COST, place.environ) as script:
            assert script.finish() == 0, script.err
        (group,) = app.groups()
        group.remove()
    text, data = script.out
    billed = json.loads(data)["billed"]
    assert json.loads(data)["attempts"] == 1
    assert billed["currency"] == "USD"
    # Nothing costs anything there.
    assert (billed["amount"], list(billed["objects"].values())) == (0.0, [0.0])
    assert "for 1 of 1 apps, as of 20" in billed["says"]
    assert "billed by modal" in text


GONE = """
    import os, time
    from modal_emulator import Emulator

    with Emulator() as emulator:
        os.environ.update({name: value for name, value in emulator.variables.items() if value is not None})
        from mini_modal.asking import this_client
        from mini_modal.billing import bill

        this_client()
        emulator.kill()
        began = time.monotonic()
        print(bill(["ap-1"], time.time()))
        print(bill([], time.time()))
        print(time.monotonic() - began)
"""


def test_that_modal_does_not_say_is_an_answer(tmp_path: Path) -> None:
    with Script(tmp_path, GONE, os.environ) as script:
        assert script.finish() == 0, script.err
    gone, none, took = script.out
    assert gone.startswith("Bill(amount=None, currency='', objects={}, says=")
    assert "127.0.0.1" in gone
    assert "no app at Modal" in none
    assert float(took) < 30
