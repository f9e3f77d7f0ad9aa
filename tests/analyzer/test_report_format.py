"""Numbers as people read them. Expected texts are written by hand from the definition of each unit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.report.format import (
    duration,
    percent,
    safe,
    scaled,
    significant,
    size,
    time_range,
    whole_percents,
)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (2e-6, "2.00 ns"),
        (0.00099949, "999 ns"),
        (0.0010004, "1.00 µs"),
        (-0.00025, "-250 ns"),
        (0.9994e-6, "about 0 ns"),
        (0.85, "850 µs"),
        (14.2, "14.2 ms"),
        (612, "612 ms"),
        (999.4, "999 ms"),
        (2310, "2.31 s"),
        (1_800_000, "30.0 min"),
    ],
)
def test_durations_take_the_unit_that_fits(ms: float, text: str) -> None:
    assert duration(ms) == text


@given(st.floats(1e-30, 1e12))
def test_no_duration_has_a_tiny_number_before_its_unit(ms: float) -> None:
    words = duration(ms).split(" ")
    assert words[:2] == ["about", "0"] or float(words[0].replace(",", "")) >= 0.9


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0002, "< 0.1 %"), (0.002, "0.2 %"), (0.71, "71 %"),
     (0.997, "99.7 %"), (0.99999, "> 99.9 %"), (1, "100 %"), (1.3, "130 %")],
)  # fmt: skip
def test_almost_all_and_almost_nothing_are_told_from_all_and_nothing(share: float, text: str) -> None:
    assert percent(share) == text


def test_bytes_are_binary_and_rates_decimal() -> None:
    assert size(118 * 1024**3) == "118 GiB"
    assert size(1023) == "1,023 B"
    assert scaled(791e12, "FLOP/s") == "791 TFLOP/s"
    assert scaled(4.3e12, "B/s") == "4.3 TB/s"


def test_significant_digits_keep_thousands_separators() -> None:
    assert [significant(value) for value in (18_204, 2.314, 0.5804, 0)] == ["18,204", "2.31", "0.580", "0"]


def test_the_largest_remainders_make_percents_add_up() -> None:
    # 21.25 + 26.75 + 33.75 + 14.25 + 4.00: floors sum to 98, the two missing go to the two .75.
    assert whole_percents([0.2125, 0.2675, 0.3375, 0.1425, 0.04]) == [21, 27, 34, 14, 4]
    assert whole_percents([1 / 3, 1 / 3, 1 / 3]) == [34, 33, 33]
    assert whole_percents([0.5, None, 0.5]) == [50, None, 50]


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=12))
def test_percents_of_a_whole_always_add_up_to_100(weights: list[float]) -> None:
    total = math.fsum(weights)
    rounded = whole_percents([weight / total for weight in weights])
    assert sum(number for number in rounded if number is not None) == 100
    assert all(
        abs(number - weight / total * 100) < 1
        for number, weight in zip(rounded, weights, strict=True)
        if number is not None
    )


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=400))
def test_foreign_text_never_keeps_a_character_that_cannot_be_seen(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable() or shown == ""
    assert len(shown) <= 240
    shown.encode()


def test_an_escape_sequence_is_spelled_out() -> None:
    assert safe("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec d"


def test_a_run_within_a_day_names_the_day_once() -> None:
    # 1,795,269,720 s after the epoch is 2026-11-21 14:02:00 UTC; half an hour later 14:32.
    start = 1_795_269_720 * 10**9
    assert time_range(start, start + 1_800 * 10**9) == "2026-11-21 14:02–14:32 UTC"
    assert time_range(None, None) == "time not recorded"
