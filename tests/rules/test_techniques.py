"""Every technique of the catalogue is reached from a rule, and the best fit comes first."""

import csv
from pathlib import Path

import pytest

from vtprof_rules.load import load_packs
from vtprof_rules.techniques import Technique, further_reading, reading_share, techniques, techniques_of

RULES = {rule.id: rule for rule in load_packs()}
IMAGES = {"images_per_request_mean": 2.0, "video_requests": 0}


def test_all_131_techniques_are_there_and_reached_from_a_rule() -> None:
    assert [technique.id for technique in techniques()] == [f"T{number:03d}" for number in range(1, 132)]
    assert all(technique.rules for technique in techniques())
    assert {rule for technique in techniques() for rule in technique.rules} <= set(RULES)


def test_each_is_shown_for_some_run_when_no_limit_is_set() -> None:
    shown = {
        technique.id
        for rule in RULES.values()
        for technique in further_reading(rule.id, rule.phase, {}, limit=1000)
    }
    assert len(shown) == 131


def test_a_method_for_video_is_no_reading_for_images() -> None:
    names = [technique.modality for technique in further_reading("MM002", "prefill", IMAGES, limit=1000)]
    assert names
    assert "video" not in names
    assert "image video" in names, "what serves both serves images"


def test_methods_that_leave_the_model_as_it_is_come_first_among_equals() -> None:
    found = further_reading("DEC004", "decode", IMAGES, limit=1000)
    assert [technique.training_free for technique in found] == ["no"] * 7, (
        "the training-free one is for video"
    )
    found = further_reading("DEC004", "decode", {"video_requests": 3}, limit=1000)
    assert (found[0].method, found[0].training_free) == ("SpecVLM (Ji)", "yes")


def test_what_relieves_the_phase_comes_before_what_does_not() -> None:
    phases = {t.method: t.relieves for t in further_reading("KV007", "kv", {"video_requests": 1}, limit=1000)}
    relieved = [("KV capacity" in relieves) + ("KV read" in relieves) for relieves in phases.values()]
    assert relieved == sorted(relieved, reverse=True)


@pytest.mark.parametrize(("share", "last"), [(0.29, False), (0.3, True)])
def test_reading_keeps_its_tokens(share: float, last: bool) -> None:
    found = further_reading("ENC001", "encode", IMAGES | {"ocr_like_share": share}, limit=1000)
    fewer = [technique.fewer_tokens for technique in found]
    assert any(fewer)
    assert (fewer == sorted(fewer)) is last


@pytest.mark.parametrize(
    ("share", "told"), [(0.29, None), (0.3, 0.3), (1, 1.0), (None, None), (float("nan"), None)]
)
def test_a_share_of_reading_matters_from_three_tenths_on(share: float | None, told: float | None) -> None:
    assert reading_share({"ocr_like_share": share}) == told


def test_reading_of_which_nothing_is_known_is_no_reading() -> None:
    assert reading_share({}) is None


def test_no_more_than_asked_for() -> None:
    assert len(further_reading("MM002", "prefill", IMAGES)) == 5
    assert further_reading("SYS003", "system", IMAGES) == []
    assert all(isinstance(technique, Technique) for technique in techniques_of("MM002"))


def test_the_file_has_one_line_each() -> None:
    import vtprof_rules

    path = Path(vtprof_rules.__file__).parent / "techniques.csv"
    with path.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 132
