"""What detached jobs on Modal are made of, as far as it can be seen without them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import mini
import pytest
from mini.jobrecord import GroupRecord, Origin, from_json, to_json
from mini.options import Options
from mini_modal import ModalApparatus
from mini_modal.jobs import MOST_SPAN, MOST_SPAN_WITH_GAPS, _spans, options_of
from mini_modal.jobstore import place_of
from places import Place
from scripts import Script


@pytest.mark.parametrize("seed", range(20))
def test_inputs_are_asked_about_in_few_spans(seed: int) -> None:
    chance = random.Random(seed)
    share = chance.choice([0.01, 0.5, 0.99, 1.0])
    positions = [position for position in range(5000) if chance.random() < share]
    spans = list(_spans(positions))
    asked = set(itertools.chain.from_iterable(range(first, last + 1) for first, last in spans))
    assert asked >= set(positions)
    assert all(after[0] > before[1] for before, after in itertools.pairwise(spans))
    for first, last in spans:
        whole = all(position in positions for position in range(first, last + 1))
        assert last - first < (MOST_SPAN if whole else MOST_SPAN_WITH_GAPS)
    if share == 1.0:
        assert len(spans) == 5


def test_nothing_is_asked_about_nothing() -> None:
    assert list(_spans([])) == []
    assert list(_spans([7])) == [(7, 7)]


def group_with(options: Options) -> GroupRecord:
    from mini.joblaunch import _plain_options

    origin = Origin(0.0, "me@here", None, None, None, None, "3.11", {}, "modal", "a", _plain_options(options))
    return GroupRecord("g", "f", 1, origin)


def test_a_retry_has_the_options_of_the_launch_with_those_given_over_them() -> None:
    launched = Options(cpu=2, memory=512, gpu="L4", max_workers=3, timeout=5, retries=2, env={"A": "secret"})
    found = options_of(group_with(launched), Options(memory=2048, progress=False))
    assert (found.cpu, found.memory, found.gpu, found.max_workers) == (2, 2048, "L4", 3)
    assert found.progress is False


def test_native_options_of_the_launch_hold_if_they_are_plain() -> None:
    launched = Options(native={"modal": {"region": "eu", "scaledown_window": 300, "secrets": [object()]}})
    with pytest.raises(mini.OptionError, match=r"app\.w\(modal=\{'secrets': …\}\)\.group\('g'\)\.retry\(\)"):
        options_of(group_with(launched), Options())
    given = Options(native={"modal": {"secrets": ["mine"], "region": "us"}})
    found = options_of(group_with(launched), given)
    assert found.native["modal"] == {"region": "us", "scaledown_window": 300, "secrets": ["mine"]}


def test_limits_of_the_launch_hold_unless_something_else_is_asked_for() -> None:
    launched = group_with(Options(native={"modal": {"cpu": (1.0, 2.0), "memory": (512, 1024)}}))
    recorded = from_json(GroupRecord, to_json(launched))
    assert options_of(recorded, Options()).native["modal"] == {"cpu": (1.0, 2.0), "memory": (512, 1024)}
    found = options_of(recorded, Options(memory=2048))
    assert (found.memory, found.native["modal"]) == (2048, {"cpu": (1.0, 2.0)})


def test_an_image_of_ones_own_has_to_be_given_again() -> None:
    launched = Options(image=object())
    with pytest.raises(mini.OptionError, match=r"app\.w\(image=…\)"):
        options_of(group_with(launched), Options())
    image = object()
    assert options_of(group_with(launched), Options(image=image)).image is image


@pytest.mark.parametrize(
    ("id", "place"),
    [("mx3k-12", ("mx3k", 12)), ("none", ("", -1)), ("", ("", -1)), ("a-b", ("a", -1)), ("a-²", ("a", -1))],
)
def test_a_job_is_found_by_its_id(id: str, place: tuple[str, int]) -> None:
    assert place_of(id) == place


def test_making_an_apparatus_and_its_board_asks_nobody() -> None:
    ModalApparatus("quiet")._open_jobs()


def test_a_name_without_jobs_is_empty_and_stays_unmade(place: Place, tmp_path: Path) -> None:
    import modal

    with place.apparatus("never-used", tmp_path) as app:
        assert app.jobs() == []
        assert app.groups() == []
        for id in ("none", "none-0", ""):
            with pytest.raises(LookupError):
                app.job(id)
            with pytest.raises(LookupError):
                app.group(id)
        assert "mini-never-used" not in [found.name for found in modal.Dict.objects.list()]
        assert "mini-never-used" not in [found.name for found in modal.Volume.objects.list()]


@pytest.mark.slow
def test_that_modal_cannot_be_reached_is_said_at_once(place: Place, tmp_path: Path) -> None:
    text = """
    import mini
    from mini_modal import ModalApparatus

    app = ModalApparatus("unreachable").w(progress=False)
    for what in (app.jobs, lambda: app.job("a-0"), lambda: app.spawn(abs, -1)):
        try:
            what()
        except mini.BackendUnavailable as exc:
            print("127.0.0.1" in str(exc))
    """
    with Script(tmp_path, text, {**place.environ, "MODAL_SERVER_URL": "http://127.0.0.1:9"}) as script:
        assert script.finish() == 0, script.err
    assert script.out == ["True"] * 3
